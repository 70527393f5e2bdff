"""The server that trials are forked from, itself forked from a command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import os, sys, threading
from archlab.searching.trials.trial_server import fork_trial_server, trial_context

def tell(connection):
    connection.send((os.getpid(), os.getppid(), "torch._dynamo" in sys.modules))

if __name__ == "__main__":
    if sys.argv[1:] == ["thread"]:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    fork_trial_server()
    from multiprocessing import forkserver
    context = trial_context()
    for _ in range(2):
        own, other = context.Pipe()
        context.Process(target=tell, args=(other,)).start()
        pid, server, is_warm = own.recv()
        print(server, int(is_warm), int(server == forkserver._forkserver._forkserver_pid), flush=True)
    print(int("-c" in open(f"/proc/{server}/cmdline").read().split("\\0")))
"""


@pytest.mark.services
@pytest.mark.skipif(sys.platform != "linux" or sys.version_info >= (3, 14), reason="forked on Linux below 3.14")
@pytest.mark.parametrize(("arguments", "is_new"), [([], "0"), (["thread"], "1")])
def test_a_server_is_forked_from_a_command_without_threads(arguments: list[str], is_new: str, tmp_path: Path) -> None:
    file = tmp_path / "command.py"
    file.write_text(SCRIPT)
    # One thread: numpy's BLAS starts others, which do not matter, but are not those of this test.
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, file, *arguments], capture_output=True, text=True, env=env, check=True)
    *lines, kind = result.stdout.split("\n")[:3]
    server = lines[0].split()[0]
    assert lines == [f"{server} 1 1"] * 2, "both trials are of one server, which has everything imported"
    assert kind == is_new
    for _ in range(100):
        if not Path(f"/proc/{server}").exists():
            break
        time.sleep(0.05)
    else:
        pytest.fail("the server outlives its command")
