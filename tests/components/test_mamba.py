"""Mamba and Mamba-2, against their papers' equations step by step."""

from functools import partial

import pytest
import torch
from streams import assert_one_stream, assert_same_gradients
from torch import Tensor
from torch.nn import functional as F

from archlab.components.mixer.mamba import Mamba
from archlab.components.mixer.mamba2 import Mamba2
from archlab.components.norm.rms import RMSNorm
from archlab.components.norm.timestep import TimestepNorm

B, T, D = 2, 21, 12


def moved(layer: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(5)
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.1)
    return layer


def text() -> Tensor:
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(6), dtype=torch.float64).requires_grad_()


def convolved(conv: torch.nn.Module, x_BTD: Tensor) -> Tensor:
    taps, steps = conv.weight, []
    for t in range(x_BTD.shape[1]):
        y = sum(taps[j] * x_BTD[:, t - len(taps) + 1 + j] for j in range(len(taps)) if t - len(taps) + 1 + j >= 0)
        steps.append(y if conv.bias is None else y + conv.bias)
    return F.silu(torch.stack(steps, 1))


def mamba_by_hand(m: Mamba, x_BTD: Tensor) -> Tensor:
    v, outputs = convolved(m.conv, m.x_proj(x_BTD)), []
    h = v.new_zeros(B, v.shape[-1], m.A_log.shape[1])
    for t in range(T):
        step = torch.log1p(torch.exp(m.dt_proj(m.dt_norm(m.dt_down(v[:, t])))))
        decay = torch.exp(-step[..., None] * m.A_log.exp())
        h = decay * h + step[..., None] * m.B_norm(m.B_proj(v[:, t]))[:, None] * v[:, t, :, None]
        outputs.append((h @ m.C_norm(m.C_proj(v[:, t]))[..., None])[..., 0] + m.D * v[:, t])
    return m.out_proj(torch.stack(outputs, 1) * F.silu(m.z_proj(x_BTD)))


def mamba2_by_hand(m: Mamba2, x_BTD: Tensor) -> Tensor:
    x_factor, B_factor, C_factor = m.factors
    parts = (x_factor * m.x_proj(x_BTD), B_factor * m.B_proj(x_BTD), C_factor * m.C_proj(x_BTD))
    joined = convolved(m.conv, torch.cat(parts, -1))
    v, taken, given = joined.split(m.widths, -1)
    state_dim, head_dim = m.head_dims
    outputs, h = [], v.new_zeros(B, m.num_heads, state_dim, head_dim)
    for t in range(T):
        step = torch.log1p(torch.exp(m.dt_factor * m.dt_proj(x_BTD[:, t]) + m.dt_bias))
        step = torch.where(step > (m.dt_floor or 0), step, m.dt_floor or 0)
        heads = []
        for head in range(m.num_heads):
            group = slice(head // m.group_size * state_dim, (head // m.group_size + 1) * state_dim)
            value = v[:, t, head * head_dim : (head + 1) * head_dim]
            kept = torch.exp(-step[:, head] * m.A_log[head].exp())[:, None, None] * h[:, head]
            new = kept + step[:, head, None, None] * taken[:, t, group, None] * value[:, None]
            heads.append((new, (given[:, t, None, group] @ new)[:, 0] + m.D[head] * value))
        h = torch.stack([new for new, _ in heads], 1)
        outputs.append(torch.cat([y for _, y in heads], -1))
    y, gate = torch.stack(outputs, 1), F.silu(m.z_factor * m.z_proj(x_BTD))
    if m.output_norm == "none":
        return m.out_proj(y * gate)
    groups = (y if m.output_norm == "before_gate" else y * gate).unflatten(-1, (m.num_groups, -1))
    scaled = (groups * torch.rsqrt(groups.square().mean(-1, keepdim=True) + 1e-5)).flatten(-2) * m.scale
    return m.out_proj(scaled * gate if m.output_norm == "before_gate" else scaled)


FACTORS = {f"{part}_factor": 0.5 + 0.3 * index for index, part in enumerate(("z", "x", "B", "C", "dt"))}
CASES = {
    "mamba": (Mamba, {"state_dim": 5, "dt_rank": 3}, mamba_by_hand),
    "mamba-inner-norm": (Mamba, {"state_dim": 5, "dt_rank": 3, "inner_norm": RMSNorm}, mamba_by_hand),
    "mamba-one-tap": (
        Mamba,
        {"state_dim": 1, "expand": 1, "conv_size": 1, "conv_bias": False, "bias": True},
        mamba_by_hand,
    ),
    "mamba2": (Mamba2, {"state_dim": 5, "head_dim": 4}, mamba2_by_hand),
    "mamba2-without-norm": (
        Mamba2,
        {"state_dim": 3, "head_dim": 5, "width": 35, "output_norm": "none", "bias": True} | FACTORS,
        mamba2_by_hand,
    ),
    "mamba2-norm-before-gate": (
        Mamba2,
        {"state_dim": 3, "head_dim": 5, "width": 20, "output_norm": "before_gate", "num_groups": 2, "dt_floor": 0.02},
        mamba2_by_hand,
    ),
    "mamba2-groups": (Mamba2, {"state_dim": 3, "head_dim": 4, "num_groups": 3, "bias": True}, mamba2_by_hand),
}


@pytest.mark.parametrize(("cls", "knobs", "by_hand"), CASES.values(), ids=CASES)
def test_it_is_the_recurrence_of_the_paper(cls, knobs, by_hand) -> None:
    layer, x = moved(cls(D, **knobs)), text()
    assert_same_gradients(layer(x)[0], by_hand(layer, x), [x, *layer.parameters()])
    with torch.no_grad():
        assert_one_stream(layer, x)


def test_dt_is_initialized_in_its_range() -> None:
    for bias in (Mamba(64, dt_min=0.01, dt_max=0.02).dt_proj.bias, Mamba2(64, dt_min=0.01, dt_max=0.02).dt_bias):
        assert ((F.softplus(bias) > 0.0099) & (F.softplus(bias) < 0.0201)).all()
    torch.testing.assert_close(Mamba(8, state_dim=3).A_log.exp()[5], torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    ("cls", "knobs", "problem"),
    [
        (Mamba, {"dt_min": 0.2}, r"dt_min 0\.2 is above dt_max 0\.1"),
        (Mamba, {"inner_norm": partial(TimestepNorm, num_groups=1)}, "inner_norm TimestepNorm has a state"),
        (Mamba2, {"head_dim": 5}, r"expand \* dim 24 is not divisible by head_dim 5"),
        (Mamba2, {"head_dim": 5, "width": 13}, "width 13 is not divisible by head_dim 5"),
        (Mamba2, {"head_dim": 4, "num_groups": 4}, "the number of heads 6 is not divisible by"),
    ],
)
def test_widths_that_do_not_fit_are_refused(cls, knobs, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        cls(D, **knobs)
