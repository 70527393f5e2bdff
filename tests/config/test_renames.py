from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import Tiny, Write

from archlab import ConfigError
from archlab.config import experiment as config
from archlab.config import registry, renames
from archlab.config.migration import migrate_experiment, migrate_space
from archlab.config.plugin_trust import plugin_policy
from archlab.config.renames import Renames
from archlab.config.yaml_files import shipped_files


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Renames:
    """A table that renames an experiment, a component and a knob."""
    table = replace(
        renames.current(),
        experiments={"quick_start": "quickstart"},
        components={"mixer": {"maega": "mega"}, "optimizer": {"moun": "muon"}},
        knobs={"ema": {"ema": {"order": "num_dims"}}, "mixer": {"mega": {"average": "ema"}}},
        parameters={},
    )
    monkeypatch.setattr(renames, "current", lambda: table)
    return table


def problem(*arguments: object) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_new_name_exists() -> None:
    table = renames.current()
    assert set(table.experiments.values()) <= set(shipped_files())
    assert not set(table.experiments) & set(shipped_files())
    for kind, renamed in table.components.items():
        assert set(renamed.values()) <= set(registry.names(kind))
        assert not set(renamed) & set(registry.names(kind))
    for kind, owners in table.knobs.items():
        for owner, renamed in owners.items():
            assert set(renamed.values()) <= set(registry.find(kind, owner).knobs)
            assert not set(renamed) & set(registry.find(kind, owner).knobs)


def test_a_former_name_is_refused_with_the_present_one(table: Renames) -> None:
    migrate = " (`archlab migrate` renames it in a run's directory)"
    assert problem("quick_start") == f"experiment 'quick_start' is now called 'quickstart'{migrate}"
    said = problem("quickstart", ["model.layers[0].mixer=maega"])
    assert said == f"command line: model.layers[0].mixer: mixer 'maega' is now called 'mega'{migrate}"
    said = problem("mega_tiny", ["model.layers[0].mixer.ema={type: ema, order: 3}"])
    assert said == f"command line: model.layers[0].mixer.ema: knob 'order' of 'ema' is now called 'num_dims'{migrate}"


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("from archlab.registry import register, slot", "archlab.registry is now part of archlab: from archlab import"),
        ("from archlab.state import (\n    Recurrent,\n    Stream)", "from archlab import Recurrent, StateScope"),
        ("from archlab.config import load", "archlab.config is now part of archlab: from archlab import load"),
        ("import archlab.ops.turns", "archlab.ops.turns is now part of archlab.ops.rotary: import archlab.ops.rotary"),
        ("from archlab import register, Stream", "'Stream' is now called 'StateScope'"),
        ("from archlab.nowhere import x", "ModuleNotFoundError: No module named 'archlab.nowhere'"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_a_plugin_that_imports_a_former_module(statement: str, message: str, write: Write) -> None:
    write(f'"""A plugin."""\n\n{statement}\n', "mine.py")
    said = problem(write({"base": "quickstart", "plugins": ["mine.py"]}))
    assert "'mine.py' cannot be imported: " in said
    assert message in said


def test_the_format_is_written_and_a_later_one_refused(tiny: Tiny, write: Write) -> None:
    tree = yaml.safe_load(tiny().to_yaml())
    assert tree["format"] == renames.current().format
    first = {key: value for key, value in tree.items() if key != "format"}
    assert config.load(write(first)).resolved == config.load(write({"format": 1} | first)).resolved == tree
    later = problem(write(tree | {"format": 99}))
    assert later.endswith(f"format: 99 is of a later archlab; this one reads formats up to {tree['format']}")
    assert "format: 'new' is not a whole number at least 1" in problem(write(tree | {"format": "new"}))


def test_data_of_an_earlier_format_is_renamed(table: Renames) -> None:
    old = {
        "model": {
            "type": "stack",
            "layers": [{"mixer": {"type": "maega", "average": {"type": "ema", "order": 4}}}, {"mixer": "maega"}],
        },
        "task": "text",
        "train": {"steps": 5, "optimizer": {"type": "moun", "momentum": 0.9}},
    }
    new, changes = migrate_experiment(old, Path())
    layers = new["model"]["layers"]
    assert layers == [{"mixer": {"type": "mega", "ema": {"type": "ema", "num_dims": 4}}}, {"mixer": "mega"}]
    assert (new["format"], new["task"]) == (2, "text")
    assert new["train"] == {"steps": 5, "optimizer": {"type": "muon", "momentum": 0.9}}
    assert changes == [
        "model.layers[0].mixer: maega -> mega",
        "model.layers[0].mixer.average -> ema",
        "model.layers[0].mixer.ema.order -> num_dims",
        "model.layers[1].mixer: maega -> mega",
        "train.optimizer: moun -> muon",
    ]
    assert migrate_experiment(new, Path()) == (new, [])


def test_a_run_of_a_renamed_experiment_is_named_as_it_is_now(table: Renames) -> None:
    migrated, changes = migrate_experiment({"name": "quick_start", "train": {"steps": 5}}, Path())
    assert (migrated["name"], changes) == ("quickstart", ["name: quick_start -> quickstart"])
    assert migrate_experiment({"name": "my_own", "train": {"steps": 5}}, Path())[0]["name"] == "my_own"


def test_a_space_that_varies_a_renamed_component_is_refused(table: Renames) -> None:
    with pytest.raises(ConfigError, match=r"'maega' has another name now.*; search anew elsewhere, and migrate best/"):
        migrate_space({"base": "base.yaml", "vary": {"model.layers[*].mixer": ["maega", "ema"]}})
    with pytest.raises(ConfigError, match="'order' has another name now"):
        migrate_space({"base": "base.yaml", "vary": {"model.layers[*].mixer.ema.order": [1, 2]}})
    assert migrate_space({"base": "base.yaml", "vary": {"train.lr": [1, 2]}})["format"] == 2


def test_what_is_no_component_stays_as_it_is(table: Renames) -> None:
    odd = {"type": "stack", "layers": [{"mixer": 3, "ffn": {"type": "no_such", "order": 1}}, "plain", None]}
    migrated, changes = migrate_experiment({"model": odd, "task": None, "train": None}, Path())
    assert (migrated["model"], migrated["task"], changes) == (odd, None, [])
    space = {"format": 2, "base": "base.yaml", "vary": {"model.layers[*].mixer": ["maega"]}}
    assert migrate_space(space) == space, "a file of the present format is not searched for former names"
    vary = {"model.layers[*]": [{"mixer": {"type": "mega", "average": "none"}}]}
    with pytest.raises(ConfigError, match=r"vary\.model\.layers\[\*\]: 'average' has another name now"):
        migrate_space({"base": "base.yaml", "vary": vary})


PLUGIN = """
from torch import nn

from archlab import register


@register("norm", "mine")
class Mine(nn.Module):
    \"\"\"Passes.\"\"\"

    def __init__(self, dim: int, *, eps: float = 0.0) -> None:
        super().__init__()
"""


def test_the_components_of_plugins_are_migrated_too(
    table: Renames, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(PLUGIN, "mine.py").parent
    monkeypatch.setattr(renames, "current", lambda: replace(table, knobs={"norm": {"mine": {"epsilon": "eps"}}}))
    tree = {"plugins": ["mine.py"], "model": {"type": "stack", "norm": {"type": "mine", "epsilon": 1}}}
    with plugin_policy(trust=True):
        migrated, changes = migrate_experiment(tree, folder)
        with pytest.raises(ConfigError, match=r"plugins: 'mine\.py' is not a list"):
            migrate_experiment({**tree, "plugins": "mine.py"}, folder)
    assert migrated["model"]["norm"] == {"type": "mine", "eps": 1}
    assert changes == ["model.norm.epsilon -> eps"]
