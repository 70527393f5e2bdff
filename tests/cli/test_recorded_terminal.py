"""Commands in a real terminal, at the widths in which people work."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from rich.console import Console
from rich.text import Text
from search_helpers import write_space
from terminal_helpers import run_in_terminal, screen

from archlab import api
from archlab.cli import live
from archlab.cli.main import main
from archlab.cli.progress import ProgressBar
from archlab.reporting.report import report as _report  # noqa: F401 - before this process is copied
from archlab.searching.run import SearchResult


@pytest.mark.parametrize("width", [60, 80, 120])
def test_live_lines_leave_the_permanent_ones_alone(width: int, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_PAUSE_S", 0.0)
    file, seen = io.StringIO(), []
    console: Any = Console(file=file, force_terminal=True, width=width)
    with ProgressBar(console) as bar:
        bar.on_start(tiny(), 2)
        for step in range(3, 13):
            bar.on_step({"step": step, "loss": 2.5, "tokens_per_s": 1234.0})
            bar.show_task("reading", step, 100)
            seen.append(screen(file.getvalue(), width))
            bar.print(f"note {step}")
            if step == 4:
                bar.on_eval({"step": 4, "val_loss": 2.0, "val_bpb": 2.885})
    assert all(lines[-2].startswith("tiny  ") and lines[-1].startswith("reading  ") for lines in seen)
    assert all(len(line) <= width for lines in seen for line in lines)
    assert "6/12  loss 2.5000" in seen[3][-2]
    assert ("bits/byte" in seen[3][-2]) == (width > 80)
    left = [line for line in screen(file.getvalue(), width) if line]
    assert left == ["tiny: resuming after step 2", *(f"note {step}" for step in range(3, 13))]


def test_lines_that_are_drawn_again_leave_the_permanent_ones_alone() -> None:
    file = io.StringIO()
    console: Any = Console(file=file, force_terminal=True, width=80)
    lines = live.LiveLines(console, lambda width: [Text("one"), Text("two"), Text("three")])
    for number in range(3):
        lines.start()
        lines.update()
        lines.stop()
        lines.print(f"before {number}")
        with lines.hide():
            lines.print(f"after {number}")
    left = [line for line in screen(file.getvalue(), 80) if line]
    assert left == [f"{when} {number}" for number in range(3) for when in ("before", "after")]


def _search() -> None:
    """Run the command in this process, which has imported torch already, and its trial here too."""
    os.environ["ARCHLAB_TUNE"] = "off"
    live._PAUSE_S = 0.0  # every line is drawn, also of what takes less than the pause between two drawings
    torch.set_num_threads(1)  # of several, those of the process that was copied are not in the copy
    own = api.search

    def search_here(*arguments: Any, workers: int, **options: Any) -> SearchResult:
        return own(*arguments, **options)

    api.search = search_here
    sys.argv = ["archlab", "search", "space.yaml", "--out", "a search"]
    main()


@pytest.mark.slow
def test_a_search_at_60_columns(tmp_path: Path) -> None:
    write_space(tmp_path, study={"trials": 1, "sampler": "random"})
    written = run_in_terminal(_search, tmp_path, 60)
    left = screen(written, 60)
    assert "space: 1 trials over lr" in left
    assert any(line.startswith("trial 0  complete  val ") for line in left)
    assert not any("running" in line for line in left)  # the live lines are gone
    assert "0 of 1 trials done" in written
    assert "whole validation split: trial 0" in written
    assert "archlab export 'a search/best' --out" in " ".join(left)
