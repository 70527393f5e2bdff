"""Triton kernels of gated linear attention, forward and backward.

Both kernels have a program per head of a sample and slab of V columns of its values, as columns of the state do not
depend on each other. The program keeps its [K, V] part of the state in registers and processes all of time. Programs of
one head read the same q, k and log decays, and each its own columns of v, y and the state.

The forward pass goes chunk by chunk with matrix products; its state is a tuple of pieces of K rows, so that the
operands of one product fit in registers. Exponents are sums of the log decays between two steps and never differences
of prefix sums, which would cancel, nor is a decay a quotient of exponentials, which would overflow.

q, k, v and y are [B, T, H, width]: step t of head h of sample b is row (b T + t) H + h, so a head's steps are H rows
apart. Steps beyond the last and columns beyond the width are masked, as zeros with log decay 0, which change no state.

Letters in suffixes: C steps a chunk, K width of a key or of a piece of it, V width of a slab of a value, E either K or
1.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _read(ptr, row_C, live_C, column_W, width):
    """Load rows of a matrix [rows, width], zeros outside of it."""
    live_CW = live_C[:, None] & (column_W < width)[None, :]
    return tl.load(ptr + row_C[:, None] * width + column_W[None, :], mask=live_CW, other=0.0)


@triton.jit
def _write(ptr, row_C, live_C, column_W, width, x_CW):
    live_CW = live_C[:, None] & (column_W < width)[None, :]
    tl.store(ptr + row_C[:, None] * width + column_W[None, :], x_CW, mask=live_CW)


@triton.jit
def _read_decay(ptr, row_C, live_C, column_K, width_k, PER_CHANNEL: tl.constexpr, LEAST: tl.constexpr, C: tl.constexpr):
    """Load log decays [C, K], [C, 1] for one a head, or zeros; at least LEAST, which replaces -inf."""
    if ptr is None:
        x_CE = tl.zeros([C, 1], tl.float32)
    elif PER_CHANNEL:
        x_CE = _read(ptr, row_C, live_C, column_K, width_k)
    else:
        x_CE = tl.load(ptr + row_C, mask=live_C, other=0.0)[:, None]
    return tl.maximum(x_CE, LEAST, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _read_state(ptr, row, column_V, width_k, width_v, K: tl.constexpr, PIECES: tl.constexpr):
    """Load the state whose first row is `row` as a tuple of pieces."""
    pieces = ()
    for piece in tl.static_range(PIECES):
        at_K = piece * K + tl.arange(0, K)
        pieces = pieces + (_read(ptr, row + at_K, at_K < width_k, column_V, width_v),)
    return pieces


@triton.jit
def _write_state(ptr, row, column_V, width_k, width_v, K: tl.constexpr, PIECES: tl.constexpr, pieces):
    for piece in tl.static_range(PIECES):
        at_K = piece * K + tl.arange(0, K)
        _write(ptr, row + at_K, at_K < width_k, column_V, width_v, pieces[piece])


@triton.jit
def _swap(x_CE, step_C, level):
    """Exchange the values of steps whose indices differ in bit `level` alone."""
    index_CE = tl.broadcast_to((step_C ^ (1 << level))[:, None], x_CE.shape)
    return tl.gather(x_CE, index_CE, 0)


@triton.jit
def _decay_sums(log_decay_CE, step_C, LEVELS: tl.constexpr):
    """Sum log decays in stretches of 1, 2, 4, ... steps of a chunk, doubling their length LEVELS times.

    Return, for each length, the sum between a step and the border of its stretch and the neighbor that it is merged
    with (up to a step of the late one, after a step of the early one); and for the whole chunk the sums up to each
    step, after each step, and of all.
    """
    upto = log_decay_CE
    total = log_decay_CE
    after = tl.zeros_like(log_decay_CE)
    reaches = ()
    for level in tl.static_range(LEVELS):
        late = (step_C[:, None] >> level) % 2 == 1
        reaches = reaches + (tl.where(late, upto, after),)
        other = _swap(total, step_C, level)
        upto = tl.where(late, upto + other, upto)
        after = tl.where(late, after, after + other)
        total += other
    return reaches, upto, after, total


@triton.jit
def _across(t, s, level):
    """Return whether t is in the late and s in the early one of two stretches of 2^level steps that are merged."""
    return (t >> level == (s >> level) + 1) & ((t >> level) % 2 == 1)


@triton.jit
def _decay_matrix(t, s, log_decay_C1):
    """Return exp(sum of the decays after s up to t), and zeros for s > t."""
    return tl.where(t >= s, tl.exp(tl.cumsum(tl.where(t > s, log_decay_C1, 0.0), 0)), 0.0)


@triton.jit
def _scores(q_CK, k_CK, reaches, t, s, LEVELS: tl.constexpr, PER_CHANNEL: tl.constexpr, PRECISION: tl.constexpr):
    """Return a piece's part of the scores q_t D(t, s) k_s; with one decay a head it is multiplied in by the caller."""
    if PER_CHANNEL:
        # A decay per channel from s to t is the product of those from s to a border between them, and from there to t.
        # Each pair s < t has exactly one level at which it is in two stretches that are merged, so that a product per
        # level covers all pairs; s = t has no decay. Factors are at most 1.
        scores_CC = tl.where(t == s, tl.sum(q_CK * k_CK, 1, keep_dims=True), 0.0)
        for level in tl.static_range(LEVELS):
            factor_CK = tl.exp(reaches[level])
            product_CC = tl.dot(q_CK * factor_CK, tl.trans(k_CK * factor_CK), input_precision=PRECISION)
            scores_CC += tl.where(_across(t, s, level), product_CC, 0.0)
    else:
        scores_CC = tl.dot(q_CK, tl.trans(k_CK), input_precision=PRECISION)
    return scores_CC


@triton.jit
def _chunk_decay(total_CE, step_C):
    """Return the decay of a whole chunk as a column, from a sum that is the same at every step."""
    return tl.trans(tl.exp(tl.sum(tl.where(step_C[:, None] == 0, total_CE, 0.0), 0, keep_dims=True)))


@triton.jit
def forward(
    q_ptr,
    k_ptr,
    v_ptr,
    log_decay_ptr,
    state_ptr,
    y_ptr,
    last_ptr,
    starts_ptr,
    num_steps,
    num_heads,
    width_k,
    width_v,
    K: tl.constexpr,
    V: tl.constexpr,
    PIECES: tl.constexpr,
    LEVELS: tl.constexpr,
    SEGMENT: tl.constexpr,
    PER_CHANNEL: tl.constexpr,
    LEAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute y and the last state chunk by chunk, and save the state before every SEGMENT chunks.

    With S the state before a chunk, D(t, s) the decay after s up to t, and D(t) that of all steps up to t,
        y_t = q_t D(t) S + sum over s <= t of (q_t D(t, s) k_s) v_s,
    and the state after the chunk is D(C) S + sum over s of D(C, s) k_s v_s^T.
    """
    C: tl.constexpr = 1 << LEVELS
    step_C = tl.arange(0, C)
    t, s = step_C[:, None], step_C[None, :]
    column_V = tl.program_id(0) * V + tl.arange(0, V)
    head = tl.program_id(1).to(tl.int64)  # of all samples' heads; 64 bits, as offsets may exceed 32
    first = head // num_heads * num_steps * num_heads + head % num_heads
    state = _read_state(state_ptr, head * width_k, column_V, width_k, width_v, K, PIECES)
    num_chunks = tl.cdiv(num_steps, C)
    num_segments = tl.cdiv(num_chunks, SEGMENT)
    for chunk in tl.range(num_chunks, num_stages=1):
        if chunk % SEGMENT == 0:
            start = (head * num_segments + chunk // SEGMENT) * width_k
            _write_state(starts_ptr, start, column_V, width_k, width_v, K, PIECES, state)
        step = chunk * C + step_C
        row_C, live_C = first + step.to(tl.int64) * num_heads, step < num_steps
        v_CV = _read(v_ptr, row_C, live_C, column_V, width_v)
        y_CV = tl.zeros_like(v_CV)
        scores_CC = tl.zeros([C, C], v_CV.dtype)
        if not PER_CHANNEL:  # one decay a head serves all pieces
            log_decay_CE = _read_decay(log_decay_ptr, row_C, live_C, step_C, width_k, PER_CHANNEL, LEAST, C)
            reaches, upto_CE, after_CE, total_CE = _decay_sums(log_decay_CE, step_C, LEVELS)
        next_state = ()
        for piece in tl.static_range(PIECES):
            column_K = piece * K + tl.arange(0, K)
            q_CK = _read(q_ptr, row_C, live_C, column_K, width_k)
            k_CK = _read(k_ptr, row_C, live_C, column_K, width_k)
            if PER_CHANNEL:
                log_decay_CE = _read_decay(log_decay_ptr, row_C, live_C, column_K, width_k, PER_CHANNEL, LEAST, C)
                reaches, upto_CE, after_CE, total_CE = _decay_sums(log_decay_CE, step_C, LEVELS)
            scores_CC += _scores(q_CK, k_CK, reaches, t, s, LEVELS, PER_CHANNEL, PRECISION)
            y_CV += tl.dot(q_CK * tl.exp(upto_CE), state[piece], input_precision=PRECISION)
            added_KV = tl.dot(tl.trans(k_CK * tl.exp(after_CE)), v_CV, input_precision=PRECISION)
            next_state = next_state + (state[piece] * _chunk_decay(total_CE, step_C) + added_KV,)
        if not PER_CHANNEL:
            scores_CC *= _decay_matrix(t, s, log_decay_CE)
        y_CV += tl.dot(scores_CC, v_CV, input_precision=PRECISION)
        _write(y_ptr, row_C, live_C, column_V, width_v, y_CV)
        state = next_state
    _write_state(last_ptr, head * width_k, column_V, width_k, width_v, K, PIECES, state)


@triton.jit
def _decay(ptr, row, column_K, live_K, width_k, PER_CHANNEL: tl.constexpr):
    at_K = row * width_k + column_K if PER_CHANNEL else row + column_K * 0
    return tl.exp(tl.load(ptr + at_K, mask=live_K, other=0.0))


@triton.jit
def backward(
    dy_ptr,
    dlast_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    log_decay_ptr,
    starts_ptr,
    dq_ptr,
    dk_ptr,
    dv_ptr,
    dlog_decay_ptr,
    dstate_ptr,
    num_steps,
    num_heads,
    width_k,
    width_v,
    K: tl.constexpr,
    V: tl.constexpr,
    SEGMENT: tl.constexpr,
    STAGES: tl.constexpr,
    PER_CHANNEL: tl.constexpr,
):
    """Compute all gradients, segment by segment from the last to the first, step by step inside a segment.

    The first loop of a segment recomputes its states S_t from the saved one and gives dq; the second goes backward with
    the gradient G_t of S_t. From S_t = diag(a_t) S_{t-1} + k_t v_t^T and y_t = S_t^T q_t, with a_t = exp(log_decay_t):
        G_t = q_t dy_t^T + diag(a_{t+1}) G_{t+1},
        dq_t = S_t dy_t,  dk_t = G_t v_t,  dv_t = G_t^T k_t.
    The gradient of log_decay_t, one number per row, is r_t = rowsum(diag(a_t) S_{t-1} * G_t), which needs S_{t-1} and
    G_t together; no loop has both. But rowsum(S_t * G_t), the states replaced by the recurrence of either, is both
        r_t + k_t dk_t  and  q_t dq_t + r_{t+1},
    so r_t = r_{t+1} + q_t dq_t - k_t dk_t. It begins at each segment's end with the exact r_{t+1} =
    rowsum(S_t * diag(a_{t+1}) G_{t+1}), so that rounding errors accumulate over one segment only. Where a_t is 0, r_t
    is 0 exactly, and the sum restarts from there.

    dq, dk and the log decay's gradient sum over the columns of V: each slab writes its own sums, which the caller adds.
    """
    column_K = tl.arange(0, K)
    column_V = tl.program_id(0) * V + tl.arange(0, V)
    live_K, live_V = column_K < width_k, column_V < width_v
    head = tl.program_id(1).to(tl.int64)
    first = head // num_heads * num_steps * num_heads + head % num_heads
    stride = tl.cast(num_heads, tl.int64)
    # The first row of this slab's own partial sums [slabs, B, T, H, ...].
    first_sum = tl.program_id(0).to(tl.int64) * num_steps * tl.num_programs(1)
    d_KV = _read(dlast_ptr, head * width_k + column_K, live_K, column_V, width_v)
    num_segments = tl.cdiv(num_steps, SEGMENT)
    for index in tl.range(num_segments, num_stages=1):
        segment = num_segments - 1 - index
        begin = segment * SEGMENT
        end = tl.minimum(begin + SEGMENT, num_steps)
        row_K = (head * num_segments + segment) * width_k + column_K
        state_KV = _read(starts_ptr, row_K, live_K, column_V, width_v)
        for step in tl.range(begin, end, num_stages=STAGES):
            row = first + step * stride
            k_K = tl.load(k_ptr + row * width_k + column_K, mask=live_K, other=0.0)
            v_V = tl.load(v_ptr + row * width_v + column_V, mask=live_V, other=0.0)
            dy_V = tl.load(dy_ptr + row * width_v + column_V, mask=live_V, other=0.0)
            if log_decay_ptr is not None:
                state_KV *= _decay(log_decay_ptr, row, column_K, live_K, width_k, PER_CHANNEL)[:, None]
            state_KV += k_K[:, None] * v_V[None, :]
            dq_K = tl.sum(state_KV * dy_V[None, :], 1)
            tl.store(dq_ptr + (first_sum + row) * width_k + column_K, dq_K, mask=live_K)
        # The loop below loads dq, which other threads of this program have stored.
        tl.debug_barrier()
        dlog_K = tl.sum(state_KV * d_KV, 1)  # d_KV is multiplied by the decay of the step after this segment
        for back in tl.range(0, end - begin, num_stages=STAGES):
            row = first + (end - 1 - back) * stride
            q_K = tl.load(q_ptr + row * width_k + column_K, mask=live_K, other=0.0)
            k_K = tl.load(k_ptr + row * width_k + column_K, mask=live_K, other=0.0)
            v_V = tl.load(v_ptr + row * width_v + column_V, mask=live_V, other=0.0)
            dy_V = tl.load(dy_ptr + row * width_v + column_V, mask=live_V, other=0.0)
            d_KV += q_K[:, None] * dy_V[None, :]
            dk_K = tl.sum(d_KV * v_V[None, :], 1)
            tl.store(dk_ptr + (first_sum + row) * width_k + column_K, dk_K, mask=live_K)
            tl.store(dv_ptr + row * width_v + column_V, tl.sum(d_KV * k_K[:, None], 0), mask=live_V)
            if log_decay_ptr is not None:
                decay_K = _decay(log_decay_ptr, row, column_K, live_K, width_k, PER_CHANNEL)
                dq_K = tl.load(dq_ptr + (first_sum + row) * width_k + column_K, mask=live_K, other=0.0)
                dlog_K = tl.where(decay_K == 0, 0.0, dlog_K + (q_K * dq_K - k_K * dk_K))
                if PER_CHANNEL:
                    tl.store(dlog_decay_ptr + (first_sum + row) * width_k + column_K, dlog_K, mask=live_K)
                else:
                    tl.store(dlog_decay_ptr + first_sum + row, tl.sum(dlog_K, 0))
                d_KV *= decay_K[:, None]
    _write(dstate_ptr, head * width_k + column_K, live_K, column_V, width_v, d_KV)
