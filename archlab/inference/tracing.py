"""Tracing of a module to a functional graph, and folding of the constants in it."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, functionalize
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

from archlab.errors import ArchlabError
from archlab.ops.grouped_linear import without_opaque_products
from archlab.runtime.private_apis import (
    is_data_dependent_error,
    is_dtype_conversion,
    is_mutating_op,
    trace_compiled_modules_eagerly,
)

_CANNOT = "the module cannot be compiled ahead of time, only run eagerly"


@torch.no_grad()
def trace(module: nn.Module, inputs: tuple[Tensor, ...]) -> GraphModule:
    """Return a module's graph, whose only mutations are copies into its inputs at its end.

    The module runs on copies of the inputs. Raises ArchlabError if its control flow depends on values of tensors, or
    if it writes to its own parameters or buffers.
    """

    def run(*inputs: Tensor) -> tuple[Any, ...]:
        outputs = module(*inputs)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    try:
        with trace_compiled_modules_eagerly(), without_opaque_products():
            program = make_fx(run)(*(x.clone() for x in inputs))
    except RuntimeError as error:
        if not is_data_dependent_error(error):
            raise
        raise ArchlabError(f"{_CANNOT}: its control flow depends on values of tensors") from error
    program = _functionalize(program, inputs)
    for node in program.graph.nodes:
        # The two traces leave fake tensors of different fake modes, which Inductor refuses to mix; it makes new ones.
        node.meta.clear()
    return program


def _functionalize(program: GraphModule, inputs: tuple[Tensor, ...]) -> GraphModule:
    """Return the graph without mutations of intermediate tensors, traced once more under `functionalize`.

    A second trace is needed: some operations decompose, below functionalize, to operations that write in place, and
    only the graph of the first trace shows those to it. Weights are inputs of the second trace, so that writes to them
    are seen: functionalize wraps inputs alone.
    """
    weights = named_constants(program)

    def run(*tensors: Tensor) -> Any:
        return functional_call(program, dict(zip(weights, tensors, strict=False)), tensors[len(weights) :])

    functional = make_fx(functionalize(run, remove="mutations"))(*weights.values(), *(x.clone() for x in inputs))
    placeholders = [node for node in functional.graph.nodes if node.op == "placeholder"]
    for node, (name, weight) in zip(placeholders, weights.items(), strict=False):
        _require_reading_only(node)
        _replace(functional, node, name, weight)
        functional.graph.erase_node(node)
    functional.recompile()
    return functional


def _require_reading_only(weight: Node) -> None:
    for node in weight.users:
        if is_mutating_op(node.target) and node.args[0] is weight:
            raise ArchlabError(f"{_CANNOT}: it writes to its own parameters or buffers")


@torch.no_grad()
def fold_constants(program: GraphModule) -> None:
    """Replace every tensor that depends on weights alone by its value.

    Views and conversions of a weight stay in the graph, and so do factory functions such as zeros: the compiler fuses
    them with their use for free, where a stored value would be one more tensor to read.
    """
    known: dict[Node, Any] = {}
    kept: set[Node] = set()
    for node in program.graph.nodes:
        if node.op == "get_attr":
            known[node] = attrgetter(str(node.target))(program)
            kept.add(node)
        elif node.op == "call_function" and known.keys() >= set(node.all_input_nodes) and not node.is_impure():
            known[node] = node.target(*map_arg(node.args, known.get), **map_arg(node.kwargs, known.get))
            if not node.all_input_nodes or _is_alias(node, known, kept):
                kept.add(node)
    for node in [node for node in known if node not in kept and isinstance(known[node], Tensor)]:
        if not known.keys() >= node.users.keys():
            # Only values that a node outside of `known` reads: the others disappear with their users.
            _replace(program, node, f"known_{node.name}", known[node].contiguous())
    program.graph.eliminate_dead_code()
    program.recompile()


def _is_alias(node: Node, known: dict[Node, Any], sources: set[Node]) -> bool:
    """Return whether a value is a view or a conversion of one of the sources."""
    source = next((node for node in node.all_input_nodes if node in sources), None)
    return source is not None and (
        is_dtype_conversion(node.target) or _data_pointers(known[node]) <= _data_pointers(known[source])
    )


def _data_pointers(value: Any) -> set[int]:
    """Return the addresses of the storages of a value's tensors."""
    if isinstance(value, Tensor):
        return {value.untyped_storage().data_ptr()}
    return {pointer for part in value for pointer in _data_pointers(part)} if isinstance(value, list | tuple) else set()


def _replace(program: GraphModule, node: Node, name: str, value: Tensor) -> None:
    program.register_buffer(name, value, persistent=False)
    with program.graph.inserting_before(node):
        node.replace_all_uses_with(program.graph.get_attr(name))


def named_constants(program: GraphModule) -> dict[str, Tensor]:
    """Return parameters and buffers by name, a shared one under each of its names."""
    every = (program.named_parameters, program.named_buffers)
    return {name: tensor.detach() for named in every for name, tensor in named(remove_duplicate=False)}
