"""Numbers of one part or two, and states of several, as kernels hold them: tuples of registers."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def complex_mul(a_re, a_im, b_re, b_im, COMPLEX: tl.constexpr):
    """Multiply; where numbers are real, the imaginary parts are carried along unread."""
    if COMPLEX:
        return a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re
    return a_re * b_re, b_im


@triton.jit
def stepped(h_re, h_im, near, rest_re, rest_im, COMPLEX: tl.constexpr):
    """Return (near + rest) h: next to 1, the sum would have lost the digits that tell how slowly it forgets."""
    moved_re, moved_im = complex_mul(rest_re, rest_im, h_re, h_im, COMPLEX)
    return moved_re + near * h_re, moved_im + near * h_im


@triton.jit
def jump(near, rest_re, rest_im, LOG_STEPS: tl.constexpr, COMPLEX: tl.constexpr):
    """Return q^L - 1 and L q^(L - 1) for L = 2^LOG_STEPS, by squaring."""
    slope_re, slope_im = near + rest_re, rest_im
    twice_re, twice_im = complex_mul(rest_re, rest_im, rest_re, rest_im, COMPLEX)
    less_re = twice_re + 2 * near * rest_re + (near * near - 1)
    less_im = twice_im + 2 * near * rest_im
    for _ in tl.static_range(LOG_STEPS - 1):
        grown_re, grown_im = complex_mul(slope_re, slope_im, less_re, less_im, COMPLEX)
        slope_re, slope_im = slope_re + grown_re, slope_im + grown_im
        twice_re, twice_im = complex_mul(less_re, less_im, less_re, less_im, COMPLEX)
        less_re, less_im = 2 * less_re + twice_re, 2 * less_im + twice_im
    length: tl.constexpr = 2**LOG_STEPS
    return less_re, less_im, length * slope_re, length * slope_im


@triton.jit
def load_values(pointer, at, inside, COMPLEX: tl.constexpr):
    """Load numbers, zeros outside."""
    if COMPLEX:
        return tl.load(pointer + 2 * at, mask=inside, other=0.0), tl.load(pointer + 2 * at + 1, mask=inside, other=0.0)
    re = tl.load(pointer + at, mask=inside, other=0.0)
    return re, re


@triton.jit
def store_state(pointer, at, inside, re, im, COMPLEX: tl.constexpr):
    """Store numbers."""
    if COMPLEX:
        tl.store(pointer + 2 * at, re, mask=inside)
        tl.store(pointer + 2 * at + 1, im, mask=inside)
    else:
        tl.store(pointer + at, re, mask=inside)


@triton.jit
def row(x_RD, rows_R1, which):
    """Return one row, as [1, D]."""
    return tl.sum(tl.where(rows_R1 == which, x_RD, 0.0), 0)[None, :]


@triton.jit
def factors(near, rest, channels, inside, N, first, STATES: tl.constexpr, COMPLEX: tl.constexpr):
    """Return near, and the parts of rest, of STATES states from `first`: tuples of [1, D]."""
    nears, rests_re, rests_im = (), (), ()
    for n in tl.static_range(STATES):
        held = inside & (first + n < N)
        rest_re, rest_im = load_values(rest, channels * N + first + n, held, COMPLEX)
        nears += (tl.load(near + channels * N + first + n, mask=held, other=0.0),)
        rests_re += (rest_re,)
        rests_im += (rest_im,)
    return nears, rests_re, rests_im


@triton.jit
def parts(pointer, start, inside, N, first, STATES: tl.constexpr, COMPLEX: tl.constexpr):
    """Return the numbers of STATES states from `first`: tuples of [1, D]."""
    all_re, all_im = (), ()
    for n in tl.static_range(STATES):
        re, im = load_values(pointer, start + first + n, inside & (first + n < N), COMPLEX)
        all_re += (re,)
        all_im += (im,)
    return all_re, all_im


@triton.jit
def empty(like_RD, STATES: tl.constexpr):
    """Return STATES tensors of zeros."""
    zeros = ()
    for _ in tl.static_range(STATES):
        zeros += (tl.zeros_like(like_RD),)
    return zeros


@triton.jit
def carried(
    pointer, added, start, rows, inside, N, first, STATES: tl.constexpr, COMPLEX: tl.constexpr
):  # fmt: skip
    """Add what an earlier tile left to the first row."""
    before_re, before_im = parts(pointer, start, inside, N, first, STATES, COMPLEX)
    all_re, all_im = (), ()
    for n in tl.static_range(STATES):
        all_re += (added[0][n] + tl.where(rows == 0, before_re[n], 0.0),)
        all_im += (added[1][n] + tl.where(rows == 0, before_im[n], 0.0),)
    return all_re, all_im


@triton.jit
def store_row(pointer, x, start, rows, which, inside, N, first, STATES: tl.constexpr, COMPLEX: tl.constexpr):
    """Store one row for a later tile."""
    for n in tl.static_range(STATES):
        re, im = row(x[0][n], rows, which), row(x[1][n], rows, which)
        store_state(pointer, start + first + n, inside & (first + n < N), re, im, COMPLEX)
