"""Diagonal linear recurrences: h_t = q h_{t-1} + u_t, y_t = Re(sum over n of w_n h_{t,n}), per channel.

Letters in suffixes: B batch, T time, D channels, N states a channel, P parts of a number (1 real, or 2 for
real and imaginary), M blocks, C steps a block, S = N * P.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.ops.dispatch import find_backend
from archlab.ops.dtypes import without_autocast

BLOCK = 64


class Decay(NamedTuple):
    """The factor q = exp(log_radius + i angle) of a recurrence; `angle` is None where q is real and positive."""

    log_radius_DN: Tensor
    angle_DN: Tensor | None

    def factor(self) -> Tensor:
        """Return q [D, N, P] in float64: next to 1, float32 has lost the digits that tell how slowly it forgets."""
        decay = Decay(self.log_radius_DN.double(), None if self.angle_DN is None else self.angle_DN.double())
        return decay.powers(torch.ones(1, device=self.log_radius_DN.device, dtype=torch.float64))[:, 0]

    def split_near_integer(self) -> tuple[Tensor, Tensor]:
        """Return q as the whole number next to its real part, -1, 0 or 1 [D, N], and what is left of it [D, N, P]."""
        q_DNP, dtype = self.factor(), self.log_radius_DN.dtype
        near_DN = q_DNP[..., 0].detach().round()
        rest_DNP = torch.cat((q_DNP[..., :1] - near_DN[..., None], q_DNP[..., 1:]), dim=-1)
        return near_DN.to(dtype), rest_DNP.to(dtype)

    def powers(self, exponents_J: Tensor) -> Tensor:
        """Return q to each of these exponents, [D, J, N, P]."""
        j = exponents_J[None, :, None]
        radius = torch.exp(self.log_radius_DN[:, None] * j)
        if self.angle_DN is None:
            return radius[..., None]
        angle = self.angle_DN[:, None] * j
        return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)


def complex_mul(a: Tensor, b: Tensor) -> Tensor:
    """Multiply numbers held as parts in the last dimension: plain for one part, complex for two."""
    if a.shape[-1] == 1:
        return a * b
    (a_re, a_im), (b_re, b_im) = a.unbind(-1), b.unbind(-1)
    return torch.stack((a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re), dim=-1)


def conjugate(a: Tensor) -> Tensor:
    """Flip the imaginary part: Re(a h) is the plain dot product of the conjugate of a with h."""
    return a if a.shape[-1] == 1 else torch.stack((a[..., 0], -a[..., 1]), dim=-1)


def diagonal_scan(u_BTD: Tensor, decay: Decay, weight_DNP: Tensor, state_BDNP: Tensor | None) -> tuple[Tensor, Tensor]:
    """Run the recurrence over all of T at a cost linear in T; return y [B, T, D] and the last h [B, D, N, P].

    A faster body for the device is taken where one is installed. The plain one cuts time into blocks: inside one, a
    Toeplitz matrix; between them, the states. All of it is matrix products, in the precision of `decay`,
    whatever autocast says.
    """
    with without_autocast(u_BTD):
        u_BTD = u_BTD.to(weight_DNP.dtype)
        if u_BTD.shape[1] == 1:
            return _one_step(u_BTD, decay, weight_DNP, state_BDNP)
        body = find_backend("diagonal_scan", u_BTD)
        if body is not None:
            return body(u_BTD, *decay.split_near_integer(), weight_DNP, state_BDNP)
        return _in_blocks(u_BTD, decay, weight_DNP, state_BDNP)


def diagonal_scan_reference(
    u_BTD: Tensor, decay: Decay, weight_DNP: Tensor, state_BDNP: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Do the same one step after the other: the definition, for tests."""
    outputs = []
    for t in range(u_BTD.shape[1]):
        y_B1D, state_BDNP = _one_step(u_BTD[:, t : t + 1], decay, weight_DNP, state_BDNP)
        outputs.append(y_B1D)
    assert state_BDNP is not None
    return torch.cat(outputs, dim=1), state_BDNP


def _one_step(u_B1D: Tensor, decay: Decay, weight_DNP: Tensor, state_BDNP: Tensor | None) -> tuple[Tensor, Tensor]:
    u_BD1, near_DN, rest_DNP = u_B1D.transpose(1, 2), *decay.split_near_integer()
    if state_BDNP is None:
        state_BDNP = u_BD1.new_zeros(u_BD1.shape[0], *weight_DNP.shape)
    before, rest, weight = state_BDNP.unbind(-1), rest_DNP.unbind(-1), weight_DNP.unbind(-1)
    if len(before) == 1:
        real = near_DN * before[0] + (rest[0] * before[0] + u_BD1)
        return (weight[0] * real).sum(-1)[:, None], real[..., None]
    real = near_DN * before[0] + (rest[0] * before[0] - rest[1] * before[1] + u_BD1)
    imaginary = near_DN * before[1] + (rest[0] * before[1] + rest[1] * before[0])
    read_BDN = weight[0] * real - weight[1] * imaginary
    return read_BDN.sum(-1)[:, None], torch.stack((real, imaginary), dim=-1)


def _in_blocks(u_BTD: Tensor, decay: Decay, weight_DNP: Tensor, state_BDNP: Tensor | None) -> tuple[Tensor, Tensor]:
    B, T, D = u_BTD.shape
    N, P = weight_DNP.shape[1:]
    C = min(BLOCK, T)
    M = -(-T // C)
    powers_DJNP = decay.powers(torch.arange(C + 1, device=u_BTD.device, dtype=weight_DNP.dtype))
    reads_DJS = conjugate(complex_mul(weight_DNP[:, None].expand_as(powers_DJNP), powers_DJNP)).flatten(2)
    u_DBMC = F.pad(u_BTD, (0, 0, 0, M * C - T)).view(B, M, C, D).permute(3, 0, 1, 2)
    u_DRC = u_DBMC.reshape(D, B * M, C)

    writes_DCS = powers_DJNP[:, :C].flip(1).flatten(2)
    injected = torch.bmm(u_DRC, writes_DCS).view(D, B, M, N, P)
    starts = _block_starts(injected, decay, C, state_BDNP)
    y_DRC = torch.bmm(u_DRC, _toeplitz(reads_DJS[:, :C].view(D, C, N, P)[..., 0].sum(-1)))
    y_DRC = torch.baddbmm(y_DRC, starts.reshape(D, B * M, N * P), reads_DJS[:, 1:].transpose(1, 2))

    last = T - (M - 1) * C
    carried = complex_mul(powers_DJNP[:, last][:, None].expand(D, B, N, P), starts[:, :, -1])
    final = carried + torch.matmul(u_DBMC[:, :, -1, :last], writes_DCS[:, C - last :]).view(D, B, N, P)
    y_BTD = y_DRC.view(D, B, M * C).permute(1, 2, 0)[:, :T]
    return y_BTD.contiguous(), final.transpose(0, 1).contiguous()


def _toeplitz(kernel_DC: Tensor) -> Tensor:
    """Return [D, C, C] with kernel[t - s] at row s and column t >= s, and zeros below."""
    C = kernel_DC.shape[1]
    steps = torch.arange(C, device=kernel_DC.device)
    lag = steps[None, :] - steps[:, None]
    return torch.where(lag >= 0, kernel_DC[:, lag.clamp(min=0)], 0.0)


def _block_starts(injected: Tensor, decay: Decay, C: int, state_BDNP: Tensor | None) -> Tensor:
    """Return the state before each block, [D, B, M, N, P], by a prefix sum in log2(M) steps."""
    D, _, M, N, P = injected.shape
    first = torch.zeros_like(injected[:, :, :1])
    if state_BDNP is not None:
        first = state_BDNP.transpose(0, 1)[:, :, None].to(injected.dtype)
    ends = torch.cat((first, injected[:, :, :-1]), dim=2)
    reach = 1
    while reach < M:
        factor = decay.powers(torch.full((1,), float(C * reach), device=injected.device, dtype=injected.dtype))
        earlier = ends[:, :, :-reach]
        moved = complex_mul(factor.view(D, 1, 1, N, P).expand_as(earlier), earlier)
        ends = torch.cat((ends[:, :, :reach], ends[:, :, reach:] + moved), dim=2)
        reach *= 2
    return ends
