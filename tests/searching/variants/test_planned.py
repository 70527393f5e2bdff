from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from search_helpers import pretend, replace_training, search, write_space

from archlab import ConfigError
from archlab.planning.device import SHIPPED
from archlab.searching.results.summary import read_summary
from archlab.searching.space.load_space import load_space
from archlab.searching.space.space_schema import space_schema
from archlab.searching.study.identity import new_identity
from archlab.searching.study.study import open_study

FAST = {"at": "tiny.yaml", "device": "h100", "devices": 2}
SPEED = "tokens_per_s at tiny on 2 x h100"


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the directories that were trained in."""
    names: list[str] = []
    train: Callable[..., Any] = pretend()

    def note(experiment: Any, folder: Path, **options: Any) -> Any:
        names.append(folder.name)
        return train(experiment, folder, **options)

    replace_training(monkeypatch, note)
    return names


@pytest.mark.slow
def test_a_trial_whose_plan_breaks_a_bound_is_infeasible_without_training(tmp_path: Path, trained: list[str]) -> None:
    constraints = [{**FAST, "require": "tokens_per_s >= 1e15"}, {"device": "h100", "require": "days <= 1e9"}]
    file = write_space(tmp_path, constraints=constraints, study={"trials": 2, "pruner": "none"})
    result = search(file, tmp_path / "s")
    assert trained == ["baseline"]
    assert result.summary.trials == {"pruned": 2}
    trial = open_study(load_space(tmp_path / "s" / "search.yaml"), tmp_path / "s").get_trials()[0]
    assert trial.constraints[f"tokens_per_s >= 1e15 {SPEED.removeprefix('tokens_per_s ')}"] > 0.9
    assert trial.constraints["days <= 1e9 on h100"] < 0
    assert trial.user_attrs["reason"].startswith(
        "tokens_per_s >= 1e15 at tiny on 2 x h100 is violated: tokens_per_s is"
    )


@pytest.mark.slow
def test_a_planned_objective_is_stored_and_named_with_its_place(tmp_path: Path, trained: list[str]) -> None:
    objectives = {"val_loss": "minimize", "tokens_per_s": FAST, "state_bytes": {"at": "tiny.yaml"}}
    vary = {"model.layers[*].mixer.value_dim": [16, 32]}
    file = write_space(tmp_path, vary=vary, objectives=objectives, study={"trials": 2, "sampler": "random"})
    search(file, tmp_path / "s")
    summary = read_summary(tmp_path / "s")
    assert summary is not None
    assert summary.objectives == {"val_loss": "minimize", SPEED: "maximize", "state_bytes at tiny": "minimize"}
    assert summary.baseline.metrics[SPEED] > summary.baseline.metrics["tokens_per_s"] == 100.0
    trials = open_study(load_space(tmp_path / "s" / "search.yaml"), tmp_path / "s").get_trials()
    assert [trial.values[1] for trial in trials] == [trial.user_attrs["metrics"][SPEED] for trial in trials]


@pytest.mark.slow
def test_a_space_written_into_a_search_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text((SHIPPED / "h100.yaml").read_text())
    place = {"at": "tiny.yaml", "device": "mine.yaml", "devices": 4}
    file = write_space(tmp_path, objectives={"days": place}, constraints=[{**place, "require": "mfu >= 0.1"}])
    space = load_space(file)
    jsonschema.validate(yaml.safe_load(file.read_text()), space_schema())
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "base.yaml").write_text(yaml.safe_dump(space.base_to_plain()))
    (folder / "search.yaml").write_text(yaml.safe_dump(space.to_plain()))
    again = load_space(folder / "search.yaml")
    assert dict(again.objectives) == dict(space.objectives) == {"days at tiny on 4 x mine": "minimize"}
    assert [c.name for c in again.constraints] == ["mfu >= 0.1 at tiny on 4 x mine"]
    assert new_identity(again, "a", "b").space == new_identity(space, "a", "b").space


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"objectives": {"tokens_per_s": {"at": "tiny.yaml"}}}, "objectives: tokens_per_s is planned for a device"),
        ({"objectives": {"tokens_per_s": {}}}, r"objectives\.tokens_per_s\.at: is missing"),
        (
            {"objectives": {"days": {"device": "h10"}}},
            r"objectives\.days\.device: no device 'h10'; did you mean 'h100'",
        ),
        (
            {"objectives": {"days": {"devise": "h100"}}},
            r"objectives\.days: unknown key 'devise'; did you mean 'device'",
        ),
        ({"objectives": {"day": {"device": "h100"}}}, "objectives: no cost 'day'; did you mean 'days'"),
        ({"constraints": ["days <= 3"]}, r"constraints\[0\]: days is planned for a device"),
        ({"constraints": [{"at": "tiny.yaml", "devices": 2, "require": "params <= 3"}]}, r"\[0\]\.device: is missing"),
        ({"constraints": [{**FAST, "devices": 0, "require": "days <= 3"}]}, r"\[0\]\.devices: 0 is not at least 1"),
    ],
)
def test_a_place_without_a_cost_is_refused(tmp_path: Path, space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_space(write_space(tmp_path, **space))
