"""Jobs on an existing Ray cluster."""

from __future__ import annotations

import importlib
import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from archlab.errors import ArchlabError, MachineError, one_line
from archlab.runtime.launch import STDERR, STDOUT, Job, Resources, command_of, require_package
from archlab.runtime.outcome import Outcome
from archlab.runtime.shares import thread_environment
from archlab.runtime.supervise import Order, Supervised

_CONNECT_S = 10.0


class _Runner:
    """Runs one command on a node, as an actor whose calls are concurrent."""

    def __init__(self, order: Order, env: Mapping[str, str], threads: int) -> None:
        env = {**os.environ, **env}
        # If this process dies, or the one that has submitted the job, the command ends too.
        self._command = Supervised(order, env | thread_environment(threads, env))

    def has_begun(self) -> bool:
        """Return true, as soon as the actor has a place."""
        return True

    def wait(self) -> str:
        """Return how the command has ended."""
        return self._command.wait().value

    def stop(self, grace_s: float) -> None:
        """Ask the command to end."""
        self._command.stop(grace_s)


@dataclass
class _Entry:
    actor: Any
    has_begun: Any
    result: Any
    outcome: Outcome | None = None


class RayLauncher:
    """Runs jobs on a Ray cluster, all of whose nodes share the jobs' folders and this Python environment.

    Ray chooses the node and the GPUs. If the process that has submitted the jobs dies, they end.

    Args:
        address: HOST:PORT of the cluster's head, or auto for the one of RAY_ADDRESS or of this machine.
        resources: custom resources of Ray that a job needs, by name.
        autoscaling: let a job wait for a node that is larger than any now, instead of refusing it.
    """

    def __init__(
        self, *, address: str = "auto", resources: dict[str, float] | None = None, autoscaling: bool = False
    ) -> None:
        require_package("ray", "ray")
        # Not typed: Ray's types lack the attributes that its decorators add.
        ray: Any = importlib.import_module("ray")
        self._ray, self._autoscaling = ray, autoscaling
        self._resources = resources or {}
        self._entries: dict[str, _Entry] = {}
        if not ray.is_initialized():
            try:
                _require_listener(address)
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
            except (OSError, ValueError, RuntimeError) as error:
                raise MachineError(f"no Ray cluster answers at {address}: {one_line(error)}") from error

    def submit(self, job: Job) -> str:
        """Ask the cluster for a place; raise ArchlabError if the job asks for more than any of its nodes has."""
        needed = self._required_resources(job.resources)
        if not self._autoscaling:
            self._require(needed)
        folder = job.folder.absolute()
        order = Order(
            command_of(job), os.getcwd(), str(folder / STDOUT), str(folder / STDERR), (), job.resources.time_limit
        )
        place = {"num_cpus": needed["CPU"], "num_gpus": needed["GPU"], "resources": self._resources}
        runner = self._ray.remote(_Runner).options(**place, max_concurrency=3, max_restarts=0)
        actor = runner.remote(order, dict(job.env), job.resources.cpus)
        id = str(len(self._entries))
        self._entries[id] = _Entry(actor, actor.has_begun.remote(), actor.wait.remote())
        return id

    def poll(self, id: str) -> Outcome | None:
        """Return how a job has ended, or None."""
        entry = self._entries[id]
        if entry.outcome is None and self._is_ready(entry.result):
            entry.outcome = self._outcome(entry.result)
            entry.actor = None  # without a handle it ends, and gives its place to the next one
        return entry.outcome

    def stop(self, id: str, grace_s: float) -> None:
        """Ask a job to end, or take back that it waits for a place."""
        entry = self._entries[id]
        if self.poll(id) is not None:
            return
        if self._is_ready(entry.has_begun):
            entry.actor.stop.remote(grace_s)
        else:
            self._ray.kill(entry.actor)
            entry.outcome, entry.actor = Outcome.USER, None

    def _required_resources(self, resources: Resources) -> dict[str, float]:
        return {"CPU": resources.total_cpus, "GPU": resources.total_gpus, **self._resources}

    def _require(self, needed: Mapping[str, float]) -> None:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= amount for name, amount in needed.items()) for node in nodes):
            asked = _format_amounts(needed)
            has = "; ".join(_format_amounts({name: node.get(name, 0) for name in needed}) for node in nodes)
            raise ArchlabError(f"a job asks for {asked} on one node, and the nodes of the Ray cluster have: {has}")

    def _is_ready(self, reference: Any) -> bool:
        return bool(self._ray.wait([reference], timeout=0)[0])

    def _outcome(self, result: Any) -> Outcome:
        try:
            return Outcome(self._ray.get(result))
        except self._ray.exceptions.RayError as error:
            # Not the command's end, which `wait` returns, but the actor's: with its node, or by Ray's memory monitor.
            return Outcome.KILLED if "memory" in str(error).lower() else Outcome.MACHINE


def _require_listener(address: str) -> None:
    """Raise OSError or ValueError unless something listens at HOST:PORT; Ray itself tries for minutes."""
    if address != "auto":
        host, _, port = address.rpartition("/")[2].rpartition(":")
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()


def _format_amounts(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in amounts.items() if amount or name in ("CPU", "GPU"))


LAUNCHER = RayLauncher
