"""A file that a command reads: one that is missing or not what it should be ends in one line that names it once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from archlab.cli.main import cli

COMMANDS = {
    ("check", "--plugin"): "check mixer mamba --plugin {}",
    ("eval", "--questions"): "eval {run} --suite mt-bench --questions {}",
    ("eval", "--text"): "eval {run} --suite context --text {}",
    ("fit", "losses"): "fit {} --to params=7e9,tokens=2e12",
    ("generate", "--batch"): "generate {run} --batch {}",
    ("generate", "--load-state"): "generate {run} --load-state {}",
    ("import", "--tokenizer"): "import {checkpoint} --tokenizer {} --out {out}",
    ("prepare", "--tokenizer"): "prepare llama2_tiny --corpus {text} --tokenizer {} --out {out}",
    ("schema", "--plugin"): "schema --plugin {}",
    ("train", "name"): "train {} --out {out}",
}
LLAMA = {"model_type": "llama", "vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 1} | {
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
}
WRITTEN = {("generate", "--out"), ("generate", "--save-state"), ("schema", "--out")}


def of_files(command: click.Command) -> set[str]:
    """Return the parameters of a command that take the path of a file."""
    return {
        parameter.opts[-1]
        for parameter in command.params
        if (isinstance(parameter.type, click.Path) and not parameter.type.dir_okay) or parameter.metavar == "FILE"
    }


def test_each_parameter_that_takes_a_file_is_tested() -> None:
    taken = {(name, parameter) for name, command in cli.commands.items() for parameter in of_files(command)}
    assert taken - WRITTEN == COMMANDS.keys() - {("train", "name")}


@pytest.fixture
def told(run: Callable[..., Any], trained: Path, tmp_path: Path, text: Path) -> Callable[[str, Path], str]:
    """Return what a command writes about a file."""
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/config.json").write_text(json.dumps(LLAMA))
    known = {"run": trained, "checkpoint": tmp_path / "checkpoint", "text": text, "out": tmp_path / "out"}

    def error(command: str, file: Path) -> str:
        done = run(*command.format(file, **known).split())
        assert (done.status, done.out) == (2, "")
        assert not (tmp_path / "out").exists()
        return done.err

    return error


@pytest.mark.parametrize("command", [pytest.param(line, id=" ".join(key)) for key, line in COMMANDS.items()])
@pytest.mark.parametrize(
    "content", [None, "directory", b"", b"\x88\xff\x00\x01" * 500], ids=["missing", "directory", "empty", "binary"]
)
def test_a_file_that_is_not_there_or_not_what_it_should_be(
    command: str, content: bytes | str | None, told: Callable[[str, Path], str], tmp_path: Path
) -> None:
    file = tmp_path / "file.x"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content:
        file.mkdir()
    (line,) = told(command, file).splitlines()
    assert line.startswith("archlab: ")
    assert line.count(str(file)) == 1, line
    assert not any(part in line for part in ("[Errno", "codec", "Traceback")), line
