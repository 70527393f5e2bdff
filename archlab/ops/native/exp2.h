// 2 to the power of each lane of a vector.

#pragma once
#include "simd.h"
#include <initializer_list>

// For x up to about 0, to within two units in the last place; 2^LEAST for x below LEAST, NaN for NaN.
//
// x = n + f with n = round(x) and |f| <= 1/2. 2^f is its Taylor polynomial of degree 6, with coefficients ln(2)^k / k!,
// whose remainder at f = 1/2 is 1.2e-7; 2^n is added to the exponent's bits.
inline Simd<float>::Vec exp2(Simd<float>::Vec x) {
    using Vec = Simd<float>::Vec;
    typedef int32_t Int __attribute__((vector_size(LINE)));
    // ROUND = 1.5 * 2^23: between 2^23 and 2^24 floats are the integers, so adding ROUND rounds x to n and leaves n in
    // the lowest bits. At LEAST, 2^f * 2^n is at least 2^-125.5, still a normal number.
    constexpr float ROUND = 12582912, LEAST = -125;
    const Vec clamped = x < LEAST ? Vec{} + LEAST : x, rounded = clamped + ROUND, part = clamped - (rounded - ROUND);
    Vec power = Vec{} + 1.5403530393381610e-4f;
    for (const float term : {1.3333558146428443e-3f, 9.6181291076284772e-3f, 5.5504108664821580e-2f,
                             2.4022650695910071e-1f, 6.9314718055994531e-1f, 1.0f})
        power = power * part + term;
    // The shift moves n into the exponent's field, bits 23 to 30, and all bits of ROUND out of the number.
    const Vec whole = (Vec)((Int)power + ((Int)rounded << 23));
    return x == x ? whole : x;
}
constexpr float LOG2_E = 1.44269504088896340736f;
