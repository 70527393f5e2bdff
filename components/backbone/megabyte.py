"""Letters in suffixes: B batch, T bytes of a call, S kept and new bytes, N patches, P bytes of a patch, D global width,
E global width of a byte, L local width, V scores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab import (
    AUXILIARY_LOSS,
    Count,
    Factory,
    Recurrent,
    State,
    StateScope,
    choice,
    init_state,
    max_context,
    register,
    slot,
    slots,
)
from archlab.components._init import Init, linear
from archlab.components._per_sample import where, windows
from archlab.components.backbone._layers import LayerStack


@register("backbone", "megabyte", search={"patch_size": choice(4, 8, 16)})
class Megabyte(Recurrent):
    """A global model reads patches of bytes, and a local one predicts each patch byte by byte (arXiv:2305.07185).

    bytes: [B, T] int64 -> logits [B, T, V].  State: position [B], the last `patch_size` bytes, what the global model
    said last [B, D], and the global layers' own, which see one step a patch. A patch is P bytes embedded E = D / P wide
    beside each other. What the global layers say after it is cut into P pieces, one for each byte of the next patch,
    and joins their local embeddings. The local layers begin anew with every patch, so that they carry no state.
    Raises ValueError where patch_size does not divide dim, where the local layers see less than a patch or have an
    auxiliary loss, or where a layer looks ahead.
    Deviations: patches are cut in what is read rather than in what is predicted, one byte later: the local layers see
    that byte in place of the paper's padding. The pieces before the first patch are learned themselves, not put out
    by the global model from a learned input.
    """

    def __init__(
        self,
        *,
        vocab_size: Count,
        dim: Count,
        local_dim: Count,
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
        self.position = position(1, byte_dim).placed("embedding")
        self.global_layers, self.local_layers = LayerStack(dim, layers, norm), LayerStack(local_dim, local_layers, norm)
        _require_fit(self.global_layers, self.local_layers, patch_size)
        self.down = linear(byte_dim, local_dim, bias=False, init=init)
        self.first = nn.Parameter(torch.empty(dim))
        self.head = head(local_dim, vocab_size, self.embedding)
        self.num_outputs, self.per_sample = self.head.num_outputs, self.head.per_sample
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw what stands before the first patch like an output of the global model's norm."""
        nn.init.normal_(self.first)

    @property
    def blocks(self) -> list[nn.Module]:
        """The layers of both models."""
        return [*self.global_layers.blocks, *self.local_layers.blocks]

    @property
    def max_context(self) -> int | None:
        """The most bytes that one stream may hold, or None where there is no limit."""
        limit = max_context(self.global_layers)
        return limit and limit * self.patch_size

    def init_state(self, batch_size: int) -> State:
        """Return a stream with no byte in it."""
        position_B = torch.zeros(batch_size, dtype=torch.int64, device=self.first.device)
        bytes_BP = position_B.new_zeros(batch_size, self.patch_size)
        own = {"position": position_B, "bytes": bytes_BP, "said": self.first.expand(batch_size, -1).clone()}
        return own | {f"global_layers.{key}": x for key, x in init_state(self.global_layers, batch_size).items()}

    def forward(self, bytes_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return a score for every next byte, and the state after the last."""
        (B, T), P = bytes_BT.shape, self.patch_size
        given = state or self.init_state(B)
        phase_B = given["position"] % P
        reach = T if state is None else T + P - 1  # the most steps from the first patch's begin to the last byte
        bytes_BS = torch.cat((given["bytes"], bytes_BT), dim=1)
        patches_BT = windows(bytes_BS, P - phase_B[:, None], -(-reach // P) * P)
        x_BND = self._embed(patches_BT, given["position"] - phase_B)
        said, below = self._global(x_BND[:, : reach // P], T, phase_B, state, given)
        said_BND = torch.cat((given["said"][:, None], *said), dim=1)
        y_BTL = windows(self._local(patches_BT, said_BND), phase_B[:, None], T)
        own = {"position": given["position"] + T, "bytes": bytes_BS[:, -P:].clone()}
        return self.head(y_BTL), below | own | {"said": windows(said_BND, (phase_B[:, None] + T) // P, 1)[:, 0]}

    def _embed(self, bytes_BT: Tensor, begin_B: Tensor) -> Tensor:
        """Return whole patches as the global layers read them."""
        steps_BT = begin_B[:, None] + torch.arange(bytes_BT.shape[1], device=begin_B.device)
        x_BTE = self.position.embed(self.global_embedding(bytes_BT), steps_BT)
        return x_BTE.unflatten(1, (-1, self.patch_size)).flatten(2)

    def _global(
        self, x_BND: Tensor, num_bytes: int, phase_B: Tensor, state: State | None, given: State
    ) -> tuple[list[Tensor], State]:
        """Return what is said after each patch, and the state after the last that is whole.

        The last of them may be whole in some samples and not in others: it is read by all, and kept by some.
        """
        sure, stream, said = num_bytes // self.patch_size, StateScope(state), []
        if sure:
            said.append(stream("global_layers", self.global_layers, x_BND[:, :sure]))
            given = stream.state
        if x_BND.shape[1] > sure:
            stream = StateScope(given)
            said.append(stream("global_layers", self.global_layers, x_BND[:, sure:]))
            whole_B = phase_B + num_bytes >= x_BND.shape[1] * self.patch_size
            given = {key: where(whole_B, after, given[key]) for key, after in stream.state.items()}
        return said, given

    def _local(self, bytes_BT: Tensor, said_BND: Tensor) -> Tensor:
        """Run every patch through the local layers, with what was said before it."""
        B, N = bytes_BT.shape[0], bytes_BT.shape[1] // self.patch_size
        pieces_BTE = said_BND[:, :N].unflatten(-1, (self.patch_size, -1)).flatten(1, 2)
        x_BTL = self.embedding(bytes_BT) + self.down(pieces_BTE)
        y, _ = self.local_layers(x_BTL.unflatten(1, (N, -1)).flatten(0, 1))
        return y.unflatten(0, (B, N)).flatten(1, 2)


def _require_fit(global_layers: LayerStack, local_layers: LayerStack, patch_size: int) -> None:
    limit = max_context(local_layers)
    if limit is not None and limit < patch_size:
        raise ValueError(f"local layers see {limit} bytes (window_size), not the patch_size {patch_size}")
    if any(name.rpartition(".")[2] == AUXILIARY_LOSS for name in init_state(local_layers, 1)):
        raise ValueError("local layers carry no state, as an auxiliary loss needs it")
    for part in (*global_layers.modules(), *local_layers.modules()):
        if not getattr(part, "causal", True):
            raise ValueError(f"{type(part).__name__} sees later bytes, which are yet to come")
