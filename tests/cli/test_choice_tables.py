"""What a search prints at its end: trials, choices, the Pareto set, the best trial and its files."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from search_helpers import replace_costs, search, write_space

from archlab import api
from archlab.cli.search_progress import print_summary
from archlab.config.experiment import Experiment
from archlab.errors import TrainingError
from archlab.searching.run import SearchResult


def printed(result: SearchResult) -> list[str]:
    """Return the lines of the summary of a search, without spaces at their ends."""
    console = Console(file=io.StringIO(), width=80)
    print_summary(console, result)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


@pytest.mark.slow
def test_choices_are_side_by_side_and_the_pareto_set_below(
    tmp_path: Path, fake: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_costs(monkeypatch)
    fake(loss=lambda experiment: 2.0 + 0.125 * experiment.train.warmup)
    objectives = {"val_loss": "minimize", "params": "minimize"}
    study = {"trials": 2, "sampler": "brute_force"}
    file = write_space(tmp_path, vary={"train.warmup": [1, 2]}, objectives=objectives, study=study)
    lines = printed(search(file, tmp_path / "out"))
    at = lines.index("warmup: choices by val_loss")
    assert lines[at + 1].split() == ["choice", "tried", "best", "median", "spread", "behind", "verdict"]
    # The losses that are read are those of the last step, of 4: larger by a quarter.
    rows = {line.split()[0]: line.split()[1:] for line in lines[at + 2 : at + 4]}
    assert rows["1"] == ["1", "2.656", "2.656", "0", "best"]
    assert rows["2"][:4] == ["1", "2.812", "2.812", "0.1562"]
    front = next(line for line in lines if line.startswith("Pareto set: "))
    assert front == "Pareto set: 1 trial that no other one beats in val_loss and params"
    trial = lines[lines.index(front) + 2].split()
    assert trial[1] == "2.6562"
    assert any(line.startswith(f"best: trial {trial[0]}, ") for line in lines)


@pytest.mark.slow
def test_of_no_complete_trial_the_reasons_are_where_it_says(
    tmp_path: Path, fake: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_costs(monkeypatch)

    def diverge(experiment: Experiment) -> float:
        raise TrainingError("step 3: the loss is nan")

    fake(loss=diverge)
    result = search(write_space(tmp_path, study={"trials": 2, "sampler": "random"}), tmp_path / "out")
    api.report(result.folder)
    lines = printed(result)
    assert lines[-1] == f"no trial is complete; the reasons are in {tmp_path / 'out/report.html'}"
    assert "the loss is nan" in (tmp_path / "out/report.html").read_text()
