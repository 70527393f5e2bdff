"""A module compiled ahead of time for the CPU: a call runs no Python, and what was built is kept between processes."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, functionalize
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from archlab.built import built_file
from archlab.errors import ArchlabError

OPTIONS = {
    "memory_planning": True,  # one block of memory for all that lies between input and output
    # A library holds no weight, so that it serves every model of one shape and is as small for 7 B as for 7 M.
    "always_keep_tensor_constants": True,
    "aot_inductor.package_constants_in_so": False,
}
_CANNOT = "the module cannot be compiled ahead of time, but runs as it is"
_CONVERSIONS = (torch.ops.aten.to.dtype, torch.ops.aten._to_copy.default)


class Ahead:
    """A module that was exported with these inputs, and may write to them; what follows from weights is computed once.

    Called with tensors of the inputs' shapes, types and strides, which are not looked at again. Weights that change
    later are seen where they are read, not in what was computed from them.
    """

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        program = exported(module, inputs)
        compute_what_is_known(program)
        constants = _constants(program)
        file = _library(program, inputs, constants)
        self._runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(file), 1)
        names = self._runner.get_constant_names_to_original_fqns()
        self._constants = {own: constants[name] for own, name in names.items()}  # borrowed: they must live as long
        self._runner.update_constant_buffer(self._constants, False, True, True)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Return the outputs."""
        return self._runner.run(list(inputs))


@torch.no_grad()
def exported(module: nn.Module, inputs: tuple[Tensor, ...]) -> GraphModule:
    """Return a module's graph, in which nothing is written in place but, at its end, inputs.

    The module is run on copies of them. Raises ArchlabError where it looks at numbers to choose its way, or writes
    into a tensor of its own.
    """

    def run(*inputs: Tensor) -> tuple[Any, ...]:
        outputs = module(*inputs)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    try:
        program = make_fx(run)(*(x.clone() for x in inputs))
    except RuntimeError as error:
        if "data-dependent" not in str(error):
            raise
        raise ArchlabError(f"{_CANNOT}: it looks at numbers to choose its way") from error
    program = _functional(program, inputs)
    for node in program.graph.nodes:
        node.meta.clear()  # shapes as the tracer noted them, each in a world of its own, which no compiler takes
    return program


def _functional(program: GraphModule, inputs: tuple[Tensor, ...]) -> GraphModule:
    """Return a graph that writes nothing in place, weights being among its inputs while it is traced once more.

    Tracing once does not do: some of torch's operations are made of smaller ones that write in place.
    """
    weights = _constants(program)

    def run(*tensors: Tensor) -> Any:
        return functional_call(program, dict(zip(weights, tensors, strict=False)), tensors[len(weights) :])

    traced = make_fx(functionalize(run, remove="mutations"))(*weights.values(), *(x.clone() for x in inputs))
    placeholders = [node for node in traced.graph.nodes if node.op == "placeholder"]
    for node, (name, weight) in zip(placeholders, weights.items(), strict=False):
        _require_reading_only(node)
        _replace(traced, node, name, weight)
        traced.graph.erase_node(node)
    return traced


def _require_reading_only(weight: Node) -> None:
    for node in weight.users:
        if node.target._schema.is_mutable and node.args[0] is weight:
            raise ArchlabError(f"{_CANNOT}: it writes into a tensor of its own")


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Torch 2.13 copies trees of arguments in a way that it warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@torch.no_grad()
def compute_what_is_known(program: GraphModule) -> None:
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
            if not node.all_input_nodes or _is_another_form(node, known, as_they_are):
                as_they_are.add(node)
    for node in [node for node in known if node not in as_they_are and isinstance(known[node], Tensor)]:
        if not known.keys() >= node.users.keys():
            _replace(program, node, f"known_{node.name}", known[node].contiguous())
    program.graph.eliminate_dead_code()
    program.recompile()


def _is_another_form(node: Node, known: dict[Node, Any], sources: set[Node]) -> bool:
    """Tell whether a value is one of these in another type or shape, or a part of it."""
    source = next((one for one in node.all_input_nodes if one in sources), None)
    return source is not None and (node.target in _CONVERSIONS or _places(known[node]) <= _places(known[source]))


def _places(value: Any) -> set[int]:
    """Return where the tensors of a value lie."""
    return {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(value) if isinstance(leaf, Tensor)}


def _replace(program: GraphModule, node: Node, name: str, value: Tensor) -> None:
    program.register_buffer(name, value, persistent=False)
    with program.graph.inserting_before(node):
        node.replace_all_uses_with(program.graph.get_attr(name))


def _constants(program: GraphModule) -> dict[str, Tensor]:
    """Return parameters and buffers, those that have several names by each of them."""
    every = (program.named_parameters, program.named_buffers)
    return {name: tensor.detach() for named in every for name, tensor in named(remove_duplicate=False)}


def _library(program: GraphModule, inputs: tuple[Tensor, ...], constants: dict[str, Tensor]) -> Path:
    """Return the built library, from the cache where it is there."""
    file = built_file("ahead", "module", *_makes(program, (*inputs, *constants.values())))
    if not file.is_file():
        with tempfile.TemporaryDirectory(dir=file.parent) as partial, _without_warnings():
            options = OPTIONS | {"aot_inductor.output_path": str(Path(partial) / file.name)}
            built = torch._inductor.aot_compile(program, inputs, options=options)
            os.replace(str(built), file)
    return file


def _makes(program: GraphModule, tensors: tuple[Tensor, ...]) -> tuple[str, ...]:
    """Return what a library depends on: the graph, its tensors' kinds, torch and its threads."""
    kinds = (f"{tensor.dtype}{list(tensor.shape)}{tensor.stride()}" for tensor in tensors)
    return (program.code, *kinds, str(OPTIONS), torch.__version__, str(torch.get_num_threads()))
