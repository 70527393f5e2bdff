"""The operations of the benchmark, each with inputs of one size.

Letters in suffixes: B batch, T time, D channels, N states a channel, G groups, H heads, K width of a key, V width of a
value or vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from archlab.ops.causal_attention import causal_attention
from archlab.ops.diagonal_scan import Decay, diagonal_scan
from archlab.ops.gated_linear import gated_linear
from archlab.ops.linear_cross_entropy import linear_cross_entropy
from archlab.ops.selective_scan import selective_scan
from archlab.ops.slstm import init_slstm_state, slstm
from archlab.ops.timestep_norm import timestep_norm

B, T, D = 1, 4096, 512

Operation = Callable[..., Tensor]


def _causal_attention(device: torch.device) -> tuple[Operation, tuple[Tensor, ...]]:
    H = 4

    def call(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q_BTHK, k_BTHK, v_BTHV))
        return causal_attention(q, k, v, (D // H) ** -0.5)

    return call, tuple(torch.randn(B, T, H, D // H, device=device) for _ in range(3))


def _diagonal_scan(device: torch.device) -> tuple[Operation, tuple[Tensor, ...]]:
    def call(u_BTD: Tensor, log_radius_DN: Tensor, angle_DN: Tensor, weight_DNP: Tensor) -> Tensor:
        return diagonal_scan(u_BTD, Decay(log_radius_DN, angle_DN), weight_DNP, None)[0]

    shapes = ((B, T, D), (D, 16), (D, 16), (D, 16, 2))
    u_BTD, log_radius_DN, angle_DN, weight_DNP = (torch.rand(shape, device=device) for shape in shapes)
    return call, (u_BTD, -log_radius_DN, angle_DN, weight_DNP)


def _selective_scan(device: torch.device) -> tuple[Operation, tuple[Tensor, ...]]:
    def call(x_BTD: Tensor, dt_BTD: Tensor, A_DN: Tensor, in_BTN: Tensor, out_BTN: Tensor) -> Tensor:
        return selective_scan(x_BTD, dt_BTD, A_DN, in_BTN, out_BTN)[0]

    shapes = ((B, T, D), (B, T, D), (D, 16), (B, T, 16), (B, T, 16))
    x_BTD, dt_BTD, A_DN, in_BTN, out_BTN = (torch.rand(shape, device=device) for shape in shapes)
    return call, (x_BTD, dt_BTD, -A_DN, in_BTN, out_BTN)


def _slstm(device: torch.device) -> tuple[Operation, tuple[Tensor, ...]]:
    # Few steps of several samples: without a backend, a compiler unrolls them.
    samples, steps, H = 16, min(T, 32), 4

    def call(gates_BTGHW: Tensor, recurrent_GHWW: Tensor) -> Tensor:
        return slstm(gates_BTGHW, recurrent_GHWW, init_slstm_state(gates_BTGHW[:, 0, 0]))[0]

    shapes = ((samples, steps, 4, H, D // H), (4, H, D // H, D // H))
    gates_BTGHW, recurrent_GHWW = (torch.randn(shape, device=device) for shape in shapes)
    return call, (gates_BTGHW, recurrent_GHWW * (D // H) ** -0.5)


def _timestep_norm(device: torch.device) -> tuple[Operation, tuple[Tensor, ...]]:
    G = 32
    count_B = torch.zeros(B, dtype=torch.int64, device=device)
    mean_BG, var_BG = (torch.full((B, G), float(n), dtype=torch.float64, device=device) for n in (0, 1))

    def call(x_BTD: Tensor, scale_D: Tensor, bias_D: Tensor) -> Tensor:
        return timestep_norm(x_BTD, scale_D, bias_D, count_B, mean_BG, var_BG, 1e-5)[0]

    return call, tuple(torch.rand(shape, device=device) for shape in ((B, T, D), (D,), (D,)))


def _gated_linear(device: torch.device) -> tuple[Operation, tuple[Tensor, ...]]:
    H = 4

    def call(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, log_decay_BTHK: Tensor) -> Tensor:
        return gated_linear(q_BTHK, k_BTHK, v_BTHV, log_decay_BTHK)[0]

    q_BTHK, k_BTHK, v_BTHV, decay_BTHK = (torch.rand(B, T, H, D // H, device=device) for _ in range(4))
    return call, (q_BTHK, k_BTHK, v_BTHV, -decay_BTHK)


def _logit_gradients(device: torch.device) -> tuple[Operation, tuple[Tensor, ...]]:
    vocab_size, num_tokens = 32_000, B * T // 8
    x_ND, weight_VD = torch.randn(num_tokens, D, device=device), torch.randn(vocab_size, D, device=device)
    return linear_cross_entropy, (x_ND, weight_VD, torch.randint(vocab_size, (num_tokens,), device=device))


CASES: dict[str, Callable[[torch.device], tuple[Operation, tuple[Tensor, ...]]]] = {
    "causal_attention": _causal_attention,
    "diagonal_scan": _diagonal_scan,
    "selective_scan": _selective_scan,
    "slstm": _slstm,
    "timestep_norm": _timestep_norm,
    "gated_linear": _gated_linear,
    "logit_gradients": _logit_gradients,
}
