// 2 to the power of every number of a vector.

#pragma once
#include "simd.h"
#include <initializer_list>

// For x up to about 0, within two units of the last place; as good as nothing below LEAST, NaN for NaN.
inline Simd<float>::Vec exp2(Simd<float>::Vec x) {
    using Vec = Simd<float>::Vec;
    typedef int32_t Int __attribute__((vector_size(LINE)));
    constexpr float ROUND = 12582912, LEAST = -125;  // a number to which integers are added in its lowest digits
    const Vec kept = x < LEAST ? Vec{} + LEAST : x, rounded = kept + ROUND, part = kept - (rounded - ROUND);
    Vec power = Vec{} + 1.5403530393381610e-4f;
    for (const float term : {1.3333558146428443e-3f, 9.6181291076284772e-3f, 5.5504108664821580e-2f,
                             2.4022650695910071e-1f, 6.9314718055994531e-1f, 1.0f})
        power = power * part + term;
    const Vec whole = (Vec)((Int)power + ((Int)rounded << 23));
    return x == x ? whole : x;
}
constexpr float LOG2_E = 1.44269504088896340736f;
