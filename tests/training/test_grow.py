"""A larger model begins as a smaller one, and what cannot is named."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from torch import nn

from archlab import ConfigError
from archlab.config.experiment import Experiment, load
from archlab.config.plugins import load_plugin
from archlab.modeling.build import build, build_on_meta
from archlab.storage.tensors import named_tensors
from archlab.training import metrics
from archlab.training.grow import grow_weights, plan_growth
from archlab.training.trainer import train


def grown_from(place: Path) -> str:
    return f"train.start_from={json.dumps({'checkpoint': str(place), 'match': 'grow'})}"


def layer(**more: Any) -> dict[str, Any]:
    return {"mixer": {"type": "attention", "num_heads": 2}, "ffn": {"type": "mlp", "hidden_dim": 16}, **more}


@torch.no_grad()
def test_a_larger_model_begins_as_a_smaller_one(tiny: Tiny) -> None:
    def spec(*layers: dict[str, Any]) -> Any:
        return tiny(f"model.layers={json.dumps(layers)}").model

    other = layer(ffn={"type": "swiglu", "hidden_dim": 24})
    small = build(spec(layer(), other), seed=1)
    wider = layer(ffn={"type": "mlp", "hidden_dim": 40})
    large = build(spec(wider, wider, other, other, other), seed=2)
    grown = grow_weights(named_tensors(small), spec(layer(), other), large)
    assert grown.new_blocks == ["blocks.1", "blocks.3", "blocks.4"]
    tokens = torch.arange(12).view(2, 6)
    torch.testing.assert_close(large.eval()(tokens)[0], small.eval()(tokens)[0], rtol=0, atol=1e-5)
    assert torch.equal(large.blocks[4].mixer.query.weight, small.blocks[1].mixer.query.weight)


GROWN = {
    "another kind": (
        [layer(mixer={"type": "mamba"})],
        "blocks has no layer of the kind of the smaller model's blocks.0",
    ),
    "narrower": ([layer(ffn={"type": "mlp", "hidden_dim": 8})], "does not hold"),
    "a further kind": ([layer(), layer(mixer={"type": "ema"})], "a new layer of another kind"),
    "another residual": ([layer(residual="post_norm"), layer(residual="post_norm")], "of the kind|differ by"),
    "a further tensor": (
        [layer(mixer={"type": "attention", "num_heads": 2, "bias": True})],
        "the smaller model has no",
    ),
}


@pytest.mark.parametrize("case", GROWN)
def test_what_cannot_grow_is_named(case: str, tiny: Tiny) -> None:
    base = tiny(f"model.layers={json.dumps([layer()])}")
    layers, problem = GROWN[case]
    larger = build(tiny(f"model.layers={json.dumps(layers)}").model)
    with pytest.raises(ConfigError, match=problem):
        grow_weights(named_tensors(build(base.model)), base.model, larger)


NO_ROLES = """
from torch import nn
from archlab import register

@register("ffn", "without_roles")
class WithoutRoles(nn.Linear):
    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim)

@register("layer", "without_branches")
class WithoutBranches(nn.Linear):
    def __init__(self, dim: int, layer_index: int) -> None:
        super().__init__(dim, dim)
"""


@pytest.mark.parametrize(
    ("small", "large", "problem"),
    [
        ([layer(), layer()], [layer()], "blocks has 1 layer, and the smaller model 2"),
        (
            [layer(residual="gated")],
            [layer(residual="gated")] * 2,
            "blocks.1: the output of GatedResidual cannot be made zero, so no layer can be added",
        ),
        (
            [layer(ffn="without_roles")],
            [layer(ffn="without_roles")] * 2,
            "blocks.1: ffn 'without_roles' declares no role of its parameter 'weight'",
        ),
        (
            ["without_branches"],
            ["without_branches"] * 2,
            "blocks.1: WithoutBranches has no `branches`, whose outputs would be zero",
        ),
    ],
)
def test_what_grows_no_layers_is_named(small: Any, large: Any, problem: str, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(NO_ROLES)
    load_plugin("own.py", tmp_path)
    spec, grown = (tiny(f"model.layers={json.dumps(layers)}").model for layers in (small, large))
    with pytest.raises(ConfigError) as error:
        plan_growth(spec, build_on_meta(grown))
    assert str(error.value).startswith(f"train.start_from.match: {problem}")


@pytest.mark.parametrize(
    ("small", "large", "problem"),
    [
        ("true", "false", "the smaller model has no 'head.weight'"),
        ("false", "true", "'head.weight' of the smaller model has no place in the larger one"),
    ],
)
def test_a_head_that_is_tied_in_one_of_two_models_does_not_grow(
    small: str, large: str, problem: str, tiny: Tiny
) -> None:
    spec, grown = (tiny(f"model.head={{type: language_model, tied: {tied}}}").model for tied in (small, large))
    with pytest.raises(ConfigError) as error:
        plan_growth(spec, build_on_meta(grown))
    assert error.value.problem == problem


def test_a_model_of_real_values_does_not_grow() -> None:
    with pytest.raises(ConfigError, match=r"^train\.start_from\.match: only models of tokens can grow$"):
        plan_growth(load("deit_tiny").model, nn.Identity())


@pytest.mark.slow
def test_a_larger_run_grows_from_a_run(tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def of(layers: list[Any], *more: str) -> Experiment:
        return tiny(f"model.layers={json.dumps(layers)}", "train.steps=1", "train.lr=1e-30", *more)

    train(of([layer()]), tmp_path / "small")
    larger = of([layer(ffn={"type": "mlp", "hidden_dim": 24})] * 2, grown_from(tmp_path / "small"))
    with caplog.at_level(logging.WARNING):
        train(larger, tmp_path / "large")
    told = "grown with 1 new layer (blocks.1) and 4 wider tensors; the function is that of the smaller model"
    assert told in caplog.text
    origin = json.loads((tmp_path / "large/final/provenance.json").read_text())["start_from"]
    assert origin["grown"] == told
    losses = [metrics.read(tmp_path / name)[-1]["val_loss"] for name in ("small", "large")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    with pytest.raises(ConfigError, match="the function would not be the smaller model's: logits differ by"):
        train(of([layer()], "model.dim=48", grown_from(tmp_path / "small")), tmp_path / "other")
    shutil.move(tmp_path / "small/checkpoints/step_00000001", tmp_path / "taken/step_00000001")
    alone = of([layer()], grown_from(tmp_path / "taken/step_00000001"))
    with pytest.raises(ConfigError, match=r"\.checkpoint: '.*taken.*' does not identify its model; name its run"):
        train(alone, tmp_path / "other")
    assert not (tmp_path / "other").exists()
