import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from archlab.ops.triton import OPERATIONS

LEAN = 1.25
FEW_SPILLS = 16  # bytes a thread: four registers, with which two kernels are faster on an H100 than with smaller tiles
READ = """
import json, sys
from dataclasses import asdict
from archlab.ops.triton.report import compile_kernels
print(json.dumps([asdict(row) for row in compile_kernels(sys.argv[1])]))
"""


def python(code, *arguments):
    """Run Python in a process of its own, where kernels are compiled and not interpreted."""
    environment = os.environ | {"TRITON_INTERPRET": ""}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.services
@pytest.mark.parametrize("operation", OPERATIONS)
def test_kernels_fit_their_gpus_and_move_little_more_than_they_must(operation):
    done = python(READ, operation)
    assert done.returncode == 0, done.stderr
    for row in json.loads(done.stdout):
        assert row["min_bytes"] <= row["bytes_moved"] <= LEAN * row["min_bytes"], row["name"]
        assert set(row["resources"]) == {"sm_80", "sm_90", "sm_100", "gfx942"}
        for registers, spills, shared in row["resources"]["sm_90"]:
            assert 0 < registers <= 255, row["name"]
            assert spills <= FEW_SPILLS, row["name"]
            assert shared < 160 * 1024, row["name"]


@pytest.mark.slow
def test_a_table_of_them_is_printed():
    done = python("from archlab.cli.main import main; main()", "kernels", "logit_gradients")
    assert done.returncode == 0, done.stderr
    assert "token loss, both ways" in done.stdout
    assert "sm_90" in done.stdout


def test_an_unknown_operation_is_named(run):
    done = run("kernels", "diagonal_scn")
    assert (done.status, done.err) == (
        2,
        "archlab: no kernels of 'diagonal_scn'; did you mean 'diagonal_scan'?\n",
    )


def test_interpreted_kernels_are_not_compiled(run, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    done = run("kernels")
    assert (done.status, done.err) == (2, "archlab: TRITON_INTERPRET is set, so nothing is compiled: unset it\n")
