from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from archlab.config import experiment as config
from archlab.runtime.extensions import EXPORT_FORMATS, SUITES, Extensions

LISTED = ["list", "show", "train", "search", "export", "generate", "eval", "report", "doctor", "profile"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["shw", "quickstart"], "no command 'shw'; did you mean 'show'?"),
        (["show"], "Missing argument 'NAME'"),
        (["show", "quickstat"], "no experiment 'quickstat'; did you mean 'quickstart'?"),
        (["show", "quickstart", "--jsn"], "No such option"),
        (["show", "quickstart", "train.lr"], "command line: train.lr: is not an override; write path=value"),
        (["show", "quickstart", "model.dmi=3"], "unknown knob 'dmi' of 'stack'; did you mean 'dim'?"),
        (["show", "quickstart", f"train.steps={10**400}"], "command line: train.steps: "),
        (["list", "norms"], "no kind 'norms'; did you mean 'norm'?"),
        (["train", "quickstart", "model.dim=100"], "timestep: dim 100 is not divisible by num_groups 8"),
        (["train", "quickstart", "train.batch_size=10000000"], "a training step needs about"),
        (["generate", "nowhere", "--prompt", "x"], "nowhere: is not a directory"),
        (["generate", ".", "--prompt", "x"], ".: holds no trained model"),
        (["generate", ".", "--prompt", "x", "--tokens", "-1"], "Invalid value for '--tokens'"),
        (["eval", "nowhere"], "nowhere: is not a directory"),
        (["eval", ".", "--split", "tset"], "Invalid value for '--split'"),
        (["report", "nowhere"], "nowhere"),
        (["export", "nowhere", "--out", "x"], "nowhere"),
        (["search", "quickstat"], "quickstat"),
    ],
)
def test_mistakes_end_in_one_line(command: list[str], message: str, run, tmp_path: Path) -> None:
    done = run(*command)
    assert done.status == 2
    assert done.out == ""
    assert message in done.err
    assert done.err.startswith("archlab: ")
    assert done.err.count("\n") == 1
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where_it_failed(run) -> None:
    with pytest.raises(config.ConfigError):
        run("--debug", "show", "quickstat")


def test_without_a_command_there_is_help(run) -> None:
    bare, asked = run(), run("--help")
    assert (bare.status, asked.status) == (2, 0)
    assert bare.err.startswith("Usage: ")
    assert all(f"  {verb} " in asked.out for verb in LISTED)
    assert asked.err == ""


@pytest.mark.parametrize("verb", LISTED)
def test_every_command_has_help(verb: str, run) -> None:
    done = run(verb, "-h")
    assert done.status == 0
    assert done.out.startswith("Usage: ")


@pytest.mark.parametrize(("verb", "kind"), [("export", EXPORT_FORMATS), ("eval", SUITES)])
def test_help_lists_what_other_packages_add_too(
    verb: str, kind: Extensions, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = importlib.metadata.EntryPoint("mine", "my_package:Mine", kind.group)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point] if group == kind.group else [])
    told = " ".join(run(verb, "--help").out.split())
    assert "mine" in kind.names()
    assert f"{', '.join(kind.names()[:-1])} or {kind.names()[-1]}." in told


@pytest.mark.slow
def test_help_cuts_no_sentence_of_a_command(run) -> None:
    assert "..." not in run("--help").out.partition("Commands:")[2]


@pytest.mark.slow
def test_help_needs_no_torch_and_neither_does_a_typo(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    code = """
import sys
from archlab.cli.main import main
for command in (
    ["--help"], ["show", "--help"], ["export", "--help"], ["eval", "--help"], ["show", "quickstat"],
    ["search", "mixerz"], ["eval", "runz/a"], ["report", "a"], ["watch", "run"],
    ["train", "quickstart", "train.lr=fast"]
):
    sys.argv = ["archlab", *command]
    try:
        main()
    except SystemExit:
        pass
heavy = {"torch", "optuna", "numpy", "tensorboard"} & set(sys.modules)
sys.exit(f"{command} needs {heavy}" if heavy else 0)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "archlab: no experiment 'quickstat'; did you mean 'quickstart'?",
        "archlab: no search space 'mixerz'; did you mean 'mixers'?",
        "archlab: runz/a: is not a directory",
        "archlab: a: is not a directory",
        "archlab: run: is not a directory; did you mean runs?",
        "archlab: command line: train.lr: 'fast' is not a number",
    ]


@pytest.mark.slow
def test_the_installed_command_exits_with_2(tmp_path: Path) -> None:
    command = [Path(sys.executable).parent / "archlab", "train", "quickstart", "train.lr=-1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "archlab: command line: train.lr: -1.0 is not above 0\n"
