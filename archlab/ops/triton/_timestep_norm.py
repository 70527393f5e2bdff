"""Kernels of TimestepNorm: a program processes all of time for one group of one sample.

A program loads tiles of STEPS x CHANNELS, the K channels of its group padded to a power of two. Sums over channels
give a value per step, an associative scan over the tile's steps their prefix sums, and two float64 scalars carry the
sums from tile to tile. Each tensor is so read or written once, and no two programs share an output.

Letters in suffixes: B batch, T time, D channels, G groups.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_pairs(a, b, c, d):
    """Add two pairs: the combining function of a scan of two sums."""
    return a + c, b + d


@triton.jit
def forward(
    x, scale, bias, count, mean, var, y, last_mean, last_var, near, shift, rate, T, D,
    EPS: tl.constexpr, K: tl.constexpr, CHANNELS: tl.constexpr, STEPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Compute y [B, T, D] and the last mean and variance [B, G], in one pass over time.

    Saved for the backward pass: the reference point near the mean [B, G], each step's mean relative to it (`shift`) and
    its 1 / sqrt(variance + EPS) (`rate`), both [B, G, T]. A negative rate marks a variance that was clamped to 0, which
    has no gradient.
    """
    group, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    dtype: tl.constexpr = near.dtype.element_ty
    pair, start = sample * tl.num_programs(0) + group, sample * T * D + group * K
    steps, channels = tl.arange(0, STEPS), tl.arange(0, CHANNELS)
    inside = (channels < K)[None, :]
    scales = tl.load(scale + group * K + channels, mask=channels < K, other=0.0)[None, :]
    biases = tl.load(bias + group * K + channels, mask=channels < K, other=0.0)[None, :]
    seen, carried = tl.load(count + sample).to(tl.float64), tl.load(mean + pair)
    # Moments are taken of distances from a fixed point near the mean, the carried mean or the first step's, as
    # E[x^2] - E[x]^2 would cancel where the mean is much larger than the deviation. `off` is the carried mean relative
    # to that point, and the carried sums are those of d and of d^2, whose mean is var + off^2.
    origin = tl.sum(tl.load(x + start + channels, mask=channels < K, other=0.0).to(dtype), 0) / K
    origin = tl.where(seen > 0, carried.to(dtype), origin)
    off = tl.where(seen > 0, carried - origin.to(tl.float64), 0.0)
    first, second = seen * off, seen * (tl.load(var + pair) + off * off)
    for tile in tl.range(0, T, STEPS, num_stages=STAGES):
        step = tile + steps
        valid, valid_tile = step < T, (step < T)[:, None] & inside
        at = start + step.to(tl.int64)[:, None] * D + channels[None, :]
        distance = tl.where(valid_tile, tl.load(x + at, mask=valid_tile, other=0.0).to(dtype) - origin, 0.0)
        averages = (tl.sum(distance, 1) / K).to(tl.float64)
        squares = (tl.sum(distance * distance, 1) / K).to(tl.float64)
        firsts, seconds = tl.associative_scan((averages, squares), 0, add_pairs)
        inverse_count = 1.0 / (seen + (step + 1).to(tl.float64))
        means = (first + firsts) * inverse_count
        variance = (second + seconds) * inverse_count - means * means
        rates, means = tl.rsqrt(tl.maximum(variance, 0.0).to(dtype) + EPS), means.to(dtype)
        out = (distance - means[:, None]) * rates[:, None] * scales + biases
        tl.store(y + at, out.to(y.dtype.element_ty), mask=valid_tile)
        tl.store(shift + pair * T + step, means, mask=valid)
        tl.store(rate + pair * T + step, tl.where(variance < 0, -rates, rates), mask=valid)
        first, second = first + tl.sum(averages, 0), second + tl.sum(squares, 0)
    last_shift = first / (seen + T)
    tl.store(near + pair, origin)
    tl.store(last_mean + pair, origin.to(tl.float64) + last_shift)
    tl.store(last_var + pair, tl.maximum(second / (seen + T) - last_shift * last_shift, 0.0))


@triton.jit
def backward(
    x, dy, scale, count, mean, near, shift, rate, dlast_mean, dlast_var, dx, dscale, dbias, dmean, dvar, T, D,
    K: tl.constexpr, CHANNELS: tl.constexpr, STEPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Compute dx [B, T, D], dscale and dbias [B, D], dmean and dvar [B, G], in one pass backward in time.

    With distances d from the reference point, n_t steps up to t, and averages over the K channels of a group,
        m_t = (first + sum over s <= t of average d_s) / n_t,
        var_t = (second + sum over s <= t of average d_s^2) / n_t - m_t^2,
        y_t = (d_t - m_t) r_t scale + bias,  r_t = (var_t + EPS)^(-1/2).
    Let o_t = dy_t scale. The gradients by m_t with var_t fixed, and by var_t, sum over channels:
        g_t = -sum of o_t r_t,  v_t = sum of o_t (d_t - m_t) (-1/2) r_t^3;
    the last mean and variance add theirs at the last step. As var_t contains -m_t^2, the sums of d and of d^2 have the
    gradients (g_t - 2 m_t v_t) / n_t and v_t / n_t. Step s is part of the sums of all t >= s, so
        dx_s = o_s r_s + (e_s + 2 d_s f_s) / K,
    where e_s and f_s add those two over t >= s: scans in float64, from the last step on. The carried sums are
    first = n_0 off and second = n_0 (var + off^2), with off the carried mean relative to the reference point, so
        dmean = n_0 (e + 2 off f),  dvar = n_0 f.
    The reference point itself has no gradient, as no output depends on it.
    """
    group, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    dtype: tl.constexpr = near.dtype.element_ty
    pair, start = sample * tl.num_programs(0) + group, sample * T * D + group * K
    steps, channels = tl.arange(0, STEPS), tl.arange(0, CHANNELS)
    inside = (channels < K)[None, :]
    scales = tl.load(scale + group * K + channels, mask=channels < K, other=0.0)[None, :]
    seen, origin = tl.load(count + sample).to(tl.float64), tl.load(near + pair)
    by_mean, by_var = tl.load(dlast_mean + pair), tl.load(dlast_var + pair)
    # Sums over later tiles of the gradients by the sums of d and of d^2. Those by scale and bias keep a row per step of
    # a tile, so that rows are summed once, at the end.
    by_first, by_second = tl.zeros_like(by_mean), tl.zeros_like(by_mean)
    by_scale = tl.zeros((STEPS, CHANNELS), dtype)
    by_bias = tl.zeros((STEPS, CHANNELS), dtype)
    for tile in tl.range(0, T, STEPS, num_stages=STAGES):
        step = T - 1 - tile - steps
        valid, valid_tile = step >= 0, (step >= 0)[:, None] & inside
        at = start + step.to(tl.int64)[:, None] * D + channels[None, :]
        means = tl.load(shift + pair * T + step, mask=valid, other=0.0)
        signed = tl.load(rate + pair * T + step, mask=valid, other=0.0)
        rates = tl.abs(signed)[:, None]
        dout = tl.load(dy + at, mask=valid_tile, other=0.0).to(dtype)
        centered = tl.load(x + at, mask=valid_tile, other=0.0).to(dtype) - origin - means[:, None]
        normal = tl.where(valid_tile, centered * rates, 0.0)
        by_scale += dout * normal
        by_bias += dout
        dout *= scales
        g = tl.sum(dout * -rates, 1).to(tl.float64) + tl.where(step == T - 1, by_mean, 0.0)
        v = tl.sum(dout * normal * (-0.5 * rates * rates), 1).to(tl.float64) + tl.where(step == T - 1, by_var, 0.0)
        v = tl.where(signed > 0, v, 0.0)  # none where the variance was clamped, or beyond the first step
        inverse_count = 1.0 / (seen + tl.maximum(step + 1, 1).to(tl.float64))
        wide_means = means.to(tl.float64)
        firsts, seconds = (g - 2.0 * wide_means * v) * inverse_count, v * inverse_count
        e, f = tl.associative_scan((firsts, seconds), 0, add_pairs)
        e, f = by_first + e, 2.0 * (by_second + f)
        # d = m + (d - m): the small centered part is multiplied by itself, so that it keeps its digits. f is doubled.
        dout = dout * rates + ((e + wide_means * f) / K).to(dtype)[:, None] + centered * (f / K).to(dtype)[:, None]
        tl.store(dx + at, dout.to(dx.dtype.element_ty), mask=valid_tile)
        by_first, by_second = by_first + tl.sum(firsts, 0), by_second + tl.sum(seconds, 0)
    tl.store(dscale + sample * D + group * K + channels, tl.sum(by_scale, 0), mask=channels < K)
    tl.store(dbias + sample * D + group * K + channels, tl.sum(by_bias, 0), mask=channels < K)
    off = tl.where(seen > 0, tl.load(mean + pair) - origin.to(tl.float64), 0.0)
    tl.store(dmean + pair, seen * (by_first + 2.0 * off * by_second))
    tl.store(dvar + pair, seen * by_second)
