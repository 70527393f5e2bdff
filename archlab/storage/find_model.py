"""Finding the trained models of any directory of archlab's, and the run or search that it belongs to."""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path

from archlab.storage.manifest import read_manifest
from archlab.storage.run_identity import is_run
from archlab.storage.stored_tensors import has_weights
from archlab.text import shell_path

WEIGHTS, EXPERIMENT, STATE = "model.safetensors", "experiment.yaml", "state.json"
_SPACE = "search.yaml"
_MAX_NAMED = 3


def is_export(folder: Path) -> bool:
    """Return whether a directory is an export, which runs without archlab."""
    if all((folder / name).is_file() for name in (WEIGHTS, "config.yaml", "model.py")):  # of archlab 0.1
        return True
    try:
        return (folder / "config.yaml").is_file() and read_manifest(folder).kind == "export"
    except (OSError, ValueError):
        return False


def export_module(folder: Path) -> Path | None:
    """Return the Python module of an export, or None for one in other formats alone."""
    return next(iter(sorted([*folder.glob("modeling_*.py"), *folder.glob("model.py")])), None)


def run_of_checkpoint(folder: Path) -> Path | None:
    """Return the run of a checkpoint that it resumes from, or None for another directory."""
    folder = _absolute(folder)
    run = folder.parent.parent
    is_one = (folder / STATE).is_file() and folder.parent.name == "checkpoints" and has_weights(folder)
    return run if is_one and (run / EXPERIMENT).is_file() else None


def run_of_model(folder: Path) -> Path | None:
    """Return the run whose trained model a directory is or holds; None of others, and of a checkpoint."""
    named = _absolute(folder)
    run = named.parent if named.name == "final" else named
    return run if is_run(run) and (run / "final").is_dir() else None


def owner_of(folder: Path) -> Path:
    """Return the run or the search that a directory is a part of, or the directory itself."""
    whole, named = _whole_of(folder), _absolute(folder)
    if whole != folder or is_run(named) or (named / _SPACE).is_file():
        return whole
    return search_of(named) or folder


def _whole_of(folder: Path) -> Path:
    """Return the directory whose model or parts a directory holds, or the directory itself."""
    named = _absolute(folder)
    if run := run_of_checkpoint(named):
        return run
    above = named.parent
    if named.name in ("final", "checkpoints") and is_run(above):
        return above
    if named.name in ("best", "trials", "rungs", "launch", "forecasts") and (above / _SPACE).is_file():
        return above
    return folder


_PARTS = ("baseline", "best", "trials", "rungs", "launch", "forecasts", "workers")  # of a search's directory
_DEEPEST = 5  # trials/0003/tasks/NAME/runs


def search_of(folder: Path) -> Path | None:
    """Return the run or the search that contains a directory, by archlab's names for directories."""
    if not folder.is_dir():
        return None
    for above in folder.parents[:_DEEPEST]:
        if is_run(above) and folder.relative_to(above).parts[0] in ("runs", "tasks"):
            return above
        if (above / _SPACE).is_file():
            return above if folder.relative_to(above).parts[0] in _PARTS else None
    return None


def experiment_file(folder: Path) -> Path | None:
    """Return the experiment of a directory: that of its model, a run's own, or the base of a search."""
    for name in (EXPERIMENT, f"best/{EXPERIMENT}", f"final/{EXPERIMENT}"):
        if (folder / name).is_file():
            return folder / name
    if (folder / _SPACE).is_file() and (folder / "base.yaml").is_file():
        return folder / "base.yaml"
    if is_export(folder):
        return folder / "config.yaml"
    whole = _whole_of(folder)
    return None if whole == folder else experiment_file(whole)


def why_no_model(folder: Path) -> str:
    """Return why a directory has no trained model to take, and where there is one."""
    if folder.is_file():
        return f"is a file; name its directory, {folder.parent}"
    if not folder.is_dir():
        return "is not a directory"
    if is_export(folder):
        module = export_module(folder)
        how = f": python {shell_path(module)}" if module else f"; see {folder / 'README.md'}"
        return f"is an export, which runs without archlab{how}"
    problem, others = _problem(folder), [str(place) for place in _models_below(folder)]
    if others:
        return f"{problem}; name one of its models, such as {', '.join(others)}"
    return problem + _model_of_search(folder)


def _problem(folder: Path) -> str:
    if (folder / _SPACE).is_file():
        why = "a ladder has one for each run" if (folder / "rungs").is_dir() else "no trial of the search is complete"
        return f"holds no trained model: {why}"
    if is_run(folder):
        return "holds no trained model: the run has not ended, or its weights were deleted"
    return f"holds no trained model ({WEIGHTS} and {EXPERIMENT})"


def _models_below(folder: Path) -> list[Path]:
    """Return a few trained models and checkpoints below a directory, the nearest first."""
    patterns: tuple[str, ...] = (
        "step_*/",
        "checkpoints/step_*/",
        "*/final/",
        "*/*/final/",
        "*/*/*/final/",
        "*/*/*/*/final/",
        "*/best/",
    )
    if not (is_run(folder) or (folder / _SPACE).is_file() or owner_of(folder) != folder or _is_rung(folder)):
        patterns = ("*/final/", "*/best/")
    found = chain.from_iterable(sorted(folder.glob(pattern), reverse=True) for pattern in patterns)
    models = (path for path in found if has_weights(path))
    return [path.parent if path.name == "final" else path for path in islice(models, _MAX_NAMED)]


def _is_rung(folder: Path) -> bool:
    return any(above.name == "rungs" and (above.parent / _SPACE).is_file() for above in _absolute(folder).parents[:2])


def _model_of_search(folder: Path) -> str:
    """Return where the best model of the search is that a trial belongs to, if there is one."""
    for above in _absolute(folder).parents[:4]:
        if (above / _SPACE).is_file() and (above / "best" / WEIGHTS).is_file():
            return f"; the best model of its search is {above / 'best'}"
    return ""


def _absolute(folder: Path) -> Path:
    """Return a directory by a path that names it and the two above, which `.` and `..` do not."""
    return folder if len(folder.parts) > 2 and ".." not in folder.parts else folder.absolute().resolve()
