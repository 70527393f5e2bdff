"""HTML for reports: a self-contained page, all text escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from archlab.storage.ownership import REPORT_MARK
from archlab.text import visible

_LINES = "\n\t"
STYLE = """
:root { --ink: #24292e; --soft: #6a737d; --line: #e3e6e8; --accent: #2f6f5e; --paper: #fff; --back: #f6f7f6; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 48px 24px 80px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 12px; letter-spacing: -0.01em; }
h1, p, td.long { overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 0 0 10px; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 22px 24px; margin-top: 22px; }
p { margin: 0 0 10px; } p.lead { font-size: 18px; } p.note, caption { color: var(--soft); font-size: 14px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 10px; border-bottom: 1px solid var(--line); white-space: nowrap;
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td.number { text-align: right; } td.long { white-space: normal; min-width: 16em; }
tr.best td { background: #eef5f2; font-weight: 600; } tr.baseline td { background: #fbf3ec; }
.state { border-radius: 8px; padding: 1px 8px; font-size: 13px; background: #eceff1; }
.state.complete { background: #dcefe7; color: #1d5545; } .state.failed { background: #fbe3e0; color: #8c2f25; }
pre { background: var(--back); border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px; overflow-x: auto;
  font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; margin: 0 0 10px; }
summary { cursor: pointer; color: var(--accent); font-weight: 600; }
"""


def escape(text: str, keep: str = "") -> str:
    """Return text for HTML, in elements and attributes; hidden characters are shown, for they reorder a page too."""
    return html.escape(visible(text, keep))


def chart_label(text: str) -> str:
    """Return text for a figure: plotly reads some HTML in it, and `%{x}` as a value of the point."""
    return escape(text).replace("%{", "&#37;{")


def page(title: str, lead: Sequence[str], sections: Iterable[str]) -> str:
    """Return a page; the sections are HTML, everything else is text."""
    head = "".join(f'<p class="{"note" if index else "lead"}">{escape(text)}</p>' for index, text in enumerate(lead))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"{REPORT_MARK}"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style><script>{get_plotlyjs()}</script></head>"
        f"<body><main><h1>{escape(title)}</h1>{head}{''.join(sections)}</main></body></html>\n"
    )


def section(title: str, *parts: str, note: str = "") -> str:
    """Return a titled section; the parts are HTML, the note is text."""
    below = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}{below}</section>"


def figure(chart: go.Figure, name: str) -> str:
    """Return a figure as HTML that uses the page's plotly.js."""
    config = {"displaylogo": False, "responsive": True, "displayModeBar": False}
    return chart.to_html(include_plotlyjs=False, include_mathjax=False, full_html=False, div_id=name, config=config)


def table(head: Sequence[str], rows: Iterable[tuple[str, Sequence[Any]]]) -> str:
    """Return a table; a row is a CSS class and cells, which are text, numbers, or a State."""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "".join(f'<tr class="{escape(kind)}">{"".join(map(_cell, cells))}</tr>' for kind, cells in rows)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


class State(str):
    """The state of a trial, shown as a badge."""


def _cell(value: Any) -> str:
    if isinstance(value, State):
        return f'<td><span class="state {escape(value)}">{escape(value)}</span></td>'
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'<td class="number">{escape(number(value))}</td>'
    text = "" if value is None else str(value)
    return f'<td class="{"long" if len(text) > 40 else ""}">{escape(text)}</td>'


def number(value: float) -> str:
    """Return a number as text: integers with separators, others with four significant digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def facts(pairs: Mapping[str, Any]) -> str:
    """Return a table of names and values."""
    return table(("", ""), [("", (name, value)) for name, value in pairs.items()])


def code(text: str, *, folded: str = "") -> str:
    """Return preformatted text, collapsed below the title `folded` unless that is empty."""
    block = f"<pre>{escape(text, keep=_LINES)}</pre>"
    return f"<details><summary>{escape(folded)}</summary>{block}</details>" if folded else block
