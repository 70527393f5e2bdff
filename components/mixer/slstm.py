from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Factory, Heads, Param, Positive, Recurrent, State, StateScope, choice, register, slot
from archlab.components.norm.group import GroupNorm
from archlab.ops.slstm import SLSTMState, init_slstm_state, slstm

from ._heads import head_width, heads
from .rg_lru import HeadLinear

ForgetGate: TypeAlias = Literal["sigmoid", "exponential"]


@register(
    "mixer",
    "slstm",
    search={"num_heads": choice(1, 2, 4, 8), "forget_gate": choice("sigmoid", "exponential")},
    params={
        "recurrent": Param("hidden", fan_in=2, fan_out=3),
        "*.weight": Param("hidden", fan_in=1, fan_out=2),
        "*.bias": Param("vector"),
    },
)
class SLSTM(Recurrent):
    """The scalar LSTM of xLSTM: exponential gates, and recurrent weights within each head (arXiv:2405.04517).

    x: [B, T, D] -> [B, T, D].  State: that of the convolution, and h, cell, normalizer and peak [B, H, W] in at least
    float32, W = D / H.
    Each head's input and forget gates read its channels of the convolved input, its cell input and output gate those of
    x, and all four its last output (eqs. 8 to 17, and the block of figure 10); outputs are normalized per head.
    Steps depend on each other through their gates, so that they run one after the other: there is no parallel form.
    Raises ValueError where num_heads does not divide D.
    Deviations: input gates have no bias, which cancels in cell / normalizer. Forget gates begin with memories of 20 to
    400 tokens, whatever the layer's index.

    Args:
        num_heads: Number of heads, within which channels read each other's last outputs.
        ema: Short convolution or moving average before the input and the forget gate.
        forget_gate: Function of the forget gate.
        eps: Constant added to the variance in the output norm.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Heads = 4,
        ema: Factory = slot("ema", "short_conv"),
        forget_gate: ForgetGate = "sigmoid",
        eps: Positive = 1e-5,
    ) -> None:
        super().__init__()
        self.num_heads, self.forget_gate_function = num_heads, forget_gate
        size = head_width("dim", dim, num_heads)
        self.ema = ema(dim)
        self.input_gate, self.forget_gate = HeadLinear(num_heads, size, bias=False), HeadLinear(num_heads, size)
        self.cell_input, self.output_gate = HeadLinear(num_heads, size), HeadLinear(num_heads, size)
        self.recurrent = nn.Parameter(torch.empty(4, num_heads, size, size))
        self.norm = GroupNorm(dim, num_groups=num_heads, eps=eps, zero_centered=False, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Begin without recurrent weights, as the authors' code, and with forget gates of 0.95 to 0.998."""
        nn.init.zeros_(self.recurrent)
        bias_HW = self.forget_gate.bias
        assert bias_HW is not None
        bias_HW.copy_(torch.linspace(3.0, 6.0, bias_HW.shape[1], device=bias_HW.device))

    def shrink_branch(self, factor: float) -> None:
        """Multiply the output norm's scale by a factor at initialization."""
        self.norm.shrink_branch(factor)

    def init_state(self, batch_size: int) -> State:
        """Return the state of the convolution, and that of empty cells."""
        start = init_slstm_state(self.recurrent.new_zeros(batch_size, *self.recurrent.shape[1:3]))
        return super().init_state(batch_size) | start._asdict()

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Convolve, compute the gates' inputs, run the cells, and normalize their outputs."""
        state = state or self.init_state(x_BTD.shape[0])
        scope = StateScope(state)
        x, convolved = (heads(part, self.num_heads) for part in (x_BTD, F.silu(scope("ema", self.ema, x_BTD))))
        of_gates = (self.input_gate(convolved), self.forget_gate(convolved), self.cell_input(x), self.output_gate(x))
        start = SLSTMState(*(state[name] for name in SLSTMState._fields))
        is_exponential = self.forget_gate_function == "exponential"
        h_BTHW, last = slstm(torch.stack(of_gates, 2), self.recurrent, start, exponential=is_exponential)
        return self.norm(h_BTHW.flatten(-2)).to(x_BTD.dtype), scope.state | last._asdict()
