// Vectors of the processor's width, and a guard that flushes denormals to zero.

#pragma once
#include <cstdint>
#include <cstring>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

// Bytes of a vector. GCC accepts wider vectors than the processor has, but keeps them in memory instead of registers.
#if defined(__AVX512F__)
constexpr int LINE = 64;
#elif defined(__AVX__)
constexpr int LINE = 32;
#else
constexpr int LINE = 16;
#endif

template <typename F> struct Simd {
    typedef F Vec __attribute__((vector_size(LINE)));
    static constexpr int LANES = LINE / sizeof(F);
};

// Through memcpy, as a tensor's elements need not be aligned to a vector; it compiles to one unaligned instruction.
inline Simd<float>::Vec load(const float* from) {
    Simd<float>::Vec x;
    std::memcpy(&x, from, LINE);
    return x;
}
inline void store(float* to, Simd<float>::Vec x) { std::memcpy(to, &x, LINE); }
inline float sum(Simd<float>::Vec x) {
    float total = 0;
    for (int lane = 0; lane < Simd<float>::LANES; ++lane) total += x[lane];
    return total;
}
inline float dot(const float* a, const float* b, int64_t count) {
    constexpr int64_t LANES = Simd<float>::LANES;
    Simd<float>::Vec total{};
    int64_t c = 0;
    for (; c + LANES <= count; c += LANES) total += load(a + c) * load(b + c);
    float rest = 0;
    for (; c < count; ++c) rest += a[c] * b[c];
    return sum(total) + rest;
}

// Arithmetic on denormals is about a hundred times as slow as on other numbers, and decayed states become denormal
// before they become zero. While a guard lives, its thread treats them as zero. The control register is per thread, so
// each thread of a parallel region has a guard of its own.
struct FlushDenormals {
#if defined(__SSE__)
    unsigned before = _mm_getcsr();
    FlushDenormals() { _mm_setcsr(before | 0x8040); }  // bit 15: results (FTZ), bit 6: inputs (DAZ)
    ~FlushDenormals() { _mm_setcsr(before); }
#endif
};
