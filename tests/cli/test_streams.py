"""Standard streams that are closed, full, gone, or of an encoding that lacks characters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

_MAIN = "import sys; from archlab.cli.main import main; sys.argv = ['archlab', *sys.argv[1:]]; main()"


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell command in which `archlab` is the command line."""
    script = f'archlab() {{ "{sys.executable}" -c "{_MAIN}" "$@"; }}; set -o pipefail; {command}'
    return subprocess.run(["bash", "-c", script], env={**os.environ, **environment}, capture_output=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "status", "error"),
    [
        ("archlab list | head -1 >/dev/null", 141, b""),
        ("archlab list ffn >&-", 0, b""),
        ("archlab list ffn >&- 2>&-", 0, b""),
        ("archlab list fnf <&- 2>&-", 2, b""),
        (
            "archlab list ffn >/dev/full",
            75,
            b"archlab: OSError: [Errno 28] No space left on device; the traceback",
        ),
        ("archlab list fnf 2>/dev/full", 2, b""),
        ("TERM=dumb COLUMNS=1 archlab list ffn >/dev/null", 0, b""),
    ],
)
def test_streams_that_cannot_be_written(command: str, status: int, error: bytes, tmp_path: Path) -> None:
    done = shell(command, XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith(error)
    assert done.stderr.count(b"\n") == bool(error)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_an_encoding_that_lacks_characters(encoding: str) -> None:
    done = shell("archlab show quickstart description=日本 --yaml", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert yaml.safe_load(done.stdout)["description"] == "日本"
    done = shell("archlab list norm", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.services
def test_term_saves_a_checkpoint(tiny_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-c", _MAIN, "train", str(tiny_file), "train.steps=100000", "--out", str(run)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(run.glob("checkpoints/step_*")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert error.startswith(f"archlab: stopped by SIGTERM; {run}: saved at step ")
    assert error.count("\n") == 1
