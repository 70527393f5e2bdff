// Multiply-adds that wait for nothing and read no memory: what a processor's cores can do at most.

#include "simd.h"

using Floats = Simd<float>;
constexpr int SUMS = 12;  // as many as hide how long one takes, and as registers hold

// Returns the FLOPs done; what is added to `all` keeps the compiler from leaving them out.
extern "C" double peak(long steps, float factor, float* all) {
    double threads = 0;
#pragma omp parallel reduction(+ : threads)
    {
        Floats::Vec sums[SUMS], factors = factor - Floats::Vec{}, total{};
        for (int i = 0; i < SUMS; ++i) sums[i] = float(i) - Floats::Vec{};
        for (long step = 0; step < steps; ++step)
            for (int i = 0; i < SUMS; ++i) sums[i] = sums[i] * factors + factors;
        for (int i = 0; i < SUMS; ++i) total += sums[i];
#pragma omp atomic
        *all += sum(total);
        threads += 1;
    }
    return threads * steps * SUMS * Floats::LANES * 2;
}
