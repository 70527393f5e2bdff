from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from torch import nn

from archlab import ConfigError
from archlab.config.registry import Slot
from archlab.config.spec import Spec, knob_at, parse

LAYER: dict[str, Any] = {"mixer": {"type": "mega", "shared_dim": 8, "value_dim": 16}, "ffn": "none"}
MODEL: dict[str, Any] = {"type": "stack", "vocab_size": 11, "dim": 8, "layers": [LAYER, {"repeat": 3, **LAYER}]}


def problem(value: Any, kind: str = "backbone") -> str:
    with pytest.raises(ConfigError) as caught:
        parse(value, kind, "model")
    return str(caught.value)


def test_every_default_is_filled_in() -> None:
    spec = parse(MODEL, "backbone", "model")
    assert (spec.kind, spec.name, spec.path) == ("backbone", "stack", "model")
    assert isinstance(spec.knobs["norm"], Spec)
    assert spec.knobs["norm"].name == "rms"
    assert set(spec.knobs) == set(spec.component.knobs)
    assert [layer.repeat for layer in spec.knobs["layers"]] == [1, 3]
    assert spec.knobs["layers"][1].knobs["mixer"].path == "model.layers[1].mixer"


def test_plain_data_says_the_same() -> None:
    spec = parse(MODEL, "backbone", "model")
    plain = spec.to_plain()
    assert parse(plain, "backbone", "model") == spec
    assert plain["layers"][1]["repeat"] == 3
    assert "repeat" not in plain["layers"][0]
    assert_holds_no_specs(plain)


def assert_holds_no_specs(plain: Any) -> None:
    if isinstance(plain, Mapping | list):
        for value in plain.values() if isinstance(plain, Mapping) else plain:
            assert_holds_no_specs(value)
    else:
        assert isinstance(plain, str | int | float | bool | None)


def test_walk_goes_from_parents_to_children() -> None:
    found = [spec.path for spec in parse(MODEL, "backbone", "model").walk()]
    assert found[0] == "model"
    assert found.index("model.layers[0]") < found.index("model.layers[0].mixer") < found.index("model.layers[1]")
    assert len(found) == len(set(found))


def test_a_factory_builds_repeats_separately() -> None:
    model = parse(MODEL, "backbone", "model").factory()()
    assert len(model.blocks) == 4
    assert len({id(block) for block in model.blocks}) == 4


def test_a_bare_name_and_a_default_type() -> None:
    assert parse("layer", "norm", "n") == parse({"type": "layer"}, "norm", "n")
    assert parse({"eps": 1e-3}, "norm", "n", "rms").name == "rms"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": "wide"}, "model.dim: 'wide' is not a whole number"),
        ({"depth": 4}, "model: unknown knob 'depth' of 'stack'"),
        ({"layers": []}, "model.layers: [] is not a list of one or more layers"),
        ({"layers": "block"}, "model.layers: 'block' is not a list of one or more layers"),
        ({"layers": [{**LAYER, "repeat": 0}]}, "model.layers[0].repeat: 0 is not at least 1"),
        ({"layers": [{**LAYER, "repeat": 5000}]}, "model.layers: more than 4096 layers"),
        ({"layers": [{"ffn": "mlp"}]}, "model.layers[0].mixer: 'block' needs a mixer: one of attention"),
        ({"layers": [7]}, "model.layers[0]: 7 is not a layer: give its name"),
        ({"norm": None}, "model.norm: 'stack' needs a norm: one of"),
        ({"norm": "rsm"}, "model.norm: no norm 'rsm'; did you mean 'rms'?"),
        ({"norm": ["rms"]}, "model.norm: ['rms'] is not a norm"),
        ({"norm": {"type": "rms", "repeat": 2}}, "model.norm: unknown knob 'repeat' of 'rms'"),
    ],
)
def test_invalid_specs(change: dict[str, Any], message: str) -> None:
    assert problem(MODEL | change).startswith(message)


def test_missing_values() -> None:
    assert problem({"type": "stack", "vocab_size": 8, "layers": [LAYER]}) == (
        "model: 'stack' needs 'dim': a whole number at least 1"
    )
    with pytest.raises(ConfigError, match=r"^model\.embedding: tokens: tokens need a vocab_size, the number of"):
        parse({"type": "stack", "dim": 8, "layers": [LAYER]}, "backbone", "model").factory()()
    assert problem({"dim": 8}).startswith("model: a backbone needs a type: one of")


def test_a_constructor_that_refuses_is_named_by_its_path() -> None:
    layer = {**LAYER, "norm": {"type": "timestep", "num_groups": 3}}
    spec = parse(MODEL | {"layers": [LAYER, layer]}, "backbone", "model")
    with pytest.raises(ConfigError, match=r"^model\.layers\[1\]\.norm: timestep: dim 8 is not divisible") as caught:
        spec.factory()()
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (["dim"], "dim"),
        (["norm", "eps"], "eps"),
        (["layers", 0, "mixer"], "mixer"),
        (["layers", 1], "layers"),
        (["layers", 0, "mixer", "ema", "num_dims"], "num_dims"),
        (["layers", 0, "repeat"], "repeat"),
        (["repeat"], None),
        (["layers", 0, "norm", "type"], None),
        (["layers", 2, "mixer"], None),
        (["layers", "mixer"], None),
        (["dim", "x"], None),
        (["depth"], None),
        ([], None),
    ],
)
def test_the_knob_at_a_path(parts: list[str | int], name: str | None) -> None:
    knob = knob_at(MODEL, parts, "backbone")
    assert (knob.name if knob else None) == name


def test_the_knob_at_a_path_has_its_type() -> None:
    knob = knob_at(MODEL, ["layers", 0, "mixer"], "backbone")
    assert knob is not None
    assert isinstance(knob.default, Slot)
    assert knob.default.kind == "mixer"


def test_a_component_may_be_swapped_for_any_other_of_its_kind() -> None:
    for norm in ("layer", "none", "rms", "scale"):
        spec = parse(MODEL | {"norm": norm}, "backbone", "model")
        assert isinstance(spec.factory()().norm, nn.Module)
