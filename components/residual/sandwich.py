from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab import Factory, Recurrent, State, StateScope, register, slot

from ._base import Branch, Residual


@register("residual", "sandwich")
class Sandwich(Residual, Recurrent):
    """Residual of branches that are normalized at both ends, y = x + norm(branch(x)), as in CogView (arXiv:2105.13290).

    x: [B, T, D] -> [B, T, D].  State: that of the norms, if they have one.

    Args:
        mixer_norm: Norm of the mixer's output.
        ffn_norm: Norm of the feed-forward layer's output.
    """

    def __init__(
        self,
        dim: int,
        layer_index: int,
        *,
        mixer_norm: Factory = slot("norm", "rms"),
        ffn_norm: Factory = slot("norm", "rms"),
    ) -> None:
        super().__init__(dim, layer_index)
        self.mixer_norm, self.ffn_norm = mixer_norm(dim), ffn_norm(dim)

    def added(self, mixer: nn.Module, ffn: nn.Module) -> tuple[nn.Module, ...]:
        """Return itself: its norms undo any scale of the branches."""
        return (self,)

    @torch.no_grad()
    def shrink_branch(self, factor: float) -> None:
        """Multiply the norms' outputs by a factor at initialization, where they have a scale."""
        for norm in (self.mixer_norm, self.ffn_norm):
            for name, parameter in norm.named_parameters():
                is_offset = name == "weight" and getattr(norm, "zero_centered", False)
                parameter.copy_(factor * (parameter + 1) - 1 if is_offset else factor * parameter)

    def forward(  # type: ignore[override]  # of a stateful residual, whose state the block carries
        self, x: Tensor, mixer: Branch, ffn: Branch, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Add the normalized branches one after the other."""
        scope = StateScope(state)
        y = x + scope("mixer_norm", self.mixer_norm, mixer(x))
        return y + scope("ffn_norm", self.ffn_norm, ffn(y)), scope.state
