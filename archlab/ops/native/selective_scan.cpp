// h_t = exp(dt_t A) h_{t-1} + dt_t x_t in_t and y_t = h_t · out_t for every channel, forward and backward: Mamba's
// selective scan, whose B and C are `in` and `out` here.
//
// A vector holds the same state of LANES channels. Time is processed in chunks of STEPS: a few states at a time go
// through all steps of a chunk while they stay in registers. The state before each chunk is saved, from which the
// backward pass recomputes the states inside the chunk.
//
// Backward, with u_t = dt_t x_t and the decay a_t = exp(dt_t A):
//     dh_t = dy_t out_t + c_{t+1},  c_t = a_t dh_t,   beginning with c_{T+1}, the gradient of the last state,
//     du_t = sum over n of dh_t in_t,  din_t = sum over channels of dh_t u_t,  dout_t = sum over channels of dy_t h_t.
// log a_t = dt_t A has the gradient g_t = a_t dh_t h_{t-1} = c_t h_{t-1}, so
//     dA = sum over t of g_t dt_t,  d(dt_t) = sum over n of g_t A + du_t x_t,  dx_t = du_t dt_t,
// and the gradient of the initial state is c_1.
//
// B batch, T time, D channels, N states a channel, M chunks, S slices of channels. All channels read the same in and
// out, so their gradients are sums over channels: threads share the channels by slices, each sums over its own, and the
// caller sums over slices. No additions are atomic, so that results do not depend on the order of threads.
//
// The caller allocates the saved states [B, groups, M, N, LANES] before it knows the vectors' width, so it sets the
// sizes: STEPS of a chunk, and D padded to a multiple of a vector of MAX_VECTOR_BYTES bytes.

#include "channels.h"
#include "exp2.h"
#include <algorithm>

namespace {

using Vec = Simd<float>::Vec;
// States that are computed together in the forward pass, so that their independent steps hide each other's latency.
// With more, registers are spilled.
constexpr int LANES = Simd<float>::LANES, STATES_TOGETHER = 4;
static_assert(MAX_VECTOR_BYTES % LINE == 0);

struct Scan {
    int64_t B, T, D, N;
    Channels<float> channels{T, D};

    int64_t padded() const { return (N + STATES_TOGETHER - 1) / STATES_TOGETHER * STATES_TOGETHER; }
    int64_t saved_offset(int64_t b, int64_t g, int64_t m) const {
        return ((b * channels.groups() + g) * channels.chunks() + m) * N * LANES;
    }

    void scatter(const Vec* from, float* x_DN, int64_t g) const {
        for (int64_t lane = 0; lane < channels.lanes(g); ++lane)
            for (int64_t n = 0; n < N; ++n) x_DN[(g * LANES + lane) * N + n] = from[n][lane];
    }
    // Copy a chunk of in or out [T, N], its states padded with zeros.
    void read(const float* x_TN, int64_t m, float* out) const {
        for (int64_t t = 0; t < channels.count(m); ++t)
            for (int64_t n = 0; n < padded(); ++n) out[t * padded() + n] = n < N ? x_TN[(m * STEPS + t) * N + n] : 0;
    }

    void forward(const float* x, const float* dt, const float* A_DN, const float* in, const float* out,
                 const float* state_BDN, float* y, float* last_BDN, float* starts) const {
#pragma omp parallel for collapse(2) schedule(dynamic)
        for (int64_t b = 0; b < B; ++b)
            for (int64_t g = 0; g < channels.groups(); ++g) {
                FlushDenormals flush;
                const auto A = channels.gather(A_DN, N, padded(), g, LOG2_E);  // exp(dt A) = exp2(dt A log2(e))
                auto h = channels.gather(state_BDN + b * D * N, N, padded(), g);
                std::vector<float> in_chunk(STEPS * padded()), out_chunk(STEPS * padded());
                Vec dt_chunk[STEPS], u[STEPS], sums[STEPS];
                for (int64_t m = 0; m < channels.chunks(); ++m) {
                    std::memcpy(starts + saved_offset(b, g, m), h.data(), N * sizeof(Vec));
                    channels.load(dt + b * T * D, g, m, dt_chunk);
                    channels.load(x + b * T * D, g, m, u);
                    read(in + b * T * N, m, in_chunk.data());
                    read(out + b * T * N, m, out_chunk.data());
                    for (int64_t t = 0; t < channels.count(m); ++t) u[t] *= dt_chunk[t], sums[t] = Vec{};
                    for (int64_t n = 0; n < padded(); n += STATES_TOGETHER)
                        scan_chunk(channels.count(m), dt_chunk, u, &A[n], &in_chunk[n], &out_chunk[n], &h[n], sums);
                    channels.store(sums, g, m, y + b * T * D);
                }
                scatter(h.data(), last_BDN + b * D * N, g);
            }
    }
    void scan_chunk(int64_t count, const Vec* dt, const Vec* u, const Vec* A_n, const float* in_chunk,
                 const float* out_chunk, Vec* states, Vec* y) const {
        Vec A[STATES_TOGETHER], h[STATES_TOGETHER];
        for (int i = 0; i < STATES_TOGETHER; ++i) A[i] = A_n[i], h[i] = states[i];
        for (int64_t t = 0; t < count; ++t, in_chunk += padded(), out_chunk += padded()) {
            Vec sum = y[t];
#pragma GCC unroll 4
            for (int i = 0; i < STATES_TOGETHER; ++i) {
                h[i] = exp2(dt[t] * A[i]) * h[i] + in_chunk[i] * u[t];
                sum += out_chunk[i] * h[i];
            }
            y[t] = sum;
        }
        for (int i = 0; i < STATES_TOGETHER; ++i) states[i] = h[i];
    }

    // The buffers of a slice in the backward pass, for one chunk. in and out are [step, state] as in memory, their
    // gradients [state, step], as one state at a time is processed.
    struct BackwardBuffers {
        std::vector<float> in_chunk, out_chunk;
        std::vector<Vec> din, dout;
        Vec x[STEPS], dt[STEPS], u[STEPS], dy[STEPS], du[STEPS], ddt[STEPS];
        explicit BackwardBuffers(int64_t states)
            : in_chunk(STEPS * states), out_chunk(STEPS * states), din(STEPS * states), dout(STEPS * states) {}
    };
    // A of a group, times log2(e); its gradient; and c of the derivation, the gradient that passes on to earlier steps.
    struct Group {
        std::vector<Vec> A, dA, carried;
    };

    void backward(const float* dy, const float* dlast_BDN, const float* x, const float* dt, const float* A_DN,
                  const float* in, const float* out, const float* starts, float* dx, float* ddt, float* dA_BDN,
                  float* din_SBTN, float* dout_SBTN, float* dstate_BDN, int64_t S) const {
        const int64_t per_slice = (channels.groups() + S - 1) / S;
#pragma omp parallel for collapse(2) schedule(dynamic)
        for (int64_t b = 0; b < B; ++b)
            for (int64_t s = 0; s < S; ++s) {
                FlushDenormals flush;
                const int64_t first = s * per_slice, end = std::min(first + per_slice, channels.groups());
                std::vector<Group> groups;
                for (int64_t g = first; g < end; ++g)
                    groups.push_back({channels.gather(A_DN, N, padded(), g, LOG2_E),
                                      std::vector<Vec>(padded(), Vec{}),
                                      channels.gather(dlast_BDN + b * D * N, N, padded(), g)});
                BackwardBuffers buffers(padded());
                for (int64_t m = channels.chunks() - 1; m >= 0; --m) {
                    read(in + b * T * N, m, buffers.in_chunk.data());
                    read(out + b * T * N, m, buffers.out_chunk.data());
                    std::fill(buffers.din.begin(), buffers.din.end(), Vec{});
                    std::fill(buffers.dout.begin(), buffers.dout.end(), Vec{});
                    for (int64_t g = first; g < end; ++g) {
                        channels.load(x + b * T * D, g, m, buffers.x);
                        channels.load(dt + b * T * D, g, m, buffers.dt);
                        channels.load(dy + b * T * D, g, m, buffers.dy);
                        backward_chunk(channels.count(m), starts + saved_offset(b, g, m), groups[g - first], buffers);
                        channels.store(buffers.du, g, m, dx + b * T * D);
                        channels.store(buffers.ddt, g, m, ddt + b * T * D);
                    }
                    write(buffers.din, m, din_SBTN + (s * B + b) * T * N);
                    write(buffers.dout, m, dout_SBTN + (s * B + b) * T * N);
                }
                for (int64_t g = first; g < end; ++g) {
                    scatter(groups[g - first].dA.data(), dA_BDN + b * D * N, g);
                    scatter(groups[g - first].carried.data(), dstate_BDN + b * D * N, g);
                }
            }
    }
    void write(const std::vector<Vec>& sums, int64_t m, float* x_TN) const {
        for (int64_t t = 0; t < channels.count(m); ++t)
            for (int64_t n = 0; n < N; ++n) x_TN[(m * STEPS + t) * N + n] = sum(sums[n * STEPS + t]);
    }
    // Compute the gradients of one chunk of a group; du then holds those of x.
    void backward_chunk(int64_t count, const float* start, Group& group, BackwardBuffers& buffers) const {
        for (int64_t t = 0; t < count; ++t) {
            buffers.u[t] = buffers.x[t] * buffers.dt[t];
            buffers.du[t] = buffers.ddt[t] = Vec{};
        }
        for (int64_t n = 0; n < N; ++n) backward_state(count, n, load(start + n * LANES), group, buffers);
        for (int64_t t = 0; t < count; ++t) {
            // The sum of g A was taken with A times log2(e).
            buffers.ddt[t] = buffers.ddt[t] / LOG2_E + buffers.du[t] * buffers.x[t];
            buffers.du[t] *= buffers.dt[t];
        }
    }
    // Add the gradients of one state of a group over a chunk.
    void backward_state(int64_t count, int64_t n, Vec start, Group& group, BackwardBuffers& buffers) const {
        Vec past[STEPS + 1], decay[STEPS], carried = group.carried[n], dA{};
        const Vec A = group.A[n];
        const float *in_chunk = &buffers.in_chunk[n], *out_chunk = &buffers.out_chunk[n];
        Vec *din = &buffers.din[n * STEPS], *dout = &buffers.dout[n * STEPS];
        past[0] = start;
        // All decays first: they do not depend on each other, while the states do.
        for (int64_t t = 0; t < count; ++t) decay[t] = exp2(buffers.dt[t] * A);
        for (int64_t t = 0; t < count; ++t) past[t + 1] = decay[t] * past[t] + in_chunk[t * padded()] * buffers.u[t];
        for (int64_t t = count - 1; t >= 0; --t) {
            const Vec dh = carried + out_chunk[t * padded()] * buffers.dy[t];
            dout[t] += past[t + 1] * buffers.dy[t];
            din[t] += dh * buffers.u[t];
            buffers.du[t] += in_chunk[t * padded()] * dh;
            carried = decay[t] * dh;
            const Vec dlog = carried * past[t];
            dA += dlog * buffers.dt[t];
            buffers.ddt[t] += dlog * A;
        }
        group.carried[n] = carried;
        group.dA[n] += dA;
    }
};

}  // namespace

extern "C" void selective_scan(const float* x, const float* dt, const float* A, const float* in, const float* out,
                               const float* state, float* y, float* last, float* starts, int64_t B, int64_t T,
                               int64_t D, int64_t N) {
    Scan{B, T, D, N}.forward(x, dt, A, in, out, state, y, last, starts);
}
extern "C" void selective_scan_back(const float* dy, const float* dlast, const float* x, const float* dt,
                                    const float* A, const float* in, const float* out, const float* starts,
                                    float* dx, float* ddt, float* dA, float* din, float* dout, float* dstate,
                                    int64_t B, int64_t T, int64_t D, int64_t N, int64_t S) {
    Scan{B, T, D, N}.backward(dy, dlast, x, dt, A, in, out, starts, dx, ddt, dA, din, dout, dstate, S);
}
