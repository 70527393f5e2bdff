from __future__ import annotations

from torch import Tensor, nn

from archlab import Factory, Recurrent, State, StateScope

from ._layers import connect_layers, run_layers
from ._streams import close_streams, count_streams, open_streams


class LayerStack(Recurrent):
    """A sequence of layers and a final norm, without embedding and head.

    x: [B, T, D] -> [B, T, D].
    """

    def __init__(self, dim: int, layers: list[Factory], norm: Factory) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(layer(dim, index) for index, layer in enumerate(layers))
        self.num_streams = count_streams(self.blocks)
        self.kv_sources = connect_layers(self.blocks)
        self.norm = norm(dim)

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run through the layers and the norm."""
        scope = StateScope(state)
        order = [(index, 0) for index in range(len(self.blocks))]
        x = run_layers(scope, self.blocks, open_streams(x_BTD, self.num_streams), order, self.kv_sources)
        return scope("norm", self.norm, close_streams(x, self.num_streams)), scope.state
