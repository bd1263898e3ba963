"""Markdown for forms: what people or rows say is shown, and never read as Markdown or HTML."""

import re
from collections.abc import Iterable, Sequence

LETTERS = 600
"""A longer cell is cut."""

_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+!|~^$&-])")


def plain(text: object) -> str:
    r"""
    Write anything as text on one line: a value may hold a picture, a link or a bar.

    >>> print(plain("![x](http://evil)"))
    \!\[x\]\(http://evil\)
    """
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """
    Write a table, and an empty line after it.

    :param rows: texts, whole numbers with their thousands apart, and numbers with four digits.
    """
    written = [f"| {' | '.join(map(_cell, line))} |" for line in (head, *rows)]
    return [written[0], f"|{' --- |' * len(head)}", *written[1:], ""]


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return plain(text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}\u2026")
