"""The model card of an export: architecture, costs, training and origin of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import archlab
from archlab.config.spec import Spec
from archlab.errors import ArchlabError, one_line
from archlab.interop.exporting.exported_model import ExportedModel
from archlab.interop.exporting.format import ExportFormat
from archlab.modeling.cost import estimate_cost
from archlab.runtime.memory import format_bytes
from archlab.training.metrics_file import read_log

_METRICS = "metrics.jsonl"
_USE = """    import torch
    from {module} import generate, load

    model = load()
    print(generate(model, [1, 2, 3], num_tokens=20, temperature=0.0))
"""
_USE_TRANSFORMERS = """    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(DIRECTORY, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(DIRECTORY, trust_remote_code=True)
    batch = tokenizer(["one prompt", "and a longer one"], return_tensors="pt", padding=True)
    print(tokenizer.batch_decode(model.generate(**batch, max_new_tokens=20)))
"""


def model_card(model: ExportedModel, folder: Path, formats: Mapping[str, ExportFormat]) -> str:
    """Return the Markdown of README.md."""
    experiment = model.experiment
    title = one_line(experiment.name)
    about = [one_line(experiment.description)] if experiment.description else []
    sections = [
        ("Use", _use(model, folder, formats)),
        ("Structure", ["```text", *_tree("model", experiment.model, ""), "```"]),
        ("Costs", _costs(model)),
        ("Training", _training(model)),
        ("Provenance", _provenance(model)),
        ("Files", [f"- `{file.name}`" for file in sorted(folder.iterdir())]),
    ]
    parts = [part for name, lines in sections if lines for part in ("", f"## {name}", "", *lines)]
    front = ["---", "library_name: transformers", "tags: [archlab]", "---", ""] if "transformers" in formats else []
    return "\n".join([*front, f"# {title}", "", *about, *parts, ""])


def _use(model: ExportedModel, folder: Path, formats: Mapping[str, ExportFormat]) -> list[str]:
    lines = []
    if (folder / f"{model.module}.py").is_file():
        lines += ["With torch and safetensors alone, in this directory:", "", _USE.format(module=model.module)]
        if not model.experiment.task.component.cls.predicts_next:
            lines[-1] = f"    from {model.module} import load\n\n    model = load()\n"
    if "transformers" in formats:
        lines += ["With transformers, which runs the code in this directory:", "", _USE_TRANSFORMERS]
        lines += ["Prompts of different lengths are padded on the left, and each has the same continuation as alone."]
    lines += [f"`{name}`: {advice}" for name, each in formats.items() if (advice := each.advice(model, Path(".")))]
    return [*lines, "", "`archlab train config.yaml` repeats the training run."]


def _tree(slot: str, spec: Spec, indent: str) -> Iterator[str]:
    """Yield a line for each component, with its own knobs."""
    own = {name: value for name, value in spec.knobs.items() if not _parts(value)}
    knobs = ", ".join(f"{name} {value}" for name, value in own.items() if value is not None)
    count = f"{spec.repeat} x " if spec.repeat > 1 else ""
    yield f"{indent}{slot}: {count}{spec.name}{f' ({knobs})' if knobs else ''}"
    for name, value in spec.knobs.items():
        for part in _parts(value):
            if part.name != "none":
                yield from _tree(name, part, f"{indent}  ")


def _parts(value: Any) -> Sequence[Spec]:
    return [part for part in (value if isinstance(value, list) else [value]) if isinstance(part, Spec)]


def _costs(model: ExportedModel) -> list[str]:
    try:
        cost = estimate_cost(model.experiment)
    except ArchlabError:  # a task whose data is gone; the model is unaffected
        return [f"{sum(x.numel() for x in model.tensors.values()):,} parameters"]
    rows = {
        "parameters": f"{cost.params:,}, {cost.params_non_embedding:,} of them without embeddings",
        "weights": format_bytes(sum(x.numel() * x.element_size() for x in model.tensors.values())),
        "training": f"{cost.flops_per_token:,} FLOPs per token, {cost.flops_per_token_forward:,} of them forward",
        "state of one stream": f"{format_bytes(cost.state_bytes)}, at any length {format_bytes(cost.max_state_bytes)}",
    }
    return _table(rows)


def _training(model: ExportedModel) -> list[str]:
    train, data = model.experiment.train, model.origin.get("data", {})
    rows: dict[str, Any] = {"task": model.experiment.task.name}
    rows |= {name: _text(value) for name, value in data.items() if value}
    if model.tokens is not None:
        rows["tokens"] = str(model.tokens)
    rows |= {"steps": model.origin.get("step", train.steps), "context": train.context, "learning rate": train.lr}
    rows |= {name: _text(value) for name, value in _results(model).items()}
    return _table(rows)


def _results(model: ExportedModel) -> dict[str, Any]:
    """Return the metrics that a search recorded for its trial, or those of the run's last validation."""
    if "metrics" in model.origin:
        return dict(model.origin["metrics"])
    runs = (
        place for place in (model.checkpoint.parent, model.checkpoint.parent.parent) if (place / _METRICS).is_file()
    )
    run = next(runs, None)
    records = [] if run is None else [each for each in read_log(run / _METRICS) if "val_loss" in each]
    step = model.origin.get("step")
    of_step = [each for each in records if step is None or each.get("step") == step]
    return dict(of_step[-1]) if of_step else {}


def _provenance(model: ExportedModel) -> list[str]:
    shown = (
        "search",
        "trial",
        "values",
        "run",
        "step",
        "experiment",
        "search_id",
        "trial_id",
        "start_from",
        "versions",
    )
    rows = {name: _text(model.origin[name]) for name in (*shown, "imported_from") if model.origin.get(name) is not None}
    note = {"note": f"The model is {model.note}."} if model.note else {}
    return _table({**rows, **note, "exported by": f"archlab {archlab.__version__}"})


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _table(rows: Mapping[str, Any]) -> list[str]:
    shown = ((name, one_line(str(value)).replace("|", "\\|")) for name, value in rows.items())
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in shown)]
