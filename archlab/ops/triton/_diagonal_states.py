"""Real or complex numbers, and several states, as the kernels hold them: tuples of tensors in registers.

A complex number is two tensors, (re, im). Kernels for real numbers have the same arguments and never read an imaginary
part, so that the compiler removes it. Triton has no arrays of tensors: STATES states are a tuple, built by
concatenation in an unrolled loop.

Letters in suffixes: R rows (chunks side by side), D channels.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def complex_mul(a_re, a_im, b_re, b_im, COMPLEX: tl.constexpr):
    """Multiply; for real numbers the imaginary part is any tensor, which is not read."""
    if COMPLEX:
        return a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re
    return a_re * b_re, b_im


@triton.jit
def multiply_factor(h_re, h_im, near, rest_re, rest_im, COMPLEX: tl.constexpr):
    """Return (near + rest) h without the sum, which near 1 would lose digits of its difference from 1."""
    small_re, small_im = complex_mul(rest_re, rest_im, h_re, h_im, COMPLEX)
    return small_re + near * h_re, small_im + near * h_im


@triton.jit
def factor_power(near, rest_re, rest_im, LOG_STEPS: tl.constexpr, COMPLEX: tl.constexpr):
    """Return q^L - 1 and L q^(L - 1), the power's derivative by q, for L = 2^LOG_STEPS and q = near + rest."""
    # By squaring less = q^n - 1, which keeps its digits where q^n itself is near 1:
    #     q^2 - 1 = rest^2 + 2 near rest + (near^2 - 1), whose last term is exact, 0 or -1;
    #     q^(2n) - 1 = (1 + less)^2 - 1 = 2 less + less^2.
    # slope = q^(n - 1), and q^(2n - 1) = slope q^n = slope (1 + less).
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
    """Load real or complex numbers, zeros outside."""
    if COMPLEX:
        return tl.load(pointer + 2 * at, mask=inside, other=0.0), tl.load(pointer + 2 * at + 1, mask=inside, other=0.0)
    re = tl.load(pointer + at, mask=inside, other=0.0)
    return re, re  # any tensor will do for the imaginary part


@triton.jit
def store_state(pointer, at, inside, re, im, COMPLEX: tl.constexpr):
    """Store real or complex numbers."""
    if COMPLEX:
        tl.store(pointer + 2 * at, re, mask=inside)
        tl.store(pointer + 2 * at + 1, im, mask=inside)
    else:
        tl.store(pointer + at, re, mask=inside)


@triton.jit
def select_row(x_RD, rows_R1, which):
    """Return one row, as [1, D], by a masked sum: Triton cannot index a tensor."""
    return tl.sum(tl.where(rows_R1 == which, x_RD, 0.0), 0)[None, :]


@triton.jit
def load_factors(near, rest, channels, inside, N, first, STATES: tl.constexpr, COMPLEX: tl.constexpr):
    """Load near and rest of STATES states from `first`: tuples of [1, D]."""
    nears, rests_re, rests_im = (), (), ()
    for n in tl.static_range(STATES):
        valid = inside & (first + n < N)
        rest_re, rest_im = load_values(rest, channels * N + first + n, valid, COMPLEX)
        nears += (tl.load(near + channels * N + first + n, mask=valid, other=0.0),)
        rests_re += (rest_re,)
        rests_im += (rest_im,)
    return nears, rests_re, rests_im


@triton.jit
def load_states(pointer, start, inside, N, first, STATES: tl.constexpr, COMPLEX: tl.constexpr):
    """Load a number per state for STATES states from `first`: tuples of [1, D]."""
    all_re, all_im = (), ()
    for n in tl.static_range(STATES):
        re, im = load_values(pointer, start + first + n, inside & (first + n < N), COMPLEX)
        all_re += (re,)
        all_im += (im,)
    return all_re, all_im


@triton.jit
def zero_states(like_RD, STATES: tl.constexpr):
    """Return zeros for STATES states."""
    zeros = ()
    for _ in tl.static_range(STATES):
        zeros += (tl.zeros_like(like_RD),)
    return zeros


@triton.jit
def add_carried(
    pointer, added, start, rows, inside, N, first, STATES: tl.constexpr, COMPLEX: tl.constexpr
):  # fmt: skip
    """Add the state that an earlier tile has stored to the first row."""
    before_re, before_im = load_states(pointer, start, inside, N, first, STATES, COMPLEX)
    all_re, all_im = (), ()
    for n in tl.static_range(STATES):
        all_re += (added[0][n] + tl.where(rows == 0, before_re[n], 0.0),)
        all_im += (added[1][n] + tl.where(rows == 0, before_im[n], 0.0),)
    return all_re, all_im


@triton.jit
def store_row(pointer, x, start, rows, which, inside, N, first, STATES: tl.constexpr, COMPLEX: tl.constexpr):
    """Store one row's states for a later tile."""
    for n in tl.static_range(STATES):
        re, im = select_row(x[0][n], rows, which), select_row(x[1][n], rows, which)
        store_state(pointer, start + first + n, inside & (first + n < N), re, im, COMPLEX)
