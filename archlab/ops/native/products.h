// Products of small float32 matrices on one thread, out of memory that was laid out for them.
//
// The right factor lies in panels: WIDE columns of it, row after row. A tile of the product, TALL x WIDE, stays in
// registers while its depth is walked. A tile that juts out over the end is computed whole: the memory must be there,
// and its numbers are nobody's.

#pragma once
#include "simd.h"
#include <algorithm>
#include <vector>

constexpr int LANES = Simd<float>::LANES, VECTORS = 2, WIDE = VECTORS * LANES;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int TALL = 12;  // of 32 registers
#else
constexpr int TALL = 6;  // of 16
#endif
using Vec = Simd<float>::Vec;

inline int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Memory for numbers, zeros at first, that begins where a vector may.
struct Floats {
    std::vector<Vec> all;
    explicit Floats(int64_t count) : all(up(count, LANES) / LANES) {}
    operator float*() { return reinterpret_cast<float*>(all.data()); }
};

// One tile: c = a b, or c + a b where it ADDs. Row i of a begins at a + i * lda; where a is TURNED, column i does.
// It is called: inlined, its speed would hang on the code around it.
template <bool TURNED, bool ADD>
__attribute__((noinline)) void tile(int64_t depth, const float* __restrict a, int64_t lda,
                                    const float* __restrict panel, float* __restrict c, int64_t ldc) {
    Vec sum[TALL][VECTORS];
#pragma GCC unroll 12
    for (int i = 0; i < TALL; ++i)
        for (int v = 0; v < VECTORS; ++v) sum[i][v] = ADD ? load(c + i * ldc + v * LANES) : Vec{};
    for (int64_t k = 0; k < depth; ++k) {
        Vec row[VECTORS];
        for (int v = 0; v < VECTORS; ++v) row[v] = load(panel + k * WIDE + v * LANES);
#pragma GCC unroll 12
        for (int i = 0; i < TALL; ++i) {
            const float x = TURNED ? a[k * lda + i] : a[i * lda + k];
            for (int v = 0; v < VECTORS; ++v) sum[i][v] += x * row[v];
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < TALL; ++i)
        for (int v = 0; v < VECTORS; ++v) store(c + i * ldc + v * LANES, sum[i][v]);
}

// A right factor: its first panel, and how far apart two are.
struct Panels {
    const float* first;
    int64_t apart;
    const float* at(int64_t column) const { return first + column / WIDE * apart; }
};

// Lay out x [count, width], whose rows are `stride` apart, as a right factor; `apart` is at least count * WIDE.
inline Panels lay_out(const float* x, int64_t stride, int64_t count, int64_t width, float* out, int64_t apart) {
    const int64_t whole = width / WIDE * WIDE;
    for (int64_t t = 0; t < count; ++t) {  // a row is read from end to end
        const float* from = x + t * stride;
        float* to = out + t * WIDE;
        for (int64_t j = 0; j < whole; j += WIDE, to += apart) std::memcpy(to, from + j, WIDE * sizeof(float));
        if (whole < width) {
            std::memset(to, 0, WIDE * sizeof(float));
            std::memcpy(to, from + whole, (width - whole) * sizeof(float));
        }
    }
    return {out, apart};
}

// Lay out x transposed, [width, count], as a right factor.
inline Panels lay_out_turned(const float* x, int64_t stride, int64_t count, int64_t width, float* out) {
    for (int64_t i = 0; i < count; i += WIDE) {
        const int64_t present = std::min<int64_t>(WIDE, count - i);
        float* to = out + i * width;
        if (present < WIDE) std::fill(to, to + width * WIDE, 0.0f);
        for (int64_t k = 0; k < width; ++k)
            for (int64_t lane = 0; lane < present; ++lane) to[k * WIDE + lane] = x[(i + lane) * stride + k];
    }
    return {out, width * WIDE};
}
