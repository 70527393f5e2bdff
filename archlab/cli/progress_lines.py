"""Progress as lines of text: pure functions from a state and a width, which every display shares.

A line consists of parts with ranks. Where they do not fit, the part of the highest rank goes first; rank 0 stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from archlab.cli.terminal import foreign
from archlab.training.progress import Progress, Reached, RunProgress

_GAP = "  "
_MIN_BAR, _MAX_BAR = 8, 40
_MAX_RUNNING = 12
_COUNTS = ("pruned", "failed", "paused", "running")
_ONLY_SOME = ("paused",)  # shown if there are any
_COLORS = {"pruned": "yellow", "failed": "red", "paused": "yellow", "running": "cyan"}
_IN_FLIGHT = ("training", "validating", "evaluating")
_BESIDE_LOSS = ("step", "loss", "val_loss", "tokens_per_s")


@dataclass(frozen=True)
class Part:
    """A piece of a line; the highest rank goes first where the line is too long."""

    text: str
    rank: int = 0
    style: str = ""


def progress_lines(progress: Progress, width: int) -> list[Text]:
    """Return the lines of a live display, each at most `width` cells wide."""
    if progress.kind == "run":
        return [run_line(run, width) for run in progress.running]
    lines = [_head(progress, width)]
    if progress.best or progress.baseline:
        lines.append(_best_line(progress, width))
    lines += [run_line(run, width) for run in progress.running[:_MAX_RUNNING]]
    if more := len(progress.running) - _MAX_RUNNING:
        lines += [_fit([Part(f"and {more} more", 0, "dim")], width)] if more > 0 else []
    return lines


def run_line(run: RunProgress, width: int) -> Text:
    """Return the line of one run: its label, a bar where there is room, its step, figures and time left."""
    share = run.step / run.steps if run.steps and run.state in _IN_FLIGHT else None
    label, *rest = (part for part in _run_parts(run) if part.text)
    bar = [] if share is None else [_bar(share, _MIN_BAR)]
    kept = _keep([label, *bar, *rest], width)
    if share is not None and bar[0] in kept:
        room = width - _length(kept) + _MIN_BAR
        kept = [_bar(share, min(room, _MAX_BAR)) if part is bar[0] else part for part in kept]
    return _join(kept, width)


def task_line(task: RunProgress) -> str:
    """Return how far other work than training has come in one line, for where lines are not redrawn."""
    parts = [task.label, _step(task), *(part.text for part in _time_left(task.seconds_left))]
    return _GAP.join(part for part in parts if part)


def summary_line(progress: Progress) -> str:
    """Return counts, the best and the time left in one line, for where lines are not redrawn."""
    left = [f"about {part.text}{_of_all(progress)}" for part in _time_left(progress.seconds_left)]
    return _GAP.join([part.text for part in (*_count_parts(progress), *_best_parts(progress))] + left)


def format_seconds(seconds: float) -> str:
    """Return a time as a person says it: 55 s, 12 min, 3.5 h, 2.1 days."""
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    if seconds < 119.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def format_number(name: str, value: float) -> str:
    """Return a metric as short as it is read: counts with commas, losses with four digits after the point."""
    if abs(value) >= 1000 or (float(value).is_integer() and not name.startswith("val_")):
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) >= 0.001 or value == 0 else f"{value:.3g}"


def _run_parts(run: RunProgress) -> list[Part]:
    metrics, is_in_flight = run.metrics, run.state in _IN_FLIGHT
    loss, val, speed = (metrics.get(name) for name in ("loss", "val_loss", "tokens_per_s"))
    is_shown = not is_in_flight or run.state == "validating"
    return [
        Part(run.label, 0, "cyan"),
        Part(_step(run), 1),
        Part("" if is_in_flight else run.state, 1, "red" if run.state == "failed" else "yellow"),
        Part("" if loss is None else f"loss {loss:.4f}", 2),
        Part("" if val is None else f"val {val:.4f}", 5),
        Part(_other_metrics(metrics), 7, "dim"),
        Part(run.state if run.state == "validating" else "", 4, "dim"),
        Part("" if speed is None or is_shown else f"{speed:,.0f} tokens/s", 4),
        *(_time_left(run.seconds_left) if is_in_flight else []),
        Part(run.reason, 3),
    ]


def _step(run: RunProgress) -> str:
    if run.state == "evaluating":
        return f"{run.step / run.steps:.0%}" if run.steps else f"{run.step:,}" if run.step else ""
    return f"{run.step:,}/{run.steps:,}" if run.steps else f"{run.step:,}" if run.step else ""


def _other_metrics(metrics: Mapping[str, float]) -> str:
    shown = {name.removeprefix("val_"): value for name, value in metrics.items() if name.startswith("val_")}
    units = {"bpb": "{:.3f} bits/byte"}
    return ", ".join(
        units.get(name, f"{name} {{:.3f}}").format(value)
        for name, value in shown.items()
        if f"val_{name}" not in _BESIDE_LOSS and value is not None
    )


def _time_left(seconds: float | None) -> list[Part]:
    return [] if seconds is None else [Part(f"{format_seconds(seconds)} left", 1)]


def _head(progress: Progress, width: int) -> Text:
    name = [Part(progress.name, 3, "bold"), *([Part(progress.stage, 2)] if progress.stage else [])]
    state = [] if progress.state == "running" else [Part(progress.state, 1, "bold")]
    left = [Part(f"about {part.text}{_of_all(progress)}", 1) for part in _time_left(progress.seconds_left)]
    return _fit([*name, *state, *_count_parts(progress), *left], width)


def _of_all(progress: Progress) -> str:
    """Return the name of the work that the time left is for, if the counts are of a part."""
    return " in all" if progress.kind == "ladder" else ""


def _count_parts(progress: Progress) -> list[Part]:
    what = "runs" if progress.kind == "ladder" else "trials"
    of = f"{progress.done} of {progress.total} {what} done" if progress.total else f"{progress.done} {what} done"
    states = [state for state in _COUNTS if state != "pruned" or progress.kind == "search"]
    counts = [(s, progress.counts.get(s, 0)) for s in states if s not in _ONLY_SOME or progress.counts.get(s)]
    return [Part(of), *(Part(f"{n} {state}", 1 if n else 4, _COLORS[state] if n else "dim") for state, n in counts)]


def _best_line(progress: Progress, width: int) -> Text:
    return _fit(_best_parts(progress), width)


def _best_parts(progress: Progress) -> list[Part]:
    best = [
        Part(f"best {_reached_text(one)}", 0 if not index else 1, "green") for index, one in enumerate(progress.best)
    ]
    if progress.baseline is None:
        return best
    values = ", ".join(format_number(name, value) for name, value in progress.baseline.values.items())
    return [*best, Part(f"{progress.baseline.label} {values}", 2)]


def _reached_text(one: Reached) -> str:
    values = ", ".join(f"{name} {format_number(name, value)}" for name, value in one.values.items())
    return f"{values} ({one.label})"


def _bar(share: float, width: int) -> Part:
    full = round(width * min(max(share, 0.0), 1.0))
    return Part("━" * full + "╌" * (width - full), 6, "green")


def _fit(parts: Sequence[Part], width: int) -> Text:
    return _join(_keep([part for part in parts if part.text], width), width)


def _keep(parts: Sequence[Part], width: int) -> list[Part]:
    """Return the parts that fit, of the lowest ranks."""
    kept = list(parts)
    while _length(kept) > width and (worst := max(part.rank for part in kept)):
        last = max(index for index, part in enumerate(kept) if part.rank == worst)
        del kept[last]
    return kept


def _length(parts: Sequence[Part]) -> int:
    return sum(cell_len(foreign(part.text).plain) for part in parts) + len(_GAP) * max(len(parts) - 1, 0)


def _join(parts: Sequence[Part], width: int) -> Text:
    line = Text(_GAP).join(foreign(part.text, part.style) for part in parts)
    line.truncate(width, overflow="ellipsis")
    return line
