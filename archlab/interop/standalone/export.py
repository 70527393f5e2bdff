"""Export of a trained model to a directory that runs without archlab: weights, the YAML, and one Python module."""

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
_BUILD_STUB = 'raise NotImplementedError("the export writes this function")'
_HEADER = '''"""{title}.

{size:,} parameters. Needs {packages}; the weights are in model.safetensors, the experiment in config.yaml.

    from model import load
    model = load()
    logits, state = model(tokens)  # integers [batch, time]; passing the state back continues the sequence

Written by archlab {version}.
"""
'''


def export(checkpoint_folder: Path, out: Path, *, force: bool = False) -> Path:
    """Write a checkpoint, or the one of a run or a search, to `out` as a model that does not need archlab.

    Returns `out`. Raises ArchlabError if the checkpoint is damaged, or if `out` is not empty: `force` replaces an
    earlier export and nothing else.
    """
    checkpoint = find_checkpoint(checkpoint_folder)
    verify(checkpoint)
    experiment = load(checkpoint / "experiment.yaml", recorded=True)
    text = render_model(experiment)
    _refuse_foreign_files(out)
    require_empty_dir(out, force, "the export")
    with atomic_dir(out, replace=True) as partial:
        shutil.copyfile(checkpoint / _WEIGHTS, partial / _WEIGHTS)
        write_text(partial / _CONFIG, experiment.to_yaml())
        write_text(partial / _MODEL, text)
    return out


def _refuse_foreign_files(out: Path) -> None:
    exported = {_WEIGHTS, _CONFIG, _MODEL, "__pycache__"}
    foreign = sorted(entry.name for entry in out.iterdir() if entry.name not in exported) if out.is_dir() else []
    if foreign:
        raise ArchlabError(f"{out}: holds {foreign[0]!r}, which is no part of an export; name another directory")


def render_model(experiment: Experiment) -> str:
    """Return the source of a module that builds an experiment's model, loads its weights and generates tokens."""
    spec, functions = experiment.model, _functions(experiment)
    bundle = Bundle([part.component.cls for part in _children_first(spec)], functions)
    call = render_call(spec, lambda cls: bundle.name(definition_of(cls)), bundle.name(_PARTIAL), indent=4)
    body = render_definitions(bundle).replace(_BUILD_STUB, f"return {call}")
    head = [_header(experiment, bundle), "from __future__ import annotations", "", render_imports(bundle, [_PARTIAL])]
    tail = ["", "", 'if __name__ == "__main__":', "    main()"] if template.main in functions else []
    space = [""] if body.startswith("#") else ["", ""]
    return "\n".join([*head, *space, body, *tail, ""])


def _children_first(spec: Spec) -> Iterator[Spec]:
    for value in spec.knobs.values():
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, Spec):
                yield from _children_first(child)
    yield spec


def _functions(experiment: Experiment) -> list[Callable[..., Any]]:
    """Return the template's functions for a model: `generate` needs a language model, `main` one of bytes."""
    if not experiment.task.component.cls.predicts_next:
        return [template.build, template.load]
    functions: list[Callable[..., Any]] = [template.build, template.load, template.generate]
    return [*functions, template.main] if experiment.model.knobs.get("vocab_size") == 256 else functions


def _header(experiment: Experiment, bundle: Bundle) -> str:
    title = [experiment.name, one_line(experiment.description)] if experiment.description else [experiment.name]
    return _HEADER.format(
        # Neither may end the docstring, nor escape a character of it.
        title=": ".join(title).rstrip(".").replace("\\", "/").replace('"', "'"),
        size=count_parameters(build_on_meta(experiment.model)),
        packages=" and ".join(packages_of(bundle)),
        version=archlab.__version__,
    )
