// Causal attention y_t = sum over s <= t of p_ts v_s with p_ts = softmax over s of scale q_t · k_s, in the manner of
// FlashAttention (arXiv:2307.08691): the weights p of all steps never exist at once.
//
// Queries are processed in blocks of ROWS and keys in blocks of KEYS, whose 96 x 192 weights, 72 KiB, stay in the
// processor's second cache. Other sizes, half or twice as many rows or keys, are within 5 %.
//
// Scores are scaled by log2(e), so that weights are powers of 2. The forward pass saves L_t = log2 of the sum over s of
// 2^score_ts, from which the backward pass recomputes p_ts = 2^(score_ts - L_t).
//
// Backward, from the gradient dy of y:
//     dv_s = sum over t of p_ts dy_t,   dp_ts = dy_t · v_s.
// With z_ts = scale q_t · k_s, in natural units, the softmax's Jacobian gives
//     dz_ts = p_ts (dp_ts - mean_t),    mean_t = sum over r of p_tr dp_tr = dy_t · sum over r of p_tr v_r = dy_t · y_t,
// so that mean_t needs no weights. Finally
//     dq_t = scale * sum over s of dz_ts k_s,   dk_s = scale * sum over t of dz_ts q_t.
//
// B batch, T time, H heads, K width of a key, V width of a value. A unit of work is one head of one sample.

#include "exp2.h"
#include "products.h"
#include <cmath>

namespace {

// A short sequence, up to SHORT steps, has blocks of FEW_ROWS, as a larger share of its tiles crosses the diagonal.
constexpr int64_t KEYS = 192, ROWS = 96, FEW_ROWS = 48, SHORT = 512;
// Blocks of keys begin with a panel, blocks of queries divide them, and a buffer's rows are whole tiles.
static_assert(KEYS % WIDE == 0 && KEYS % ROWS == 0 && ROWS % FEW_ROWS == 0 && FEW_ROWS % TALL == 0);

inline float max_lane(Vec x) {
    float largest = x[0];
    for (int lane = 1; lane < LANES; ++lane) largest = std::max(largest, x[lane]);
    return largest;
}

// A block of queries against a block of keys. All rows together see its first `seen` keys; row r sees the first own + r
// of them; `own` is at least 1 and may exceed the block. Products skip tiles in which no row sees a key.
struct Block {
    int64_t rows, own, seen;
    int64_t visible(int64_t r) const { return std::min(seen, own + r); }

    // out [rows, seen] = a b, where the columns of b are keys. Key j is first seen by row j - own + 1.
    void scores(const float* a, int64_t depth, Panels b, float* out) const {
        for (int64_t j = 0; j < seen; j += WIDE)
            for (int64_t i = std::max<int64_t>(0, j - own + 1) / TALL * TALL; i < rows; i += TALL)
                tile<false, false>(depth, a + i * depth, depth, b.at(j), out + i * KEYS + j, KEYS);
    }
    // out [rows, width] += weights b, where the rows of b are keys. A tile's depth ends with the keys of its last row;
    // weights of keys that its other rows do not see are zeros.
    void to_queries(const float* weights, Panels b, float* out, int64_t width) const {
        for (int64_t j = 0; j < width; j += WIDE)
            for (int64_t i = 0; i < rows; i += TALL)
                tile<false, true>(visible(i + TALL - 1), weights + i * KEYS, KEYS, b.at(j), out + i * width + j, width);
    }
    // out [seen, width] += weightsᵀ b, where the rows of b are queries. A tile's depth begins with the first row that
    // sees its first key.
    void to_keys(const float* weights, Panels b, float* out, int64_t width) const {
        for (int64_t j = 0; j < width; j += WIDE)
            for (int64_t i = 0; i < seen; i += TALL) {
                const int64_t first = std::max<int64_t>(0, i - own + 1);
                tile<true, true>(rows - first, weights + first * KEYS + i, KEYS, b.at(j) + first * WIDE,
                                 out + i * width + j, width);
            }
    }
};

// The largest score of a query so far, and the sum of 2^(score - top): an online softmax.
struct Softmax {
    float top = -INFINITY, sum = 0;
};

struct Attention {
    int64_t B, T, H, K, V;
    float scale;

    int64_t units() const { return B * H; }
    int64_t rows() const { return T > SHORT ? ROWS : FEW_ROWS; }
    // Widths in whole panels, as products compute whole tiles.
    int64_t wide_k() const { return round_up(K, WIDE); }
    int64_t wide_v() const { return round_up(V, WIDE); }
    // The row of step t of a unit in x [B, T, H, width].
    template <typename F> F* at(F* x, int64_t unit, int64_t t, int64_t width) const {
        return x + ((unit / H * T + t) * H + unit % H) * width;
    }
    void scaled_queries(const float* q, int64_t unit, int64_t begin, int64_t count, float* out) const {
        for (int64_t r = 0; r < count; ++r)
            for (int64_t c = 0; c < K; ++c) out[r * K + c] = at(q, unit, begin + r, K)[c] * (scale * LOG2_E);
    }

    // The buffers of a thread in the forward pass, for one block of queries.
    struct ForwardBuffers {
        Floats scaled, weights, sums;
        std::vector<Softmax> softmax;
        explicit ForwardBuffers(const Attention& a)
            : scaled(a.rows() * a.K), weights(a.rows() * KEYS), sums(a.rows() * a.wide_v()), softmax(a.rows()) {}
    };

    int64_t packed_keys_size() const { return round_up(T, WIDE) * K; }
    int64_t packed_values_size() const { return T * wide_v(); }

    // `keys` and `values` are buffers for the packed keys and values of all units; only long sequences use them.
    void forward(const float* q, const float* k, const float* v, float* y, float* log_sums, float* keys,
                 float* values) const {
        const int64_t R = rows();
#pragma omp parallel
        {
            FlushDenormals flush;
            ForwardBuffers buffers(*this);
            if (T <= SHORT) {  // one thread does a whole unit: keys and values stay in its cache after packing
                Floats own_keys(packed_keys_size()), own_values(packed_values_size());
#pragma omp for schedule(dynamic)
                for (int64_t unit = 0; unit < units(); ++unit) {
                    pack_unit(k, v, unit, own_keys, own_values);
                    for (int64_t begin = 0; begin < T; begin += R)
                        attend(q, unit, begin, own_keys, own_values, buffers, y, log_sums);
                }
            } else {  // threads share a unit's blocks of queries, which must wait until everything is packed
#pragma omp for
                for (int64_t unit = 0; unit < units(); ++unit)
                    pack_unit(k, v, unit, keys + unit * packed_keys_size(), values + unit * packed_values_size());
                // The last blocks see the most keys. They come first, so that threads end at about the same time.
#pragma omp for collapse(2) schedule(dynamic)
                for (int64_t begin = (T - 1) / R * R; begin >= 0; begin -= R)
                    for (int64_t unit = 0; unit < units(); ++unit)
                        attend(q, unit, begin, keys + unit * packed_keys_size(),
                               values + unit * packed_values_size(), buffers, y, log_sums);
            }
        }
    }
    void pack_unit(const float* k, const float* v, int64_t unit, float* keys, float* values) const {
        pack_transposed(at(k, unit, 0, K), H * K, T, K, keys);
        pack(at(v, unit, 0, V), H * V, T, V, values, T * WIDE);
    }
    // Compute one block of queries of a unit.
    void attend(const float* q, int64_t unit, int64_t begin, const float* keys, const float* values,
                ForwardBuffers& buffers, float* y, float* log_sums) const {
        const int64_t count = std::min(rows(), T - begin);
        scaled_queries(q, unit, begin, count, buffers.scaled);
        std::fill(buffers.softmax.begin(), buffers.softmax.end(), Softmax{});
        attend_to_keys(begin, count, keys, values, buffers);
        for (int64_t r = 0; r < count; ++r) {
            const Softmax& softmax = buffers.softmax[r];
            float* to = at(y, unit, begin + r, V);
            for (int64_t c = 0; c < V; ++c) to[c] = buffers.sums[r * wide_v() + c] / softmax.sum;
            log_sums[unit * T + begin + r] = softmax.top + std::log2(softmax.sum);
        }
    }
    // Sum values over all keys that a block of queries sees, relative to each query's largest score.
    void attend_to_keys(int64_t begin, int64_t count, const float* keys, const float* values,
                        ForwardBuffers& buffers) const {
        float *weights = buffers.weights, *sums = buffers.sums;
        std::fill_n(sums, count * wide_v(), 0.0f);
        for (int64_t first = 0; first < begin + count; first += KEYS) {
            const Block block{count, begin + 1 - first, std::min(KEYS, begin + count - first)};
            block.scores(buffers.scaled, K, {keys + first * K, K * WIDE}, weights);
            for (int64_t r = 0; r < count; ++r)
                exponentiate(weights + r * KEYS, block.visible(r), block.seen, buffers.softmax[r], sums + r * wide_v());
            block.to_queries(weights, {values + first * WIDE, T * WIDE}, sums, wide_v());
        }
    }
    // Turn one query's scores against a block of keys into weights relative to its largest score so far. Where that has
    // grown, the sums relative to the smaller one are scaled down.
    void exponentiate(float* row, int64_t visible, int64_t seen, Softmax& softmax, float* sums) const {
        const int64_t full = round_up(visible, LANES);
        std::fill(row + visible, row + full, -INFINITY);
        Vec high = Vec{} + softmax.top, total{};
        for (int64_t s = 0; s < full; s += LANES) high = load(row + s) > high ? load(row + s) : high;
        const float top = max_lane(high);
        for (int64_t s = 0; s < full; s += LANES) {
            const Vec weight = exp2(load(row + s) - top);
            store(row + s, weight);
            total += weight;
        }
        // exp2 of -inf is 2^-125: nothing in a sum of at least 1, but the weights of hidden keys must be exactly zero.
        std::fill(row + visible, row + std::max(full, seen), 0.0f);
        if (top > softmax.top) {
            const float by = std::exp2(softmax.top - top);
            softmax.sum *= by;
            for (int64_t c = 0; c < wide_v(); c += LANES) store(sums + c, load(sums + c) * by);
        }
        softmax = {top, softmax.sum + sum(total)};
    }

    // The buffers of a thread in the backward pass, for one unit; `mean` as in the derivation above.
    struct BackwardBuffers {
        Floats scaled_q, q, dy, dy_rows, weights, dscores, transposed_k, transposed_v, k, dk, dv, dq;
        std::vector<float> mean;
        explicit BackwardBuffers(const Attention& a)
            : scaled_q(a.rows() * a.K), q(a.rows() * a.wide_k()), dy(a.rows() * a.wide_v()), dy_rows(a.rows() * a.V),
              weights(a.rows() * KEYS), dscores(a.rows() * KEYS), transposed_k(KEYS * a.K), transposed_v(KEYS * a.V),
              k(KEYS * a.wide_k()), dk(KEYS * a.wide_k()), dv(KEYS * a.wide_v()),
              dq(round_up(a.T, a.rows()) * a.wide_k()), mean(a.T) {}
    };

    void backward(const float* dy, const float* q, const float* k, const float* v, const float* y,
                  const float* log_sums, float* dq, float* dk, float* dv) const {
#pragma omp parallel
        {
            FlushDenormals flush;
            BackwardBuffers buffers(*this);
            // One thread computes all gradients of a unit, so that none needs atomic additions.
#pragma omp for schedule(dynamic)
            for (int64_t unit = 0; unit < units(); ++unit) {
                std::fill_n(static_cast<float*>(buffers.dq), T * wide_k(), 0.0f);
                for (int64_t t = 0; t < T; ++t) buffers.mean[t] = dot(at(dy, unit, t, V), at(y, unit, t, V), V);
                for (int64_t first = 0; first < T; first += KEYS) {
                    const int64_t count = std::min(KEYS, T - first);
                    backward_keys(unit, first, count, dy, q, k, v, log_sums + unit * T, buffers);
                    write(buffers.dk, wide_k(), scale, unit, first, count, K, dk);
                    write(buffers.dv, wide_v(), 1, unit, first, count, V, dv);
                }
                write(buffers.dq, wide_k(), scale, unit, 0, T, K, dq);
            }
        }
    }
    void write(const float* from, int64_t stride, float by, int64_t unit, int64_t begin, int64_t count, int64_t width,
              float* out) const {
        for (int64_t t = 0; t < count; ++t)
            for (int64_t c = 0; c < width; ++c) at(out, unit, begin + t, width)[c] = from[t * stride + c] * by;
    }
    // Compute the gradients of one block of keys and values from all queries that see it, and add to those of queries.
    void backward_keys(int64_t unit, int64_t first, int64_t count, const float* dy, const float* q, const float* k,
                       const float* v, const float* log_sums, BackwardBuffers& buffers) const {
        const int64_t R = rows();
        const Panels transposed_k = pack_transposed(at(k, unit, first, K), H * K, count, K, buffers.transposed_k);
        const Panels transposed_v = pack_transposed(at(v, unit, first, V), H * V, count, V, buffers.transposed_v);
        const Panels keys = pack(at(k, unit, first, K), H * K, count, K, buffers.k, KEYS * WIDE);
        std::fill_n(static_cast<float*>(buffers.dk), KEYS * wide_k(), 0.0f);
        std::fill_n(static_cast<float*>(buffers.dv), KEYS * wide_v(), 0.0f);
        for (int64_t begin = first; begin < T; begin += R) {
            const int64_t n = std::min(R, T - begin);
            const Block block{n, begin + 1 - first, std::min(count, begin + n - first)};
            scaled_queries(q, unit, begin, n, buffers.scaled_q);
            for (int64_t r = 0; r < n; ++r)
                std::memcpy(buffers.dy_rows + r * V, at(dy, unit, begin + r, V), V * sizeof(float));
            block.scores(buffers.scaled_q, K, transposed_k, buffers.weights);
            block.scores(buffers.dy_rows, V, transposed_v, buffers.dscores);
            for (int64_t r = 0; r < n; ++r)
                differentiate(buffers.weights + r * KEYS, buffers.dscores + r * KEYS, block.visible(r), block.seen,
                              log_sums[begin + r], buffers.mean[begin + r]);
            const Panels queries = pack(at(q, unit, begin, K), H * K, n, K, buffers.q, R * WIDE);
            const Panels dys = pack(buffers.dy_rows, V, n, V, buffers.dy, R * WIDE);
            block.to_keys(buffers.weights, dys, buffers.dv, wide_v());
            block.to_keys(buffers.dscores, queries, buffers.dk, wide_k());
            block.to_queries(buffers.dscores, keys, buffers.dq + begin * wide_k(), wide_k());
        }
    }
    // Turn one query's scores into weights p, and the gradients dp into dz, in place. The last vector may extend beyond
    // the visible keys; what it computes there is overwritten by zeros, or is beyond `seen` and never read.
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
