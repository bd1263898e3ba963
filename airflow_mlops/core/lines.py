"""Lines for a terminal: what people, rows or models say stays on its line and moves no cursor."""

import re
from collections.abc import Iterable

# Control codes of terminals, what starts a new line in Unicode, what turns the direction of text,
# and halves of characters, which nothing can print.
_UNSEEN = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_CODES = re.compile(f"[{_UNSEEN}]")
_CODES_AND_BREAKS = re.compile(f"[\t\n{_UNSEEN}]")


def one_line(text: object) -> str:
    r"""
    Write anything on one line; control codes and line breaks are shown and not followed.

    >>> print(one_line("fine\n   9  2030-01-01  promote \x1b[2K"))
    fine\n   9  2030-01-01  promote \x1b[2K
    """
    return _CODES_AND_BREAKS.sub(_shown, str(text))


def written(lines: Iterable[object]) -> str:
    """Write one line for each of these."""
    return "\n".join(map(one_line, lines))


def without_codes(text: str) -> str:
    r"""Return a text of several lines whose control codes are shown; ``\n`` and ``\t`` stay."""
    return _CODES.sub(_shown, text)


def _shown(found: "re.Match[str]") -> str:
    return found[0].encode("unicode_escape").decode("ascii")
