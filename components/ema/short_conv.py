from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Param, Recurrent, State, TensorPlan, choice, register


@register(
    "ema",
    "short_conv",
    search={"kernel_size": choice(2, 3, 4, 8)},
    params={"weight": Param("vector", tensor="column", fan_out=1), "bias": Param("vector", tensor="column")},
    tensor=TensorPlan(),
    carry="associative",
)
class ShortConvolution(Recurrent):
    """A short causal depthwise convolution, the last tap on the current token (arXiv:2212.14052).

    x: [B, T, D] -> [B, T, D].  State: past [B, kernel_size - 1, D], the latest inputs.

    Args:
        kernel_size: Length of the convolution in tokens.
        bias: Whether a learned bias is added.
    """

    bias: nn.Parameter | None

    def __init__(self, dim: int, *, kernel_size: Count = 4, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(kernel_size, dim))
        self.register_parameter("bias", nn.Parameter(torch.empty(dim)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw taps and bias from U(±1/sqrt(kernel_size)), the default of nn.Conv1d."""
        bound = len(self.weight) ** -0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def init_state(self, batch_size: int) -> State:
        """Return zeros before the first token."""
        return {"past": self.weight.new_zeros(batch_size, len(self.weight) - 1, self.weight.shape[1])}

    def summarize(self, x_BTD: Tensor) -> State:
        """Return the latest inputs of a piece."""
        size = min(x_BTD.shape[1], len(self.weight) - 1)
        return {"past": x_BTD[:, x_BTD.shape[1] - size :]} if size else {}

    def merge(self, earlier: State, later: State) -> State:
        """Return the latest inputs of two pieces."""
        return {"past": torch.cat((earlier["past"], later["past"]), dim=1)[:, -(len(self.weight) - 1) :]}

    def enter(self, summary: State) -> State:
        """Return the state after the pieces of a summary."""
        missing = len(self.weight) - 1 - summary["past"].shape[1]
        return {"past": F.pad(summary["past"], (0, 0, missing, 0)).to(self.weight.dtype)}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Convolve each channel with its taps."""
        num_tokens = x_BTD.shape[1]
        past = (state or self.init_state(x_BTD.shape[0]))["past"]
        padded = torch.cat((past.to(x_BTD.dtype), x_BTD), dim=1)
        taps = [tap * padded[:, j : j + num_tokens] for j, tap in enumerate(self.weight.to(x_BTD.dtype))]
        # A sum of a few shifted products, which torch.compile fuses; conv1d needs a transposed input, [B, D, T].
        y_BTD = torch.stack(taps).sum(0)
        y_BTD = y_BTD if self.bias is None else y_BTD + self.bias.to(y_BTD.dtype)
        return y_BTD, {"past": padded[:, num_tokens:].to(past.dtype).clone(memory_format=torch.contiguous_format)}
