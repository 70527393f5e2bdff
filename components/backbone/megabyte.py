"""Letters in suffixes: B batch, T bytes of a call, S stored and new bytes, N patches, P bytes of a patch, D global
width, E global width of a byte, L local width, V logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab import (
    Count,
    Factory,
    Param,
    Recurrent,
    State,
    StateScope,
    Width,
    choice,
    find_training_sum,
    init_state,
    max_context,
    register,
    slot,
    slots,
)
from archlab.components._init import Init, linear
from archlab.components._per_sample import gather_windows, select_samples
from archlab.components.backbone._layer_stack import LayerStack


@register(
    "backbone",
    "megabyte",
    search={"patch_size": choice(4, 8, 16)},
    params={"down.weight": Param("hidden"), "first": Param("input")},
)
class Megabyte(Recurrent):
    """A global model of patches of bytes, and a local model of the bytes of each patch, MEGABYTE (arXiv:2305.07185).

    bytes: [B, T] int64 -> logits [B, T, V].  State: position [B], the last `patch_size` bytes, the last output of the
    global model [B, D], and the global layers' own, which make one step per patch. A patch is the concatenation of P
    bytes embedded E = D / P wide. The output of the global layers is split into P pieces, one for each byte of the
    next patch, which are projected and added to the local embeddings. The local layers start from their initial state
    in every patch, so they are not part of the state.
    Raises ValueError where patch_size does not divide dim, where the context of the local layers is shorter than a
    patch, where they have an auxiliary loss or count for an update, or where a layer is not causal.
    Deviations: patches are cut in the inputs rather than in the targets, one byte later: the local layers read
    that byte in place of the paper's padding. The pieces before the first patch are learned directly, instead of an
    output of the global model for a learned input.

    Args:
        vocab_size: Number of different bytes.
        dim: Number of features D of the global layers.
        local_dim: Number of features L of the local layers.
        patch_size: Number of bytes P of a patch.
        embedding: Embedding of the bytes, used once for the global and once for the local model.
        position: Position encoding added to the global embeddings of the bytes.
        layers: Global layers, from the first to the last.
        local_layers: Local layers, from the first to the last.
        norm: Norm after the global layers, and after the local layers.
        head: Head that maps features to logits.
        init: Distribution of the weights of the projection from global to local features.
    """

    def __init__(
        self,
        *,
        vocab_size: Count,
        dim: Width,
        local_dim: Width,
        patch_size: Count = 8,
        embedding: Factory = slot("embedding", "tokens"),
        position: Factory = slot("position", "none"),
        layers: list[Factory] = slots("layer", "block"),
        local_layers: list[Factory] = slots("layer", "block"),
        norm: Factory = slot("norm", "rms"),
        head: Factory = slot("head", "language_model"),
        init: Init = "he",
    ) -> None:
        super().__init__()
        if dim % patch_size:
            raise ValueError(f"dim {dim} is not divisible by patch_size {patch_size}")
        self.patch_size, byte_dim = patch_size, dim // patch_size
        self.global_embedding, self.embedding = embedding(vocab_size, byte_dim), embedding(vocab_size, local_dim)
        self.position = position(1, byte_dim).require_place("embedding")
        self.global_layers, self.local_layers = LayerStack(dim, layers, norm), LayerStack(local_dim, local_layers, norm)
        _check_layers(self.global_layers, self.local_layers, patch_size)
        self.down = linear(byte_dim, local_dim, bias=False, init=init)
        self.first = nn.Parameter(torch.empty(dim))
        self.head = head(local_dim, vocab_size, self.embedding)
        self.num_outputs, self.per_sample = self.head.num_outputs, self.head.per_sample
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the pieces before the first patch with the unit variance of the global norm's outputs."""
        nn.init.normal_(self.first)

    @property
    def blocks(self) -> list[nn.Module]:
        """The layers of both models."""
        return [*self.global_layers.blocks, *self.local_layers.blocks]

    @property
    def max_context(self) -> int | None:
        """The maximum number of bytes of a stream, or None for no limit."""
        limit = max_context(self.global_layers)
        return limit and limit * self.patch_size

    def init_state(self, batch_size: int) -> State:
        """Return the state before the first byte."""
        position_B = torch.zeros(batch_size, dtype=torch.int64, device=self.first.device)
        bytes_BP = position_B.new_zeros(batch_size, self.patch_size)
        last_BD = self.first.expand(batch_size, -1).clone()
        own = {"position": position_B, "bytes": bytes_BP, "global_output": last_BD}
        return own | {f"global_layers.{key}": x for key, x in init_state(self.global_layers, batch_size).items()}

    def reserve_state(self, state: State, num_tokens: int | None) -> State:
        """Return the state preallocated for the patches of some number of bytes, the last incomplete one included."""
        return super().reserve_state(state, None if num_tokens is None else num_tokens // self.patch_size + 1)

    def forward(self, bytes_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return logits for the next byte at every position, and the state after the last."""
        y_BTL, state = self.features(bytes_BT, state)
        return self.head(y_BTL), state

    def features(self, bytes_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the input of the head [B, T, L], and the state after the last byte.

        A call starts inside a patch, at a different byte in each sample: the bytes of that patch so far are read
        again, so that the local layers start at its first byte.
        """
        (B, T), P = bytes_BT.shape, self.patch_size
        old = state or self.init_state(B)
        phase_B = old["position"] % P
        span = T if state is None else T + P - 1  # bytes, at most, from the first patch's start to the last byte
        bytes_BS = torch.cat((old["bytes"], bytes_BT), dim=1)
        patches_BT = gather_windows(bytes_BS, P - phase_B[:, None], -(-span // P) * P)
        x_BND = self._embed(patches_BT, old["position"] - phase_B)
        outputs, global_state = self._run_global(x_BND[:, : span // P], T, phase_B, state, old)
        outputs_BND = torch.cat((old["global_output"][:, None], *outputs), dim=1)
        y_BTL = gather_windows(self._run_local(patches_BT, outputs_BND), phase_B[:, None], T)
        last_BD = gather_windows(outputs_BND, (phase_B[:, None] + T) // P, 1)[:, 0]
        own = {"position": old["position"] + T, "bytes": bytes_BS[:, -P:].clone(), "global_output": last_BD}
        return y_BTL, global_state | own

    def _embed(self, bytes_BT: Tensor, start_B: Tensor) -> Tensor:
        """Return whole patches, embedded for the global layers."""
        steps_BT = start_B[:, None] + torch.arange(bytes_BT.shape[1], device=start_B.device)
        x_BTE = self.position.embed(self.global_embedding(bytes_BT), steps_BT)
        return x_BTE.unflatten(1, (-1, self.patch_size)).flatten(2)

    def _run_global(
        self, x_BND: Tensor, num_bytes: int, phase_B: Tensor, state: State | None, old: State
    ) -> tuple[list[Tensor], State]:
        """Return the global layers' outputs after each patch, and their state after the last complete patch.

        The last patch may be complete in some samples only: all run it, and those keep the new state.
        """
        num_complete, scope, outputs = num_bytes // self.patch_size, StateScope(state), []
        if num_complete:
            outputs.append(scope("global_layers", self.global_layers, x_BND[:, :num_complete]))
            old = scope.state
        if x_BND.shape[1] > num_complete:
            scope = StateScope(old)
            outputs.append(scope("global_layers", self.global_layers, x_BND[:, num_complete:]))
            is_complete_B = phase_B + num_bytes >= x_BND.shape[1] * self.patch_size
            old = {key: select_samples(is_complete_B, new, old[key]) for key, new in scope.state.items()}
        return outputs, old

    def _run_local(self, bytes_BT: Tensor, outputs_BND: Tensor) -> Tensor:
        """Run every patch through the local layers, with the global output before it."""
        B, N = bytes_BT.shape[0], bytes_BT.shape[1] // self.patch_size
        pieces_BTE = outputs_BND[:, :N].unflatten(-1, (self.patch_size, -1)).flatten(1, 2)
        x_BTL = self.embedding(bytes_BT) + self.down(pieces_BTE)
        y, _ = self.local_layers(x_BTL.unflatten(1, (N, -1)).flatten(0, 1))
        return y.unflatten(0, (B, N)).flatten(1, 2)


def _check_layers(global_layers: LayerStack, local_layers: LayerStack, patch_size: int) -> None:
    limit = max_context(local_layers)
    if limit is not None and limit < patch_size:
        raise ValueError(f"local layers see {limit} bytes (window_size), not the patch_size {patch_size}")
    if find_training_sum(local_layers) is not None:
        raise ValueError(
            "local layers restart in every patch: they have no state to sum an auxiliary loss or counts in"
        )
    for part in (*global_layers.modules(), *local_layers.modules()):
        if not getattr(part, "causal", True):
            raise ValueError(f"{type(part).__name__} sees later bytes: it is not causal")
