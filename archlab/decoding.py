"""One token after another, as fast as a machine reads the weights: compiled once, with a state written in place.

B batch, V outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from archlab.evaluate import evaluating
from archlab.ops.precision import at_least_float32
from archlab.state import State

_LINEAR = (F.linear, torch._C._nn.linear)


class Decoder:
    """Reads one token a call, [B, 1] -> scores [B, 1, V], going on from a state, which is left as it was.

    The model is compiled as a whole at the first call, for this batch size and for the weights as they then are: what
    follows from weights alone is computed once. Raises ValueError for tokens of another shape.
    """

    def __init__(self, model: nn.Module, state: State) -> None:
        self.state = {name: tensor.clone() for name, tensor in state.items()}
        self._model, self._batch_size = model, len(next(iter(state.values())))
        options: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
        step = _with_own_code(_advance)
        self._step = torch.compile(step, fullgraph=True, dynamic=False, backend=_compile, options=options)
        self._is_compiled = False

    @torch.no_grad()
    def __call__(self, tokens_B1: Tensor) -> Tensor:
        """Return the scores after one more token, the state moved on."""
        if tokens_B1.shape != (self._batch_size, 1):
            raise ValueError(f"tokens {list(tokens_B1.shape)} are not [{self._batch_size}, 1]")
        if self._is_compiled:
            return self._step(self._model, tokens_B1, self.state)
        with evaluating(self._model), torch._inductor.config.patch(freezing=True):
            scores_B1V = self._step(self._model, tokens_B1, self.state)
        self._is_compiled = True
        return scores_B1V


def _advance(model: nn.Module, tokens_B1: Tensor, state: State) -> Tensor:
    """Write the next state over the last: the compiler then changes windows in place, and copies none."""
    scores_B1V, following = model(tokens_B1, state)
    for name, tensor in state.items():
        tensor.copy_(following[name])
    return scores_B1V


def _with_own_code(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a copy of a function that shares no compiled code with it: nothing asks for whom that was made."""
    assert isinstance(function, FunctionType)
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)


def _compile(graph: GraphModule, inputs: list[Tensor], **_: Any) -> Any:
    from torch._inductor.compile_fx import compile_fx

    for node in [node for node in graph.graph.nodes if _is_one_row(node)]:
        with graph.graph.inserting_before(node):
            replaced = graph.graph.call_function(_one_row, node.args, node.kwargs)
        replaced.meta = dict(node.meta)
        node.replace_all_uses_with(replaced)
        graph.graph.erase_node(node)
    graph.recompile()
    one_call = inputs[0].device.type == "cpu"  # from Python, for all kernels
    return compile_fx(graph, inputs, config_patches={"freezing": True, "cpp_wrapper": one_call})


def _is_one_row(node: Node) -> bool:
    """Tell whether a node multiplies one row by a matrix, on a CPU."""
    if node.op != "call_function" or node.target not in _LINEAR:
        return False
    x = node.args[0].meta["example_value"]  # type: ignore[union-attr]
    return x.device.type == "cpu" and x.numel() == x.shape[-1]


def _one_row(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x weightᵀ + bias as sums, which the compiler joins to what is around them.

    Matrix products of one row read the weights two to three times as slowly.
    """
    y = (at_least_float32(x.flatten()) * at_least_float32(weight)).sum(-1)
    y = y if bias is None else y + at_least_float32(bias)
    return y.to(x.dtype).unflatten(0, (*x.shape[:-1], -1))
