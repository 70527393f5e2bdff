"""The display of a search and of a ladder, from calls of their callbacks."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Tiny
from ladder_helpers import write_ladder
from rich.console import Console

from archlab.cli import live
from archlab.cli.ladder_progress import LadderProgressBar
from archlab.cli.search_progress import SearchProgressBar, _front, _headline
from archlab.cli.stop_advice import advise_at_stop
from archlab.runtime.progress import report_progress
from archlab.searching.ladder.config import parse_ladder
from archlab.searching.results.against_baseline import is_worse_than_baseline
from archlab.searching.results.summary import BaselineSummary, SearchSummary, TrialSummary
from archlab.searching.space.load_space import load_space
from archlab.training.progress import Progress, Reached, RunProgress

SPACE: Any = SimpleNamespace(name="space", varied={"train.lr": None}, inner=None)
VALUES = {"train.lr": 0.01}


def progress(done: int, *running: RunProgress) -> Progress:
    best = (Reached("trial 0", {"val_loss": 2.5}),) if done else ()
    return Progress(
        "search", "space", total=5, counts={"complete": done}, best=best, running=running, seconds_left=90.0
    )


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Console:
    monkeypatch.setattr(live, "_PAUSE_S", 0.0)
    return Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None, legacy_windows=False)


def lines(bar: SearchProgressBar | LadderProgressBar) -> list[str]:
    return [line.plain for line in bar.draw(80)]


def test_a_search_shows_the_whole_and_every_run(console: Console, tiny: Tiny) -> None:
    other = RunProgress("trial 2", "training", 3, 12, {"loss": 3.0})
    state = [progress(1, other, RunProgress("trial 1", "starting"))]
    with SearchProgressBar(console) as bar:
        assert lines(bar) == []
        bar.on_search(SPACE, 1, 5)
        bar.on_study(lambda: state[-1])
        run: Any = bar.on_run("trial 1", VALUES)
        run.on_start(tiny(), 0)
        run.on_step({"step": 6, "loss": 2.25, "tokens_per_s": 100.0})
        assert lines(bar)[0] == "space  1 of 5 trials done  0 pruned  0 failed  2 running  about 90 s left"
        assert lines(bar)[1] == "best val_loss 2.5000 (trial 0)"
        assert [line.split("  ")[0] for line in lines(bar)[2:]] == ["trial 2", "trial 1"]
        assert "  6/12  loss 2.2500  100 tokens/s  " in lines(bar)[3]
        state.append(progress(2, other))
        bar.on_result("trial 1", "complete", "", {"val_loss": 2.4})
        assert len(lines(bar)) == 3
        bar.on_final_eval("trial 0", 30, 60)
        assert lines(bar)[-1].startswith("whole validation split: trial 0  ━")
        assert "  50%" in lines(bar)[-1]
        bar.on_final_eval("trial 0", 60, 60)
        assert len(lines(bar)) == 2
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "trial 1  complete  val 2.4000" in text
    assert text.endswith("\x1b[2K")  # the live lines are gone


def test_without_a_block_the_bar_goes_when_a_run_ends(console: Console, tiny: Tiny) -> None:
    bar = SearchProgressBar(console)
    bar.on_search(SPACE, 0, 5)
    bar.on_study(lambda: progress(0))
    bar.on_run("trial 0", VALUES).on_start(tiny(), 0)
    assert bar.lines.is_started
    bar.on_end()
    assert not bar.lines.is_started
    bar.on_final_eval("baseline", 1, 2)
    assert bar.lines.is_started
    bar.on_final_eval("baseline", 2, 2)
    assert not bar.lines.is_started


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch, tiny: Tiny) -> None:
    monkeypatch.setenv("TERM", "dumb")
    console: Any = Console(file=io.StringIO(), force_terminal=True, width=110)
    with SearchProgressBar(console) as bar:
        bar.on_search(SPACE, 0, 5)
        bar.on_study(lambda: progress(1))
        run = bar.on_run("trial 0", VALUES)
        run.on_start(tiny(), 0)
        run.on_step({"step": 12, "loss": 2.0, "tokens_per_s": 10.0})
        bar.on_result("trial 0", "pruned", "pruned at step 12", {})
    assert console.file.getvalue().splitlines() == [
        "space: 5 trials over lr",
        "trial 0  lr=0.01",
        "trial 0  12/12  loss 2.0000  10 tokens/s  eta 0 s",
        "trial 0  pruned  pruned at step 12",
        "1 of 5 trials done  0 pruned  0 failed  0 running  best val_loss 2.5000 (trial 0)  about 90 s left",
    ]


def test_an_encoding_without_bars_gets_other_ones(tiny: Tiny) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with SearchProgressBar(Console(file=file, force_terminal=True, width=80, color_system=None)) as bar:
        bar.show_task("reading", 1, 2)
    file.flush()
    assert "####" in file.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]


def test_long_work_below_is_shown_in_a_block_alone(console: Console) -> None:
    report_progress("tokenizing", 1, 4)
    with SearchProgressBar(console) as bar:
        report_progress("tokenizing", 1, 4)
        assert lines(bar)[0].startswith("tokenizing  ━")
        report_progress("tokenizing", 4, 4)
        assert lines(bar) == []


def test_a_ladder_shows_its_rung_and_the_time_left_of_all(console: Console, tiny: Tiny, tmp_path: Path) -> None:
    ladder = parse_ladder(load_space(write_ladder(tmp_path)))
    with LadderProgressBar(console) as bar:
        bar.on_ladder(ladder, ["llama", "mamba"])
        bar.on_rung(ladder.rungs[0], 60_000.0, 1, 4, None)
        run: Any = bar.on_run("rung 1: llama seed 1")
        run.on_start(tiny(), 0)
        assert lines(bar)[0] == "space  rung 1 of 2  1 of 4 runs done  0 failed  1 running"
        assert lines(bar)[1].startswith("llama seed 1  ╌")
        run.on_step({"step": 6, "loss": 2.25, "tokens_per_s": 100.0})
        assert lines(bar)[0].endswith("left in all")
        run.opened -= 40  # seconds
        bar.on_result("rung 1: llama seed 1", 3.25, "")
        bar.on_result("rung 1: mamba seed 0", None, "the loss is nan")
        # One run of this rung, and two of the next, of twice the tokens and some more parameters.
        assert lines(bar)[0] == "space  rung 1 of 2  3 of 4 runs done  1 failed  about 5 min left in all"
        assert lines(bar)[1] == "best val_loss 3.2500 (llama seed 1)"


def summary(best: Mapping[str, float], base: Mapping[str, float], **objectives: str) -> SearchSummary:
    whole = [{name.removeprefix("val_"): value for name, value in each.items()} for each in (best, base)]
    return SearchSummary(
        search="s",
        objectives=objectives or {"val_loss": "minimize"},
        trials={},
        best_trial=TrialSummary(3, {}, dict(best), whole[0]),
        baseline=BaselineSummary(dict(base), "", whole[1]),
        pareto=[],
        compressors={},
        validation_bytes=0,
        tokens_per_trial=0,
        corpus={},
        machine={},
        versions={},
    )


def test_a_best_trial_that_is_worse_than_the_baseline_is_called_that() -> None:
    worse, better = summary({"val_loss": 2.6}, {"val_loss": 2.5}), summary({"val_loss": 2.4}, {"val_loss": 2.5})
    assert worse.best_trial
    assert better.best_trial
    assert is_worse_than_baseline(worse)
    assert not is_worse_than_baseline(better)
    assert "no trial is better than the baseline" in _headline(worse, worse.best_trial).plain
    assert "no trial is better" not in _headline(better, better.best_trial).plain
    assert is_worse_than_baseline(summary({"val_accuracy": 0.4}, {"val_accuracy": 0.5}, val_accuracy="maximize"))
    assert not is_worse_than_baseline(summary({"params": 10.0}, {}, params="minimize"))


def test_the_pareto_set_is_a_table() -> None:
    runs = [SimpleNamespace(name=str(n), metrics={"val_loss": 3.0 - n, "params": 10.0 + n}) for n in range(3)]
    both: Any = SimpleNamespace(objectives={"val_loss": "minimize", "params": "minimize"}, pareto=[0, 2])
    data: Any = SimpleNamespace(trials=runs)
    table = _front(data, both)
    assert table is not None
    assert [str(cell) for cell in table.columns[0].cells] == ["2", "0"]
    both.pareto = []
    assert _front(data, both) is None


def test_stopping_says_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as stopped, advise_at_stop("run the same command to continue"):
        raise KeyboardInterrupt
    assert stopped.value.__notes__ == ["run the same command to continue"]
    with pytest.raises(KeyboardInterrupt) as early, advise_at_stop("archlab train --resume", checkpoint_of=tmp_path):
        raise KeyboardInterrupt
    assert not hasattr(early.value, "__notes__")  # there is nothing to continue from
    (tmp_path / "checkpoints/step_00000151").mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt) as late, advise_at_stop("archlab train --resume", checkpoint_of=tmp_path):
        raise KeyboardInterrupt
    assert late.value.__notes__ == ["archlab train --resume"]
    with pytest.raises(ValueError, match="x") as failed, advise_at_stop("run the same command to continue"):
        raise ValueError("x")
    assert not hasattr(failed.value, "__notes__")
