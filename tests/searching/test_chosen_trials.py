"""The trials that an export chooses: by number, the best, the Pareto front."""

from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from ladder_helpers import write_ladder
from optuna.trial import TrialState, create_trial

from archlab import ArchlabError
from archlab.searching.results import chosen_trials
from archlab.searching.results.chosen_trials import choose_trials

VALUES = ((3.0, 1.0), (1.0, 3.0), (2.0, 4.0), (2.0, 2.0))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    study = optuna.create_study(directions=["minimize", "minimize"])
    for values in VALUES:
        study.add_trial(create_trial(values=values, user_attrs={"values": {"train.lr": values[0]}, "id": "u"}))
    study.add_trial(create_trial(state=TrialState.FAIL))
    space = SimpleNamespace(name="it", is_ladder=False)
    monkeypatch.setattr(chosen_trials, "load_space", lambda file, recorded: space)
    monkeypatch.setattr(chosen_trials, "open_study", lambda space, folder, create: study)
    place = tmp_path / "it"
    for number in range(4):
        (place / f"trials/000{number}/final").mkdir(parents=True)
        (place / f"trials/000{number}/final/model.safetensors").touch()
    (place / "search.yaml").touch()
    return place


def numbers(folder: Path, **chosen: object) -> list[int]:
    return [each.number for each in choose_trials(folder, **chosen)]  # type: ignore[arg-type]


def test_trials_are_chosen(folder: Path) -> None:
    (one,) = choose_trials(folder, trial=2)
    assert one.folder == folder / "trials/0002"
    assert one.origin == {"search": "it", "trial": 2, "values": {"train.lr": 2.0}, "trial_id": "u"}
    assert numbers(folder, top=2) == [1, 2]
    assert numbers(folder, top=9) == [1, 2, 3, 0]
    assert numbers(folder, pareto=True) == [1, 3, 0]


def test_a_ladder_has_no_trials(tmp_path: Path) -> None:
    write_ladder(tmp_path).rename(tmp_path / "search.yaml")
    with pytest.raises(ArchlabError, match=r"is a ladder; name one of its runs below .*/rungs"):
        choose_trials(tmp_path, top=1)


def test_what_is_no_trial_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArchlabError, match="has no trial 7; it has 0 to 4"):
        choose_trials(folder, trial=7)
    with pytest.raises(ArchlabError, match=r"trial 4 holds no weights; study\.keep"):
        choose_trials(folder, trial=4)
    monkeypatch.setattr(chosen_trials, "open_study", lambda space, folder, create: optuna.create_study())
    with pytest.raises(ArchlabError, match="it: no trial is complete"):
        choose_trials(folder, pareto=True)
    with pytest.raises(ArchlabError, match="has no trial 0; it has none"):
        choose_trials(folder, trial=0)
    (folder / "search.yaml").unlink()
    with pytest.raises(ArchlabError, match="is not a search"):
        choose_trials(tmp_path, top=1)
