"""The recurrence of selective state spaces: a few states a channel, whose decay the tokens choose.

Letters in suffixes: B batch, T time, D channels, N states of a channel, M blocks, C steps a block.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ._numerics import at_least_float32, without_autocast

BLOCK = 16


def selective_scan(
    x_BTD: Tensor, step_BTD: Tensor, rate_DN: Tensor, in_BTN: Tensor, out_BTN: Tensor, state_BDN: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run h_t = exp(step_t rate) h_{t-1} + step_t x_t in_t; return y_t = h_t · out_t [B, T, D] and the last h.

    Steps are at least 0 and rates at most 0, so that no factor exceeds one. h is [B, D, N] in at least float32; y has
    x's dtype.
    """
    with without_autocast(x_BTD):
        x, step, rate, taken, given = (at_least_float32(a) for a in (x_BTD, step_BTD, rate_DN, in_BTN, out_BTN))
        first = _empty(x, rate) if state_BDN is None else at_least_float32(state_BDN)
        added_BTDN = (step * x)[..., None] * taken[:, :, None]
        states_BTDN, last = decayed_sums((step[..., None] * rate).exp(), added_BTDN, first)
        return torch.einsum("btdn,btn->btd", states_BTDN, given).to(x_BTD.dtype), last


def selective_scan_reference(
    x_BTD: Tensor, step_BTD: Tensor, rate_DN: Tensor, in_BTN: Tensor, out_BTN: Tensor, state_BDN: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Do the same one step after the other: the definition, for tests."""
    x, step, rate, taken, given = (at_least_float32(a) for a in (x_BTD, step_BTD, rate_DN, in_BTN, out_BTN))
    h_BDN, outputs = _empty(x, rate) if state_BDN is None else at_least_float32(state_BDN), []
    for t in range(x.shape[1]):
        h_BDN = (step[:, t, :, None] * rate).exp() * h_BDN + (step * x)[:, t, :, None] * taken[:, t, None]
        outputs.append((h_BDN * given[:, t, None]).sum(-1))
    return torch.stack(outputs, 1).to(x_BTD.dtype), h_BDN


def _empty(x_BTD: Tensor, rate_DN: Tensor) -> Tensor:
    return x_BTD.new_zeros(x_BTD.shape[0], *rate_DN.shape)


def decayed_sums(factors_BT: Tensor, added_BT: Tensor, first_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return h_t = factors_t h_{t-1} + added_t for every t [B, T, ...], and the last of its own memory.

    The steps of a block follow each other in all blocks at once, then the blocks' ends do so by the same rule.
    """
    T = added_BT.shape[1]
    if T <= BLOCK:
        return _in_turn(factors_BT, added_BT, first_B)
    factors, added = (_blocks(x, fill) for x, fill in ((factors_BT, 1.0), (added_BT, 0.0)))
    alone, whole = _alone(factors, added)
    ends, last = decayed_sums(whole[:, :, -1], alone[:, :, -1], first_B)
    starts = torch.cat((first_B[:, None], ends[:, :-1]), 1)
    return (alone + whole * starts[:, :, None]).flatten(1, 2)[:, :T], last


def _in_turn(factors_BT: Tensor, added_BT: Tensor, first_B: Tensor) -> tuple[Tensor, Tensor]:
    states = [first_B]
    for factor, added in zip(factors_BT.unbind(1), added_BT.unbind(1), strict=True):
        states.append(factor * states[-1] + added)
    return torch.stack(states[1:], 1), states[-1].clone()


def _alone(factors_BMC: Tensor, added_BMC: Tensor) -> tuple[Tensor, Tensor]:
    """Return every block's states as if it were the first, and the products of its factors so far."""
    states, products = [added_BMC[:, :, 0]], [factors_BMC[:, :, 0]]
    for factor, added in zip(factors_BMC.unbind(2)[1:], added_BMC.unbind(2)[1:], strict=True):
        states.append(factor * states[-1] + added)
        products.append(factor * products[-1])
    return torch.stack(states, 2), torch.stack(products, 2)


def _blocks(x_BT: Tensor, fill: float) -> Tensor:
    padded = F.pad(x_BT, (0, 0) * (x_BT.dim() - 2) + (0, -x_BT.shape[1] % BLOCK), value=fill)
    return padded.unflatten(1, (-1, BLOCK))
