// h_t = exp(step_t rate) h_{t-1} + step_t x_t in_t and y_t = h_t out_t for every channel, forward and backward.
//
// One vector holds the same state of LANES channels. Time is walked in blocks of STEPS: in one block each few states go
// through all its steps while they stay in registers. The states at the beginnings of blocks are kept, from which the
// backward pass computes those inside a block again.
//
// B batch, T time, D channels, N states a channel, M blocks, S slices of channels. Every channel reads the same in and
// out, so their gradients are sums over channels: of a slice here, over slices by the caller.
//
// The caller allots what is kept, so it says how: STEPS a block, and channels to a multiple of a vector of WIDEST
// bytes.

#include "channels.h"
#include "exp2.h"
#include <algorithm>

namespace {

using Vec = Simd<float>::Vec;
constexpr int LANES = Simd<float>::LANES, TOGETHER = 4;  // states; more are out of registers
static_assert(WIDEST % LINE == 0);

struct Scan {
    int64_t B, T, D, N;
    Channels<float> channels{T, D};

    int64_t padded() const { return (N + TOGETHER - 1) / TOGETHER * TOGETHER; }
    int64_t at_block(int64_t b, int64_t g, int64_t m) const {
        return ((b * channels.groups() + g) * channels.blocks() + m) * N * LANES;
    }

    void scatter(const Vec* from, float* x_DN, int64_t g) const {
        for (int64_t lane = 0; lane < channels.lanes(g); ++lane)
            for (int64_t n = 0; n < N; ++n) x_DN[(g * LANES + lane) * N + n] = from[n][lane];
    }
    // A block of in or out [T, N], its states padded with zeros.
    void read(const float* x_TN, int64_t m, float* out) const {
        for (int64_t t = 0; t < channels.count(m); ++t)
            for (int64_t n = 0; n < padded(); ++n) out[t * padded() + n] = n < N ? x_TN[(m * STEPS + t) * N + n] : 0;
    }

    void forward(const float* x, const float* step, const float* rate_DN, const float* in, const float* out,
                 const float* state_BDN, float* y, float* last_BDN, float* starts) const {
#pragma omp parallel for collapse(2) schedule(dynamic)
        for (int64_t b = 0; b < B; ++b)
            for (int64_t g = 0; g < channels.groups(); ++g) {
                FlushDenormals flush;
                const auto rate = channels.gather(rate_DN, N, padded(), g, LOG2_E);
                auto h = channels.gather(state_BDN + b * D * N, N, padded(), g);
                std::vector<float> taken(STEPS * padded()), given(STEPS * padded());
                Vec steps[STEPS], u[STEPS], sums[STEPS];
                for (int64_t m = 0; m < channels.blocks(); ++m) {
                    std::memcpy(starts + at_block(b, g, m), h.data(), N * sizeof(Vec));
                    channels.load(step + b * T * D, g, m, steps);
                    channels.load(x + b * T * D, g, m, u);
                    read(in + b * T * N, m, taken.data());
                    read(out + b * T * N, m, given.data());
                    for (int64_t t = 0; t < channels.count(m); ++t) u[t] *= steps[t], sums[t] = Vec{};
                    for (int64_t n = 0; n < padded(); n += TOGETHER)
                        through(channels.count(m), steps, u, &rate[n], &taken[n], &given[n], &h[n], sums);
                    channels.store(sums, g, m, y + b * T * D);
                }
                scatter(h.data(), last_BDN + b * D * N, g);
            }
    }
    void through(int64_t count, const Vec* step, const Vec* u, const Vec* rates, const float* taken,
                 const float* given, Vec* states, Vec* y) const {
        Vec rate[TOGETHER], h[TOGETHER];
        for (int i = 0; i < TOGETHER; ++i) rate[i] = rates[i], h[i] = states[i];
        for (int64_t t = 0; t < count; ++t, taken += padded(), given += padded()) {
            Vec sum = y[t];
#pragma GCC unroll 4
            for (int i = 0; i < TOGETHER; ++i) {
                h[i] = exp2(step[t] * rate[i]) * h[i] + taken[i] * u[t];
                sum += given[i] * h[i];
            }
            y[t] = sum;
        }
        for (int i = 0; i < TOGETHER; ++i) states[i] = h[i];
    }

    // What a slice of channels has at hand on its way back; of a block, states come first and steps second.
    struct Back {
        std::vector<float> taken, given;
        std::vector<Vec> dtaken, dgiven;
        Vec x[STEPS], step[STEPS], u[STEPS], dy[STEPS], du[STEPS], dstep[STEPS];
        explicit Back(int64_t states)
            : taken(STEPS * states), given(STEPS * states), dtaken(STEPS * states), dgiven(STEPS * states) {}
    };
    // The factors of a group's states, and the gradients of these factors and of the state before the steps to come.
    struct Group {
        std::vector<Vec> rate, drate, dh;
    };

    void backward(const float* dy, const float* dlast_BDN, const float* x, const float* step, const float* rate_DN,
                  const float* in, const float* out, const float* starts, float* dx, float* dstep, float* drate_BDN,
                  float* din_SBTN, float* dout_SBTN, float* dstate_BDN, int64_t S) const {
        const int64_t per_slice = (channels.groups() + S - 1) / S;
#pragma omp parallel for collapse(2) schedule(dynamic)
        for (int64_t b = 0; b < B; ++b)
            for (int64_t s = 0; s < S; ++s) {
                FlushDenormals flush;
                const int64_t first = s * per_slice, end = std::min(first + per_slice, channels.groups());
                std::vector<Group> groups;
                for (int64_t g = first; g < end; ++g)
                    groups.push_back({channels.gather(rate_DN, N, padded(), g, LOG2_E),
                                      std::vector<Vec>(padded(), Vec{}),
                                      channels.gather(dlast_BDN + b * D * N, N, padded(), g)});
                Back at_hand(padded());
                for (int64_t m = channels.blocks() - 1; m >= 0; --m) {
                    read(in + b * T * N, m, at_hand.taken.data());
                    read(out + b * T * N, m, at_hand.given.data());
                    std::fill(at_hand.dtaken.begin(), at_hand.dtaken.end(), Vec{});
                    std::fill(at_hand.dgiven.begin(), at_hand.dgiven.end(), Vec{});
                    for (int64_t g = first; g < end; ++g) {
                        channels.load(x + b * T * D, g, m, at_hand.x);
                        channels.load(step + b * T * D, g, m, at_hand.step);
                        channels.load(dy + b * T * D, g, m, at_hand.dy);
                        through_block(channels.count(m), starts + at_block(b, g, m), groups[g - first], at_hand);
                        channels.store(at_hand.du, g, m, dx + b * T * D);
                        channels.store(at_hand.dstep, g, m, dstep + b * T * D);
                    }
                    write(at_hand.dtaken, m, din_SBTN + (s * B + b) * T * N);
                    write(at_hand.dgiven, m, dout_SBTN + (s * B + b) * T * N);
                }
                for (int64_t g = first; g < end; ++g) {
                    scatter(groups[g - first].drate.data(), drate_BDN + b * D * N, g);
                    scatter(groups[g - first].dh.data(), dstate_BDN + b * D * N, g);
                }
            }
    }
    void write(const std::vector<Vec>& sums, int64_t m, float* x_TN) const {
        for (int64_t t = 0; t < channels.count(m); ++t)
            for (int64_t n = 0; n < N; ++n) x_TN[(m * STEPS + t) * N + n] = sum(sums[n * STEPS + t]);
    }
    // Leaves the gradients of x in du.
    void through_block(int64_t count, const float* start, Group& group, Back& at_hand) const {
        for (int64_t t = 0; t < count; ++t) {
            at_hand.u[t] = at_hand.x[t] * at_hand.step[t];
            at_hand.du[t] = at_hand.dstep[t] = Vec{};
        }
        for (int64_t n = 0; n < N; ++n) back(count, n, load(start + n * LANES), group, at_hand);
        for (int64_t t = 0; t < count; ++t) {
            at_hand.dstep[t] = at_hand.dstep[t] / LOG2_E + at_hand.du[t] * at_hand.x[t];
            at_hand.du[t] *= at_hand.step[t];
        }
    }
    void back(int64_t count, int64_t n, Vec start, Group& group, Back& at_hand) const {
        Vec past[STEPS + 1], factor[STEPS], carried = group.dh[n], drate{};
        const Vec rate = group.rate[n];
        const float *taken = &at_hand.taken[n], *given = &at_hand.given[n];
        Vec *dtaken = &at_hand.dtaken[n * STEPS], *dgiven = &at_hand.dgiven[n * STEPS];
        past[0] = start;
        for (int64_t t = 0; t < count; ++t) factor[t] = exp2(at_hand.step[t] * rate);
        for (int64_t t = 0; t < count; ++t) past[t + 1] = factor[t] * past[t] + taken[t * padded()] * at_hand.u[t];
        for (int64_t t = count - 1; t >= 0; --t) {
            const Vec dh = carried + given[t * padded()] * at_hand.dy[t];
            dgiven[t] += past[t + 1] * at_hand.dy[t];
            dtaken[t] += dh * at_hand.u[t];
            at_hand.du[t] += taken[t * padded()] * dh;
            carried = factor[t] * dh;
            const Vec dlog = carried * past[t];
            drate += dlog * at_hand.step[t];
            at_hand.dstep[t] += dlog * rate;
        }
        group.dh[n] = carried;
        group.drate[n] += drate;
    }
};

}  // namespace

extern "C" void selective_scan(const float* x, const float* step, const float* rate, const float* in, const float* out,
                               const float* state, float* y, float* last, float* starts, int64_t B, int64_t T,
                               int64_t D, int64_t N) {
    Scan{B, T, D, N}.forward(x, step, rate, in, out, state, y, last, starts);
}
extern "C" void selective_scan_back(const float* dy, const float* dlast, const float* x, const float* step,
                                    const float* rate, const float* in, const float* out, const float* starts,
                                    float* dx, float* dstep, float* drate, float* din, float* dout, float* dstate,
                                    int64_t B, int64_t T, int64_t D, int64_t N, int64_t S) {
    Scan{B, T, D, N}.backward(dy, dlast, x, step, rate, in, out, starts, dx, dstep, drate, din, dout, dstate, S);
}
