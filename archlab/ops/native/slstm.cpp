// The steps of sLSTM, forward and backward: archlab/ops/slstm.py has the equations.
//
// Heads and samples are independent, and share the threads. A step of a head is a product of its last output [W] with
// its recurrent weights [W, 4 W], which stay in the second cache, and functions of each channel. Products run over rows
// of weights, so that neighboring channels are a vector; the backward pass has the weights transposed for that.
//
// B batch, T time, H heads, W width of a head; gates and their gradients are [B, T, 4, H, W], in the order i, f, z, o.

#include "simd.h"
#include <cmath>
#include <vector>

namespace {

template <typename F> F sigmoid(F x) { return 1 / (1 + std::exp(-x)); }
// log(sigmoid(x)) without overflow.
template <typename F> F log_sigmoid(F x) { return std::fmin(x, F(0)) - std::log1p(std::exp(-std::fabs(x))); }

// out [columns] += x [rows] times weights [rows, columns].
template <typename F>
void add_product(const F* x, const F* weights, int64_t rows, int64_t columns, F* __restrict__ out) {
    for (int64_t row = 0; row < rows; ++row) {
        const F by = x[row];
        const F* __restrict__ from = weights + row * columns;
        for (int64_t column = 0; column < columns; ++column) out[column] += by * from[column];
    }
}

template <typename F> struct Cells {
    int64_t B, T, H, W, exponential;

    int64_t step(int64_t b, int64_t t, int64_t head) const { return ((b * T + t) * H + head) * W; }
    int64_t start(int64_t b, int64_t head) const { return (b * H + head) * W; }
    int64_t gate(int64_t b, int64_t t, int64_t g, int64_t head) const { return (((b * T + t) * 4 + g) * H + head) * W; }
    F log_forget(F f) const { return exponential ? f : log_sigmoid(f); }

    void forward(const F* gates, const F* weights, const F* h0, const F* cell0, const F* normalizer0, const F* peak0,
                 F* h, F* cell, F* normalizer, F* peak) const {
#pragma omp parallel for collapse(2) schedule(dynamic)
        for (int64_t b = 0; b < B; ++b)
            for (int64_t head = 0; head < H; ++head) {
                FlushDenormals flush;
                std::vector<F> raw(4 * W);
                int64_t at = start(b, head);
                const F *h_before = h0 + at, *cell_before = cell0 + at;
                const F *normalizer_before = normalizer0 + at, *peak_before = peak0 + at;
                for (int64_t t = 0; t < T; ++t) {
                    for (int64_t g = 0; g < 4; ++g)
                        std::memcpy(&raw[g * W], gates + gate(b, t, g, head), W * sizeof(F));
                    add_product(h_before, weights + head * W * 4 * W, W, 4 * W, raw.data());
                    at = step(b, t, head);
                    for (int64_t k = 0; k < W; ++k) {
                        const F i = raw[k], decayed = peak_before[k] + log_forget(raw[W + k]);
                        const F top = std::fmax(decayed, i), past = std::exp(decayed - top), now = std::exp(i - top);
                        const F c = past * cell_before[k] + now * std::tanh(raw[2 * W + k]);
                        const F n = past * normalizer_before[k] + now;
                        cell[at + k] = c, normalizer[at + k] = n, peak[at + k] = top;
                        h[at + k] = sigmoid(raw[3 * W + k]) * c / n;
                    }
                    h_before = h + at, cell_before = cell + at, normalizer_before = normalizer + at, peak_before = peak + at;
                }
            }
    }

    void backward(const F* dh, const F* dcell, const F* dnormalizer, const F* raw, const F* weights, const F* cell,
                  const F* normalizer, const F* peak, const F* cell0, const F* normalizer0, const F* peak0, F* draw,
                  F* dh0, F* dcell0, F* dnormalizer0) const {
#pragma omp parallel for collapse(2) schedule(dynamic)
        for (int64_t b = 0; b < B; ++b)
            for (int64_t head = 0; head < H; ++head) {
                FlushDenormals flush;
                std::vector<F> own(4 * W);
                // The gradients that later steps have for the output, cell and normalizer of the step before them.
                F *later_h = dh0 + start(b, head), *later_cell = dcell0 + start(b, head);
                F* later_normalizer = dnormalizer0 + start(b, head);
                for (F* later : {later_h, later_cell, later_normalizer}) std::memset(later, 0, W * sizeof(F));
                for (int64_t t = T - 1; t >= 0; --t) {
                    const int64_t at = step(b, t, head), before = t ? step(b, t - 1, head) : start(b, head);
                    const F *cells = t ? cell : cell0, *normalizers = t ? normalizer : normalizer0;
                    const F* peaks = t ? peak : peak0;
                    for (int64_t k = 0; k < W; ++k) {
                        const F c = cell[at + k], n = normalizer[at + k], top = peak[at + k];
                        const F f = raw[gate(b, t, 1, head) + k];
                        const F now = std::exp(raw[gate(b, t, 0, head) + k] - top);
                        const F past = std::exp(peaks[before + k] + log_forget(f) - top);
                        const F z = std::tanh(raw[gate(b, t, 2, head) + k]), o = sigmoid(raw[gate(b, t, 3, head) + k]);
                        const F by_h = dh[at + k] + later_h[k];
                        const F by_cell = dcell[at + k] + later_cell[k] + by_h * o / n;
                        const F by_normalizer = dnormalizer[at + k] + later_normalizer[k] - by_h * o * c / (n * n);
                        const F by_log = past * (by_cell * cells[before + k] + by_normalizer * normalizers[before + k]);
                        own[k] = now * (by_cell * z + by_normalizer);
                        own[W + k] = exponential ? by_log : by_log * sigmoid(-f);
                        own[2 * W + k] = by_cell * now * (1 - z * z);
                        own[3 * W + k] = by_h * c / n * o * (1 - o);
                        later_cell[k] = by_cell * past, later_normalizer[k] = by_normalizer * past;
                    }
                    std::memset(later_h, 0, W * sizeof(F));
                    add_product(own.data(), weights + head * 4 * W * W, 4 * W, W, later_h);
                    for (int64_t g = 0; g < 4; ++g)
                        std::memcpy(draw + gate(b, t, g, head), &own[g * W], W * sizeof(F));
                }
            }
    }
};

}  // namespace

#define EXPORT(F)                                                                                                      \
    extern "C" void slstm_##F(const F* gates, const F* weights, const F* h0, const F* cell0, const F* normalizer0,     \
                              const F* peak0, F* h, F* cell, F* normalizer, F* peak, int64_t B, int64_t T, int64_t H, \
                              int64_t W, int64_t exponential) {                                                        \
        Cells<F>{B, T, H, W, exponential}.forward(gates, weights, h0, cell0, normalizer0, peak0, h, cell, normalizer,  \
                                                  peak);                                                               \
    }                                                                                                                  \
    extern "C" void slstm_back_##F(const F* dh, const F* dcell, const F* dnormalizer, const F* raw, const F* weights,  \
                                   const F* cell, const F* normalizer, const F* peak, const F* cell0,                  \
                                   const F* normalizer0, const F* peak0, F* draw, F* dh0, F* dcell0, F* dnormalizer0,  \
                                   int64_t B, int64_t T, int64_t H, int64_t W, int64_t exponential) {                  \
        Cells<F>{B, T, H, W, exponential}.backward(dh, dcell, dnormalizer, raw, weights, cell, normalizer, peak,       \
                                                   cell0, normalizer0, peak0, draw, dh0, dcell0, dnormalizer0);        \
    }

EXPORT(float)
EXPORT(double)
