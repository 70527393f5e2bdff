"""The identity of a run's directory, in its run.json, and of the trained model in it."""

from __future__ import annotations

from pathlib import Path

from archlab.config.experiment import SECTIONS
from archlab.config.strict_json import read_object
from archlab.config.yaml_files import load_yaml
from archlab.errors import ConfigError
from archlab.storage.identity import Identity, content_hash, identity_in, require_same
from archlab.storage.provenance import read_provenance

RUN_FILE = "run.json"
_ADVICE = "to use the model all the same, name its own directory"


def read_run_identity(folder: Path) -> Identity:
    """Return the identity of a run, empty for one of an earlier version; raise ArchlabError if it is damaged."""
    file = folder / RUN_FILE
    return identity_in(read_object(file, "the identity of a run"), file) if file.is_file() else {}


def is_run(folder: Path) -> bool:
    """Return whether a directory holds a run; one that archlab 0.1 wrote is known by its resolved experiment."""
    if (folder / RUN_FILE).is_file():
        return True
    try:
        tree = load_yaml(folder / "experiment.yaml")
    except ConfigError:
        return False
    has_results = any((folder / name).exists() for name in ("metrics.jsonl", "checkpoints", "final"))
    return has_results and {*SECTIONS, "plugins"} <= tree.keys()


def require_unedited(run: Path) -> None:
    """Raise ArchlabError if a run's experiment.yaml was changed after the run began."""
    file, identity = run / "experiment.yaml", read_run_identity(run)
    require_same(experiment_identity(file), file, identity, run / RUN_FILE, "it was changed after the run began")


def experiment_identity(file: Path) -> Identity:
    """Return the part of an identity from an experiment.yaml: the SHA-256 of its content, not of its layout."""
    return {"experiment": content_hash(load_yaml(file))}


def require_model_of(run: Path, model: Path) -> None:
    """Raise ArchlabError if the trained model in a run's directory is another run's, or of another experiment."""
    identity, file = read_run_identity(run), model / "provenance.json"
    if not identity or not file.is_file():
        return
    found = identity_in(read_provenance(file), file)
    require_same(found, model, identity, run / RUN_FILE, _ADVICE)
    present = run / "experiment.yaml"
    if present.is_file() and "experiment" in found:
        advice = f"it was changed after training; {_ADVICE}"
        require_same(experiment_identity(present), present, found, model, advice)
