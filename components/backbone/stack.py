from __future__ import annotations

from typing import Annotated, TypeAlias

import torch
from torch import Tensor, nn

from archlab import (
    Count,
    Factory,
    Index,
    Positive,
    Range,
    Recurrent,
    State,
    StateScope,
    Width,
    call_name,
    choice,
    init_state,
    max_context,
    register,
    slot,
    slots,
)
from archlab.components._factor import times

from ._layers import connect_layers, order_layers, run_layers
from ._streams import close_streams, count_streams, open_streams

Loops: TypeAlias = Annotated[int, Range(low=1, high=64)]  # each is a pass through the layers


@register("backbone", "stack", search={"loops": choice(1, 2, 3, 4)}, carry="associative")
class Stack(Recurrent):
    """A sequence of layers between an embedding and a head, run once or in loops with the same weights.

    With `loops` it is a recursive, or looped, transformer: Universal Transformers (arXiv:1807.03819), ALBERT
    (arXiv:1909.11942), looped transformers (arXiv:2502.17416).
    tokens: [B, T] int64 -> logits [B, T, V], or the inputs of another embedding and the outputs of another head.
    State: position [B], and that of the norms and of each run of each layer.
    Raises ValueError where prelude and coda leave no layer between them.
    Deviations: layers do not get the index of their loop, as Universal Transformers' are, and all tokens take all
    loops.

    Args:
        vocab_size: Number of different tokens; null for inputs other than tokens.
        dim: Number of features D of the layers.
        embedding: Embedding of the inputs.
        position: Position encoding added to the embedded inputs.
        embedding_norm: Norm before the first layer.
        layers: Layers, from the first to the last; their features are [B, T, S, D] where they have S residual streams.
        loops: Number of times that the layers are run, from the first to the last and again, with the same weights.
        prelude: Number of layers at the beginning that are run once, before the loops.
        coda: Number of layers at the end that are run once, after the loops.
        norm: Norm before the head.
        output_factor: Factor of the head's input, and so of a linear head's logits (Falcon-H1, arXiv:2507.22448).
        head: Head that maps features to logits.
    """

    def __init__(
        self,
        *,
        vocab_size: Count | None = None,
        dim: Width,
        embedding: Factory = slot("embedding", "tokens"),
        position: Factory = slot("position", "none"),
        embedding_norm: Factory = slot("norm", "none"),
        layers: list[Factory] = slots("layer", "block"),
        loops: Loops = 1,
        prelude: Index = 0,
        coda: Index = 0,
        norm: Factory = slot("norm", "rms"),
        output_factor: Positive = 1.0,
        head: Factory = slot("head", "language_model"),
    ) -> None:
        super().__init__()
        self.vocab_size, self.dim = vocab_size, dim
        self.embedding = embedding(vocab_size, dim)
        self.position = position(1, dim).require_place("embedding")
        self.embedding_norm = embedding_norm(dim)
        self.blocks = nn.ModuleList(layer(dim, index) for index, layer in enumerate(layers))
        self.num_streams = count_streams(self.blocks)
        self.kv_sources = connect_layers(self.blocks)
        self.order = order_layers(len(self.blocks), loops=loops, prelude=prelude, coda=coda)
        self.norm, self.output_factor = norm(dim), output_factor
        self.head = head(dim, vocab_size, self.embedding)
        self.num_outputs, self.per_sample = self.head.num_outputs, self.head.per_sample

    @property
    def calls(self) -> list[nn.Module]:
        """The layers in the order in which they are run."""
        return [self.blocks[index] for index, _ in self.order]

    @property
    def max_context(self) -> int | None:
        """The maximum number of inputs of a stream, or None for no limit.

        An embedding of several inputs per position declares the conversion as `inputs_within`.
        """
        positions, inputs_within = max_context(self.blocks), getattr(self.embedding, "inputs_within", None)
        return positions if positions is None or inputs_within is None else inputs_within(positions)

    def init_state(self, batch_size: int) -> State:
        """Return the state before the first token."""
        device = next(self.parameters()).device
        state = {"position": torch.zeros(batch_size, dtype=torch.int64, device=device)} | super().init_state(batch_size)
        for index, call in self.order:
            if call:  # the first calls have the names of the layers themselves
                own, name = init_state(self.blocks[index], batch_size), call_name(f"blocks.{index}", call)
                state |= {f"{name}.{key}": value for key, value in own.items()}
        return state

    def summarize(self, tokens_BT: Tensor) -> State:
        """Return the number of positions of a piece."""
        return {"position": torch.full_like(tokens_BT[:, 0], tokens_BT.shape[1])}

    def merge(self, earlier: State, later: State) -> State:
        """Return the number of positions of two pieces."""
        return {"position": earlier["position"] + later["position"]}

    def enter(self, summary: State) -> State:
        """Return the state of the stack itself; its parts have theirs."""
        return summary

    def forward(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return logits for the next token at every position, and the state after the last."""
        x_BTD, state = self.features(tokens_BT, state)
        return self.head(x_BTD), state

    def features(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the input of the head [B, T, D], and the state after the last token."""
        scope, x_BTD = StateScope(state), self.embedding(tokens_BT)
        B, T = x_BTD.shape[:2]
        start_B = state["position"] if state else torch.zeros(B, dtype=torch.int64, device=x_BTD.device)
        x_BTD = self.position.embed(x_BTD, start_B[:, None] + torch.arange(T, device=x_BTD.device))
        x_BTD = scope("embedding_norm", self.embedding_norm, x_BTD)
        x = run_layers(scope, self.blocks, open_streams(x_BTD, self.num_streams), self.order, self.kv_sources)
        x_BTD = scope("norm", self.norm, close_streams(x, self.num_streams))
        return times(self.output_factor, x_BTD), scope.state | {"position": start_B + T}
