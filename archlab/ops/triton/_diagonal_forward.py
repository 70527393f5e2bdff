"""The forward kernel of the diagonal scan: a program processes all of time for CHANNELS channels of a sample.

A tile of time is ROWS chunks of 2^LOG_STEPS steps, processed side by side: a tensor [ROWS, CHANNELS] has an element,
and so a thread, per chunk and channel. For each tile:
1. A first pass over u gives the states at the end of each chunk from zeros. Row r takes chunk r - 1; row 0 takes none
   and holds the state carried from the tile before.
2. A scan over rows, with the factor of a whole chunk, gives the state before each chunk.
3. A second pass over u, which is now in the cache, gives the outputs.
STATES states are processed at a time, each part of each in a register, and N in a loop around. So only the scan over
rows communicates between threads, and memory is read and written once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from archlab.ops.triton._diagonal_states import (
    add_carried,
    complex_mul,
    factor_power,
    load_factors,
    load_states,
    multiply_factor,
    store_row,
    zero_states,
)


@triton.jit
def forward(
    u, near, rest, weight, last, y, T, D, N,
    STATES: tl.constexpr, COMPLEX: tl.constexpr, ROWS: tl.constexpr, LOG_STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Compute y [B, T, D], and replace the initial state in `last` [B, D, N, P] by the last one."""
    steps: tl.constexpr = 2**LOG_STEPS
    channels, rows = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)[None, :], tl.arange(0, ROWS)[:, None]
    inside, sample = channels < D, tl.program_id(1).to(tl.int64)
    u += sample * T * D
    y += sample * T * D
    state_at = (sample * D + channels) * N
    for tile in range(0, T, ROWS * steps):
        final = tl.minimum(T - tile, ROWS * steps) - 1
        start = tile + rows * steps
        for first in range(0, N, STATES):
            nears, rests_re, rests_im = load_factors(near, rest, channels, inside, N, first, STATES, COMPLEX)
            weights = load_states(weight, channels * N, inside, N, first, STATES, COMPLEX)
            none = zero_states(tl.zeros((ROWS, CHANNELS), u.dtype.element_ty), STATES)
            # Of each row, the chunk before; for row 0 steps from T on, which are masked.
            early = tl.where(rows > 0, start - steps, T)
            ends = scan_forward(
                none, none, nears, rests_re, rests_im, u, y, weights, early, channels, inside, 0, steps, first, T, D,
                STATES, COMPLEX, False,
            )  # fmt: skip
            ends_re, ends_im = add_carried(last, ends, state_at, rows, inside, N, first, STATES, COMPLEX)
            re, im = (), ()
            for n in tl.static_range(STATES):
                less_re, less_im, _, _ = factor_power(nears[n], rests_re[n], rests_im[n], LOG_STEPS, COMPLEX)
                h_re, h_im = row_starts(less_re, less_im, ends_re[n], ends_im[n], COMPLEX)
                re += (h_re,)
                im += (h_im,)
            # All rows stop after the tile's last step's place in its chunk, so that its row holds the last state.
            middle = final % steps + 1
            re, im = scan_forward(
                re, im, nears, rests_re, rests_im, u, y, weights, start, channels, inside, 0, middle, first, T, D,
                STATES, COMPLEX, True,
            )  # fmt: skip
            store_row(last, (re, im), state_at, rows, final // steps, inside, N, first, STATES, COMPLEX)
            scan_forward(
                re, im, nears, rests_re, rests_im, u, y, weights, start, channels, inside, middle, steps, first, T, D,
                STATES, COMPLEX, True,
            )  # fmt: skip
        # The next tile reads the state in `last` by other threads than have written it.
        tl.debug_barrier()


@triton.jit
def scan_forward(
    re, im, nears, rests_re, rests_im, u, y, weights, start, channels, inside, begin, end, first, T, D,
    STATES: tl.constexpr, COMPLEX: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """Run the steps from `begin` to `end` of each row; with OUTPUTS, add Re(weight h) to y."""
    for step in range(begin, end):
        at = (start + step).to(tl.int64)
        valid = (at >= 0) & (at < T) & inside
        u_RD = tl.load(u + at * D + channels, mask=valid, other=0.0)
        y_RD = tl.zeros_like(u_RD)
        next_re, next_im = (), ()
        for n in tl.static_range(STATES):
            h_re, h_im = multiply_factor(re[n], im[n], nears[n], rests_re[n], rests_im[n], COMPLEX)
            h_re += u_RD
            if OUTPUTS:
                y_RD += complex_mul(weights[0][n], weights[1][n], h_re, h_im, COMPLEX)[0]
            next_re += (h_re,)
            next_im += (h_im,)
        re, im = next_re, next_im
        if OUTPUTS:
            before = tl.load(y + at * D + channels, mask=valid & (first > 0), other=0.0)
            tl.store(y + at * D + channels, y_RD + before, mask=valid)
    return re, im


@triton.jit
def row_starts(less_re, less_im, h_re, h_im, COMPLEX: tl.constexpr):
    """Return the state before each row, from the end states of the rows before it and a chunk's factor 1 + less."""
    less_re += tl.zeros_like(h_re)  # scanned tensors must have one shape
    if COMPLEX:
        less_im += tl.zeros_like(h_re)
        _, _, h_re, h_im = tl.associative_scan((less_re, less_im, h_re, h_im), 0, compose)
    else:
        _, h_re = tl.associative_scan((less_re, h_re), 0, compose_real)
    return h_re, h_im


@triton.jit
def compose(p_re, p_im, h_re, h_im, q_re, q_im, g_re, g_im):
    """Compose the maps x -> (1 + p) x + h and then x -> (1 + q) x + g; p and q keep digits that 1 + p would lose."""
    qh_re, qh_im = complex_mul(q_re, q_im, h_re, h_im, True)
    pq_re, pq_im = complex_mul(p_re, p_im, q_re, q_im, True)
    return p_re + q_re + pq_re, p_im + q_im + pq_im, g_re + h_re + qh_re, g_im + h_im + qh_im


@triton.jit
def compose_real(p, h, q, g):
    """Compose two such maps of real numbers."""
    return p + q + p * q, g + h + q * h
