"""The forward kernel of the diagonal scan: a program walks over all of time for 32 channels, in rows side by side.

A tile of time is cut into ROWS chunks of 2^LOG_STEPS steps. A first walk finds what each chunk adds to the states, a
scan over the rows where each chunk begins, and a second walk its outputs; the tile is then in the cache. States are
taken STATES at a time, each part of each in a register, so that nothing but the rows' scan crosses threads.
"""

from __future__ import annotations

import triton
import triton.language as tl

from archlab.ops.triton._diagonal_states import carried, complex_mul, empty, factors, jump, parts, stepped, store_row


@triton.jit
def forward(
    u, near, rest, weight, last, y, T, D, N,
    STATES: tl.constexpr, COMPLEX: tl.constexpr, ROWS: tl.constexpr, LOG_STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Compute y [B, T, D], and in `last` [B, D, N, P] the last state, where the first one lies at the beginning."""
    steps: tl.constexpr = 2**LOG_STEPS
    channels, rows = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)[None, :], tl.arange(0, ROWS)[:, None]
    inside, sample = channels < D, tl.program_id(1).to(tl.int64)
    u += sample * T * D
    y += sample * T * D
    held = (sample * D + channels) * N
    for tile in range(0, T, ROWS * steps):
        final = tl.minimum(T - tile, ROWS * steps) - 1
        start = tile + rows * steps
        for first in range(0, N, STATES):
            nears, rests_re, rests_im = factors(near, rest, channels, inside, N, first, STATES, COMPLEX)
            weights = parts(weight, channels * N, inside, N, first, STATES, COMPLEX)
            none = empty(tl.zeros((ROWS, CHANNELS), u.dtype.element_ty), STATES)
            early = tl.where(rows > 0, start - steps, T)
            added = scan_forward(
                none, none, nears, rests_re, rests_im, u, y, weights, early, channels, inside, 0, steps, first, T, D,
                STATES, COMPLEX, False,
            )  # fmt: skip
            added_re, added_im = carried(last, added, held, rows, inside, N, first, STATES, COMPLEX)
            re, im = (), ()
            for n in tl.static_range(STATES):
                less_re, less_im, _, _ = jump(nears[n], rests_re[n], rests_im[n], LOG_STEPS, COMPLEX)
                h_re, h_im = row_starts(less_re, less_im, added_re[n], added_im[n], COMPLEX)
                re += (h_re,)
                im += (h_im,)
            middle = final % steps + 1
            re, im = scan_forward(
                re, im, nears, rests_re, rests_im, u, y, weights, start, channels, inside, 0, middle, first, T, D,
                STATES, COMPLEX, True,
            )  # fmt: skip
            store_row(last, (re, im), held, rows, final // steps, inside, N, first, STATES, COMPLEX)
            scan_forward(
                re, im, nears, rests_re, rests_im, u, y, weights, start, channels, inside, middle, steps, first, T, D,
                STATES, COMPLEX, True,
            )  # fmt: skip
        tl.debug_barrier()


@triton.jit
def scan_forward(
    re, im, nears, rests_re, rests_im, u, y, weights, start, channels, inside, begin, end, first, T, D,
    STATES: tl.constexpr, COMPLEX: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """Take the steps from `begin` to `end` of each row; add what is read of the states to y, where asked for."""
    for step in range(begin, end):
        at = (start + step).to(tl.int64)
        held = (at >= 0) & (at < T) & inside
        u_RD = tl.load(u + at * D + channels, mask=held, other=0.0)
        y_RD = tl.zeros_like(u_RD)
        next_re, next_im = (), ()
        for n in tl.static_range(STATES):
            h_re, h_im = stepped(re[n], im[n], nears[n], rests_re[n], rests_im[n], COMPLEX)
            h_re += u_RD
            if OUTPUTS:
                y_RD += complex_mul(weights[0][n], weights[1][n], h_re, h_im, COMPLEX)[0]
            next_re += (h_re,)
            next_im += (h_im,)
        re, im = next_re, next_im
        if OUTPUTS:
            before = tl.load(y + at * D + channels, mask=held & (first > 0), other=0.0)
            tl.store(y + at * D + channels, y_RD + before, mask=held)
    return re, im


@triton.jit
def row_starts(less_re, less_im, h_re, h_im, COMPLEX: tl.constexpr):
    """Return the state before each row from what the rows before it add."""
    less_re += tl.zeros_like(h_re)
    if COMPLEX:
        less_im += tl.zeros_like(h_re)
        _, _, h_re, h_im = tl.associative_scan((less_re, less_im, h_re, h_im), 0, compose)
    else:
        _, h_re = tl.associative_scan((less_re, h_re), 0, compose_real)
    return h_re, h_im


@triton.jit
def compose(p_re, p_im, h_re, h_im, q_re, q_im, g_re, g_im):
    """Join the rows before with a later one: factors 1 + p and 1 + q, states h and g."""
    on_re, on_im = complex_mul(q_re, q_im, h_re, h_im, True)
    both_re, both_im = complex_mul(p_re, p_im, q_re, q_im, True)
    return p_re + q_re + both_re, p_im + q_im + both_im, g_re + h_re + on_re, g_im + h_im + on_im


@triton.jit
def compose_real(p, h, q, g):
    """Do the same for real numbers."""
    return p + q + p * q, g + h + q * h
