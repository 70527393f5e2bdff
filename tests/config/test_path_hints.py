"""What was meant by a path or a file that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Tiny
from search_helpers import write_space

from archlab import ConfigError
from archlab.config import paths
from archlab.config.experiment import load
from archlab.errors import did_you_mean, list_names
from archlab.searching.space.load_space import load_space

TREE = {"model": {"layers": [{"repeat": 3, "norm": "rms"}, "plain", {"repeat": 8}], "dim": 16}}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "model.layers[9].norm",
            r"number 9 is one of the 8 that model.layers\[2\] stands for \(repeat: 8\)",
        ),
        ("model.layers[9].norm", r"or split it into entries with repeat 5, 1 and 2$"),
        ("model.layers[4].norm", r"of the 8 .* split it into entries with repeat 1 and 7$"),
        ("model.layers[11].norm", r"with repeat 7 and 1$"),
        ("model.layers[12].norm", r"\[12\] is past the end of a list of 3: its 3 entries stand for \d+ \(repeat\)"),
        ("model.layer[0].norm", r"there is no list 'layer'; did you mean model.layers\[0\].norm\?$"),
        ("modle.layers[0].norm", r"there is no list 'layers'; did you mean model.layers\[0\].norm\?$"),
    ],
)
def test_a_path_is_answered_with_the_one_that_was_meant(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        paths.put(TREE, path, "layer")


def test_an_entry_with_a_broken_repeat_has_no_hint() -> None:
    with pytest.raises(ConfigError, match=r"past the end of a list of 1$"):
        paths.put({"layers": [{"repeat": "x"}]}, "layers[1]", 0)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("model.layer[*].norm", "model.layer is not a list; did you mean model.layers[*].norm?"),
        ("model.layers[0].part[*].a", "model.layers[0].part is not a list; did you mean model.layers[0].parts[*].a?"),
        ("model[0].x[*]", "model[0].x is not a list"),
        ("model.dim[0].x[*]", "model.dim[0].x is not a list"),
    ],
)
def test_a_wildcard_of_a_list_that_is_none(path: str, message: str) -> None:
    layer = {"norm": "rms", "parts": [{"a": 1}]}
    with pytest.raises(ConfigError) as caught:
        paths.expand({"model": {"layers": [layer], "dim": 16}}, path)
    assert str(caught.value) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ({"model.layer[0].norm": ["rms"]}, r"did you mean model\.layers\[0\]\.norm\?$"),
        ({"train.lrr": [0.1]}, r"there is no such knob.*; did you mean train\.lr\?$"),
    ],
)
def test_a_varied_path(vary: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_space(write_space(tmp_path, vary=vary))


def test_an_experiment_is_distinguished_from_a_search_space(tmp_path: Path) -> None:
    space = write_space(tmp_path)
    with pytest.raises(
        ConfigError, match=r"space\.yaml: is not an experiment: it is a search space; .* archlab search "
    ):
        load(space)
    with pytest.raises(ConfigError, match=r"tiny\.yaml: is not a search space: it is an experiment.* archlab train "):
        load_space(tmp_path / "tiny.yaml")
    with pytest.raises(ConfigError, match=r"no experiment 'hybrids': it is a search space.*: archlab search hybrids$"):
        load("hybrids")
    with pytest.raises(ConfigError, match=r"no search space 'llama2_13b': .*: archlab train llama2_13b$"):
        load_space("llama2_13b")


def test_a_directory_for_a_file(tmp_path: Path, tiny: Tiny) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/experiment.yaml").write_text(tiny().to_yaml())
    with pytest.raises(ConfigError, match=r"run' is a directory; name a file of it, .*run/experiment\.yaml$"):
        load(tmp_path / "run")


def test_names_on_one_line_are_few() -> None:
    many = [f"name{number:02}" for number in range(80)]
    message = did_you_mean("zzzzzz", many)
    assert message.startswith("; known: name00, name01")
    assert message.endswith("name11 and 68 more")
    assert list_names(many[:13]) == ", ".join(many[:13])  # where one more is no longer than its number
    with pytest.raises(ConfigError, match=r"and \d+ more; archlab list names them all$"):
        load("zzzzzz")


def test_a_path_that_is_too_long_for_the_system_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file '.*x{300}\.yaml': File name too long$"):
        load(f"{tmp_path}/{'x' * 300}.yaml")
