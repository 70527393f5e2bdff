"""The backward kernel of the diagonal scan: the forward kernel's passes, from the last step to the first.

The tiles, rows and passes are those of _diagonal_forward, in reversed time: step j is step T - 1 - j of the inputs. No
state of the forward pass is read, as all gradients are sums over u and sums of dy from the last step on.
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
    store_state,
    zero_states,
)


@triton.jit
def backward(
    u, dy, near, rest, weight, sums, du, T, D, N,
    STATES: tl.constexpr, COMPLEX: tl.constexpr, ROWS: tl.constexpr, LOG_STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Compute du [B, T, D] and five sums [5, B, D, N, P], in one pass backward in time.

    Gradients are computed as conjugates, which makes all products plain complex ones. Let q be the factor, w the weight
    and h_0 the initial state, so that h_t = q^t h_0 + sum over r <= t of q^(t-r) u_r and y_t = Re(w h_t). With
        b_t = w dy_t + a_t,   a_t = q b_{t+1},    conjugates of the gradient of h_t, all of it and that by later steps;
        e_t = dy_t + g_t,     g_t = q e_{t+1},    the same without the weight;
        s_t = q s_{t+1} + b_{t+1},                the derivative of a_t by q,
    inserting h_t and exchanging sums gives
        du_t = sum over states of Re(b_t),                conj(dh_0) = a_0,
        conj(dw) = sum over t of dy_t h_t = sum over t of u_t e_t + h_0 g_0,
        conj(dq) = sum over t of b_t h_{t-1} = sum over t of u_t s_t + h_0 s_0.
    a begins with the conjugate of the last state's gradient, the others with zeros. `sums` carries g, a and s from tile
    to tile, and so ends with those of t = 0, and adds up the sums over t of u_t e_t and of u_t s_t; the terms with h_0
    and the conjugates are left to the caller.
    """
    steps: tl.constexpr = 2**LOG_STEPS
    channels, rows = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)[None, :], tl.arange(0, ROWS)[:, None]
    inside, sample = channels < D, tl.program_id(1).to(tl.int64)
    u += sample * T * D
    dy += sample * T * D
    du += sample * T * D
    state_at = (sample * D + channels) * N
    stride = tl.num_programs(1).to(tl.int64) * D * N
    for tile in range(0, T, ROWS * steps):
        final = tl.minimum(T - tile, ROWS * steps) - 1
        start = tile + rows * steps
        early = tl.where(rows > 0, start - steps, T)  # the chunk before each row's, none for row 0
        for first in range(0, N, STATES):
            nears, rests_re, rests_im = load_factors(near, rest, channels, inside, N, first, STATES, COMPLEX)
            rests = (rests_re, rests_im)
            weights = load_states(weight, channels * N, inside, N, first, STATES, COMPLEX)
            none = zero_states(tl.zeros((ROWS, CHANNELS), u.dtype.element_ty), STATES)
            nones = (none, none)
            g, a, s, _, _ = scan_backward(
                nones, nones, nones, nones, nones, nears, rests, weights, u, dy, du, early, channels, inside, 0, steps,
                first, T, D, STATES, COMPLEX, False,
            )  # fmt: skip
            g, a, s = row_starts_of_sums(
                g, a, s, sums, state_at, stride, nears, rests, rows, inside, N, first, STATES, COMPLEX, LOG_STEPS
            )
            middle = final % steps + 1  # the sums of the tile's last step are stored there, as in the forward kernel
            g, a, s, by_weight, by_rest = scan_backward(
                g, a, s, nones, nones, nears, rests, weights, u, dy, du, start, channels, inside, 0, middle,
                first, T, D, STATES, COMPLEX, True,
            )  # fmt: skip
            store_row(sums, g, state_at, rows, final // steps, inside, N, first, STATES, COMPLEX)
            store_row(sums, a, state_at + stride, rows, final // steps, inside, N, first, STATES, COMPLEX)
            store_row(sums, s, state_at + 2 * stride, rows, final // steps, inside, N, first, STATES, COMPLEX)
            g, a, s, by_weight, by_rest = scan_backward(
                g, a, s, by_weight, by_rest, nears, rests, weights, u, dy, du, start, channels, inside, middle, steps,
                first, T, D, STATES, COMPLEX, True,
            )  # fmt: skip
            add_rows(sums, by_weight, state_at + 3 * stride, inside, N, first, STATES, COMPLEX)
            add_rows(sums, by_rest, state_at + 4 * stride, inside, N, first, STATES, COMPLEX)
        # The next tile reads `sums` by other threads than have written it.
        tl.debug_barrier()


@triton.jit
def scan_backward(
    g, a, s, by_weight, by_rest, nears, rests, weights, u, dy, du, start, channels, inside, begin, end, first, T, D,
    STATES: tl.constexpr, COMPLEX: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """Run the steps from `begin` to `end` of each row, backward in time; with OUTPUTS, add to du and to both sums."""
    for step in range(begin, end):
        at = (T - 1 - (start + step)).to(tl.int64)
        valid = (at >= 0) & (at < T) & inside
        dy_RD = tl.load(dy + at * D + channels, mask=valid, other=0.0)
        u_RD = tl.load(u + at * D + channels, mask=valid & OUTPUTS, other=0.0)
        du_RD = tl.load(du + at * D + channels, mask=valid & OUTPUTS & (first > 0), other=0.0)
        g_re, g_im, a_re, a_im, s_re, s_im = (), (), (), (), (), ()
        weight_re, weight_im, rest_re, rest_im = (), (), (), ()
        for n in tl.static_range(STATES):
            # Of this step: z = s_t, x = e_t, y = b_t. The next g, a and s are those of the step before it in time.
            z_re, z_im = s[0][n], s[1][n]
            x_re, x_im = g[0][n] + dy_RD, g[1][n]
            y_re, y_im = a[0][n] + weights[0][n] * dy_RD, a[1][n] + weights[1][n] * dy_RD
            du_RD += y_re
            next_re, next_im = multiply_factor(x_re, x_im, nears[n], rests[0][n], rests[1][n], COMPLEX)
            g_re, g_im = g_re + (next_re,), g_im + (next_im,)
            next_re, next_im = multiply_factor(y_re, y_im, nears[n], rests[0][n], rests[1][n], COMPLEX)
            a_re, a_im = a_re + (next_re,), a_im + (next_im,)
            next_re, next_im = multiply_factor(z_re, z_im, nears[n], rests[0][n], rests[1][n], COMPLEX)
            s_re, s_im = s_re + (next_re + y_re,), s_im + (next_im + y_im,)
            weight_re += (by_weight[0][n] + u_RD * x_re,)
            weight_im += (by_weight[1][n] + u_RD * x_im,)
            rest_re += (by_rest[0][n] + u_RD * z_re,)
            rest_im += (by_rest[1][n] + u_RD * z_im,)
        g, a, s, by_weight, by_rest = (
            (g_re, g_im),
            (a_re, a_im),
            (s_re, s_im),
            (weight_re, weight_im),
            (rest_re, rest_im),
        )
        tl.store(du + at * D + channels, du_RD, mask=valid & OUTPUTS)
    return g, a, s, by_weight, by_rest


@triton.jit
def row_starts_of_sums(
    g, a, s, sums, state_at, stride, nears, rests, rows, inside, N, first,
    STATES: tl.constexpr, COMPLEX: tl.constexpr, LOG_STEPS: tl.constexpr,
):  # fmt: skip
    """Return g, a and s before each row, for all states."""
    g_re, g_im = add_carried(sums, g, state_at, rows, inside, N, first, STATES, COMPLEX)
    a_re, a_im = add_carried(sums, a, state_at + stride, rows, inside, N, first, STATES, COMPLEX)
    s_re, s_im = add_carried(sums, s, state_at + 2 * stride, rows, inside, N, first, STATES, COMPLEX)
    gs_re, gs_im, as_re, as_im, ss_re, ss_im = (), (), (), (), (), ()
    for n in tl.static_range(STATES):
        less_re, less_im, slope_re, slope_im = factor_power(nears[n], rests[0][n], rests[1][n], LOG_STEPS, COMPLEX)
        x, y, z = row_starts(
            (less_re, less_im),
            (slope_re, slope_im),
            (g_re[n], g_im[n]),
            (a_re[n], a_im[n]),
            (s_re[n], s_im[n]),
            COMPLEX,
        )
        gs_re, gs_im = gs_re + (x[0],), gs_im + (x[1],)
        as_re, as_im = as_re + (y[0],), as_im + (y[1],)
        ss_re, ss_im = ss_re + (z[0],), ss_im + (z[1],)
    return (gs_re, gs_im), (as_re, as_im), (ss_re, ss_im)


@triton.jit
def add_rows(pointer, x, start, inside, N, first, STATES: tl.constexpr, COMPLEX: tl.constexpr):
    """Add the sum over rows to the sums that earlier tiles have stored."""
    before_re, before_im = load_states(pointer, start, inside, N, first, STATES, COMPLEX)
    for n in tl.static_range(STATES):
        re, im = before_re[n] + tl.sum(x[0][n], 0)[None, :], before_im[n] + tl.sum(x[1][n], 0)[None, :]
        store_state(pointer, start + first + n, inside & (first + n < N), re, im, COMPLEX)


@triton.jit
def row_starts(less, slope, g, a, s, COMPLEX: tl.constexpr):
    """Return g, a and s of one state before each row, from those at the ends of the rows before it."""
    none = tl.zeros_like(g[0])
    if COMPLEX:
        _, _, _, _, g_re, g_im, a_re, a_im, s_re, s_im = tl.associative_scan(
            (less[0] + none, less[1] + none, slope[0] + none, slope[1] + none, g[0], g[1], a[0], a[1], s[0], s[1]),
            0,
            compose_backward_complex,
        )
        return (g_re, g_im), (a_re, a_im), (s_re, s_im)
    _, _, g_re, a_re, s_re = tl.associative_scan(
        (less[0] + none, slope[0] + none, g[0], a[0], s[0]), 0, compose_backward
    )
    return (g_re, g[1]), (a_re, a[1]), (s_re, s[1])


@triton.jit
def compose_backward(p, c, g, a, s, q, d, h, b, t):
    """Compose the maps of (g, a, s) over the chunks before and over a later one, real numbers.

    Over L steps g and a are multiplied by the factor to the power of L, 1 + p. As s is the derivative of a by the
    factor, it is multiplied by 1 + p and adds a times c, the derivative of 1 + p. The later chunk has q, d, h, b and t
    in place of p, c, g, a and s. The composed power (1 + p)(1 + q) has the derivative c (1 + q) + d (1 + p).
    """
    return p + q + p * q, c + d + c * q + d * p, h + g + q * g, b + a + q * a, t + s + q * s + d * a


@triton.jit
def compose_backward_complex(
    p_re, p_im, c_re, c_im, g_re, g_im, a_re, a_im, s_re, s_im,
    q_re, q_im, d_re, d_im, h_re, h_im, b_re, b_im, t_re, t_im,
):  # fmt: skip
    """Compose the same maps of complex numbers."""
    pq_re, pq_im = complex_mul(p_re, p_im, q_re, q_im, True)
    cq_re, cq_im = complex_mul(c_re, c_im, q_re, q_im, True)
    dp_re, dp_im = complex_mul(d_re, d_im, p_re, p_im, True)
    gq_re, gq_im = complex_mul(g_re, g_im, q_re, q_im, True)
    aq_re, aq_im = complex_mul(a_re, a_im, q_re, q_im, True)
    sq_re, sq_im = complex_mul(s_re, s_im, q_re, q_im, True)
    ad_re, ad_im = complex_mul(a_re, a_im, d_re, d_im, True)
    return (
        p_re + q_re + pq_re, p_im + q_im + pq_im, c_re + d_re + cq_re + dp_re, c_im + d_im + cq_im + dp_im,
        h_re + g_re + gq_re, h_im + g_im + gq_im, b_re + a_re + aq_re, b_im + a_im + aq_im,
        t_re + s_re + sq_re + ad_re, t_im + s_im + sq_im + ad_im,
    )  # fmt: skip
