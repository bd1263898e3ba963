"""One page: self-contained, readable by day, by night and on paper; all text is escaped here."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LETTERS = 80
"""Longer names are cut: a value of a column may be a whole document."""

CELL = 200
"""The same for cells of tables, which hold sentences, too."""

LONG = 40
"""A cell with more letters is given room, even on a narrow screen."""

STYLE = """
:root{color-scheme:light dark;--fg:#1c2026;--bg:#fff;--dim:#616975;--line:#d8dce1;--soft:#f4f5f7;
--shade:#0004;--before:#8b95a3;--now:#0b66c3;--other:#a3590a;--guess:#7a4fbf;--bad:#c3262d;
--good:#1d7a43}
@media(prefers-color-scheme:dark){:root{--fg:#e4e7eb;--bg:#15181c;--dim:#9aa3af;--line:#353b43;
--soft:#1e2328;--shade:#fff4;--before:#8b95a3;--now:#5aa9f5;--other:#e0a050;--guess:#b795f0;
--bad:#ff7b7b;--good:#5cc98a}}
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;
color:var(--fg);background:var(--bg)}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin:1.8rem 0 .4rem}
h3{font-size:1rem;margin:1.2rem 0 .2rem}p{margin:.3rem 0}.dim{color:var(--dim)}
.status{border-left:4px solid var(--good);background:var(--soft);padding:.5rem .8rem;margin:.8rem 0;
white-space:pre-line}.status.none{border-color:var(--dim)}
.status.warn{border-color:var(--other)}.status.broken{border-color:var(--bad)}
.wide{overflow-x:auto;background:linear-gradient(90deg,var(--bg) 40%,transparent) left,
linear-gradient(270deg,var(--bg) 40%,transparent) right,
linear-gradient(90deg,var(--shade),transparent) left,
linear-gradient(270deg,var(--shade),transparent) right;background-repeat:no-repeat;
background-size:3rem 100%,3rem 100%,1rem 100%,1rem 100%;
background-attachment:local,local,scroll,scroll}
table{border-collapse:collapse;font-size:.87rem;margin:.4rem 0}
td,th{border-bottom:1px solid var(--line);padding:.2rem .7rem .2rem 0;text-align:left;
vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td{white-space:nowrap}td.long{white-space:normal;min-width:16rem}tr.bad td{color:var(--bad)}
figure{margin:.6rem 0 1rem}svg{width:100%;height:auto;display:block}
svg text{font:11px system-ui,sans-serif;fill:var(--dim)}svg .name{fill:var(--fg)}
.grid{stroke:var(--line)}.axis{stroke:var(--dim)}.before{fill:var(--before);fill-opacity:.45}
.now{fill:none;stroke:var(--now);stroke-width:2}.bar{fill:var(--now)}
.line{fill:none;stroke-width:1.8}.main{stroke:var(--now)}.base{stroke:var(--before)}
.fresh{stroke:var(--other)}.guess{stroke:var(--guess)}.band{fill:var(--now);fill-opacity:.15}
.dash{stroke-dasharray:5 4}.mark{stroke:var(--good);stroke-dasharray:2 3}
.tick{stroke:var(--fg);stroke-width:2}.alarm{fill:var(--bad);stroke:none}.dot{fill:var(--now);stroke:none}
.key{display:inline-block;width:1.6em;height:.7em;margin-right:.35em;
print-color-adjust:exact}
.pair{white-space:nowrap;margin-right:1.1em}
@media(max-width:40rem){svg text{font-size:13px}}
details{margin:1rem 0}summary{cursor:pointer}
@media print{body{margin:0;max-width:none;font-size:11px}figure,tr{break-inside:avoid}
h2,h3{break-after:avoid}.wide{overflow:visible;background:none}}
"""

COLOURS = {
    "main": "now",
    "base": "before",
    "fresh": "other",
    "guess": "guess",
    "alarm": "bad",
    "mark": "good",
    "tick": "fg",
}


def escaped(value: object, letters: int = LETTERS) -> str:
    """
    Write anything as text of a page.

    :param letters: longest text; a longer one is cut.

    >>> escaped("<script>")
    '&lt;script&gt;'
    """
    text = str(value)
    text = text if len(text) <= letters else f"{text[: letters - 1]}\u2026"
    return html.escape("".join(c if c.isprintable() else " " for c in text))


def page(title: str, status: str, line: str, parts: Iterable[str]) -> str:
    """
    Put a page together.

    :param status: ``ok``, ``warn`` or ``broken``; anything else: nothing is known yet, and no word
        stands before the line.
    :param line: what was found, in one sentence; it is not cut.
    :param parts: HTML, made by the functions of this room.
    """
    name, known = escaped(title), status in ("ok", "warn", "broken")
    kind, word = (status, f"<b>{status}</b>: ") if known else ("none", "")
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{name}</title>\n'
        f"<style>{STYLE}</style>\n<h1>{name}</h1>\n"
        f'<p class="status {kind}">{word}{html.escape(line)}</p>\n'
        f"{''.join(part for part in parts if part)}</html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    """Write a heading."""
    return f"<h{level}>{escaped(text)}</h{level}>\n"


def note(text: str) -> str:
    """Write a paragraph in a quiet colour; it is not cut."""
    return f'<p class="dim">{html.escape(text)}</p>\n'


def folded(summary: str, parts: Sequence[str], *, unfolded: bool = False) -> str:
    """
    Hide parts behind a line that opens them; nothing if there are none.

    :param unfolded: whether they are shown from the start.
    """
    opens = f"<details{' open' * unfolded}><summary>{escaped(summary, CELL)}</summary>"
    return f"{opens}\n{''.join(parts)}</details>\n" * bool(parts)


def figure(svg: str, keys: Mapping[str, str]) -> str:
    """
    Show a picture with its legend.

    :param keys: kind of line -> what it shows.
    """
    legend = "".join(
        f'<span class="pair"><span class="key" style="background:var(--{COLOURS[kind]})"></span>'
        f"{escaped(text)}</span> "
        for kind, text in keys.items()
    )
    return f'<figure>{svg}<figcaption class="dim">{legend}</figcaption></figure>\n'


def table(head: Sequence[str], rows: Iterable[tuple[bool, Sequence[Any]]]) -> str:
    """
    Write a table; numbers stand to the right, those of one column with the same digits.

    :param rows: whether the row is bad news, and its cells.
    """
    kept = list(rows)
    if not kept:
        return ""
    columns = list(zip(*(cells for _, cells in kept), strict=True))
    numeric = [any(map(_is_number, column)) for column in columns]
    digits = [_digits(column) for column in columns]
    marks = {True: ' class="bad"', False: ""}
    body = [f"<tr{marks[bad]}>{''.join(map(_cell, cells, digits))}</tr>\n" for bad, cells in kept]
    names = "".join(
        f"<th{_right(right)}>{escaped(name)}</th>"
        for name, right in zip(head, numeric, strict=True)
    )
    return f'<div class="wide"><table>\n<tr>{names}</tr>\n{"".join(body)}</table></div>\n'


def moment(text: str) -> str:
    """Return a moment, ISO 8601, as people read it: to the minute."""
    return text[:16].replace("T", " ")


def _digits(column: Sequence[Any]) -> str:
    """Return how the numbers of a column are written: alike, unless one would turn into 0."""
    sizes = [abs(v) for v in column if isinstance(v, float) and math.isfinite(v) and v]
    places = max(0, 3 - math.floor(math.log10(max(sizes)))) if sizes else 0
    return f",.{places}f" if sizes and min(sizes) * 10**places >= 1 and places < 9 else ".4g"


def _cell(value: Any, digits: str) -> str:
    text = "" if value is None else f"{value:{digits}}" if isinstance(value, float) else value
    kind = _right(_is_number(value)) or ' class="long"' * (len(str(text)) > LONG)
    return f"<td{kind}>{escaped(text, CELL)}</td>"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (
        isinstance(value, str) and (value.endswith("%") or value.startswith("< "))
    )


def _right(number: bool) -> str:
    return ' class="n"' if number else ""
