"""What differs between experiments, path by path."""

from __future__ import annotations

from typing import Any

from archlab.config.experiment import load
from archlab.reporting.differences import differences


def of(*experiments: tuple[str, list[str]]) -> dict[str, tuple[str, ...]]:
    """Return the differences between experiments, which are names and overrides."""
    resolved: list[dict[str, Any]] = [load(name, overrides).resolved for name, overrides in experiments]
    return {each.path: each.values for each in differences(resolved)}


def test_one_model_written_in_two_ways_has_no_difference() -> None:
    once = load("llama2_tiny").resolved
    layer = {key: value for key, value in once["model"]["layers"][0].items() if key != "repeat"}
    twice = {**once, "model": {**once["model"], "layers": [{**layer, "repeat": 3}, layer]}}
    assert differences([once, twice]) == []


def test_a_knob_and_a_setting() -> None:
    found = of(("llama2_tiny", []), ("llama2_tiny", ["model.layers[0].ffn.hidden_dim=96", "train.lr=0.5"]))
    assert found == {"model.layers[*].ffn.hidden_dim": ("384", "96"), "train.lr": ("0.003", "0.5")}


def test_another_component_is_listed_with_its_knobs_and_its_parts_are_not() -> None:
    found = of(("llama2_tiny", []), ("llama2_tiny", ["model.layers[0].mixer={type: rwkv7, head_dim: 32}"]))
    assert [path for path in found if "mixer" in path] == ["model.layers[*].mixer"]
    mine, theirs = found["model.layers[*].mixer"]
    assert mine.startswith("attention (num_heads 4")
    assert theirs.startswith("rwkv7 (head_dim 32")


def test_patterns_are_counted_from_first_to_last() -> None:
    found = of(("llama2_tiny", []), ("hybrid_tiny", []), ("mamba2_tiny", []))
    assert found["model.layers (number of layers)"] == ("4", "5", "8")
    kinds = found["model.layers[*].mixer"]
    assert kinds[1].startswith("2 x mamba (")
    assert [name for name in ("attention", "gated_delta_net", "attention") if name in kinds[1]] == [
        "attention",
        "gated_delta_net",
        "attention",
    ]
    assert found["model.layers[*].ffn"][2] == "none"


def test_the_knobs_of_one_optimizer() -> None:
    muon = "train.optimizer={type: muon, momentum: 0.9}"
    found = of(("llama2_tiny", [muon]), ("llama2_tiny", [muon.replace("0.9", "0.8")]))
    assert found == {"train.optimizer.momentum": ("0.9", "0.8")}
    (path,) = of(("llama2_tiny", []), ("llama2_tiny", [muon]))
    assert path == "train.optimizer"
