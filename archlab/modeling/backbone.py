"""The contract of a model: every attribute that archlab reads on a backbone or on any of its parts, and its default.

B batch, T time, D width, V outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from torch import Tensor, nn

if TYPE_CHECKING:
    from archlab.config.spec import Spec
    from archlab.modeling.state import State

Features: TypeAlias = Callable[..., tuple[Tensor, "State"]]
FurtherTargets: TypeAlias = Callable[[Tensor, Tensor, Tensor], Iterator[tuple[Tensor, Tensor]]]
LossTerms: TypeAlias = Callable[[Tensor, Tensor], list[tuple[Tensor, Tensor, Tensor]]]


@dataclass(frozen=True)
class OutputSplit:
    """The outputs of a head that this rank has the weights of, from `first` on, among those of a group of ranks."""

    first: int
    group: str


class Part(Protocol):
    """Attributes that any module of a model may declare; a module without one has the default.

    Attributes:
        causal: Whether outputs depend on no later input.
        exact_gradients: Whether gradients are those of the loss, which they are not where a part detaches some of it.
        max_context: Number of tokens that a stream may hold, or None; it speaks for all modules below. Undeclared, it
            is the minimum over them.
        branches: Of a block, the modules whose outputs it adds to its input, which `completep` scales by depth; a
            branch whose output is a sum of parts may declare them in turn.
        shrink_branch: Of a branch whose output is proportional to none of its parameters, a method that multiplies its
            output by a factor at initialization, as near as it can.
    """

    causal: bool = True
    exact_gradients: bool = True
    max_context: int | None


class Backbone(Protocol):
    """Attributes and methods of a model; the call is required, undeclared attributes have the default.

    Attributes:
        spec: The specification that `build` built the model from.
        blocks: Layers that are compiled, recomputed and counted one by one.
        calls: The blocks in the order in which a pass calls them, where it calls some of them several times; None where
            it calls each once.
        num_outputs: Number of logits, or None, which leaves it unchecked against the task.
        per_sample: Whether logits are [B, V], one per sample, rather than [B, T, V].
        head: The module from features to logits. Its `matrix` [V, D], if any, is the weight that features are
            multiplied by, without a bias; its `soft_cap` c, if any, bounds each product z as c tanh(z / c). A head
            whose logits are no such products has `loss_terms(x_ND, target_N)` instead, if any: features, a weight and
            targets for each of the linear cross-entropies whose sum is the loss; `matrices` are their weights. One that
            predicts further tokens in training has `further_targets(x_BTD, inputs_BT, targets_BT)`, which yields
            features and targets of each, and the factor `further_weight` of their losses.
        features: Everything below the head: inputs and state to features [B, T, D] and state. With `head.matrix` it
            allows the loss to be computed in chunks of logits.
        output_split: Set where ranks divide the rows of `head.matrix`.
    """

    spec: Spec
    blocks: Sequence[nn.Module] = ()
    calls: Sequence[nn.Module] | None = None
    num_outputs: int | None = None
    per_sample: bool = False
    head: nn.Module | None = None
    features: Features | None = None
    output_split: OutputSplit | None = None

    def init_state(self, batch_size: int) -> State:
        """Return the state before the first token, as `archlab.Recurrent` has it."""

    def __call__(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return logits and the state after the last token; without a state the stream starts."""


def _read(module: nn.Module, contract: type, name: str) -> Any:
    """Return an attribute, or the default that the contract declares: plugins need not derive from either."""
    return getattr(module, name, getattr(contract, name))


def iter_blocks(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers that are compiled, recomputed and counted one by one: the backbone's `blocks`."""
    yield from _read(model, Backbone, "blocks")


def iter_calls(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the blocks in the order in which a pass calls them, one that it calls again as often as it does."""
    calls: Sequence[nn.Module] | None = _read(model, Backbone, "calls")
    yield from iter_blocks(model) if calls is None else calls


def num_outputs(model: nn.Module) -> int | None:
    """Return the number of logits, or None if the model does not declare it."""
    outputs: int | None = _read(model, Backbone, "num_outputs")
    return outputs


def is_per_sample(model: nn.Module) -> bool:
    """Return whether a model gives one answer per sample rather than one per step."""
    return bool(_read(model, Backbone, "per_sample"))


def get_features(model: nn.Module) -> Features | None:
    """Return the function from inputs and state to the features that the head reads, or None."""
    features: Features | None = _read(model, Backbone, "features")
    return features


def apply_head(model: nn.Module, x_BTD: Tensor) -> Tensor:
    """Return the logits of features [B, T, V]."""
    logits_BTV: Tensor = _read(model, Backbone, "head")(x_BTD)
    return logits_BTV


def output_weight(model: nn.Module) -> Tensor | None:
    """Return the matrix [V, D] whose products with the model's features are its logits, or None."""
    head = _read(model, Backbone, "head")
    matrix: Tensor | None = getattr(head, "matrix", None)
    return None if get_features(model) is None else matrix


def get_loss_terms(model: nn.Module) -> LossTerms | None:
    """Return the head's function from features and targets to the terms of the loss, or None where it has none."""
    terms: LossTerms | None = getattr(_read(model, Backbone, "head"), "loss_terms", None)
    return None if get_features(model) is None else terms


def get_further_targets(model: nn.Module) -> FurtherTargets | None:
    """Return the head's function from features to those of further tokens, with their targets, or None."""
    further: FurtherTargets | None = getattr(_read(model, Backbone, "head"), "further_targets", None)
    return None if get_features(model) is None else further


def further_weight(model: nn.Module) -> float:
    """Return the factor of the losses of further tokens."""
    weight: float = _read(model, Backbone, "head").further_weight
    return weight


def output_weights(model: nn.Module) -> list[Tensor]:
    """Return all weights of which the head's outputs are products."""
    matrix = output_weight(model)
    return list(getattr(_read(model, Backbone, "head"), "matrices", ())) if matrix is None else [matrix]


def output_soft_cap(model: nn.Module) -> float:
    """Return the bound of the products with the output weight, or 0 for none."""
    return getattr(_read(model, Backbone, "head"), "soft_cap", None) or 0.0


def get_output_split(model: nn.Module) -> OutputSplit | None:
    """Return which rows of the output weight are this rank's, or None where it has all of them."""
    split: OutputSplit | None = _read(model, Backbone, "output_split")
    return split


def is_causal(model: nn.Module) -> bool:
    """Return whether every part of a model is causal."""
    return all(_read(part, Part, "causal") for part in model.modules())


def has_exact_gradients(model: nn.Module) -> bool:
    """Return whether the gradients of every part of a model are those of the loss."""
    return all(_read(part, Part, "exact_gradients") for part in model.modules())
