"""A trained model as a folder that runs without archlab: weights, the YAML, and one file of Python."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import archlab
from archlab.config.experiment import Experiment, load
from archlab.config.spec import Spec
from archlab.errors import ArchlabError, one_line
from archlab.interop.standalone import template
from archlab.interop.standalone.build_expression import render_call
from archlab.interop.standalone.bundle import Bundle
from archlab.interop.standalone.rendering import packages_of, render_definitions, render_imports
from archlab.interop.standalone.source import ExternalName
from archlab.interop.standalone.statements import definition_of
from archlab.modeling.build import build_on_meta, count_parameters
from archlab.storage.checkpoint import verify
from archlab.storage.files import atomic_dir, require_empty_dir, write_text
from archlab.storage.trained_model import find_checkpoint

_WEIGHTS, _CONFIG, _MODEL = "model.safetensors", "config.yaml", "model.py"
_PARTIAL = ExternalName("functools.partial", "partial")
_UNWRITTEN = 'raise NotImplementedError("the export writes this function")'
_HEADER = '''"""{title}.

{size:,} parameters. Needs {packages}; the weights are in model.safetensors, the experiment in config.yaml.

    from model import load
    model = load()
    logits, state = model(tokens)  # integers [batch, time]; the state, given back, goes on from there

Written by archlab {version}.
"""
'''


def export(checkpoint_folder: Path, out: Path, *, force: bool = False) -> Path:
    """Write a published checkpoint, or the one of a run or a search, to `out` as a model that needs no archlab.

    Returns `out`. Raises ArchlabError where the checkpoint is damaged, or where `out` is taken: forcing
    replaces an earlier export and nothing else.
    """
    checkpoint = find_checkpoint(checkpoint_folder)
    verify(checkpoint)
    experiment = load(checkpoint / "experiment.yaml")
    text = render_model(experiment)
    _refuse_others_files(out)
    require_empty_dir(out, force, "the export")
    with atomic_dir(out, replace=True) as partial:
        shutil.copyfile(checkpoint / _WEIGHTS, partial / _WEIGHTS)
        write_text(partial / _CONFIG, experiment.to_yaml())
        write_text(partial / _MODEL, text)
    return out


def _refuse_others_files(out: Path) -> None:
    ours = {_WEIGHTS, _CONFIG, _MODEL, "__pycache__"}
    others = sorted(entry.name for entry in out.iterdir() if entry.name not in ours) if out.is_dir() else []
    if others:
        raise ArchlabError(f"{out}: holds {others[0]!r}, which is no part of an export; name another folder")


def render_model(experiment: Experiment) -> str:
    """Return the Python module that builds an experiment's model, and what is needed to use it."""
    spec, ending = experiment.model, _ending(experiment)
    bundle = Bundle([part.component.cls for part in _parts_first(spec)], ending)
    call = render_call(spec, lambda cls: bundle.name(definition_of(cls)), bundle.name(_PARTIAL), indent=4)
    body = render_definitions(bundle).replace(_UNWRITTEN, f"return {call}")
    head = [_header(experiment, bundle), "from __future__ import annotations", "", render_imports(bundle, [_PARTIAL])]
    tail = ["", "", 'if __name__ == "__main__":', "    main()"] if template.main in ending else []
    space = [""] if body.startswith("#") else ["", ""]
    return "\n".join([*head, *space, body, *tail, ""])


def _parts_first(spec: Spec) -> Iterator[Spec]:
    for value in spec.knobs.values():
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, Spec):
                yield from _parts_first(child)
    yield spec


def _ending(experiment: Experiment) -> list[Callable[..., Any]]:
    """Return the functions that a model's file ends with: only words can be generated, only bytes shown as text."""
    if not experiment.task.component.cls.predicts_next:
        return [template.build, template.load]
    generating: list[Callable[..., Any]] = [template.build, template.load, template.generate]
    return [*generating, template.main] if experiment.model.knobs.get("vocab_size") == 256 else generating


def _header(experiment: Experiment, bundle: Bundle) -> str:
    words = [experiment.name, one_line(experiment.description)] if experiment.description else [experiment.name]
    return _HEADER.format(
        title=": ".join(words).rstrip(".").replace("\\", "/").replace('"', "'"),
        size=count_parameters(build_on_meta(experiment.model)),
        packages=" and ".join(packages_of(bundle)),
        version=archlab.__version__,
    )
