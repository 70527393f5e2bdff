"""HTML for reports: a self-contained page, all text escaped."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from archlab.reporting.figures.chart import Figure, Json
from archlab.storage.ownership import REPORT_MARK
from archlab.text import visible

_LINES = "\n\t"
_ASSETS = Path(__file__).with_name("assets")
_STYLES = ("page.css", "figures.css")
_SCRIPTS = (
    *("draw.js", "frame.js", "chart.js", "bars.js", "parallel.js", "layers.js"),
    *("figure.js", "save.js", "tables.js", "main.js"),
)
# Whatever the page holds, nothing is fetched: it reads the same without a network.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
_EXACT = 8  # digits of a number in a table that is saved
_DIGITS = 4  # of the largest number of a column
_LONG, _WIDEST = 40, 11
_SCIENTIFIC, _SCIENTIFIC_FROM = -1, 1e9


def escape(text: str, keep: str = "") -> str:
    """Return text for HTML, in elements and attributes; hidden characters are shown, for they reorder a page too."""
    return html.escape(visible(text, keep))


def page(title: str, lead: Sequence[str], sections: Iterable[str], data: Mapping[str, Json] | None = None) -> str:
    """Return a page; the sections are HTML, the lead's first line stands out; `data` is shared by all figures."""
    head = "".join(f'<p class="{"note" if index else "lead"}">{escape(text)}</p>' for index, text in enumerate(lead))
    body = "".join(sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"{REPORT_MARK}"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_assets(_STYLES)}</style></head>"
        f"<body><main><h1>{escape(title)}</h1>{head}{_with_contents(body)}</main>"
        f"{_json(data or {'runs': [], 'knobs': []}, 'page-data')}<script>{_assets(_SCRIPTS)}</script></body></html>\n"
    )


@cache
def _assets(names: Sequence[str]) -> str:
    return "\n".join((_ASSETS / name).read_text(encoding="utf-8") for name in names)


def _with_contents(body: str) -> str:
    """Return a body with links to its sections before the first one, where there are enough to need them."""
    titles = re.findall(r'<section id="([^"]*)"><h2>(.*?)</h2>', body)
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in titles)
    return body.replace("<section", f'<nav aria-label="sections">{links}</nav><section', 1) if len(titles) > 3 else body


def _json(data: Json | Mapping[str, Json], name: str = "") -> str:
    """Return data for the page's script; as `<` is escaped, no text in it ends the element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json"{f" id={name}" if name else ""}>{text}</script>'


def section(title: str, *parts: str, note: str = "") -> str:
    """Return a titled section; the parts are HTML, the note is text."""
    above = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<section id="{anchor(title)}"><h2>{escape(title)}</h2>{above}{"".join(parts)}</section>'


def anchor(title: str) -> str:
    """Return the name of a section or a file for a title: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"


def heading(text: str) -> str:
    """Return the title of a part of a section."""
    return f"<h3>{escape(text)}</h3>"


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph of a kind (a CSS class)."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def figure(chart: Figure, note: str = "") -> str:
    """Return a figure as HTML: its data, and an empty place in which the page's script draws."""
    caption = f"<figcaption>{escape(note)}</figcaption>" if note else ""
    return (
        f'<figure id="{escape(chart.name)}" data-figure aria-label="{escape(chart.description)}">{caption}'
        f'<div class="plot"><noscript>The figure is drawn by a script; its numbers are in the tables.</noscript></div>'
        f"{_json(chart.spec)}</figure>"
    )


class State(str):
    """The state of a trial, shown with a mark."""


class Link(str):
    """Text that leads to a file beside the report, at `href`."""

    href: str

    def __new__(cls, text: str, href: str) -> Link:
        """Return the text with its address."""
        link = super().__new__(cls, text)
        link.href = href
        return link


def table(
    head: Sequence[str],
    rows: Iterable[tuple[str, Sequence[Any]]],
    *,
    name: str = "",
    ids: Sequence[str] = (),
    narrow: bool = False,
) -> str:
    """Return a table; a row is a CSS class and cells, which are text, numbers, a State or a Link.

    One with a `name` can be sorted and saved under it. `ids` are the anchors of its rows.
    """
    listed = [(kind, list(cells)) for kind, cells in rows]
    is_number = [bool(listed) and all(_is_blank_or_number(cells[i]) for _, cells in listed) for i in range(len(head))]
    decimals = [_decimals([cells[i] for _, cells in listed]) for i in range(len(head))]
    titles = "".join(
        f'<th scope="col"{" class=n" if n else ""}>{_breakable(t)}</th>' for t, n in zip(head, is_number, strict=True)
    )
    names = [f' id="{escape(each)}"' for each in ids] or [""] * len(listed)
    body = "".join(
        f"<tr{at}{_class(kind)}>{''.join(map(_cell, cells, is_number, decimals))}</tr>"
        for at, (kind, cells) in zip(names, listed, strict=True)
    )
    top = f"<thead><tr>{titles}</tr></thead>" if any(head) else ""
    made = f'<div class="scroll"><table{" class=narrow" if narrow else ""}>{top}<tbody>{body}</tbody></table></div>'
    return f'<div class="table" data-name="{escape(name)}">{made}</div>' if name else made


def _breakable(title: str) -> str:
    return escape(title).replace("_", "_<wbr>")


def _class(kind: str) -> str:
    return f' class="{escape(kind)}"' if kind else ""


def _is_blank_or_number(value: Any) -> bool:
    return value in (None, "") or (isinstance(value, int | float) and not isinstance(value, bool))


def _decimals(column: Sequence[Any]) -> int | None:
    """Return how many decimals the numbers of a column have, so that they stand below each other; -1: a power of 10."""
    sizes = [abs(value) for value in column if isinstance(value, float) and math.isfinite(value)]
    if sizes and max(sizes) >= _SCIENTIFIC_FROM:
        return _SCIENTIFIC
    return max(0, _DIGITS - 1 - math.floor(math.log10(max(sizes)))) if sizes and max(sizes) > 0 else None


def _cell(value: Any, is_number: bool, decimals: int | None) -> str:
    if isinstance(value, State):
        return f'<td><span class="state {escape(value)}">{escape(value)}</span></td>'
    if isinstance(value, Link):
        return f'<th scope="row"><a href="{escape(value.href)}">{escape(value)}</a></th>'
    if isinstance(value, int | float) and not isinstance(value, bool):
        shown, exact = _align(value, decimals), str(value) if isinstance(value, int) else f"{value:.{_EXACT}g}"
        return f'<td class="n"{"" if shown == exact else f" data-v={exact}"}>{escape(shown)}</td>'
    text = "" if value is None else str(value)
    kind = " class=long" if len(text) > _LONG else " class=n" if is_number else ""
    return f"<td{kind}>{escape(text)}</td>"


def _align(value: float, decimals: int | None) -> str:
    if decimals == _SCIENTIFIC and math.isfinite(value):
        return f"{value:.3e}"
    shown = "" if decimals is None or not math.isfinite(value) else f"{value:,.{decimals}f}"
    # Numbers that would be shown as zero, or are too large or small, have their own format.
    return shown if shown and len(shown) <= _WIDEST and (value == 0 or float(shown.replace(",", ""))) else number(value)


def number(value: float) -> str:
    """Return a number as text: integers with separators, others with four significant digits."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if 1000 <= abs(value) < _SCIENTIFIC_FROM else f"{value:.4g}"


def facts(pairs: Mapping[str, Any]) -> str:
    """Return a table of names and values."""
    return table(("", ""), [("", (name, value)) for name, value in pairs.items()], narrow=True)


def key_figures(items: Iterable[tuple[str, str, str]]) -> str:
    """Return the key figures: name, value, and a note, as text."""
    cells = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(about)}</small></dd></div>"
        for name, value, about in items
    )
    return f'<dl class="figures">{"".join(cells)}</dl>'


def code(text: str, *, folded: str = "") -> str:
    """Return preformatted text, collapsed below the title `folded` unless that is empty."""
    block = f"<pre>{escape(text, keep=_LINES)}</pre>"
    return f"<details><summary>{escape(folded)}</summary>{block}</details>" if folded else block
