// Learned rounding of weights on a CPU (reference/rounding.py), each operator in one pass.

#ifdef __AVX512F__
#pragma GCC target("prefer-vector-width=512")  // half of it is the compilers' choice
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "codes.hpp"
#include "kernels.hpp"

namespace {

using namespace dgq;

constexpr float LOW = -0.1f, SPAN = 1.2f;   // of the stretched sigmoid
constexpr float AT_AN_END = 1e-6f;          // how far beyond it a rounding still counts as within
constexpr int64_t PARALLEL_FROM = 1 << 15;  // weights; below, threads cost more than they gain

// NaN stays NaN.
inline float clamped(float x, float highest) {
  x = x < 0.0f ? 0.0f : x;
  return x > highest ? highest : x;
}

// The soft rounding of a logit, and its derivative: from end to end, inclusive, that of the sigmoid.
struct Rounding {
  float h, slope;

  explicit Rounding(float logit) {
    const float e = exp_of_negative(-std::fabs(logit));
    const float s = logit != logit ? logit : (logit < 0.0f ? e : 1.0f) / (1.0f + e);
    const float stretched = s * SPAN + LOW;
    h = clamped(stretched, 1.0f);
    slope = SPAN * (s - s * s) * float(std::fabs(h - stretched) <= AT_AN_END);
  }
};

// The natural logarithm of x >= 0 with a relative error of 2e-7 (that of 0 is -88), without a call.
inline float log_of(float x) {
  constexpr int32_t HALF_ROOT = 0x3f3504f3;  // the bits of sqrt(1/2)
  int32_t bits;
  std::memcpy(&bits, &x, 4);
  const int32_t exponent = (bits - HALF_ROOT) >> 23;
  bits -= exponent * (1 << 23);
  float y;
  std::memcpy(&y, &bits, 4);  // between sqrt(1/2) and sqrt(2)
  const float t = (y - 1.0f) / (y + 1.0f), square = t * t;
  float series = 1.0f / 9;
  series = series * square + 1.0f / 7;
  series = series * square + 1.0f / 5;
  series = series * square + 1.0f / 3;
  series = series * square + 1.0f;
  return float(exponent) * 0.69314718f + 2.0f * t * series;
}

// Weights of a row; F says whether there are factors.
template <bool F>
void weigh(const SoftWeight& x, int64_t row, float* weight) {
  const float *logits = x.logits + row * x.columns, *floor = x.floor + row * x.columns;
  const float* factor = x.factor + row * x.factor_stride;
  const float zero_point = x.zero_point[row], scale = x.scale[row];
  for (int64_t i = 0; i < x.columns; i++) {
    const float code = clamped(floor[i] + Rounding(logits[i]).h, x.largest);
    weight[i] = (code - zero_point) * scale * (F ? factor[i] : 1.0f);
  }
}

// Gradients of a row's logits; returns that of its scale.
template <bool F>
float derive(const SoftWeight& x, int64_t row, const float* gradient, float* of_logits) {
  const float *logits = x.logits + row * x.columns, *floor = x.floor + row * x.columns;
  const float* factor = x.factor + row * x.factor_stride;
  const float zero_point = x.zero_point[row], scale = x.scale[row];
  float of_scale = 0.0f;
#pragma omp simd reduction(+ : of_scale)
  for (int64_t i = 0; i < x.columns; i++) {
    const Rounding rounding(logits[i]);
    const float raised = floor[i] + rounding.h, code = clamped(raised, x.largest);
    const float scaled = gradient[i] * (F ? factor[i] : 1.0f);
    of_scale += scaled * (code - zero_point);
    of_logits[i] = scaled * (scale * rounding.slope * float(code == raised));
  }
  return of_scale;
}

// Computes the gradient of a row's penalty; returns the penalty.
float penalize(const float* logits, int64_t columns, float temperature, float* gradient) {
  float penalty = 0.0f;
#pragma omp simd reduction(+ : penalty)
  for (int64_t i = 0; i < columns; i++) {
    const Rounding rounding(logits[i]);
    const float side = 2.0f * rounding.h - 1.0f, distance = std::fabs(side);
    const float power = exp_of_negative(std::min(0.0f, (temperature - 1.0f) * log_of(distance)));
    penalty += 1.0f - power * distance;
    gradient[i] = -2.0f * temperature * std::copysign(power, side) * rounding.slope;
  }
  return penalty;
}

}  // namespace

namespace dgq {

void soft_weight(const SoftWeight& x, float* weight) {
  const auto of_row = x.factor ? weigh<true> : weigh<false>;
#pragma omp parallel for schedule(static) if (x.rows * x.columns >= PARALLEL_FROM)
  for (int64_t row = 0; row < x.rows; row++) of_row(x, row, weight + row * x.columns);
}

void soft_weight_gradients(const SoftWeight& x, const float* gradient, float* of_logits,
                           float* of_scale) {
  const auto of_row = x.factor ? derive<true> : derive<false>;
#pragma omp parallel for schedule(static) if (x.rows * x.columns >= PARALLEL_FROM)
  for (int64_t row = 0; row < x.rows; row++) {
    const int64_t first = row * x.columns;
    of_scale[row] = of_row(x, row, gradient + first, of_logits + first);
  }
}

float rounding_penalty(const float* logits, int64_t rows, int64_t columns, float temperature,
                       float* gradient) {
  std::vector<double> of_rows(rows);  // added in their order, whatever the number of threads
#pragma omp parallel for schedule(static) if (rows * columns >= PARALLEL_FROM)
  for (int64_t row = 0; row < rows; row++) {
    const int64_t first = row * columns;
    of_rows[row] = penalize(logits + first, columns, temperature, gradient + first);
  }
  double penalty = 0.0;
  for (const double of_row : of_rows) penalty += of_row;
  return float(penalty);
}

}  // namespace dgq
