"""The lines of displays at several widths: the least important part goes first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from archlab.cli.progress_lines import format_number, format_seconds, progress_lines, run_line, summary_line, task_line
from archlab.training.progress import Progress, Reached, RunProgress, estimate_left

RUN = RunProgress(
    "trial 3",
    "training",
    1_234,
    20_000,
    {"loss": 2.59312, "val_loss": 2.60114, "val_bpb": 3.7524, "tokens_per_s": 8214.0},
    4_000.0,
)
SEARCH = Progress(
    "search",
    "quickstart",
    total=20,
    counts={"complete": 3, "pruned": 2, "failed": 1},
    best=(Reached("trial 2", {"val_loss": 2.5926}),),
    baseline=Reached("baseline", {"val_loss": 2.6032}),
    running=(RUN, replace(RUN, label="trial 4")),
    seconds_left=5_000.0,
)


def text(progress: Progress, width: int) -> list[str]:
    return [line.plain for line in progress_lines(progress, width)]


def test_a_run_loses_its_least_important_part_first() -> None:
    lines = {width: run_line(RUN, width).plain for width in (120, 100, 80, 70, 60, 40)}
    assert all(len(line) <= width for width, line in lines.items())
    assert lines[120].endswith("  1,234/20,000  loss 2.5931  val 2.6011  3.752 bits/byte  8,214 tokens/s  67 min left")
    assert "━" in lines[120]
    assert "bits/byte" not in lines[100]
    assert "╌" in lines[100]
    assert lines[80] == "trial 3  1,234/20,000  loss 2.5931  val 2.6011  8,214 tokens/s  67 min left"
    assert lines[70] == "trial 3  1,234/20,000  loss 2.5931  8,214 tokens/s  67 min left"
    assert lines[60] == "trial 3  1,234/20,000  loss 2.5931  67 min left"
    assert lines[40] == "trial 3  1,234/20,000  67 min left"


def test_a_bar_fills_the_room_that_is_left() -> None:
    half = replace(RUN, step=30, steps=60, seconds_left=3.0)
    line = run_line(half, 80).plain
    bar = line.split("  ")[1]
    assert len(line) == 80
    assert set(bar) == {"━", "╌"}
    assert abs(bar.count("━") - bar.count("╌")) <= 1


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_search_shows_its_progress_at_every_width(width: int) -> None:
    lines = text(SEARCH, width)
    assert all(len(line) <= width for line in lines)
    assert len(lines) == 4
    for part in ("6 of 20 trials done", "2 pruned", "1 failed", "about 83 min left"):
        assert part in lines[0]
    assert "best val_loss 2.5926 (trial 2)" in lines[1]
    assert "baseline 2.6032" in lines[1]
    assert [line.split("  ")[0] for line in lines[2:]] == ["trial 3", "trial 4"]
    assert all("left" in line and "loss 2.5931" in line for line in lines[2:])


def test_two_objectives_are_both_shown() -> None:
    best = (Reached("trial 2", {"val_loss": 2.5926}), Reached("trial 7", {"params": 12_300}))
    line = text(replace(SEARCH, best=best), 80)[1]
    assert line == "best val_loss 2.5926 (trial 2)  best params 12,300 (trial 7)  baseline 2.6032"


def test_many_workers_do_not_fill_the_screen() -> None:
    runs = tuple(replace(RUN, label=f"trial {number}") for number in range(40))
    lines = text(replace(SEARCH, running=runs), 80)
    assert len(lines) == 15
    assert lines[-1] == "and 28 more"


def test_what_has_stopped_or_failed_says_why() -> None:
    stopped = RunProgress("trial 9", "stopped", 5, 60, {"loss": 1.0}, reason="no process works on it; saved at step 4")
    assert run_line(stopped, 80).plain == (
        "trial 9  5/60  stopped  loss 1.0000  no process works on it; saved at step 4"
    )
    assert run_line(stopped, 30).plain == "trial 9  5/60  stopped"


def test_names_are_shown_and_not_obeyed() -> None:
    hostile = replace(SEARCH, name="[red]\x1b[2J", running=(replace(RUN, label="\x07" * 50),))
    lines = text(hostile, 60)
    assert not any(character in line for line in lines for character in "\x1b\x07")
    assert all(len(line) <= 60 for line in lines)


def test_where_lines_are_not_redrawn() -> None:
    assert summary_line(SEARCH) == (
        "6 of 20 trials done  2 pruned  1 failed  0 running  best val_loss 2.5926 (trial 2)  baseline 2.6032  "
        "about 83 min left"
    )
    measured = RunProgress("whole validation split: baseline", "evaluating", 30, 60, seconds_left=3.0)
    assert task_line(measured) == "whole validation split: baseline  50%  3 s left"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7000, "117 min"), (9000, "2.5 h"), (9e5, "10.4 days")],
)
def test_times(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_numbers() -> None:
    assert format_number("val_loss", 2.0) == "2.0000"
    assert format_number("params", 12_856) == "12,856"
    assert format_number("lr", 1e-5) == "1e-05"


def test_the_time_that_is_left() -> None:
    assert estimate_left([], 4, []) is None
    assert estimate_left([10.0, 20.0], 4, []) == 60.0
    assert estimate_left([10.0], 0, []) is None
    assert estimate_left([10.0], 4, [(2.0, 9.0), (4.0, None)]) == (40 + 9 + 6) / 2  # two workers
    assert estimate_left([], 3, [(2.0, 8.0)]) == 38.0  # of the first run alone
