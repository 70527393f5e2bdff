"""The tree of a model's modules with shapes and parameter counts, and the table of its costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from rich.text import Text
from rich.tree import Tree
from torch import Tensor, nn

from archlab.cli.terminal import foreign
from archlab.config.experiment import Experiment
from archlab.config.registry import Component, component_of
from archlab.data.prepared import MissingCorpusError
from archlab.data.task import Task
from archlab.modeling.budget import resolve_budget
from archlab.modeling.build import count_parameters, validate
from archlab.modeling.cost import estimate_cost
from archlab.modeling.repeated_blocks import skip_repeated_blocks
from archlab.runtime.memory import format_bytes
from archlab.storage.model_tokens import read_tokens


def cost_summary(experiment: Experiment, model: nn.Module | None = None) -> dict[str, Any]:
    """Return the experiment's name and costs, as `archlab show --json` prints them; `model` is that of `validate`.

    Where there is a budget, `steps` are those that it gives, None for a budget of seconds, where only a run can
    determine them.
    """
    cost, task = estimate_cost(experiment, model), experiment.task.factory()()
    shares: Mapping[str, float] = getattr(task, "shares", dict)()  # a task need not derive from Task
    figures = {"name": experiment.name, **cost.to_dict(), **({"sources": dict(shares)} if shares else {})}
    if experiment.train.budget is None:
        return figures
    return {**figures, "steps": resolve_budget(experiment, cost).train.steps or None}


def model_tree(experiment: Experiment, model: nn.Module | None = None) -> Tree:
    """Return the model's modules as a terminal tree, equal neighbors drawn once; `model` is that of `validate`."""
    model = model if model is not None else validate(experiment)
    shapes: dict[nn.Module, str] = {}
    inputs = experiment.task.factory()().example_inputs(1, experiment.train.context, "meta")
    run_with_forward_hooks(model, inputs, lambda module, output: shapes.update({module: _shape(output)}))
    root = Tree(_label("model", model, component_of(type(model)), shapes, 1))
    _grow(root, model, shapes)
    return root


def _grow(branch: Tree, module: nn.Module, shapes: dict[nn.Module, str]) -> None:
    for name, part, count in _children(module):
        component = component_of(type(part))
        # A layer has up to six norms, of which most models have two.
        is_absent = component is not None and (component.kind, component.name) == ("norm", "none")
        if (component is not None and not is_absent) or count_parameters(part):
            leaf = branch.add(_label(name, part, component, shapes, count))
            _grow(leaf, part, shapes)


def _children(module: nn.Module) -> list[tuple[str, nn.Module, int]]:
    """Return name, module and number of equal neighbors of each child, the entries of module lists among them."""
    children: list[tuple[str, nn.Module, int]] = []
    for name, child in module.named_children():
        if not isinstance(child, nn.ModuleList):
            children.append((name, child, 1))
            continue
        first = 0
        for _, run in groupby(child, key=repr):
            entries = list(run)
            children.append((f"{name}[{first}]", entries[0], len(entries)))
            first += len(entries)
    return children


def _label(name: str, part: nn.Module, component: Component | None, shapes: dict[nn.Module, str], count: int) -> Text:
    type_name = component.name if component else type(part).__name__
    label = Text.assemble(foreign(name, "bold"), " ", foreign(type_name, "cyan" if component else "dim"))
    params = count_parameters(part)
    if params:
        label.append(f"  {params * count:,}", "green")
    if count > 1:
        label.append(f"  = {count} x {params:,}", "yellow")
    if part in shapes:
        label.append(f"  {shapes[part]}", "dim")
    return label


def _shape(output: Any) -> str:
    first = output[0] if isinstance(output, tuple) else output
    return "x".join(map(str, first.shape)) if isinstance(first, torch.Tensor) else ""


def describe_tokens(experiment: Experiment, folder: Path | None) -> str:
    """Return the vocabulary of the experiment: from the files of a trained model in `folder`, or from its task."""
    carried = read_tokens(folder) if folder is not None else None
    if carried is None and experiment.task.knobs.get("tokenizer") == "words":  # known only from the whole corpus
        return "words of the training text"
    task: Task = experiment.task.factory()()
    try:
        return str(carried or task.model_tokens() or "")
    except MissingCorpusError as error:  # which training would need, and costs do not
        return str(error)


def cost_table(experiment: Experiment, figures: dict[str, Any], tokens: str = "") -> Table:
    """Return the costs as a terminal table, with a line about the vocabulary."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    batch_size = experiment.train.batch_size
    rows = {
        "parameters": f"{figures['params']:,}",
        "without embeddings": f"{figures['params_non_embedding']:,}",
        "FLOPs per token": f"{figures['flops_per_token']:,} in training, {figures['flops_per_token_forward']:,} "
        f"in a forward pass, at a context of {experiment.train.context:,}",
        "state": _state_row(figures, experiment.train.context),
        "weights": f"{format_bytes(figures['weight_bytes'])} in float32",
        "activations": f"{format_bytes(figures['activation_bytes'])} for a micro-batch of {batch_size}",
        "training memory": f"{format_bytes(figures['memory_per_device'])} with gradients and moments",
        "tokens per step": f"{figures['tokens_per_step']:,}",
    }
    if figures["params_active"] < figures["params"]:
        rows["parameters"] += f", of which a token uses {figures['params_active']:,}"
    if experiment.train.budget is not None:
        rows["steps"] = f"{figures['steps'] or 'measured when it starts'}, for a budget of {experiment.train.budget}"
    rows |= {"tokens": tokens} if tokens else {}
    if shares := figures.get("sources"):
        rows["sources"] = ", ".join(f"{name} {share:.6g}" for name, share in shares.items()) + " of the samples"
    for name, value in rows.items():
        table.add_row(Text(name, "bold"), value)
    return table


def _state_row(figures: dict[str, Any], context: int) -> str:
    now, largest = figures["state_bytes"], figures["max_state_bytes"]
    if now == largest:
        return f"{format_bytes(now)} for one stream, at any length"
    return f"{format_bytes(now)} for one stream of {context:,}, at most {format_bytes(largest)}"


def run_with_forward_hooks(model: nn.Module, inputs: Tensor, hook: Callable[[nn.Module, Any], None]) -> None:
    """Run a model on the meta device, calling `hook(module, output)` after each module, for two of identical blocks."""
    with torch.no_grad(), skip_repeated_blocks(model):  # before the hooks, by which no two blocks would be identical
        handles = [m.register_forward_hook(lambda module, _, output: hook(module, output)) for m in model.modules()]
        try:
            model(inputs)
        finally:
            for handle in handles:
                handle.remove()
