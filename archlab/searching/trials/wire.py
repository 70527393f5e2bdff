"""What a trial's process and its worker tell each other, as JSON over a pipe."""

from __future__ import annotations

import json
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from archlab.config.experiment import UnresolvedExperiment
from archlab.config.provenance import Provenance
from archlab.config.registry import load_plugin
from archlab.searching.trials.trial_job import TrialJob


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
    own = {"file": job.experiment.file, "tree": job.experiment.tree, "plugins": list(job.experiment.plugins)}
    fields = {name: getattr(job, name) for name in job.__dataclass_fields__ if name not in ("experiment", "folder")}
    return json.dumps({**fields, "folder": str(job.folder.resolve()), "experiment": own})


def parse_job(text: str) -> TrialJob:
    """Return the job of a JSON text, and import the plugins of its experiment.

    They were trusted when the search's own process imported them.
    """
    fields = json.loads(text)
    own = fields.pop("experiment")
    for plugin in own["plugins"]:
        load_plugin(plugin, Path())
    provenance = Provenance().add(own["file"], own["tree"])
    experiment = UnresolvedExperiment(own["file"], own["tree"], provenance, tuple(own["plugins"]))
    return TrialJob(**{**fields, "folder": Path(fields["folder"]), "experiment": experiment})
