"""A ladder from rung to rung: order, resuming, failures, and what a changed directory is refused for."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ladder_helpers import RUNGS, climb, law, losses_in, pretend, write_ladder

import archlab
from archlab.config.experiment import Experiment
from archlab.errors import ArchlabError, TrainingError
from archlab.reporting.report import report
from archlab.searching.ladder import plan_rungs
from archlab.searching.ladder import run as ladder_run
from archlab.searching.ladder.callbacks import LadderCallback
from archlab.searching.ladder.forecasts import read_forecasts
from archlab.searching.ladder.rehearsal import as_rehearsal
from archlab.searching.ladder.sizes import size_of
from archlab.searching.ladder.summary import LadderSummary, read_ladder
from archlab.searching.space.load_space import load_space
from archlab.searching.trials import train_trial

LONG = [
    {"set": {"model.dim": 16}, "tokens": 3200, "seeds": 2},
    {"set": {"model.dim": 24}, "tokens": 6400, "seeds": 2},
    {"set": {"model.dim": 32}, "tokens": 12800, "seeds": 2},
    {"set": {"model.dim": 48}, "tokens": 25600, "seeds": 2, "keep": 1},
    {"set": {"model.dim": 64}, "tokens": 51200},
]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train nothing, and trace no costs, which takes most of the time."""
    monkeypatch.setattr(train_trial, "train", pretend())
    monkeypatch.setattr(ladder_run, "refusal", lambda plan: "is to be trained elsewhere" * plan.rung.elsewhere)
    monkeypatch.setattr(plan_rungs, "estimate_cost", _cost)


def _cost(experiment: Experiment) -> SimpleNamespace:
    return SimpleNamespace(params_non_embedding=size_of(experiment), flops_per_token=6.0 * size_of(experiment))


def comparable(summary: LadderSummary | None) -> dict[str, Any]:
    """Return a summary without the times at which forecasts were written, and their hashes."""
    assert summary is not None
    text = json.dumps([r.__dict__ for r in summary.results]) + json.dumps([r.decision for r in summary.rungs])
    rankings = [(r.forecast or {}).get("ranking") for r in summary.rungs]
    return {"text": text, "rankings": rankings, "verdict": summary.verdict, "goes_on": summary.goes_on}


class Stop(LadderCallback):
    """Stops the ladder, as Ctrl-C does, before its n-th run, or after a rung is decided."""

    def __init__(self, before: int, after_rung: int = 0) -> None:
        self.before, self.after_rung = before, after_rung

    def on_run(self, label: str) -> archlab.Callback:
        self.before -= 1
        if self.before == 0:
            raise KeyboardInterrupt
        return archlab.Callback()

    def on_decision(self, rung: Any, decision: Any) -> None:
        if rung.number == self.after_rung:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.usefixtures("fake")
def test_a_ladder_stopped_anywhere_ends_as_one_that_was_not(tmp_path: Path) -> None:
    file = write_ladder(tmp_path)
    whole = climb(file, tmp_path / "whole").summary
    out = tmp_path / "stopped"
    for stop in (Stop(2), Stop(0, after_rung=1), Stop(2)):
        with pytest.raises(KeyboardInterrupt):
            climb(file, out, callbacks=[stop])
    assert comparable(climb(file, out).summary) == comparable(whole)
    assert losses_in(out) == losses_in(tmp_path / "whole")
    written = read_forecasts(out)
    assert climb(file, out).summary == read_ladder(out)
    assert read_forecasts(out) == written


@pytest.mark.slow
@pytest.mark.usefixtures("fake")
def test_a_crossing_is_forecast_before_it_is_seen(tmp_path: Path) -> None:
    file = write_ladder(tmp_path, rungs=LONG, to={"experiment": "megalodon_tiny", "tokens": 20e6})
    summary = climb(file, tmp_path / "out").summary
    assert list(summary.rungs[0].losses) == ["megalodon", "averages"]
    assert summary.goes_on == ["averages"]
    assert summary.rungs[4].candidates == ["averages"]
    assert summary.target is not None
    assert summary.fit is not None
    launched = archlab.load(tmp_path / "out" / "launch" / "averages.yaml")
    assert launched.train.steps == round(20e6 / 4096)
    assert archlab.show(launched).params > 0
    assert "Loss over compute" in report(tmp_path / "out").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("fake")
def test_what_was_changed_is_refused(tmp_path: Path) -> None:
    file, out = write_ladder(tmp_path), tmp_path / "out"
    climb(file, out)
    metrics = out / "rungs/1/averages/seed_0/metrics.jsonl"
    kept = metrics.read_text()
    metrics.write_text(json.dumps({**json.loads(kept), "val_loss": 0.1}) + "\n")
    with pytest.raises(ArchlabError, match="were changed after the candidates were selected"):
        climb(file, out)
    metrics.write_text(kept)
    (out / "forecasts/01_rung_2.json").unlink()
    with pytest.raises(ArchlabError, match="has no forecast of rung 2, which has been trained"):
        climb(file, out)
    with pytest.raises(ArchlabError, match="holds another search"):
        climb(write_ladder(tmp_path, rungs=RUNGS[:1]), out)
    write_ladder(tmp_path)
    (out / "rungs/1/notes.txt").write_text("mine")
    with pytest.raises(ArchlabError, match=r"notes\.txt: was not written by archlab"):
        climb(file, out, force=True)
    (out / "rungs/1/notes.txt").unlink()
    assert climb(file, out, force=True).summary.rungs[1].losses


@pytest.mark.slow
@pytest.mark.usefixtures("fake")
def test_a_candidate_that_fails_keeps_its_reason_and_drops_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(experiment: Experiment, params: float) -> float:
        if experiment.name.startswith("averages"):
            raise TrainingError("step 3: the loss is nan")
        return law(experiment, params)

    monkeypatch.setattr(train_trial, "train", pretend(fail))
    file = write_ladder(tmp_path)
    summary = climb(file, tmp_path / "out").summary
    assert summary.failed == {"averages": "rung 1: step 3: the loss is nan"}
    assert summary.goes_on == ["megalodon"]
    assert "left out" in (tmp_path / "out/rungs/1/averages/seed_1/result.json").read_text()
    assert climb(file, tmp_path / "out").summary == summary


@pytest.mark.slow
@pytest.mark.usefixtures("fake")
def test_a_rung_trained_elsewhere_comes_back(tmp_path: Path) -> None:
    rungs = [RUNGS[0], {**RUNGS[1], "elsewhere": True}]
    file, out = write_ladder(tmp_path, rungs=rungs), tmp_path / "out"
    waiting = climb(file, out)
    assert waiting.waiting == "is to be trained elsewhere"
    assert len(read_forecasts(out)) == 1
    for launch in sorted((out / "launch/rung_2").iterdir()):
        experiment = archlab.load(launch, ["train.log_every=1", "train.tensorboard=true"])
        back = out / experiment.description.removeprefix("its run belongs into ")
        pretend()(experiment, tmp_path / launch.stem)
        shutil.rmtree(tmp_path / launch.stem / "final")  # a model of 7 B stays where it is
        shutil.copytree(tmp_path / launch.stem, back)
    assert set(climb(file, out).summary.rungs[1].losses) == {"averages", "megalodon"}
    other = out / "rungs/2/averages/seed_0"
    shutil.rmtree(other)
    shutil.copytree(out / "rungs/2/megalodon/seed_0", other)
    with pytest.raises(ArchlabError, match="is not the experiment of rung 2: averages seed 0"):
        climb(file, out)


@pytest.mark.slow
def test_a_real_ladder_with_branches_and_a_component_of_ones_own(tmp_path: Path) -> None:
    plugin = tmp_path / "halves.py"
    plugin.write_text(PLUGIN)
    candidates = {"halves": {"model.layers[*].ffn": {"type": "halves", "inner_dim": 24}}, "base": {}}
    rungs = [{"params": 3000, "tokens": 320}, {"params": 4000, "tokens": 320}]
    keys: dict[str, Any] = {"plugins": [str(plugin)], "branches": [0.5, 1.0], "rules": "none"}
    file, out = write_ladder(tmp_path, candidates=candidates, rungs=rungs, **keys), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        climb(file, out, callbacks=[Stop(3)])
    summary = climb(file, out).summary
    assert not summary.failed
    assert {(r.candidate, r.part) for r in summary.results} == {(c, p) for c in candidates for p in (0.5, 1.0)}
    again = archlab.train(out / "rungs/2/halves/seed_0_at_0.5/experiment.yaml", out=tmp_path / "again")
    (result,) = (r for r in summary.results if (r.rung, r.candidate, r.part) == (2, "halves", 0.5))
    assert again.metrics["val_loss"] == result.loss
    widths = [
        archlab.load(out / f"rungs/{rung}/halves/experiment.yaml").resolved["model"]["layers"][0]["ffn"]["inner_dim"]
        for rung in (1, 2)
    ]
    assert widths[0] < widths[1]


PLUGIN = """
from torch import nn
from archlab import Count, register

@register("ffn", "halves")
class Halves(nn.Module):
    "Two linear layers. x: [B, T, D] -> [B, T, D]."

    def __init__(self, dim: int, *, inner_dim: Count = 16) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(dim, inner_dim), nn.Linear(inner_dim, dim)

    def forward(self, x):
        return self.up(self.down(x).relu())
"""


@pytest.mark.slow
def test_a_rehearsal_runs_every_rung_in_small(tmp_path: Path) -> None:
    rungs = [{"params": 1e6, "tokens": 1e7, "seeds": 5}, {"params": 2e6, "layers": 3, "tokens": 1e9, "elsewhere": True}]
    file = write_ladder(tmp_path, rungs=rungs, to={"experiment": "megalodon_tiny", "tokens": 20e6})
    space = as_rehearsal(load_space(file))
    assert space.name == "space-rehearsal"
    summary = ladder_run.run_ladder(space, tmp_path / "out").summary
    assert summary.is_rehearsal
    assert [len(rung.losses) for rung in summary.rungs] == [2, 2]
    assert max(r.tokens for r in summary.results) < 1000
    assert "rehearsal" in summary.verdict
    assert "Rehearsal of a ladder" in report(tmp_path / "out").read_text()
    with pytest.raises(ArchlabError, match="holds another search"):
        climb(file, tmp_path / "out")
