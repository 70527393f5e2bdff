from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from conftest import Tiny

from archlab.cli.main import cli
from archlab.config import registry
from archlab.config.yaml_files import shipped_files


def complete(*words: str) -> list[str]:
    *args, incomplete = words
    return [
        item.value for item in ShellComplete(cli, {}, "archlab", "_ARCHLAB_COMPLETE").get_completions(args, incomplete)
    ]


@pytest.mark.parametrize("command", ["show", "train", "profile"])
def test_names_of_experiments(command: str) -> None:
    assert complete(command, "mega") == [name for name in shipped_files() if name.startswith("mega")]


def test_names_of_spaces_kinds_and_components() -> None:
    assert complete("search", "") == list(shipped_files("search_spaces"))
    assert complete("list", "e") == ["ema", "embedding"]
    assert complete("check", "ema", "s") == ["s4d", "s5", "short_conv"]
    assert complete("check", "ema", "s4d", "num") == ["num_dims="]


def test_paths_and_values_of_overrides() -> None:
    assert complete("train", "quickstart", "train.l") == ["train.lr=", "train.log_every=", "train.loggers="]
    paths = complete("train", "quickstart", "model.layers[0].")
    assert {"model.layers[0].mixer=", "model.layers[0].mixer.ema.num_dims=", "model.layers[0].repeat="} <= set(paths)
    assert complete("show", "quickstart", "model.layers[0].mixer.ema=") == [
        f"model.layers[0].mixer.ema={name}" for name in registry.names("ema")
    ]
    assert complete("show", "quickstart", "train.compile=b") == ["train.compile=block"]
    assert complete("show", "quickstart", "train.tensorboard=") == ["train.tensorboard=true", "train.tensorboard=false"]
    swapped = complete("show", "quickstart", "model.layers[0].mixer=mamba", "model.layers[0].mixer.state")
    assert swapped == ["model.layers[0].mixer.state_dim="]
    assert "train.lr=" in complete("search", "quickstart", "train.")


def test_overrides_of_a_trained_model(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text(tiny().to_yaml())
    assert complete("eval", str(tmp_path), "task.pa") == ["task.path="]


def test_what_is_wrong_completes_to_nothing() -> None:
    assert complete("train", "no_such", "train.") == []
    assert complete("check", "no_such", "x") == []
    assert complete("check", "ema", "no_such", "x") == []
    assert complete("eval", "nowhere", "task.") == []


def test_a_file_is_left_to_the_shell() -> None:
    items = ShellComplete(cli, {}, "archlab", "_ARCHLAB_COMPLETE").get_completions(["train"], "./experi")
    assert [(item.value, item.type) for item in items] == [("./experi", "file")]


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_help_is_in_whole_sentences(name: str) -> None:
    command = cli.commands[name]
    text = command.help or ""
    assert text.split("\n")[0].endswith(".")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            assert parameter.help[0].isupper()
            assert parameter.help.endswith("."), parameter.help
        elif parameter.name == "overrides":
            assert "PATH=VALUE" in text
        elif parameter.name == "knobs":
            assert "KNOB=VALUE" in text
        else:
            shown = (parameter.metavar or (parameter.name or "").upper()).strip("[].")
            assert shown in text, f"{shown} is not explained"
