// Recurrences that are independent per channel: a lane of a vector is a channel, and time is split into chunks.
//
// A group is LANES neighboring channels, one vector. A chunk is STEPS steps, a constant of the build that the caller
// sets (library.py), as it also allocates the states saved per chunk.

#pragma once
#include "simd.h"
#include <vector>

template <typename F> struct Channels {
    using Vec = typename Simd<F>::Vec;
    static constexpr int LANES = Simd<F>::LANES;

    int64_t T, D;
    int64_t groups() const { return (D + LANES - 1) / LANES; }
    int64_t chunks() const { return (T + STEPS - 1) / STEPS; }
    // Channels of a group, and steps of a chunk: the last one may have fewer.
    int64_t lanes(int64_t g) const { return D - g * LANES < LANES ? D - g * LANES : LANES; }
    int64_t count(int64_t m) const { return T - m * STEPS < STEPS ? T - m * STEPS : STEPS; }

    // Transpose the N elements of each channel of a group to N vectors, times `by`; zeros up to `padded` and in lanes
    // without a channel, whose states then stay zero.
    std::vector<Vec> gather(const F* x_DN, int64_t N, int64_t padded, int64_t g, F by = 1) const {
        std::vector<Vec> out(padded, Vec{});
        for (int64_t lane = 0; lane < lanes(g); ++lane)
            for (int64_t n = 0; n < N; ++n) out[n][lane] = x_DN[(g * LANES + lane) * N + n] * by;
        return out;
    }
    // Copy a chunk of a group from x [T, D] to a vector per step, and back.
    void load(const F* x_TD, int64_t g, int64_t m, Vec* out) const {
        for (int64_t t = 0; t < count(m); ++t) {
            out[t] = Vec{};
            std::memcpy(&out[t], x_TD + (m * STEPS + t) * D + g * LANES, lanes(g) * sizeof(F));
        }
    }
    void store(const Vec* from, int64_t g, int64_t m, F* x_TD) const {
        for (int64_t t = 0; t < count(m); ++t)
            std::memcpy(x_TD + (m * STEPS + t) * D + g * LANES, &from[t], lanes(g) * sizeof(F));
    }
};
