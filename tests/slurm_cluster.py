"""A Slurm cluster of one node, this machine, for tests: munged, slurmctld and slurmd in a directory of their own."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
# Without control groups, without a database, and without the two minutes for which a job that is requeued waits: they
# are the life of a credential.
_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ReturnToService=2
KillWait=5
MinJobAge=300
MpiDefault=none
SwitchType=switch/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE OverTimeLimit=0
"""


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Run a cluster; yield the variables that make it that of this process. Skips where Slurm is missing."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [name for name in _DAEMONS if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"Slurm is not installed here: {', '.join(missing)} (Debian: apt-get install slurm-wlm munge)")
    env = {**os.environ, "PATH": path, "SLURM_CONF": str(_configure(folder))}
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in (_munged(folder), ["slurmctld", "-D"], ["slurmd", "-D"]):
            with (folder / f"{command[0]}.out").open("wb") as out:
                daemons.append(subprocess.Popen(command, env=env, stdout=out, stderr=out))
            _await(folder / "munge.socket", env) if command[0] == "munged" else None
        _await_node(env, folder)
        yield {"PATH": path, "SLURM_CONF": env["SLURM_CONF"]}
        subprocess.run(["scancel", "--user", env.get("USER", "root")], env=env, check=False)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _configure(folder: Path) -> Path:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host, user = socket.gethostname().split(".")[0], pwd.getpwuid(os.getuid()).pw_name
    controller, daemon = _free_ports(2)
    conf = folder / "slurm.conf"
    cpus = os.cpu_count()
    conf.write_text(_CONF.format(host=host, user=user, folder=folder, controller=controller, daemon=daemon, cpus=cpus))
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    return conf


def _munged(folder: Path) -> list[str]:
    files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid", "log-file": "munge.log"}
    options = [f"--{option}={folder / name}" for option, name in (files | {"seed-file": "munge.seed"}).items()]
    # --force: the directories above are those of tests, which others may write to.
    return ["munged", "--foreground", "--force", *options]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _await(file: Path, env: dict[str, str]) -> None:
    end = time.monotonic() + 20
    while not file.exists():
        assert time.monotonic() < end, f"{file.name} does not appear"
        time.sleep(0.05)


def _await_node(env: dict[str, str], folder: Path) -> None:
    end = time.monotonic() + 40
    while True:
        state = subprocess.run(["sinfo", "-h", "-o", "%t"], env=env, capture_output=True, text=True, check=False)
        if state.stdout.strip() == "idle":
            return
        logs = "".join(
            (folder / name).read_text()[-2000:] for name in ("slurmctld.log", "slurmd.log") if (folder / name).exists()
        )
        assert time.monotonic() < end, f"the node is not idle: {state.stdout}{state.stderr}\n{logs}"
        time.sleep(0.2)
