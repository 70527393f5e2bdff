// h_t = q h_{t-1} + u_t and y_t = Re(sum over n of w_n h_{t,n}) for every channel, forward and backward.
//
// A vector holds the same state of LANES channels. Time is processed in chunks of STEPS: a few states at a time go
// through all steps of a chunk while they stay in registers, and the chunk's u and y stay in the first cache. The state
// before each chunk is saved, from which the backward pass recomputes the states inside the chunk.
//
// The factor is given as q = near + rest with near 1, 0 or -1, as a q near 1 has lost digits of 1 - q in float32. For
// the same reason small terms are added to each other first, and near * h last, which is exact and so rounds once.
//
// Backward, by parts (the gradient of a complex x is dL/dRe(x) + i dL/dIm(x), and * is the conjugate):
//     dh_t = w* dy_t + q* dh_{t+1},   beginning with the gradient of the last state,
//     du_t = sum over n of Re(dh_t),  dw = sum over t of dy_t h_t*,  dq = sum over t of dh_t h_{t-1}*,
// and the gradient of the initial state is q* dh_1. That by rest is dq, as near is a constant.
//
// Numbers have P parts: 1 where they are real, 2 (real, imaginary) where they are complex.
// B batch, T time, D channels, N states a channel, M chunks.
//
// The caller allocates the saved states [B, groups, M, N, P, LANES] before it knows the vectors' width, so it sets the
// sizes: STEPS of a chunk, N padded to a multiple of STATES, D to a multiple of a vector of MAX_VECTOR_BYTES bytes.

#include "channels.h"

namespace {

// States that are computed together, so that their independent steps hide each other's latency; with more, or with more
// than 2 in the backward pass, which also sums dw and drest, registers are spilled.
constexpr int FORWARD_STATES = STATES, BACKWARD_STATES = 2;
static_assert(FORWARD_STATES % BACKWARD_STATES == 0);
static_assert(MAX_VECTOR_BYTES % LINE == 0);

template <typename F, int P> struct Scan {
    using Vec = typename Simd<F>::Vec;
    static constexpr int LANES = Simd<F>::LANES;
    struct Number { Vec part[P]; };

    int64_t B, T, D, N;
    Channels<F> channels{T, D};
    int64_t padded() const { return (N + FORWARD_STATES - 1) / FORWARD_STATES * FORWARD_STATES; }

    std::vector<Number> gather(const F* x_DNP, int64_t g) const {
        std::vector<Number> out(padded(), Number{});
        for (int64_t lane = 0; lane < channels.lanes(g); ++lane)
            for (int64_t n = 0; n < N; ++n)
                for (int p = 0; p < P; ++p) out[n].part[p][lane] = x_DNP[((g * LANES + lane) * N + n) * P + p];
        return out;
    }
    void scatter(const std::vector<Number>& from, F* x_DNP, int64_t g) const {
        for (int64_t lane = 0; lane < channels.lanes(g); ++lane)
            for (int64_t n = 0; n < N; ++n)
                for (int p = 0; p < P; ++p) x_DNP[((g * LANES + lane) * N + n) * P + p] = from[n].part[p][lane];
    }

    // The parameters of a group of channels.
    struct Group {
        std::vector<Vec> near;
        std::vector<Number> rest, w;
    };
    int64_t state_offset(int64_t b) const { return b * D * N * P; }
    int64_t saved_offset(int64_t b, int64_t g, int64_t m) const {
        return ((b * channels.groups() + g) * channels.chunks() + m) * padded() * P * LANES;
    }

    // Call a function for every sample and group of channels, on all threads. Each writes memory of its own.
    template <typename Function>
    void for_each_group(const F* near_DN, const F* rest_DNP, const F* w_DNP, const Function& function) const {
#pragma omp parallel for collapse(2) schedule(dynamic)
        for (int64_t b = 0; b < B; ++b)
            for (int64_t g = 0; g < channels.groups(); ++g) {
                FlushDenormals flush;
                function(b, g, Group{channels.gather(near_DN, N, padded(), g), gather(rest_DNP, g), gather(w_DNP, g)});
            }
    }

    static inline Number advance(Vec near, const Number& rest, const Number& h, Vec u) {
        if constexpr (P == 1) return {near * h.part[0] + (rest.part[0] * h.part[0] + u)};
        else
            return {{near * h.part[0] + (rest.part[0] * h.part[0] + (u - rest.part[1] * h.part[1])),
                     near * h.part[1] + (rest.part[0] * h.part[1] + rest.part[1] * h.part[0])}};
    }
    static inline Vec read(const Number& w, const Number& h, Vec y) {
        y += w.part[0] * h.part[0];
        if constexpr (P == 2) y -= w.part[1] * h.part[1];
        return y;
    }

    void forward(const F* u_BTD, const F* near_DN, const F* rest_DNP, const F* w_DNP, const F* state_BDNP, F* y_BTD,
                 F* last_BDNP, F* starts) const {
        for_each_group(near_DN, rest_DNP, w_DNP, [&](int64_t b, int64_t g, const Group& group) {
            auto h = gather(state_BDNP + state_offset(b), g);
            Vec u[STEPS], y[STEPS];
            for (int64_t m = 0; m < channels.chunks(); ++m) {
                std::memcpy(starts + saved_offset(b, g, m), h.data(), padded() * sizeof(Number));
                channels.load(u_BTD + b * T * D, g, m, u);
                for (int64_t t = 0; t < channels.count(m); ++t) y[t] = Vec{};
                for (int64_t n = 0; n < padded(); n += FORWARD_STATES)
                    scan_chunk(group, n, u, channels.count(m), &h[n], y);
                channels.store(y, g, m, y_BTD + b * T * D);
            }
            scatter(h, last_BDNP + state_offset(b), g);
        });
    }
    static void scan_chunk(const Group& group, int64_t n, const Vec* u, int64_t count, Number* h_n, Vec* y) {
        Vec near[FORWARD_STATES];
        Number rest[FORWARD_STATES], w[FORWARD_STATES], h[FORWARD_STATES];
        for (int i = 0; i < FORWARD_STATES; ++i)
            near[i] = group.near[n + i], rest[i] = group.rest[n + i], w[i] = group.w[n + i], h[i] = h_n[i];
        for (int64_t t = 0; t < count; ++t) {
            Vec sum = y[t];
#pragma GCC unroll 4
            for (int i = 0; i < FORWARD_STATES; ++i) {
                h[i] = advance(near[i], rest[i], h[i], u[t]);
                sum = read(w[i], h[i], sum);
            }
            y[t] = sum;
        }
        for (int i = 0; i < FORWARD_STATES; ++i) h_n[i] = h[i];
    }

    void backward(const F* dy_BTD, const F* dlast_BDNP, const F* u_BTD, const F* near_DN, const F* rest_DNP,
                  const F* w_DNP, const F* starts, F* du_BTD, F* drest_BDNP, F* dw_BDNP, F* dstate_BDNP) const {
        for_each_group(near_DN, rest_DNP, w_DNP, [&](int64_t b, int64_t g, const Group& group) {
            auto dh = gather(dlast_BDNP + state_offset(b), g);
            std::vector<Number> drest(padded(), Number{}), dw(padded(), Number{});
            Vec u[STEPS], dy[STEPS], du[STEPS];
            for (int64_t m = channels.chunks() - 1; m >= 0; --m) {
                const F* start = starts + saved_offset(b, g, m);
                channels.load(u_BTD + b * T * D, g, m, u);
                channels.load(dy_BTD + b * T * D, g, m, dy);
                for (int64_t t = 0; t < channels.count(m); ++t) du[t] = Vec{};
                for (int64_t n = 0; n < padded(); n += BACKWARD_STATES)
                    backward_chunk(group, n, start + n * P * LANES, u, dy, channels.count(m), &dh[n], &drest[n],
                                   &dw[n], du);
                channels.store(du, g, m, du_BTD + b * T * D);
            }
            scatter(drest, drest_BDNP + state_offset(b), g);
            scatter(dw, dw_BDNP + state_offset(b), g);
            scatter(dh, dstate_BDNP + state_offset(b), g);
        });
    }
    // dh_n is q* dh of the step after the chunk on entry, and that of the chunk's first step on return: the gradient of
    // the state before the steps that have been processed.
    static void backward_chunk(const Group& group, int64_t n, const F* start, const Vec* u, const Vec* dy,
                               int64_t count, Number* dh_n, Number* drest_n, Number* dw_n, Vec* du) {
        constexpr int S = BACKWARD_STATES;
        Vec near[S];
        Number past[STEPS + 1][S], rest[S], w[S], carried[S], drest[S]{}, dw[S]{};
        std::memcpy(past[0], start, sizeof(past[0]));
        for (int i = 0; i < S; ++i)
            near[i] = group.near[n + i], rest[i] = group.rest[n + i], w[i] = group.w[n + i], carried[i] = dh_n[i];
        for (int64_t t = 0; t < count; ++t)
            for (int i = 0; i < S; ++i) past[t + 1][i] = advance(near[i], rest[i], past[t][i], u[t]);
        for (int64_t t = count - 1; t >= 0; --t) {
            Vec sum = du[t];
#pragma GCC unroll 2
            for (int i = 0; i < S; ++i) {
                const Number &before = past[t][i], &h = past[t + 1][i];
                Number dh = carried[i];  // q* dh_{t+1}
                dh.part[0] += w[i].part[0] * dy[t];
                dw[i].part[0] += dy[t] * h.part[0];
                drest[i].part[0] += dh.part[0] * before.part[0];
                if constexpr (P == 2) {
                    dh.part[1] -= w[i].part[1] * dy[t];
                    dw[i].part[1] -= dy[t] * h.part[1];
                    drest[i].part[0] += dh.part[1] * before.part[1];
                    drest[i].part[1] += dh.part[1] * before.part[0] - dh.part[0] * before.part[1];
                    const Vec real = rest[i].part[0], imaginary = rest[i].part[1];
                    carried[i].part[0] = near[i] * dh.part[0] + (real * dh.part[0] + imaginary * dh.part[1]);
                    carried[i].part[1] = near[i] * dh.part[1] + (real * dh.part[1] - imaginary * dh.part[0]);
                } else {
                    carried[i].part[0] = near[i] * dh.part[0] + rest[i].part[0] * dh.part[0];
                }
                sum += dh.part[0];
            }
            du[t] = sum;
        }
        for (int i = 0; i < S; ++i) {
            dh_n[i] = carried[i];
            for (int p = 0; p < P; ++p) drest_n[i].part[p] += drest[i].part[p], dw_n[i].part[p] += dw[i].part[p];
        }
    }
};

}  // namespace

#define EXPORT(F, P, NAME)                                                                                             \
    extern "C" void diagonal_scan_##NAME(const F* u, const F* near, const F* rest, const F* w, const F* state, F* y,   \
                                         F* last, F* starts, int64_t B, int64_t T, int64_t D, int64_t N) {             \
        Scan<F, P>{B, T, D, N}.forward(u, near, rest, w, state, y, last, starts);                                      \
    }                                                                                                                  \
    extern "C" void diagonal_scan_back_##NAME(const F* dy, const F* dlast, const F* u, const F* near, const F* rest,   \
                                              const F* w, const F* starts, F* du, F* drest, F* dw, F* dstate,          \
                                              int64_t B, int64_t T, int64_t D, int64_t N) {                            \
        Scan<F, P>{B, T, D, N}.backward(dy, dlast, u, near, rest, w, starts, du, drest, dw, dstate);                   \
    }

EXPORT(float, 1, float32_real)
EXPORT(float, 2, float32_complex)
EXPORT(double, 1, float64_real)
EXPORT(double, 2, float64_complex)
