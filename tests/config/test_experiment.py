"""Set ARCHLAB_WRITE_GOLDEN=1 to regenerate tests/golden/resolved; then review the diff."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import THOROUGH, Tiny, Write

from archlab import ConfigError
from archlab.config import experiment as config
from archlab.config.registry import names
from archlab.config.spec import Spec
from archlab.config.yaml_files import shipped_files

GOLDEN = Path(__file__).parents[1] / "golden" / "resolved"
MIXER = "model.layers[0].mixer"
every_experiment = pytest.mark.parametrize("name", list(shipped_files()))
PLUGIN = '''
from torch import nn

from archlab import register


@register("norm", "halving")
class Halving(nn.Module):
    """Halves."""

    def __init__(self, dim: int, *, times: int = 1) -> None:
        super().__init__()
        self.times = times

    def forward(self, x):
        return x / 2**self.times
'''


def problem(file: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(file, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{file.parent}/", "")


@pytest.mark.slow
@every_experiment
def test_resolved_as_recorded(name: str) -> None:
    file, text = GOLDEN / f"{name}.yaml", config.load(name).to_yaml()
    if os.environ.get("ARCHLAB_WRITE_GOLDEN"):
        file.write_text(text)
    assert file.is_file(), f"no {file}: write it with ARCHLAB_WRITE_GOLDEN=1"
    assert text == file.read_text()


def test_no_golden_file_without_an_experiment() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == set(shipped_files())


@pytest.mark.slow
@every_experiment
def test_resolved_data_loads_back_to_itself(name: str, tmp_path: Path) -> None:
    experiment = config.load(name)
    (tmp_path / "again.yaml").write_text(experiment.to_yaml())
    again = config.load(tmp_path / "again.yaml")
    assert again.resolved == experiment.resolved
    assert again.model == experiment.model
    assert again.train == experiment.train
    assert again.name == name


def _is_right_or_says_what_it_needs(raw: config.UnresolvedExperiment, name: str) -> bool:
    try:
        raw.resolve()
    except ConfigError as error:
        return re.search(rf"{name!r} needs (a |'\w+')", error.problem) is not None
    return True


def _distinct_parts(model: Spec) -> Iterator[Spec]:
    """Yield every part but those of a list's entry that equals one before it."""
    entries: list[tuple[str, dict[str, Any]]] = []
    repeated: tuple[str, ...] = ()
    for spec in model.walk():
        if spec.path.endswith("]"):
            entry = (spec.path.rpartition("[")[0], spec.to_plain())
            repeated += (f"{spec.path}.",) if entry in entries else ()
            entries.append(entry)
        elif not spec.path.startswith(repeated):
            yield spec


def _structure(data: Any) -> Any:
    """Return a part's plain data with the types of its values, but with the names of its components."""
    if isinstance(data, dict):
        return {key: value if key == "type" else _structure(value) for key, value in data.items()}
    return [_structure(item) for item in data] if isinstance(data, list) else type(data).__name__


@pytest.mark.slow
def test_every_part_may_be_swapped_for_its_neighbours() -> None:
    """Parts that differ only in numbers are swapped once: which knobs a neighbor needs does not depend on them."""
    swapped: list[tuple[str, Any]] = []
    for name in sorted(shipped_files(), key=lambda name: not name.endswith("_tiny")):  # these have fewer layers to read
        raw = config.read(name)
        for spec in _distinct_parts(raw.resolve().model):
            part = (re.sub(r"\[\d+\]", "", spec.path), _structure(spec.to_plain()))
            if part in swapped and not THOROUGH:
                continue
            swapped.append(part)
            for other in names(spec.kind):
                assert _is_right_or_says_what_it_needs(raw.override({spec.path: other}, "test"), other), name


@pytest.mark.parametrize(
    "word",
    [
        "",
        "null",
        "yes",
        "off",
        "~",
        "1e-3",
        "0x10",
        "1_000",
        "1:30",
        "2001-01-01",
        ".inf",
        "a: b",
        "- a",
        "#",
        "é\n\tλ",
    ],
)
def test_any_text_loads_back_to_itself(word: str, tiny: Tiny, write: Write) -> None:
    experiment = replace(tiny(), description=word)
    assert config.load(write(experiment.to_yaml())).resolved == experiment.resolved


def test_a_file_extends_another(tiny_file: Path, write: Write) -> None:
    experiment = config.load(write({"base": "tiny.yaml", "train": {"steps": 3}}, "longer.yaml"))
    assert (experiment.name, experiment.train.steps, experiment.train.batch_size) == ("longer", 3, 2)
    assert experiment.model == config.load(tiny_file).model
    assert config.load(write({"base": "../longer.yaml"}, "below/third.yaml")).train == experiment.train


def test_a_file_extends_a_shipped_experiment(write: Write) -> None:
    experiment = config.load(write({"base": "quickstart", "model": {"dim": 64}}))
    assert experiment.model.knobs["dim"] == 64
    assert experiment.task.name == "stdlib"


@pytest.mark.parametrize(
    ("norm", "plain"),
    [
        ({"num_groups": 4}, {"type": "timestep", "num_groups": 4}),
        ({"type": "timestep"}, {"type": "timestep", "num_groups": 8}),
        ({"type": "rms"}, {"type": "rms"}),
        ("timestep", {"type": "timestep", "num_groups": 32}),
    ],
)
def test_the_same_type_merges_and_another_replaces(norm: Any, plain: dict[str, Any], write: Write) -> None:
    resolved = config.load(write({"base": "megalodon_tiny", "model": {"norm": norm}})).resolved["model"]["norm"]
    assert plain.items() <= resolved.items()


def test_a_list_is_replaced(write: Write) -> None:
    layers = [{"mixer": {"type": "attention", "num_heads": 2}}]
    experiment = config.load(write({"base": "megalodon_tiny", "model": {"layers": layers}}))
    (layer,) = experiment.model.knobs["layers"]
    assert (layer.repeat, layer.knobs["mixer"].name, layer.knobs["residual"].name) == (1, "attention", "pre_norm")


def test_override_reaches_into_lists(tiny_file: Path, write: Write) -> None:
    tree = yaml.safe_load(tiny_file.read_text())
    tree["model"]["layers"].append(tree["model"]["layers"][0] | {"repeat": 1})
    write(tree, "two.yaml")
    override = {"model.layers[*].mixer.ema.num_dims": 3, "model.layers[1].ffn.hidden_dim": 7, "train.steps": 5}
    experiment = config.load(write({"base": "two.yaml", "override": override}))
    first, second = experiment.model.knobs["layers"]
    assert [layer.knobs["mixer"].knobs["ema"].knobs["num_dims"] for layer in (first, second)] == [3, 3]
    assert [layer.knobs["ffn"].knobs["hidden_dim"] for layer in (first, second)] == [32, 7]
    assert experiment.train.steps == 5


def test_every_entry_means_those_that_have_the_knob(tiny_file: Path, write: Write) -> None:
    tree = yaml.safe_load(tiny_file.read_text())
    tree["model"]["layers"].append({"mixer": {"type": "attention", "num_heads": 2}})
    experiment = config.load(write(tree), ["model.layers[*].mixer.ema.num_dims=3"])
    assert experiment.model.knobs["layers"][0].knobs["mixer"].knobs["ema"].knobs["num_dims"] == 3


def test_a_bare_name_keeps_the_knobs_that_both_have() -> None:
    mega = config.load("megalodon_tiny", [f"{MIXER}=mega"]).model.knobs["layers"][0].knobs["mixer"]
    assert (mega.name, mega.knobs["shared_dim"], mega.knobs["value_dim"]) == ("mega", 64, 256)
    assert mega.knobs["ema"].name == "cema"
    ema = config.load("megalodon_tiny", [f"{MIXER}.ema=s4d"]).model.knobs["layers"][0].knobs["mixer"].knobs["ema"]
    assert (ema.name, ema.knobs["num_dims"]) == ("s4d", 8)
    whole = config.load("megalodon_tiny", [f"{MIXER}.ema={{type: s4d}}"])
    assert whole.model.knobs["layers"][0].knobs["mixer"].knobs["ema"].knobs["num_dims"] != 8


def test_a_bare_name_of_the_whole_model_keeps_its_knobs(tiny: Tiny) -> None:
    assert tiny("model=stack").resolved == tiny().resolved
    assert tiny("task=stdlib").task.knobs == {"eval_bytes": 256}


def test_a_bare_name_of_a_layer_keeps_its_repeat() -> None:
    assert config.load("megalodon_tiny", ["model.layers[*]=block"]).resolved == config.load("megalodon_tiny").resolved


@pytest.mark.parametrize(
    ("override", "setting", "value"),
    [
        ("train.lr=1e-3", "lr", 1e-3),
        ("train.steps=1e2", "steps", 100),
        ("train.clip=null", "clip", None),
        ("train.compile=off", "compile", "off"),
        ("train.checkpoint_activations=true", "checkpoint_activations", True),
        ("train.warmup=${train.steps}", "warmup", 12),
    ],
)
def test_overrides_are_yaml(override: str, setting: str, value: Any, tiny: Tiny) -> None:
    assert getattr(tiny(override).train, setting) == value


def test_later_overrides_win(tiny: Tiny) -> None:
    assert tiny("train.steps=5", "train={steps: 6}", "train.steps=7").train.steps == 7
    assert tiny("train={steps: 6}").train.batch_size == 8


def test_interpolation(tiny_file: Path, write: Write) -> None:
    tree = {
        "base": "tiny.yaml",
        "train": {"warmup": "${train.steps}", "steps": 9},
        "description": "${name} of ${train.steps}",
    }
    experiment = config.load(write(tree, "inter.yaml"))
    assert experiment.train.warmup == 9
    assert experiment.description == "inter of 9"
    assert config.load(tiny_file.parent / "inter.yaml", ["train.steps=11"]).train.warmup == 11


def test_a_plugin_is_seen_from_its_yaml(tiny_file: Path, write: Write) -> None:
    write(PLUGIN, "parts/halving.py")
    below = {"base": "../tiny.yaml", "plugins": ["halving.py"], "model": {"norm": {"type": "halving", "times": 2}}}
    write(below, "parts/halved.yaml")
    experiment = config.load(write({"base": "parts/halved.yaml"}, "above.yaml"))
    assert experiment.model.knobs["norm"].knobs["times"] == 2
    assert experiment.plugins == (str((tiny_file.parent / "parts/halving.py").resolve()),)
    again = config.load(write(experiment.to_yaml(), "elsewhere/resolved.yaml"))
    assert again.resolved == experiment.resolved


def test_sources_are_named(tiny_file: Path, write: Write) -> None:
    top = write({"base": "tiny.yaml", "train": {"lr": -1}}, "top.yaml")
    assert problem(top) == "top.yaml: train.lr: -1.0 is not above 0"
    write(yaml.safe_load(tiny_file.read_text()) | {"train": {"steps": 0}}, "tiny.yaml")
    assert problem(top, "train.lr=1") == "tiny.yaml: train.steps: 0 is not at least 1"
    assert problem(top, "train.lr=x", "train.steps=1") == "command line: train.lr: 'x' is not a number"
    override = write({"base": "tiny.yaml", "override": {"train.steps": 1, f"{MIXER}.ema": "emma"}}, "over.yaml")
    assert problem(override) == f"over.yaml: {MIXER}.ema: no ema 'emma'; did you mean 'ema'?"


def test_the_source_of_an_experiment(tiny_file: Path, tiny: Tiny, write: Write) -> None:
    assert tiny().source == str(tiny_file)
    assert tiny("train.steps=3").source == f"{tiny_file}, with command line"
    assert tiny("name=other").source == f"{tiny_file}, with command line"
    file = write({"base": "tiny.yaml"}, "top.yaml")
    assert config.load(file).source == str(file)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"base": "tinny.yaml"}, "bad.yaml: no file "),
        ({"base": "megalodon_tinny"}, "bad.yaml: no experiment 'megalodon_tinny'; did you mean 'megalodon_tiny'?"),
        ({"base": 7}, "bad.yaml: base: 7 is not a text"),
        ({"base": "tiny.yaml", "modle": {}}, "bad.yaml: unknown key 'modle'; did you mean 'model'?"),
        ({"base": "tiny.yaml", "override": ["train.lr"]}, "bad.yaml: override: is not a mapping of paths to values"),
        ({"base": "tiny.yaml", "override": {"model.layers[9].norm": "rms"}}, "bad.yaml: model.layers[9].norm: [9] is"),
        ({"base": "tiny.yaml", "plugins": "x.py"}, "bad.yaml: plugins: 'x.py' is not a list"),
        ({"base": "tiny.yaml", "plugins": ["x.py"]}, "bad.yaml: plugins: no file "),
        ({"base": "tiny.yaml", "name": "${nowhere}"}, "bad.yaml: name: Interpolation key 'nowhere' not found"),
        ({"base": "tiny.yaml", "train": {"lr": "???"}}, "bad.yaml: train.lr: "),
        ({"task": "stdlib"}, "bad.yaml: model: is missing: an experiment has a model and a task"),
        ("", "bad.yaml: model: is missing"),
        ("[1]", "bad.yaml: is not a mapping"),
        ("a: [", "bad.yaml: line "),
        ("name: a\nname: b", "bad.yaml: line 2, column 1: found duplicate key name"),
        ("train: {7: 1}", "bad.yaml: train: the key 7 is not a text"),
    ],
)
def test_files_that_cannot_be_used(tree: Any, message: str, tiny_file: Path, write: Write) -> None:
    assert problem(write(tree, "bad.yaml")).startswith(message)


def test_names_of_experiments() -> None:
    with pytest.raises(ConfigError, match=r"^no experiment 'quickstat'; did you mean 'quickstart'\?$"):
        config.load("quickstat")
    with pytest.raises(ConfigError, match=r"^no file 'nowhere/x\.yaml'$"):
        config.load("nowhere/x.yaml")


def test_a_raw_experiment_is_never_changed(tiny_file: Path) -> None:
    raw = config.read(tiny_file)
    before = raw.resolve().resolved
    changed = raw.override({"model.layers[*].mixer.ema.num_dims": 5, "train.steps": 2}, "test")
    assert changed.get("train.steps") == 2
    assert raw.get("train.steps") == 12
    assert raw.resolve().resolved == before
    assert raw.get("nowhere.at[3].all") is None


@pytest.mark.parametrize(
    "word",
    ["${x}", "\\${train.steps}", "\\\\${", "${oc.env:HOME}", "???", "\\???", "0100", "2001", "\x1b\u202e", "a\r\nb"],
)
def test_a_text_of_signs_stays_a_text(word: str, tiny: Tiny, write: Write) -> None:
    experiment = replace(tiny(), description=word)
    again = config.load(write(experiment.to_yaml()))
    assert again.description == word
    assert config.load(again.resolved).description == word
    assert config.load(again.resolved, ["train.steps=3"]).description == word


def test_an_escaped_interpolation_is_read_once(tiny_file: Path, write: Write) -> None:
    experiment = config.load(write({"base": "tiny.yaml", "description": "\\${x} of ${train.steps}"}, "top.yaml"))
    assert experiment.description == "${x} of 12"
    assert config.load(write(experiment.to_yaml())).description == "${x} of 12"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps=0100", "train.steps: '0100' is not a whole number; did you mean 100?"),
        ("train.steps='100'", "; did you mean 100?"),
        ("train.lr=12:30", "train.lr: '12:30' is not a number"),
        ("train.lr=1e999", "train.lr: inf is not a finite number"),
        ("task.path=0x10", "task.path: 16 is not a text; write a text like this in quotes"),
        ("description=1e5", "description: 100000.0 is not a text; write a text like this in quotes"),
        ("description=off", "description: False is not a text; write a text like this in quotes"),
    ],
)
def test_numbers_and_texts_that_are_mistaken_for_each_other(override: str, message: str, tiny: Tiny) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny(override)
    assert message in str(caught.value)
