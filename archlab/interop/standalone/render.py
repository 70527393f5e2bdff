"""The source of one readable Python module that builds a model, loads its weights and generates tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import archlab
from archlab.config.experiment import Experiment
from archlab.config.spec import Spec
from archlab.data.tokenizers import ModelTokens
from archlab.errors import one_line
from archlab.interop.standalone import template
from archlab.interop.standalone.build_expression import render_call
from archlab.interop.standalone.bundle import Bundle
from archlab.interop.standalone.bundle_source import packages_of, render_definitions, render_imports
from archlab.interop.standalone.source import ExternalName
from archlab.interop.standalone.statements import definition_of
from archlab.modeling.build import build_on_meta, count_parameters

_PARTIAL = ExternalName("functools.partial", "partial")
_BUILD_STUB = 'raise NotImplementedError("the export writes this function")'
_HEADER = '''"""{title}.

{size:,} parameters. Needs {packages}; the weights are in model.safetensors, the experiment in config.yaml.

{tokens}    from {module} import load
    model = load()
    logits, state = model(tokens)  # integers [batch, time]; passing the state back continues the sequence

Written by archlab {version}.
"""
'''


def render_model(experiment: Experiment, tokens: ModelTokens | None = None) -> str:
    """Return the source of a module that builds an experiment's model, loads its weights and generates tokens."""
    spec, functions = experiment.model, _functions(experiment, tokens)
    bundle = Bundle([part.component.cls for part in _children_first(spec)], functions)
    call = render_call(spec, lambda cls: bundle.name(definition_of(cls)), bundle.name(_PARTIAL), indent=4)
    body = render_definitions(bundle).replace(_BUILD_STUB, f"return {call}")
    head = [
        _header(experiment, bundle, tokens),
        "from __future__ import annotations",
        "",
        render_imports(bundle, [_PARTIAL]),
    ]
    tail = ["", "", 'if __name__ == "__main__":', "    main()"] if template.main in functions else []
    space = [""] if body.startswith("#") else ["", ""]
    return "\n".join([*head, *space, body, *tail, ""])


def module_name(name: str) -> str:
    """Return the name of the module that an experiment's model is written to: an identifier, whatever its name is."""
    return f"modeling_{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_') or 'model'}"


def _children_first(spec: Spec) -> Iterator[Spec]:
    for value in spec.knobs.values():
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, Spec):
                yield from _children_first(child)
    yield spec


def is_program(experiment: Experiment, tokens: ModelTokens | None) -> bool:
    """Return whether the module can be run, to continue a text given on its command line."""
    return template.main in _functions(experiment, tokens)


def _functions(experiment: Experiment, tokens: ModelTokens | None) -> list[Callable[..., Any]]:
    """Return the template's functions for a model: `generate` needs a language model, `main` one of bytes."""
    if not experiment.task.component.cls.predicts_next:
        return [template.build, template.load, template.weight_files]
    functions: list[Callable[..., Any]] = [template.build, template.load, template.weight_files, template.generate]
    is_of_bytes = tokens is not None and tokens.kind == "bytes" and experiment.model.knobs.get("vocab_size") == 256
    return [*functions, template.main] if is_of_bytes else functions


def _header(experiment: Experiment, bundle: Bundle, tokens: ModelTokens | None) -> str:
    title = [experiment.name, one_line(experiment.description)] if experiment.description else [experiment.name]
    return _HEADER.format(
        # Neither may end the docstring, nor escape a character of it.
        title=": ".join(title).rstrip(".").replace("\\", "/").replace('"', "'"),
        size=count_parameters(build_on_meta(experiment.model)),
        packages=" and ".join(packages_of(bundle)),
        tokens=_describe_tokens(tokens),
        module=module_name(experiment.name),
        version=archlab.__version__,
    )


def _describe_tokens(tokens: ModelTokens | None) -> str:
    if tokens is None or (tokens.file is None and tokens.kind not in ("bytes", "unknown")):
        return ""
    if tokens.kind == "unknown":
        return "The meaning of tokens is unknown: the model was imported without a tokenizer.\n\n"
    meaning = "bytes of UTF-8" if tokens.kind == "bytes" else f"those of {tokens.file}"
    added = [f"{name!r} {side} a text" for side in ("before", "after") for name in getattr(tokens, side)]
    special = f"; its special tokens are {', '.join(added)}" if added and tokens.special_tokens else ""
    return f"The tokens are {meaning}{special}.\n\n".replace("\\", "/").replace('"', "'")
