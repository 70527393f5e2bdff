from __future__ import annotations

from torch import Tensor, nn

from archlab import Factory, Recurrent, State, StateScope


class LayerStack(Recurrent):
    """Layers one after the other and a norm behind them, without ends.

    x: [B, T, D] -> [B, T, D].
    """

    def __init__(self, dim: int, layers: list[Factory], norm: Factory) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(layer(dim, index) for index, layer in enumerate(layers))
        self.norm = norm(dim)

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run through all of them."""
        stream = StateScope(state)
        for index, block in enumerate(self.blocks):
            x_BTD = stream(f"blocks.{index}", block, x_BTD)
        return stream("norm", self.norm, x_BTD), stream.state
