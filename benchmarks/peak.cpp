// Independent multiply-adds in registers, without memory: the peak FLOPs of a processor's cores.

#include "simd.h"

using Floats = Simd<float>;
constexpr int SUMS = 12;  // independent, to hide the latency of a multiply-add (4 cycles, 2 a cycle), and few enough for registers

// Returns the number of FLOPs; the sums are added to `all`, so that the compiler cannot remove them.
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
