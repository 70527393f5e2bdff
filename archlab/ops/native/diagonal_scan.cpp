// h_t = q h_{t-1} + u_t and y_t = Re(sum over n of w_n h_{t,n}) for every channel, forward and backward.
//
// One vector holds the same state of LANES channels. Time is walked in blocks of STEPS: in one block each few states go
// through all its steps while they stay in registers. The states at the beginnings of blocks are kept, from which the
// backward pass computes those inside a block again.
//
// The factor comes as q = near + rest, near being 1, 0 or -1: a factor next to 1 by itself has lost the digits that
// tell how slowly it forgets.
//
// Numbers have P parts: 1 where they are real, 2 (real, imaginary) where they are complex.
// B batch, T time, D channels, N states a channel, M blocks.
//
// The caller allots what is kept, so it says how: STEPS a block, STATES padded to a multiple, and channels to that of a
// vector of WIDEST bytes.

#include "channels.h"

namespace {

constexpr int FORWARD_STATES = STATES, BACKWARD_STATES = 2;  // more are out of registers
static_assert(FORWARD_STATES % BACKWARD_STATES == 0);
static_assert(WIDEST % LINE == 0);

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

    // What a group of channels multiplies by.
    struct Group {
        std::vector<Vec> near;
        std::vector<Number> rest, w;
    };
    int64_t states_of(int64_t b) const { return b * D * N * P; }
    int64_t kept_of(int64_t b, int64_t g, int64_t m) const {
        return ((b * channels.groups() + g) * channels.blocks() + m) * padded() * P * LANES;
    }

    // Do something for every sample and group of channels, on all threads.
    template <typename Body>
    void each(const F* near_DN, const F* rest_DNP, const F* w_DNP, const Body& body) const {
#pragma omp parallel for collapse(2) schedule(dynamic)
        for (int64_t b = 0; b < B; ++b)
            for (int64_t g = 0; g < channels.groups(); ++g) {
                FlushDenormals flush;
                body(b, g, Group{channels.gather(near_DN, N, padded(), g), gather(rest_DNP, g), gather(w_DNP, g)});
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
        each(near_DN, rest_DNP, w_DNP, [&](int64_t b, int64_t g, const Group& by) {
            auto h = gather(state_BDNP + states_of(b), g);
            Vec u[STEPS], y[STEPS];
            for (int64_t m = 0; m < channels.blocks(); ++m) {
                std::memcpy(starts + kept_of(b, g, m), h.data(), padded() * sizeof(Number));
                channels.load(u_BTD + b * T * D, g, m, u);
                for (int64_t t = 0; t < channels.count(m); ++t) y[t] = Vec{};
                for (int64_t n = 0; n < padded(); n += FORWARD_STATES) through(by, n, u, channels.count(m), &h[n], y);
                channels.store(y, g, m, y_BTD + b * T * D);
            }
            scatter(h, last_BDNP + states_of(b), g);
        });
    }
    static void through(const Group& by, int64_t n, const Vec* u, int64_t count, Number* h_n, Vec* y) {
        Vec near[FORWARD_STATES];
        Number rest[FORWARD_STATES], w[FORWARD_STATES], h[FORWARD_STATES];
        for (int i = 0; i < FORWARD_STATES; ++i)
            near[i] = by.near[n + i], rest[i] = by.rest[n + i], w[i] = by.w[n + i], h[i] = h_n[i];
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
        each(near_DN, rest_DNP, w_DNP, [&](int64_t b, int64_t g, const Group& by) {
            auto dh = gather(dlast_BDNP + states_of(b), g);
            std::vector<Number> drest(padded(), Number{}), dw(padded(), Number{});
            Vec u[STEPS], dy[STEPS], du[STEPS];
            for (int64_t m = channels.blocks() - 1; m >= 0; --m) {
                const F* kept = starts + kept_of(b, g, m);
                channels.load(u_BTD + b * T * D, g, m, u);
                channels.load(dy_BTD + b * T * D, g, m, dy);
                for (int64_t t = 0; t < channels.count(m); ++t) du[t] = Vec{};
                for (int64_t n = 0; n < padded(); n += BACKWARD_STATES)
                    back(by, n, kept + n * P * LANES, u, dy, channels.count(m), &dh[n], &drest[n], &dw[n], du);
                channels.store(du, g, m, du_BTD + b * T * D);
            }
            scatter(drest, drest_BDNP + states_of(b), g);
            scatter(dw, dw_BDNP + states_of(b), g);
            scatter(dh, dstate_BDNP + states_of(b), g);
        });
    }
    // dh arrives and leaves as the gradient of the state before the first of the steps that come next.
    static void back(const Group& by, int64_t n, const F* start, const Vec* u, const Vec* dy, int64_t count,
                     Number* dh_n, Number* drest_n, Number* dw_n, Vec* du) {
        constexpr int S = BACKWARD_STATES;
        Vec near[S];
        Number past[STEPS + 1][S], rest[S], w[S], carried[S], drest[S]{}, dw[S]{};
        std::memcpy(past[0], start, sizeof(past[0]));
        for (int i = 0; i < S; ++i)
            near[i] = by.near[n + i], rest[i] = by.rest[n + i], w[i] = by.w[n + i], carried[i] = dh_n[i];
        for (int64_t t = 0; t < count; ++t)
            for (int i = 0; i < S; ++i) past[t + 1][i] = advance(near[i], rest[i], past[t][i], u[t]);
        for (int64_t t = count - 1; t >= 0; --t) {
            Vec sum = du[t];
#pragma GCC unroll 2
            for (int i = 0; i < S; ++i) {
                const Number &before = past[t][i], &h = past[t + 1][i];
                Number dh = carried[i];
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

#define BODIES(F, P, NAME)                                                                                             \
    extern "C" void diagonal_scan_##NAME(const F* u, const F* near, const F* rest, const F* w, const F* state, F* y,   \
                                         F* last, F* starts, int64_t B, int64_t T, int64_t D, int64_t N) {             \
        Scan<F, P>{B, T, D, N}.forward(u, near, rest, w, state, y, last, starts);                                      \
    }                                                                                                                  \
    extern "C" void diagonal_scan_back_##NAME(const F* dy, const F* dlast, const F* u, const F* near, const F* rest,   \
                                              const F* w, const F* starts, F* du, F* drest, F* dw, F* dstate,          \
                                              int64_t B, int64_t T, int64_t D, int64_t N) {                            \
        Scan<F, P>{B, T, D, N}.backward(dy, dlast, u, near, rest, w, starts, du, drest, dw, dstate);                   \
    }

BODIES(float, 1, float32_real)
BODIES(float, 2, float32_complex)
BODIES(double, 1, float64_real)
BODIES(double, 2, float64_complex)
