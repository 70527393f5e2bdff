from __future__ import annotations

import io
from typing import Any

from conftest import Tiny
from rich.console import Console

from archlab.cli import show
from archlab.config import experiment
from archlab.modeling.cost import estimate_cost


def drawn(what: Any) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text()


def test_a_tree_names_parts_counts_and_shapes(tiny: Tiny) -> None:
    text = drawn(show.model_tree(tiny()))
    lines = text.splitlines()
    assert lines[0].split() == ["model", "stack", f"{estimate_cost(tiny()).params:,}", "1x32x256"]
    assert "embedding tokens  8,192  1x32x32" in text
    assert "head language_model  8,192  1x32x256" in text
    assert "blocks[0] block" in text
    assert "= 2 x " in text
    assert "blocks[1]" not in text
    assert "mixer mega" in text
    assert "ema ema" in text


def test_layers_that_differ_are_drawn_separately() -> None:
    layer = "{mixer: {type: attention, num_heads: 2}, ffn: %s}"
    layers = f"model.layers=[{layer % 'none'}, {layer % 'none'}, {layer % 'swiglu'}]"
    text = drawn(show.model_tree(experiment.load("megalodon_tiny", [layers])))
    assert "blocks[0] block" in text
    assert "blocks[1]" not in text
    assert "blocks[2] block" in text


def test_parameters_of_a_tree_add_up(tiny: Tiny) -> None:
    top = [line.split() for line in drawn(show.model_tree(tiny())).splitlines() if line[:3] in ("├──", "└──")]
    assert [words[2] for words in top] == ["tokens", "none", "block", "rms", "language_model"], "and no norm"
    assert sum(int(words[3].replace(",", "")) for words in top if words[2] != "none") == estimate_cost(tiny()).params


def test_costs_have_the_name(tiny: Tiny) -> None:
    figures = show.cost_summary(tiny())
    assert figures == {"name": "tiny", **estimate_cost(tiny()).to_dict()}


def test_the_table_of_costs(tiny: Tiny) -> None:
    figures = show.cost_summary(tiny())
    text = drawn(show.cost_table(tiny(), figures))
    assert f"{figures['params']:,}" in text
    assert "at a context of 32" in text
    assert "a micro-batch of 2" in text
    assert len(text.splitlines()) == 8
