"""Kernels of the normalisation by the statistics of all steps so far: a program walks over all of time for one group.

Letters in suffixes: B batch, T time, D channels, G groups.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def added(a, b, c, d):
    """Add two pairs."""
    return a + c, b + d


@triton.jit
def forward(
    x, scale, bias, count, mean, var, y, last_mean, last_var, near, shift, rate, T, D,
    EPS: tl.constexpr, K: tl.constexpr, CHANNELS: tl.constexpr, STEPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Compute y [B, T, D] and the last mean and variance [B, G], in one walk over time.

    For the backward walk it keeps the fixed point near the mean [B, G], the mean of every step as seen from there and
    its rate 1 / sqrt(variance + EPS), [B, G, T] both; a negative rate tells of a variance that was held at 0.
    """
    group, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    kind: tl.constexpr = near.dtype.element_ty
    cell, start = sample * tl.num_programs(0) + group, sample * T * D + group * K
    steps, channels = tl.arange(0, STEPS), tl.arange(0, CHANNELS)
    inside = (channels < K)[None, :]
    scales = tl.load(scale + group * K + channels, mask=channels < K, other=0.0)[None, :]
    biases = tl.load(bias + group * K + channels, mask=channels < K, other=0.0)[None, :]
    seen, carried = tl.load(count + sample).to(tl.float64), tl.load(mean + cell)
    origin = tl.sum(tl.load(x + start + channels, mask=channels < K, other=0.0).to(kind), 0) / K
    origin = tl.where(seen > 0, carried.to(kind), origin)
    off = tl.where(seen > 0, carried - origin.to(tl.float64), 0.0)
    first, second = seen * off, seen * (tl.load(var + cell) + off * off)
    for tile in tl.range(0, T, STEPS, num_stages=STAGES):
        step = tile + steps
        held, real = step < T, (step < T)[:, None] & inside
        at = start + step.to(tl.int64)[:, None] * D + channels[None, :]
        distance = tl.where(real, tl.load(x + at, mask=real, other=0.0).to(kind) - origin, 0.0)
        metrics_are_per_token = (tl.sum(distance, 1) / K).to(tl.float64)
        squares = (tl.sum(distance * distance, 1) / K).to(tl.float64)
        firsts, seconds = tl.associative_scan((metrics_are_per_token, squares), 0, added)
        less = 1.0 / (seen + (step + 1).to(tl.float64))
        means = (first + firsts) * less
        spread = (second + seconds) * less - means * means
        rates, means = tl.rsqrt(tl.maximum(spread, 0.0).to(kind) + EPS), means.to(kind)
        out = (distance - means[:, None]) * rates[:, None] * scales + biases
        tl.store(y + at, out.to(y.dtype.element_ty), mask=real)
        tl.store(shift + cell * T + step, means, mask=held)
        tl.store(rate + cell * T + step, tl.where(spread < 0, -rates, rates), mask=held)
        first, second = first + tl.sum(metrics_are_per_token, 0), second + tl.sum(squares, 0)
    final = first / (seen + T)
    tl.store(near + cell, origin)
    tl.store(last_mean + cell, origin.to(tl.float64) + final)
    tl.store(last_var + cell, tl.maximum(second / (seen + T) - final * final, 0.0))


@triton.jit
def backward(
    x, dy, scale, count, mean, near, shift, rate, dlast_mean, dlast_var, dx, dscale, dbias, dmean, dvar, T, D,
    K: tl.constexpr, CHANNELS: tl.constexpr, STEPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Compute dx [B, T, D], dscale and dbias [B, D], dmean and dvar [B, G], in one walk from the last step on.

    A step's distance d from the fixed point enters the mean m and the variance of this and all later steps t, through
    sums of d and of d^2. With the gradients g_t by the mean and v_t by the variance after n_t steps, it is
    asked for the sum over t of (g_t + 2 (d - m_t) v_t) / (n_t K): e + 2 d f, for float64 sums e and f over t.
    """
    group, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    kind: tl.constexpr = near.dtype.element_ty
    cell, start = sample * tl.num_programs(0) + group, sample * T * D + group * K
    steps, channels = tl.arange(0, STEPS), tl.arange(0, CHANNELS)
    inside = (channels < K)[None, :]
    scales = tl.load(scale + group * K + channels, mask=channels < K, other=0.0)[None, :]
    seen, origin = tl.load(count + sample).to(tl.float64), tl.load(near + cell)
    by_mean, by_var = tl.load(dlast_mean + cell), tl.load(dlast_var + cell)
    by_first, by_second = tl.zeros_like(by_mean), tl.zeros_like(by_mean)
    by_scale = tl.zeros((STEPS, CHANNELS), kind)
    by_bias = tl.zeros((STEPS, CHANNELS), kind)
    for tile in tl.range(0, T, STEPS, num_stages=STAGES):
        step = T - 1 - tile - steps
        held, real = step >= 0, (step >= 0)[:, None] & inside
        at = start + step.to(tl.int64)[:, None] * D + channels[None, :]
        means = tl.load(shift + cell * T + step, mask=held, other=0.0)
        signed = tl.load(rate + cell * T + step, mask=held, other=0.0)
        rates = tl.abs(signed)[:, None]
        dout = tl.load(dy + at, mask=real, other=0.0).to(kind)
        centred = tl.load(x + at, mask=real, other=0.0).to(kind) - origin - means[:, None]
        normal = tl.where(real, centred * rates, 0.0)
        by_scale += dout * normal
        by_bias += dout
        dout *= scales
        g = tl.sum(dout * -rates, 1).to(tl.float64) + tl.where(step == T - 1, by_mean, 0.0)
        v = tl.sum(dout * normal * (-0.5 * rates * rates), 1).to(tl.float64) + tl.where(step == T - 1, by_var, 0.0)
        v = tl.where(signed > 0, v, 0.0)
        less = 1.0 / (seen + tl.maximum(step + 1, 1).to(tl.float64))
        far = means.to(tl.float64)
        firsts, seconds = (g - 2.0 * far * v) * less, v * less
        e, f = tl.associative_scan((firsts, seconds), 0, added)
        e, f = by_first + e, 2.0 * (by_second + f)
        dout = dout * rates + ((e + far * f) / K).to(kind)[:, None] + centred * (f / K).to(kind)[:, None]
        tl.store(dx + at, dout.to(dx.dtype.element_ty), mask=real)
        by_first, by_second = by_first + tl.sum(firsts, 0), by_second + tl.sum(seconds, 0)
    tl.store(dscale + sample * D + group * K + channels, tl.sum(by_scale, 0), mask=channels < K)
    tl.store(dbias + sample * D + group * K + channels, tl.sum(by_bias, 0), mask=channels < K)
    off = tl.where(seen > 0, tl.load(mean + cell) - origin.to(tl.float64), 0.0)
    tl.store(dmean + cell, seen * (by_first + 2.0 * off * by_second))
    tl.store(dvar + cell, seen * by_second)
