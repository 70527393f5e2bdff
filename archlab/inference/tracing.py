"""A module's graph, in which nothing is written in place, and what follows from weights alone is computed."""

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
from archlab.runtime.private_apis import (
    is_data_dependent_error,
    is_dtype_conversion,
    is_mutating_op,
    trace_compiled_modules_eagerly,
)

_CANNOT = "the module cannot be compiled ahead of time, but runs as it is"


@torch.no_grad()
def trace(module: nn.Module, inputs: tuple[Tensor, ...]) -> GraphModule:
    """Return a module's graph, in which nothing is written in place but, at its end, inputs.

    The module is run on copies of them. Raises ArchlabError where it looks at numbers to choose its way, or writes
    into a tensor of its own.
    """

    def run(*inputs: Tensor) -> tuple[Any, ...]:
        outputs = module(*inputs)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    try:
        with trace_compiled_modules_eagerly():
            program = make_fx(run)(*(x.clone() for x in inputs))
    except RuntimeError as error:
        if not is_data_dependent_error(error):
            raise
        raise ArchlabError(f"{_CANNOT}: it looks at numbers to choose its way") from error
    program = _functionalize(program, inputs)
    for node in program.graph.nodes:
        node.meta.clear()  # shapes as the tracer noted them, each in a world of its own, which no compiler takes
    return program


def _functionalize(program: GraphModule, inputs: tuple[Tensor, ...]) -> GraphModule:
    """Return a graph that writes nothing in place, weights being among its inputs while it is traced once more.

    Tracing once does not do: some of torch's operations are made of smaller ones that write in place.
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
            raise ArchlabError(f"{_CANNOT}: it writes into a tensor of its own")


@torch.no_grad()
def fold_constants(program: GraphModule) -> None:
    """Replace what follows from weights alone by its value.

    A weight in another type or shape stays what it is, and so does a tensor made of nothing: they cost nothing where
    they are read, and would be copies.
    """
    known: dict[Node, Any] = {}
    as_they_are: set[Node] = set()
    for node in program.graph.nodes:
        if node.op == "get_attr":
            known[node] = attrgetter(str(node.target))(program)
            as_they_are.add(node)
        elif node.op == "call_function" and known.keys() >= set(node.all_input_nodes) and not node.is_impure():
            known[node] = node.target(*map_arg(node.args, known.get), **map_arg(node.kwargs, known.get))
            if not node.all_input_nodes or _is_alias(node, known, as_they_are):
                as_they_are.add(node)
    for node in [node for node in known if node not in as_they_are and isinstance(known[node], Tensor)]:
        if not known.keys() >= node.users.keys():
            _replace(program, node, f"known_{node.name}", known[node].contiguous())
    program.graph.eliminate_dead_code()
    program.recompile()


def _is_alias(node: Node, known: dict[Node, Any], sources: set[Node]) -> bool:
    """Tell whether a value is one of these in another type or shape, or a part of it."""
    source = next((one for one in node.all_input_nodes if one in sources), None)
    return source is not None and (
        is_dtype_conversion(node.target) or _data_pointers(known[node]) <= _data_pointers(known[source])
    )


def _data_pointers(value: Any) -> set[int]:
    """Return where the tensors of a value lie."""
    if isinstance(value, Tensor):
        return {value.untyped_storage().data_ptr()}
    return {pointer for part in value for pointer in _data_pointers(part)} if isinstance(value, list | tuple) else set()


def _replace(program: GraphModule, node: Node, name: str, value: Tensor) -> None:
    program.register_buffer(name, value, persistent=False)
    with program.graph.inserting_before(node):
        node.replace_all_uses_with(program.graph.get_attr(name))


def named_constants(program: GraphModule) -> dict[str, Tensor]:
    """Return parameters and buffers, those that have several names by each of them."""
    every = (program.named_parameters, program.named_buffers)
    return {name: tensor.detach() for named in every for name, tensor in named(remove_duplicate=False)}
