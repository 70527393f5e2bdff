from __future__ import annotations

from torch import Tensor, nn

from archlab import Factory, Recurrent, State, StateScope


class LayerStack(Recurrent):
    """A sequence of layers and a final norm, without embedding and head.

    x: [B, T, D] -> [B, T, D].
    """

    def __init__(self, dim: int, layers: list[Factory], norm: Factory) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(layer(dim, index) for index, layer in enumerate(layers))
        self.norm = norm(dim)

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run through the layers and the norm."""
        scope = StateScope(state)
        for index, block in enumerate(self.blocks):
            x_BTD = scope(f"blocks.{index}", block, x_BTD)
        return scope("norm", self.norm, x_BTD), scope.state
