// Multiply-adds that wait for nothing and read no memory: what a processor's cores can do at most.

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
constexpr int kSums = 12;  // as many as hide how long one takes, and as registers hold
typedef float Vector __attribute__((vector_size(4 * kLanes)));

// Returns the FLOPs done; `sum` keeps the compiler from leaving them out.
extern "C" double peak(long steps, float factor, float* sum) {
  double threads = 0;
#pragma omp parallel reduction(+ : threads)
  {
    Vector sums[kSums], factors = factor - Vector{}, total{};
    for (int i = 0; i < kSums; ++i) sums[i] = float(i) - Vector{};
    for (long step = 0; step < steps; ++step)
      for (int i = 0; i < kSums; ++i) sums[i] = sums[i] * factors + factors;
    for (int i = 0; i < kSums; ++i) total += sums[i];
    for (int lane = 0; lane < kLanes; ++lane)
#pragma omp atomic
      *sum += total[lane];
    threads += 1;
  }
  return threads * steps * kSums * kLanes * 2;
}
