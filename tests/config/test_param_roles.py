"""Declared roles are read from the source, and a model's widths scale together."""

from __future__ import annotations

from fractions import Fraction

import pytest

from archlab import ArchlabError, Param, register
from archlab.config import registry
from archlab.config.component_source import read_declaration
from archlab.config.experiment import load
from archlab.config.param_roles import find_param
from archlab.config.registry import find
from archlab.config.widths import scale_widths
from archlab.errors import ConfigError


def test_roles_are_read_from_the_source_with_shared_ones() -> None:
    module = "archlab.components.mixer.gated_delta_net"
    params = read_declaration(module, "mixer", "gated_delta_net", registry._PUBLIC).params
    assert params["query.map.weight"] == Param("hidden", tensor="column")
    assert params["mixed.out.weight"].branch
    assert params["log_rate"].tensor == "heads"
    assert params == find("mixer", "gated_delta_net").params


def test_a_name_is_found_before_a_pattern() -> None:
    declared = {"*.weight": Param("hidden"), "norm.weight": Param("vector")}
    assert find_param(declared, "norm.weight") == "norm.weight"
    assert find_param(declared, "a.b.weight") == "*.weight"
    assert find_param(declared, "weight") is None


def test_a_declaration_that_is_no_param_is_refused() -> None:
    with pytest.raises(ArchlabError, match="is not a parameter's name with a Param"):
        register("ffn", "wrong_params", params={"weight": "hidden"})  # type: ignore[dict-item]


def test_widths_and_heads_scale_with_the_model() -> None:
    model = load("megalodon_tiny", ["model.layers[*].mixer.num_heads=2"]).model
    half = scale_widths(model, Fraction(1, 2)).to_plain()
    [layer] = half["layers"]
    assert (half["dim"], half["vocab_size"], layer["repeat"]) == (64, 256, 4)
    assert (layer["mixer"]["shared_dim"], layer["mixer"]["value_dim"], layer["ffn"]["hidden_dim"]) == (32, 128, 160)
    assert (layer["mixer"]["num_heads"], layer["mixer"]["ema"]["num_dims"]) == (1, 8)
    quarter = scale_widths(model, Fraction(1, 4), {"model.layers[*].ffn.hidden_dim": 7}).to_plain()["layers"][0]
    assert (quarter["mixer"]["num_heads"], quarter["ffn"]["hidden_dim"]) == (2, 7)


def test_a_width_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.dim: 128 times 1/3 is 42\.6667, no whole number"):
        scale_widths(load("megalodon_tiny").model, Fraction(1, 3))
