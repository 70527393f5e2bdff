from __future__ import annotations

import io
from typing import Any

import pytest
from conftest import Tiny
from rich.console import Console

from archlab.cli import progress
from archlab.cli.progress import ProgressBar


def record(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 2.5, "tokens_per_s": 1234.0}


def shown(experiment: Any, *, is_terminal: bool = False, first: int = 0, name: str = "") -> str:
    output = io.StringIO()
    with ProgressBar(Console(file=output, force_terminal=is_terminal, width=100)) as display:
        display.label = name
        display.on_start(experiment, first)
        for step in range(first + 1, experiment.train.steps + 1):
            display.on_step(record(step))
            if step == 4:
                display.on_eval({"step": 4, "val_loss": 2.0, "val_bpb": 2.885})
    return output.getvalue()


def test_where_there_is_no_terminal_lines_come_now_and_then(tiny: Tiny) -> None:
    lines = shown(tiny()).splitlines()
    assert lines == ["step 12/12  loss 2.5000  val 2.0000 (2.885 bits/byte)  1,234 tokens/s  eta 0 s"]


def test_every_line_shows_the_time_left(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10_000, 5))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    lines = shown(tiny(), name="trial 3").splitlines()
    assert len(lines) == 12
    assert lines[0] == "trial 3  1/12  loss 2.5000  1,234 tokens/s  eta 55 s"
    assert lines[5].endswith("eta 30 s")


def test_a_run_that_continues_says_so(tiny: Tiny) -> None:
    lines = shown(tiny(), first=10).splitlines()
    assert lines[0] == "tiny: resuming after step 10"
    assert lines[1].startswith("step 12/12")


def test_a_terminal_sees_a_bar(tiny: Tiny) -> None:
    output = shown(tiny(), is_terminal=True)
    assert "tiny" in output
    assert "/12" in output
    assert "left" in output


@pytest.mark.parametrize("is_terminal", [False, True])
def test_names_are_no_markup(is_terminal: bool, tiny: Tiny) -> None:
    output = shown(tiny("name='[bold] [red]'"), is_terminal=is_terminal, first=6)
    assert "[bold] [red]: resuming after step 6" in output
