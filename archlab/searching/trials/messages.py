"""Messages between a trial's process and its worker, as JSON over a pipe."""

from __future__ import annotations

import json
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from archlab.config.experiment import UnresolvedExperiment
from archlab.config.plugins import load_plugin
from archlab.config.provenance import Provenance
from archlab.config.schema import parse_settings
from archlab.planning.device import Device
from archlab.searching.trials.trial_job import TrialJob
from archlab.searching.variants.cost_request import CostRequest


def send(connection: Connection, kind: str, *content: Any) -> None:
    """Send a message of plain data; raise EOFError where the other side has ended."""
    try:
        connection.send_bytes(json.dumps([kind, *content]).encode())
    except ConnectionError:
        raise EOFError from None


def receive(connection: Connection) -> tuple[str, list[Any]]:
    """Return the kind and the content of the next message; raise EOFError where the other side has ended."""
    try:
        kind, *content = json.loads(connection.recv_bytes())
    except ConnectionError:
        raise EOFError from None
    return kind, content


def format_job(job: TrialJob) -> str:
    """Return a job as JSON."""
    fields = {name: getattr(job, name) for name in job.__dataclass_fields__ if name not in ("experiment", "folder")}
    own = {"folder": str(job.folder.resolve()), "experiment": _plain(job.experiment)}
    return json.dumps({**fields, **own})


def parse_job(text: str) -> TrialJob:
    """Return the job of a JSON text, after its experiment's plugins were imported."""
    fields = json.loads(text)
    own = {"folder": Path(fields["folder"]), "experiment": _experiment(fields["experiment"])}
    return TrialJob(**{**fields, **own})


def format_request(request: CostRequest) -> str:
    """Return a request for costs as JSON."""
    device = asdict(request.device) if request.device else None
    rest = {"devices": request.devices, "parameters_only": request.parameters_only}
    return json.dumps({"experiment": _plain(request.experiment), "device": device, **rest})


def parse_request(text: str) -> CostRequest:
    """Return the request of a JSON text, after its experiment's plugins were imported."""
    fields = json.loads(text)
    device = parse_settings(fields["device"], Device, "") if fields["device"] else None
    return CostRequest(**{**fields, "experiment": _experiment(fields["experiment"]), "device": device})


def _plain(experiment: UnresolvedExperiment) -> dict[str, Any]:
    return {"file": experiment.file, "tree": experiment.tree, "plugins": list(experiment.plugins)}


def _experiment(plain: dict[str, Any]) -> UnresolvedExperiment:
    for plugin in plain["plugins"]:  # trusted when the search's own process imported them
        load_plugin(plugin, Path())
    provenance = Provenance().add(plain["file"], plain["tree"])
    return UnresolvedExperiment(plain["file"], plain["tree"], provenance, tuple(plain["plugins"]))
