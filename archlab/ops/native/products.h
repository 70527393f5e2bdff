// Products of small float32 matrices on one thread, from packed operands (as the micro-kernels of GotoBLAS).
//
// The right factor is packed in panels: WIDE of its columns, row by row, so that the kernel reads memory in order. A
// tile of the product, TALL x WIDE, stays in registers over the whole depth. A tile that extends beyond the matrix is
// computed in full: its memory must be allocated, and the elements outside are not used.

#pragma once
#include "simd.h"
#include <algorithm>
#include <vector>

constexpr int LANES = Simd<float>::LANES, VECTORS = 2, WIDE = VECTORS * LANES;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int TALL = 12;  // 24 sums, 2 vectors of the panel and a broadcast element, of 32 registers
#else
constexpr int TALL = 6;  // 12 sums, 2 and 1, of 16 registers
#endif
using Vec = Simd<float>::Vec;

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// A buffer of floats, initially zero, aligned to a vector.
struct Floats {
    std::vector<Vec> all;
    explicit Floats(int64_t count) : all(round_up(count, LANES) / LANES) {}
    operator float*() { return reinterpret_cast<float*>(all.data()); }
};

// One tile: c = a b, or c += a b with ADD. Row i of a begins at a + i * lda; where a is TRANSPOSED, column i does.
// Not inlined, as the registers that it gets, and so its speed, would depend on the surrounding code.
template <bool TRANSPOSED, bool ADD>
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
            const float x = TRANSPOSED ? a[k * lda + i] : a[i * lda + k];
            for (int v = 0; v < VECTORS; ++v) sum[i][v] += x * row[v];
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < TALL; ++i)
        for (int v = 0; v < VECTORS; ++v) store(c + i * ldc + v * LANES, sum[i][v]);
}

// A packed right factor: its first panel, and the distance between panels.
struct Panels {
    const float* first;
    int64_t stride;
    const float* at(int64_t column) const { return first + column / WIDE * stride; }
};

// Pack x [count, width], whose rows are `stride` apart, with panels `panel_stride` apart, at least count * WIDE.
inline Panels pack(const float* x, int64_t stride, int64_t count, int64_t width, float* out,
                   int64_t panel_stride) {
    const int64_t whole = width / WIDE * WIDE;
    for (int64_t t = 0; t < count; ++t) {  // row by row: rows of x may be far apart, and a panel at a time would read each several times
        const float* from = x + t * stride;
        float* to = out + t * WIDE;
        for (int64_t j = 0; j < whole; j += WIDE, to += panel_stride) std::memcpy(to, from + j, WIDE * sizeof(float));
        if (whole < width) {
            std::memset(to, 0, WIDE * sizeof(float));
            std::memcpy(to, from + whole, (width - whole) * sizeof(float));
        }
    }
    return {out, panel_stride};
}

// Pack the transpose of x, [width, count].
inline Panels pack_transposed(const float* x, int64_t stride, int64_t count, int64_t width, float* out) {
    for (int64_t i = 0; i < count; i += WIDE) {
        const int64_t present = std::min<int64_t>(WIDE, count - i);
        float* to = out + i * width;
        if (present < WIDE) std::fill(to, to + width * WIDE, 0.0f);
        for (int64_t k = 0; k < width; ++k)
            for (int64_t lane = 0; lane < present; ++lane) to[k * WIDE + lane] = x[(i + lane) * stride + k];
    }
    return {out, width * WIDE};
}
