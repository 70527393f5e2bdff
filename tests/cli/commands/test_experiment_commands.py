from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import Tiny

from archlab import api
from archlab.config import experiment as config


@pytest.mark.slow
def test_show(run) -> None:
    done = run("show", "quickstart", "description=see [/here] and [red]")
    assert done.status == 0
    assert "quickstart  see [/here] and [red]" in done.out
    assert "1,072,640" in done.out


@pytest.mark.slow
def test_show_as_json(run) -> None:
    figures = json.loads(run("show", "megalodon_tiny", "--json").out)
    assert next(iter(figures)) == "name"
    assert {"name", "params", "params_non_embedding", "flops_per_token", "state_bytes"} <= set(figures)
    assert (figures["name"], figures["params"]) == ("megalodon_tiny", 1_072_640)
    assert figures == {"name": "megalodon_tiny", **api.show("megalodon_tiny").to_dict(), "tokens": "bytes"}


def test_show_as_yaml(run, tmp_path: Path) -> None:
    (tmp_path / "again.yaml").write_text(run("show", "quickstart", "train.lr=0.5", "--yaml").out)
    again = config.load(tmp_path / "again.yaml")
    assert again.resolved == config.load("quickstart", ["train.lr=0.5"]).resolved
    assert yaml.safe_load((tmp_path / "again.yaml").read_text())["train"]["lr"] == 0.5


@pytest.mark.slow
def test_train(run, tiny: Tiny, tiny_file: Path, tmp_path: Path) -> None:
    done = run("train", str(tiny_file), "train.steps=4", "--out", "runs/[a]")
    assert done.status == 0, done.err
    assert "validation loss " in done.out
    assert "runs/[a]/final" in done.out
    assert "archlab generate 'runs/[a]' " in done.out
    assert (tmp_path / "runs/[a]/final/model.safetensors").is_file()
    again = run("train", str(tiny_file), "train.steps=4", "--out", "runs/[a]")
    assert (again.status, again.err.count("\n")) == (2, 1)
    assert "continue it with --resume" in again.err
    assert run("train", str(tiny_file), "train.steps=4", "--out", "runs/[a]", "--resume").status == 0
    assert run("train", str(tiny_file), "train.steps=3", "--out", "runs/[a]", "--force").status == 0
    named = run("train", str(tiny_file), "train.steps=1", "--resume")
    assert named.status == 0
    assert named.out.startswith("runs/tiny: nothing to resume; the run starts at step 0\n")
    assert (tmp_path / "runs/tiny/final").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("length", ["train.steps=4", "train.budget={tokens: 512}"])
def test_a_run_is_resumed_by_its_directory(run, tiny_file: Path, tmp_path: Path, length: str) -> None:
    assert run("train", str(tiny_file), length, "--out", "a").status == 0
    shutil.rmtree(tmp_path / "a/final")
    done = run("train", "a", "--resume")
    assert done.status == 0, done.err
    assert done.out.splitlines()[-3] == "model    a/final"
    assert (tmp_path / "a/final/model.safetensors").is_file()
    refused = run("train", "a", "train.lr=0.5", "--resume")
    assert (refused.status, "train.lr" in refused.err) == (2, True)
    nothing = run("train", "a")
    assert (nothing.status, "is a directory" in nothing.err) == (2, True)


@pytest.mark.slow
def test_train_that_diverges(run, tiny_file: Path) -> None:
    done = run("train", str(tiny_file), "train.lr=1e30", "train.warmup=0", "train.clip=null")
    assert done.status == 2
    assert done.err.startswith("archlab: step ")
    assert done.err.count("\n") == 1


@pytest.mark.slow
def test_profile(run, tiny_file: Path) -> None:
    done = run("profile", str(tiny_file), "train.batch_size=1")
    assert done.status == 0, done.err
    assert "ms per step of 32 tokens" in done.out
    assert "matrix products" in done.out
    done = run("profile", str(tiny_file), "train.bach_size=1")
    assert (done.status, "did you mean 'batch_size'" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("train", "quickstart", "--device", "h100"),
            "--device is of --dry-run; train.device says where an experiment",
        ),
        (("search", "small_ladder", "--rehearse", "--dry-run"), "leave out --rehearse, which runs a small one"),
        (("search", "quickstart", "--device", "h100"), "--device and --devices are of --dry-run; train.device says"),
        (
            ("search", "quickstart", "--devices", "2"),
            "--device and --devices are of --dry-run; train.device says where",
        ),
        (("search", "quickstart", "--workers", "0"), "0 is not in the range x>=1"),
        (("search", "quickstart", "--workers", "many"), "'many' is not a valid integer"),
    ],
)
def test_options_that_say_nothing_are_refused(arguments: tuple[str, ...], message: str, run, tmp_path: Path) -> None:
    done = run(*arguments)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert message in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_compare_writes_a_page(run, tmp_path: Path) -> None:
    done = run("compare", "llama2_tiny", "megalodon_tiny", "--out", "both")
    assert (done.status, done.err) == (0, "")
    assert done.out.endswith("page     both/index.html\n")
    assert (tmp_path / "both/index.html").is_file()
    again = run("compare", "llama2_tiny", "megalodon_tiny", "--out", "both")
    assert (again.status, "both" in again.err, "--force" in again.err) == (2, True, True)
