"""Loggers that an experiment names, with stand-ins for the packages that they talk to."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Tiny
from run_helpers import Recorder, interrupt_at

from archlab.errors import ArchlabError, ConfigError
from archlab.runtime.memory import most_used_memory
from archlab.training import metrics, run_loggers
from archlab.training.callbacks import Callback
from archlab.training.trainer import train

LOGGED = ["train.steps=4", "train.log_every=2", "train.eval_every=4", "train.warmup=1"]


class FakeWandb(ModuleType):
    """The part of wandb that archlab calls, with a record of the calls."""

    def __init__(self, refuses: bool = False) -> None:
        super().__init__("wandb")
        self.refuses, self.inits, self.records, self.ended = refuses, [], [], []  # type: bool, list[Any], list[Any], list[int]
        self.Settings = SimpleNamespace

    def init(self, **options: Any) -> FakeWandb:
        if self.refuses and options.get("mode") != "offline":
            raise RuntimeError("api_key not configured (no-tty)")
        self.inits.append(options)
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, record: dict[str, float]) -> None:
        self.records.append(record)

    def finish(self, exit_code: int) -> None:
        self.ended.append(exit_code)


class FakeMlflow(ModuleType):
    """The part of mlflow that archlab calls, with a record of the calls by run."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.runs, self.params, self.records, self.ended = [], [], [], []  # type: list[Any], list[Any], list[Any], list[str]

    def set_experiment(self, name: str) -> None:
        assert name == "archlab"

    def search_runs(self, filter_string: str, max_results: int, output_format: str) -> list[Any]:
        found = [run for run in self.runs if f"'{run['tags']['archlab.run']}'" in filter_string]
        return [SimpleNamespace(info=SimpleNamespace(run_id=run["id"])) for run in found][:max_results]

    def start_run(self, run_id: str | None = None, run_name: str = "", tags: dict[str, str] | None = None) -> None:
        if run_id is None:
            self.runs.append({"id": str(len(self.runs)), "name": run_name, "tags": tags})

    def log_params(self, params: dict[str, str]) -> None:
        self.params.append(params)

    def log_metrics(self, record: dict[str, float], step: int) -> None:
        self.records.append({"step": step, **record})

    def end_run(self, status: str) -> None:
        self.ended.append(status)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(module: ModuleType) -> ModuleType:
        module.__spec__ = importlib.util.spec_from_loader(module.__name__, None, origin="a stand-in")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return module

    for name in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    return install


@pytest.mark.slow
def test_wandb_gets_the_records_of_the_log(tiny: Tiny, tmp_path: Path, installed: Any) -> None:
    wandb = installed(FakeWandb())
    train(tiny(*LOGGED, "train.loggers=[wandb]"), tmp_path / "run")
    [options] = wandb.inits
    assert (options["project"], options["name"], options["resume"]) == ("archlab", "run", "allow")
    assert options["id"] == json.loads((tmp_path / "run/run.json").read_text())["identity"]["run"]
    assert options["config"]["train"]["steps"] == 4
    assert wandb.records == metrics.read(tmp_path / "run")
    assert wandb.ended == [0]


@pytest.mark.slow
def test_mlflow_continues_in_the_run_that_was_stopped(tiny: Tiny, tmp_path: Path, installed: Any) -> None:
    mlflow = installed(FakeMlflow())
    experiment = tiny(*LOGGED, "train.loggers=[mlflow]")

    class Stop(Callback):
        on_step = staticmethod(interrupt_at(2))  # type: ignore[assignment]

    with pytest.raises(KeyboardInterrupt):
        train(experiment, tmp_path / "run", callbacks=[Stop()])
    train(experiment, tmp_path / "run", resume=True)
    assert [run["name"] for run in mlflow.runs] == ["run"]
    assert mlflow.ended == ["FAILED", "FINISHED"]
    params = {name: value for some in mlflow.params for name, value in some.items()}
    assert params["model.layers.0.mixer.ema.num_dims"] == "2"
    assert all(len(some) <= 100 for some in mlflow.params)
    assert {record["step"] for record in mlflow.records} == {2, 4}


@pytest.mark.slow
def test_a_logger_that_fails_does_not_end_the_run(
    tiny: Tiny, tmp_path: Path, installed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    wandb = installed(FakeWandb(refuses=True))
    wandb.log = lambda record: (_ for _ in ()).throw(OSError("no route to host"))
    train(tiny(*LOGGED, "train.loggers=[wandb]"), tmp_path / "run")
    assert [options["mode"] for options in wandb.inits] == ["offline"]
    assert [record.getMessage() for record in caplog.records] == [
        "wandb: api_key not configured (no-tty); the run is logged offline, for `wandb sync`",
        "wandb: no route to host; the run continues without it, and metrics.jsonl has all",
    ]


def test_missing_parts_are_reported_before_anything_is_written(tiny: Tiny, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(run_loggers, "find_spec", lambda name: None)
    with pytest.raises(ArchlabError, match=r'mlflow needs the package mlflow: pip install "archlab\[mlflow\]"'):
        train(tiny("train.loggers=[mlflow]"), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"train\.loggers\[0\]: no logger 'wanb'; did you mean 'wandb'\?"):
        train(tiny("train.loggers=[wanb]"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_url_is_logged_without_its_password(tiny: Tiny) -> None:
    config = run_loggers._redact({"task": [{"path": "https://me:hunter2@host/data"}], "n": 1})
    assert config == {"task": [{"path": "https://me:***@host/data"}], "n": 1}


@pytest.mark.slow
def test_updates_that_are_asked_for_are_traced(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(tiny(*LOGGED, "train.profile={start: 2, steps: 2}"), folder)
    assert [file.name for file in (folder / "profile").iterdir()] == ["updates_2_to_3.json.gz"]
    with gzip.open(folder / "profile/updates_2_to_3.json.gz") as file:
        events = json.load(file)["traceEvents"]
    assert any("addmm" in event.get("name", "") or "mm" in event.get("name", "") for event in events)
    train(tiny(*LOGGED), folder, force=True)  # it is archlab's own, and of the run before
    assert not (folder / "profile").exists()


def test_a_trace_past_the_end_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"train\.profile: update 12 is past the last step, 4"):
        tiny("train.steps=4", "train.warmup=1", "train.profile={start: 10}")


@pytest.mark.slow
def test_a_record_has_figures_of_the_machine(tiny: Tiny, tmp_path: Path) -> None:
    result = train(tiny(*LOGGED), tmp_path / "run", peak_flops=lambda device, precision: 1e12)
    record = next(each for each in metrics.read(tmp_path / "run") if "loss" in each)
    assert record["tokens_per_s_per_device"] == record["tokens_per_s"]
    assert 0 < record["mfu"] < 1
    assert 0 <= record["data_wait_s"] < 1
    assert 10**8 < record["memory_bytes"] <= most_used_memory(torch.device("cpu"))
    assert "mfu" not in result.metrics


@pytest.mark.slow
def test_a_trace_that_the_run_s_end_cuts_off_is_dropped(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(tiny(*LOGGED, "train.profile={start: 1, steps: 3}"), folder, callbacks=[Recorder(interrupt_at(2))])
    assert not (folder / "profile").exists()
    train(tiny(*LOGGED, "train.profile={start: 3, steps: 1}"), folder, resume=True)  # of torch's one profiler
    assert [file.name for file in (folder / "profile").iterdir()] == ["updates_3_to_3.json.gz"]
