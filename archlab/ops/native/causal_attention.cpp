// y_t = sum over s <= t of softmax(scale q_t k_s) v_s, forward and backward, never holding the weights of all steps.
//
// Queries come in blocks of rows and keys in blocks of KEYS, small enough that their weights stay in the processor's
// cache. The forward pass keeps the logarithm of each query's sum of weights, from which the backward pass computes the
// weights again. Inside, scores are logarithms to base 2.
//
// B batch, T time, H heads, K width of a key, V width of a value; a head of a sample is one unit of work.

#include "exp2.h"
#include "products.h"
#include <cmath>

namespace {

constexpr int64_t KEYS = 192, ROWS = 96, FEW_ROWS = 48, SHORT = 512;  // fewer rows waste less above the diagonal
// Where a block of queries sees only the first keys of a block, it sees whole tiles of them.
static_assert(KEYS % WIDE == 0 && KEYS % ROWS == 0 && ROWS % FEW_ROWS == 0 && FEW_ROWS % TALL == 0);

inline float highest(Vec x) {
    float most = x[0];
    for (int lane = 1; lane < LANES; ++lane) most = std::max(most, x[lane]);
    return most;
}

// A block of queries before a block of keys: so many rows see the first `seen` of these keys, row 0 the first `own` of
// them, and each row one more than the one before. Products leave out tiles of what none of their rows sees.
struct Block {
    int64_t rows, own, seen;
    int64_t visible(int64_t r) const { return std::min(seen, own + r); }

    // out [rows, seen] = a b, for the keys in the columns of b.
    void scores(const float* a, int64_t depth, Panels b, float* out) const {
        for (int64_t j = 0; j < seen; j += WIDE)
            for (int64_t i = std::max<int64_t>(0, j - own + 1) / TALL * TALL; i < rows; i += TALL)
                tile<false, false>(depth, a + i * depth, depth, b.at(j), out + i * KEYS + j, KEYS);
    }
    // out [rows, width] += weights b, for the keys in the rows of b.
    void to_queries(const float* weights, Panels b, float* out, int64_t width) const {
        for (int64_t j = 0; j < width; j += WIDE)
            for (int64_t i = 0; i < rows; i += TALL)
                tile<false, true>(visible(i + TALL - 1), weights + i * KEYS, KEYS, b.at(j), out + i * width + j, width);
    }
    // out [seen, width] += weights transposed b, for the queries in the rows of b.
    void to_keys(const float* weights, Panels b, float* out, int64_t width) const {
        for (int64_t j = 0; j < width; j += WIDE)
            for (int64_t i = 0; i < seen; i += TALL) {
                const int64_t first = std::max<int64_t>(0, i - own + 1);
                tile<true, true>(rows - first, weights + first * KEYS + i, KEYS, b.at(j) + first * WIDE,
                                 out + i * width + j, width);
            }
    }
};

// The highest score of a query so far, and the sum of its weights relative to that.
struct Softmax {
    float top = -INFINITY, sum = 0;
};

struct Attention {
    int64_t B, T, H, K, V;
    float scale;

    int64_t units() const { return B * H; }
    int64_t rows() const { return T > SHORT ? ROWS : FEW_ROWS; }
    int64_t wide_k() const { return up(K, WIDE); }
    int64_t wide_v() const { return up(V, WIDE); }
    // Step t of a unit in x [B, T, H, width].
    template <typename F> F* at(F* x, int64_t unit, int64_t t, int64_t width) const {
        return x + ((unit / H * T + t) * H + unit % H) * width;
    }
    void scaled_queries(const float* q, int64_t unit, int64_t begin, int64_t count, float* out) const {
        for (int64_t r = 0; r < count; ++r)
            for (int64_t c = 0; c < K; ++c) out[r * K + c] = at(q, unit, begin + r, K)[c] * (scale * LOG2_E);
    }

    // What one thread needs to go forward through a block of queries.
    struct Queries {
        Floats scaled, weights, sums;
        std::vector<Softmax> softmax;
        explicit Queries(const Attention& a)
            : scaled(a.rows() * a.K), weights(a.rows() * KEYS), sums(a.rows() * a.wide_v()), softmax(a.rows()) {}
    };

    int64_t size_of_keys() const { return up(T, WIDE) * K; }
    int64_t size_of_values() const { return T * wide_v(); }

    // Long units are laid out in `keys` and `values` before any block of queries begins.
    void forward(const float* q, const float* k, const float* v, float* y, float* log_sums, float* keys,
                 float* values) const {
        const int64_t R = rows();
#pragma omp parallel
        {
            FlushDenormals flush;
            Queries at_hand(*this);
            if (T <= SHORT) {  // a unit's keys and values stay in the cache of the thread that laid them out
                Floats own_keys(size_of_keys()), own_values(size_of_values());
#pragma omp for schedule(dynamic)
                for (int64_t unit = 0; unit < units(); ++unit) {
                    lay_out_unit(k, v, unit, own_keys, own_values);
                    for (int64_t begin = 0; begin < T; begin += R)
                        attend(q, unit, begin, own_keys, own_values, at_hand, y, log_sums);
                }
            } else {
#pragma omp for
                for (int64_t unit = 0; unit < units(); ++unit)
                    lay_out_unit(k, v, unit, keys + unit * size_of_keys(), values + unit * size_of_values());
                // The last blocks see the most keys, so they come first.
#pragma omp for collapse(2) schedule(dynamic)
                for (int64_t begin = (T - 1) / R * R; begin >= 0; begin -= R)
                    for (int64_t unit = 0; unit < units(); ++unit)
                        attend(q, unit, begin, keys + unit * size_of_keys(), values + unit * size_of_values(), at_hand,
                               y, log_sums);
            }
        }
    }
    void lay_out_unit(const float* k, const float* v, int64_t unit, float* keys, float* values) const {
        lay_out_turned(at(k, unit, 0, K), H * K, T, K, keys);
        lay_out(at(v, unit, 0, V), H * V, T, V, values, T * WIDE);
    }
    // Do one block of queries of a unit.
    void attend(const float* q, int64_t unit, int64_t begin, const float* keys, const float* values, Queries& at_hand,
                float* y, float* log_sums) const {
        const int64_t count = std::min(rows(), T - begin);
        scaled_queries(q, unit, begin, count, at_hand.scaled);
        std::fill(at_hand.softmax.begin(), at_hand.softmax.end(), Softmax{});
        weigh_keys(begin, count, keys, values, at_hand);
        for (int64_t r = 0; r < count; ++r) {
            const Softmax& softmax = at_hand.softmax[r];
            float* to = at(y, unit, begin + r, V);
            for (int64_t c = 0; c < V; ++c) to[c] = at_hand.sums[r * wide_v() + c] / softmax.sum;
            log_sums[unit * T + begin + r] = softmax.top + std::log2(softmax.sum);
        }
    }
    // Go through the keys of one block of queries.
    void weigh_keys(int64_t begin, int64_t count, const float* keys, const float* values, Queries& at_hand) const {
        float *weights = at_hand.weights, *sums = at_hand.sums;
        std::fill_n(sums, count * wide_v(), 0.0f);
        for (int64_t first = 0; first < begin + count; first += KEYS) {
            const Block block{count, begin + 1 - first, std::min(KEYS, begin + count - first)};
            block.scores(at_hand.scaled, K, {keys + first * K, K * WIDE}, weights);
            for (int64_t r = 0; r < count; ++r)
                weigh(weights + r * KEYS, block.visible(r), block.seen, at_hand.softmax[r], sums + r * wide_v());
            block.to_queries(weights, {values + first * WIDE, T * WIDE}, sums, wide_v());
        }
    }
    // Turn one query's scores into weights relative to its highest score so far; what was summed by a lower one
    // shrinks.
    void weigh(float* row, int64_t visible, int64_t seen, Softmax& softmax, float* sums) const {
        const int64_t full = up(visible, LANES);
        std::fill(row + visible, row + full, -INFINITY);
        Vec high = Vec{} + softmax.top, total{};
        for (int64_t s = 0; s < full; s += LANES) high = load(row + s) > high ? load(row + s) : high;
        const float top = highest(high);
        for (int64_t s = 0; s < full; s += LANES) {
            const Vec weight = exp2(load(row + s) - top);
            store(row + s, weight);
            total += weight;
        }
        std::fill(row + visible, row + std::max(full, seen), 0.0f);
        if (top > softmax.top) {
            const float by = std::exp2(softmax.top - top);
            softmax.sum *= by;
            for (int64_t c = 0; c < wide_v(); c += LANES) store(sums + c, load(sums + c) * by);
        }
        softmax = {top, softmax.sum + sum(total)};
    }

    // What one thread needs to go backward through a unit.
    struct Scratch {
        Floats scaled_q, q, dy, dy_rows, weights, dscores, turned_k, turned_v, k, dk, dv, dq;
        std::vector<float> mean;  // of the gradients of a query's weights, by these weights
        explicit Scratch(const Attention& a)
            : scaled_q(a.rows() * a.K), q(a.rows() * a.wide_k()), dy(a.rows() * a.wide_v()), dy_rows(a.rows() * a.V),
              weights(a.rows() * KEYS), dscores(a.rows() * KEYS), turned_k(KEYS * a.K), turned_v(KEYS * a.V),
              k(KEYS * a.wide_k()), dk(KEYS * a.wide_k()), dv(KEYS * a.wide_v()), dq(up(a.T, a.rows()) * a.wide_k()),
              mean(a.T) {}
    };

    void backward(const float* dy, const float* q, const float* k, const float* v, const float* y,
                  const float* log_sums, float* dq, float* dk, float* dv) const {
#pragma omp parallel
        {
            FlushDenormals flush;
            Scratch at_hand(*this);
#pragma omp for schedule(dynamic)
            for (int64_t unit = 0; unit < units(); ++unit) {
                std::fill_n(static_cast<float*>(at_hand.dq), T * wide_k(), 0.0f);
                for (int64_t t = 0; t < T; ++t) at_hand.mean[t] = dot(at(dy, unit, t, V), at(y, unit, t, V), V);
                for (int64_t first = 0; first < T; first += KEYS) {
                    const int64_t count = std::min(KEYS, T - first);
                    through_keys(unit, first, count, dy, q, k, v, log_sums + unit * T, at_hand);
                    give(at_hand.dk, wide_k(), scale, unit, first, count, K, dk);
                    give(at_hand.dv, wide_v(), 1, unit, first, count, V, dv);
                }
                give(at_hand.dq, wide_k(), scale, unit, 0, T, K, dq);
            }
        }
    }
    void give(const float* from, int64_t stride, float by, int64_t unit, int64_t begin, int64_t count, int64_t width,
              float* out) const {
        for (int64_t t = 0; t < count; ++t)
            for (int64_t c = 0; c < width; ++c) at(out, unit, begin + t, width)[c] = from[t * stride + c] * by;
    }
    // Gather the gradients of one block of keys and values from all queries that see it, and add to those of queries.
    void through_keys(int64_t unit, int64_t first, int64_t count, const float* dy, const float* q, const float* k,
                      const float* v, const float* log_sums, Scratch& at_hand) const {
        const int64_t R = rows();
        const Panels turned_k = lay_out_turned(at(k, unit, first, K), H * K, count, K, at_hand.turned_k);
        const Panels turned_v = lay_out_turned(at(v, unit, first, V), H * V, count, V, at_hand.turned_v);
        const Panels keys = lay_out(at(k, unit, first, K), H * K, count, K, at_hand.k, KEYS * WIDE);
        std::fill_n(static_cast<float*>(at_hand.dk), KEYS * wide_k(), 0.0f);
        std::fill_n(static_cast<float*>(at_hand.dv), KEYS * wide_v(), 0.0f);
        for (int64_t begin = first; begin < T; begin += R) {
            const int64_t n = std::min(R, T - begin);
            const Block block{n, begin + 1 - first, std::min(count, begin + n - first)};
            scaled_queries(q, unit, begin, n, at_hand.scaled_q);
            for (int64_t r = 0; r < n; ++r)
                std::memcpy(at_hand.dy_rows + r * V, at(dy, unit, begin + r, V), V * sizeof(float));
            block.scores(at_hand.scaled_q, K, turned_k, at_hand.weights);
            block.scores(at_hand.dy_rows, V, turned_v, at_hand.dscores);
            for (int64_t r = 0; r < n; ++r)
                differentiate(at_hand.weights + r * KEYS, at_hand.dscores + r * KEYS, block.visible(r), block.seen,
                              log_sums[begin + r], at_hand.mean[begin + r]);
            const Panels queries = lay_out(at(q, unit, begin, K), H * K, n, K, at_hand.q, R * WIDE);
            const Panels dys = lay_out(at_hand.dy_rows, V, n, V, at_hand.dy, R * WIDE);
            block.to_keys(at_hand.weights, dys, at_hand.dv, wide_v());
            block.to_keys(at_hand.dscores, queries, at_hand.dk, wide_k());
            block.to_queries(at_hand.dscores, keys, at_hand.dq + begin * wide_k(), wide_k());
        }
    }
    // Turn one query's scores into weights, and the gradients of these into gradients of scores.
    static void differentiate(float* row, float* gradients, int64_t visible, int64_t seen, float log_sum,
                              float mean) {
        for (int64_t s = 0; s < visible; s += LANES) {
            const Vec weight = exp2(load(row + s) - log_sum);
            store(row + s, weight);
            store(gradients + s, weight * (load(gradients + s) - mean));
        }
        std::fill(row + visible, row + seen, 0.0f);
        std::fill(gradients + visible, gradients + seen, 0.0f);
    }
};

}  // namespace

extern "C" void causal_attention(const float* q, const float* k, const float* v, float* y, float* log_sums,
                                 float* keys, float* values, int64_t B, int64_t T, int64_t H, int64_t K, int64_t V,
                                 double scale) {
    Attention{B, T, H, K, V, static_cast<float>(scale)}.forward(q, k, v, y, log_sums, keys, values);
}
extern "C" void causal_attention_back(const float* q, const float* k, const float* v, const float* dy, const float* y,
                                      const float* log_sums, float* dq, float* dk, float* dv, int64_t B, int64_t T,
                                      int64_t H, int64_t K, int64_t V, double scale) {
    Attention{B, T, H, K, V, static_cast<float>(scale)}.backward(dy, q, k, v, y, log_sums, dq, dk, dv);
}
