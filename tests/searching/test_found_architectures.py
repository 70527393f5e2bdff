"""Searches over patterns, layers by themselves and a held budget, from their start to their report."""

from pathlib import Path
from typing import Any

import pytest
from search_helpers import pretend, replace_training, search, write_space

import archlab
import archlab.searching.worker
from archlab import ArchlabError
from archlab.config.experiment import load
from archlab.config.yaml_files import load_yaml
from archlab.searching.space.load_space import load_space
from archlab.searching.study.search_dir import open_search
from archlab.searching.study.study import open_study
from archlab.searching.study.trial_attrs import trial_attrs

VARY: dict[str, Any] = {
    "model.layers": {
        "pattern": {
            "of": {"a": {"mixer": "attention"}, "g": {"mixer": "gla"}},
            "period": 2,
            "at_least": {"a": 1},
            "operator": ["stack", "stretch"],
            "repeats": 2,
        }
    },
    "model.layers[a].mixer.num_heads": {"low": 2, "high": 4, "divides": "model.dim"},
    "model.layers[each].ffn.hidden_dim": [8, 16],
    "train.warmup": {"same_as": "train.eval_every"},
}
HOLD = {"params": 2.5e4, "by": "model.dim", "tolerance": 0.2}


def values_of(folder: Path) -> list[dict[str, Any]]:
    trials = open_study(load_space(folder / "search.yaml"), folder).get_trials()
    return [trial_attrs(trial).get("values", {}) for trial in trials]


@pytest.mark.slow
def test_a_search_that_resumes_has_the_same_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_training(monkeypatch, pretend(loss=lambda experiment: experiment.model.knobs["dim"]))
    file = write_space(tmp_path, vary=VARY, hold=HOLD, study={"trials": 2, "pruner": "none"})
    search(file, tmp_path / "whole")
    search(file, tmp_path / "parts", trials=1)
    search(file, tmp_path / "parts")
    assert values_of(tmp_path / "whole") == values_of(tmp_path / "parts")
    for number, values in enumerate(values_of(tmp_path / "whole")):
        trial = tmp_path / "whole" / "trials" / f"{number:04}"
        if (trial / "experiment.yaml").is_file():
            assert load(trial / "experiment.yaml").model.knobs["dim"] == values["model.dim"]
            assert "pattern" not in load_yaml(trial / "experiment.yaml")["model"]
    page = archlab.report(tmp_path / "whole").read_text(encoding="utf-8")
    assert values_of(tmp_path / "whole")[0]["model.layers"] in page


def test_a_pattern_that_changed_is_another_search(tmp_path: Path) -> None:
    pattern: dict[str, Any] = VARY["model.layers"]["pattern"]
    spaces = [
        load_space(write_space(tmp_path, vary={"model.layers": {"pattern": {**pattern, "at_least": {"a": least}}}}))
        for least in (1, 2)
    ]
    with open_search(spaces[0], tmp_path / "out", force=False):
        pass
    with (
        pytest.raises(ArchlabError, match=r"holds another search: .*at_least"),
        open_search(spaces[1], tmp_path / "out", force=False),
    ):
        pass
