from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Tiny
from run_helpers import curve

from archlab.cli.many_processes import arguments_without
from archlab.training.trainer import train


def test_own_options_are_not_handed_on() -> None:
    line = ["train", "a", "--processes", "2", "x=1", "--max-restarts=3", "--out", "b", "--processes=4", "--resume"]
    assert arguments_without(line, ("--processes", "--max-restarts")) == ["train", "a", "x=1", "--out", "b", "--resume"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "4", "parallel.shard=3"], "parallel: shard 3 is 3 devices, not 4"),
        (["--processes", "3"], "parallel: replicate 3 * shard 1 does not divide the 2 sequences of an update"),
        (
            ["--processes", "2", "parallel.chunk=2", "train.context=31"],
            "parallel.chunk: 2 does not divide train.context",
        ),
        (["--processes", "2", "parallel.tensor=2"], "parallel.tensor: 2 does not divide num_heads 1 of mixer 'mega'"),
        (["parallel.shard=2"], "parallel: a layout of 2 devices, and this is one process: start 2 of them"),
        (["--max-restarts", "2"], "--max-restarts is of several --processes"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(
    arguments: list[str], message: str, tiny_file: Path, tmp_path: Path, run
) -> None:
    ended = run("train", str(tiny_file), "--out", "there", *arguments)
    assert ended.status == 2
    assert message in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "there").exists()


KILLER = """
import os, signal
from pathlib import Path
import archlab
from archlab.training.step import TrainStep

whole = TrainStep._backward

def backward(self):
    if self.step == 7 and self.ranks.rank == 1 and not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self)

TrainStep._backward = backward
"""


@pytest.mark.services
def test_a_killed_rank_is_named_and_the_run_continues(tiny: Tiny, tiny_file: Path, tmp_path: Path) -> None:
    (tmp_path / "killer.py").write_text(KILLER)
    same = ["model.layers[0].dropout=0"]
    (tmp_path / "plugged.yaml").write_text(tiny_file.read_text() + f"plugins: [{tmp_path / 'killer.py'}]\n")
    command = [sys.executable, "-m", "archlab", "train", "plugged.yaml", *same, "--out", "run"]
    several = [*command, "--processes", "2", "--max-restarts", "1"]
    done = subprocess.run(several, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"archlab: rank 1 of 2 was killed in update \d \(\w+\): SIGKILL; starting again", done.stderr)
    train(tiny(*same), tmp_path / "whole")
    for record, other in zip(curve(tmp_path / "run"), curve(tmp_path / "whole"), strict=True):
        assert record == pytest.approx(other, rel=1e-5)
