"""Diagonal linear recurrences: h_t = q h_{t-1} + u_t, y_t = Re(sum over n of w_n h_{t,n}), per channel.

Letters in suffixes: B batch, T time, D channels, N states a channel, P parts of a number (1 real, or 2 for
real and imaginary), M chunks, C steps a chunk, S = N * P.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.ops.dispatch import find_backend
from archlab.ops.dtypes import without_autocast

CHUNK = 64  # steps of a chunk, whose Toeplitz matrix is [CHUNK, CHUNK] per channel


class Decay(NamedTuple):
    """The factor q = exp(log_radius + i angle) of a recurrence; `angle` is None where q is real and positive."""

    log_radius_DN: Tensor
    angle_DN: Tensor | None

    def factor(self) -> Tensor:
        """Return q [D, N, P] in float64."""
        # Near 1, float32 rounds q to multiples of 6e-8: a decay of 1e-6 a step would be off by several percent.
        decay = Decay(self.log_radius_DN.double(), None if self.angle_DN is None else self.angle_DN.double())
        return decay.powers(torch.ones(1, device=self.log_radius_DN.device, dtype=torch.float64))[:, 0]

    def split_near_integer(self) -> tuple[Tensor, Tensor]:
        """Return q as a sum: the integer nearest to its real part, -1, 0 or 1 [D, N], and the remainder [D, N, P]."""
        # The sum is exact, and each term keeps all its digits in float32 where q itself would not: for q near 1 the
        # remainder is q - 1. The integer is a constant, so gradients by q are those by the remainder.
        q_DNP, dtype = self.factor(), self.log_radius_DN.dtype
        near_DN = q_DNP[..., 0].detach().round()
        rest_DNP = torch.cat((q_DNP[..., :1] - near_DN[..., None], q_DNP[..., 1:]), dim=-1)
        return near_DN.to(dtype), rest_DNP.to(dtype)

    def powers(self, exponents_J: Tensor) -> Tensor:
        """Return q to the power of each exponent, [D, J, N, P]."""
        j = exponents_J[None, :, None]
        radius = torch.exp(self.log_radius_DN[:, None] * j)
        if self.angle_DN is None:
            return radius[..., None]
        angle = self.angle_DN[:, None] * j
        return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)


def complex_mul(a: Tensor, b: Tensor) -> Tensor:
    """Multiply numbers whose parts are the last dimension: real ones of one part, complex ones of two."""
    if a.shape[-1] == 1:
        return a * b
    (a_re, a_im), (b_re, b_im) = a.unbind(-1), b.unbind(-1)
    return torch.stack((a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re), dim=-1)


def conjugate(a: Tensor) -> Tensor:
    """Negate the imaginary part: the dot product of the parts of this and of h is the real part of a h."""
    return a if a.shape[-1] == 1 else torch.stack((a[..., 0], -a[..., 1]), dim=-1)


def diagonal_scan(u_BTD: Tensor, decay: Decay, weight_DNP: Tensor, state_BDNP: Tensor | None) -> tuple[Tensor, Tensor]:
    """Run the recurrence over all of T at a cost linear in T; return y [B, T, D] and the last h [B, D, N, P].

    Computed in the dtype of `weight`, also under autocast, by the device's backend where there is one. The PyTorch
    implementation splits time into chunks: matrix products with a Toeplitz matrix inside a chunk, and a parallel
    prefix sum of states between chunks.
    """
    with without_autocast(u_BTD):
        u_BTD = u_BTD.to(weight_DNP.dtype)
        if u_BTD.shape[1] == 1:
            return _one_step(u_BTD, decay, weight_DNP, state_BDNP)
        backend = find_backend("diagonal_scan", u_BTD)
        if backend is not None:
            return backend(u_BTD, *decay.split_near_integer(), weight_DNP, state_BDNP)
        return _chunked(u_BTD, decay, weight_DNP, state_BDNP)


def complex_scan(u_BTN2: Tensor, decay: Decay, state_BN2: Tensor | None) -> tuple[Tensor, Tensor]:
    """Run h_t = q h_{t-1} + u_t for complex u and one complex q per state, [N, 1]; return every h, and the last.

    Computed in the dtype of the decay.
    """
    # A real input has complex states. Two channels read their real and their imaginary part, for the real and for the
    # imaginary part of u: h = a + i b of their states a and b. An earlier h is a's.
    u_BTN2 = u_BTN2.to(decay.log_radius_DN.dtype)
    N, (real, imaginary) = u_BTN2.shape[2], u_BTN2.unbind(-1)
    parts_2N12 = torch.eye(2, dtype=real.dtype, device=real.device).repeat_interleave(N, 0)[:, None]
    state = None if state_BN2 is None else F.pad(state_BN2.repeat(1, 2, 1), (0, 0, 0, 2 * N))[:, :, None]
    fourfold = Decay(*(None if x is None else x.repeat(4, 1) for x in decay))  # type: ignore[arg-type]
    read = conjugate(parts_2N12).repeat(2, 1, 1)
    y_BTJ, last = diagonal_scan(torch.cat((real, real, imaginary, imaginary), -1), fourfold, read, state)
    a_real, a_imaginary, b_real, b_imaginary = y_BTJ.split(N, -1)
    h_BTN2 = torch.stack((a_real - b_imaginary, a_imaginary + b_real), -1)
    a, b = last[:, :N, 0], last[:, 2 * N : 3 * N, 0]
    return h_BTN2, torch.stack((a[..., 0] - b[..., 1], a[..., 1] + b[..., 0]), -1)


def diagonal_scan_reference(
    u_BTD: Tensor, decay: Decay, weight_DNP: Tensor, state_BDNP: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Compute the same step by step: the definition, for tests."""
    outputs = []
    for t in range(u_BTD.shape[1]):
        y_B1D, state_BDNP = _one_step(u_BTD[:, t : t + 1], decay, weight_DNP, state_BDNP)
        outputs.append(y_B1D)
    assert state_BDNP is not None
    return torch.cat(outputs, dim=1), state_BDNP


def _one_step(u_B1D: Tensor, decay: Decay, weight_DNP: Tensor, state_BDNP: Tensor | None) -> tuple[Tensor, Tensor]:
    # Small terms are added to each other first, so that near * h, the large one, is rounded once. Parts are computed
    # by themselves: a compiler then vectorizes each over states, which it does not do for interleaved parts.
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


def _chunked(u_BTD: Tensor, decay: Decay, weight_DNP: Tensor, state_BDNP: Tensor | None) -> tuple[Tensor, Tensor]:
    B, T, D = u_BTD.shape
    N, P = weight_DNP.shape[1:]
    # With S the state before a chunk and j = 0, ..., C - 1 its steps,
    #     y_j = Re(w q^(j + 1) S) + sum over i <= j of Re(w q^(j - i)) u_i,
    # summed over n. The first term is a product of `starts` with `reads`, the second one with a Toeplitz matrix of the
    # kernel Re(w q^j). A chunk adds the sum over i of q^(C - 1 - i) u_i to q^C S: a product of u with `writes`.
    C = min(CHUNK, T)
    M = -(-T // C)
    powers_DJNP = decay.powers(torch.arange(C + 1, device=u_BTD.device, dtype=weight_DNP.dtype))
    reads_DJS = conjugate(complex_mul(weight_DNP[:, None].expand_as(powers_DJNP), powers_DJNP)).flatten(2)
    u_DBMC = F.pad(u_BTD, (0, 0, 0, M * C - T)).view(B, M, C, D).permute(3, 0, 1, 2)
    u_DRC = u_DBMC.reshape(D, B * M, C)

    writes_DCS = powers_DJNP[:, :C].flip(1).flatten(2)
    injected = torch.bmm(u_DRC, writes_DCS).view(D, B, M, N, P)
    starts = _chunk_starts(injected, decay, C, state_BDNP)
    y_DRC = torch.bmm(u_DRC, _toeplitz(reads_DJS[:, :C].view(D, C, N, P)[..., 0].sum(-1)))
    y_DRC = torch.baddbmm(y_DRC, starts.reshape(D, B * M, N * P), reads_DJS[:, 1:].transpose(1, 2))

    # The last chunk is padded with zeros, which would decay the state further: only its first `last` steps count.
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


def _chunk_starts(injected: Tensor, decay: Decay, C: int, state_BDNP: Tensor | None) -> Tensor:
    """Return the state before each chunk, [D, B, M, N, P], by a parallel prefix sum in log2(M) steps."""
    D, _, M, N, P = injected.shape
    first = torch.zeros_like(injected[:, :, :1])
    if state_BDNP is not None:
        first = state_BDNP.transpose(0, 1)[:, :, None].to(injected.dtype)
    ends = torch.cat((first, injected[:, :, :-1]), dim=2)
    # Hillis and Steele: after each round, an entry sums twice as many earlier chunks, each decayed by q^C per chunk.
    reach = 1
    while reach < M:
        factor = decay.powers(torch.full((1,), float(C * reach), device=injected.device, dtype=injected.dtype))
        earlier = ends[:, :, :-reach]
        decayed = complex_mul(factor.view(D, 1, 1, N, P).expand_as(earlier), earlier)
        ends = torch.cat((ends[:, :, :reach], ends[:, :, reach:] + decayed), dim=2)
        reach *= 2
    return ends
