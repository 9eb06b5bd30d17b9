// Codes of numbers, and the gate of a GEGLU, in loops that compilers vectorize.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace dgq {

inline float as_float(float x) { return x; }

inline float as_float(uint16_t bfloat16) {
  const uint32_t bits = uint32_t(bfloat16) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline uint8_t code_of(float rounded, int16_t zero_point, float factor, float largest) {
  float code = rounded + float(zero_point);
  code = code > 0.0f ? code : 0.0f;
  code = code < largest ? code : largest;
  return uint8_t(int(code * factor));
}

// An integer, so that a vectorized loop can add it up. The code of NaN looks like any other, so
// callers that need to know of NaN are told separately.
inline uint32_t is_nan(float x) { return x != x; }

// e^x for x <= 0, with a relative error of 4e-6 and without a call, so that loops vectorize. It stays
// far from the least float: Intel's CPUs take many times as long for smaller numbers.
inline float exp_of_negative(float x) {
  x = (x > -70.0f ? x : -70.0f) * 1.44269504f;
  const float whole = std::rint(x), rest = x - whole;
  float y = 1.3333558e-3f;
  y = y * rest + 9.6181291e-3f;
  y = y * rest + 5.5504109e-2f;
  y = y * rest + 2.4022651e-1f;
  y = y * rest + 6.9314718e-1f;
  y = y * rest + 1.0f;
  const int32_t bits = (int32_t(whole) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return y * power;
}

// x Phi(x), with Abramowitz and Stegun's 7.1.26: an error function with an error of 2e-6.
inline float gelu(float x) {
  const float z = std::fabs(x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * z);
  float y = 1.061405429f;
  y = y * t - 1.453152027f;
  y = y * t + 1.421413741f;
  y = y * t - 0.284496736f;
  y = y * t + 0.254829592f;
  const float half_tail = 0.5f * y * t * exp_of_negative(-z * z);
  return x * (x > 0.0f ? 1.0f - half_tail : half_tail);
}

// Codes of value * gelu(gate). Returns whether any product was NaN.
template <typename T>
uint32_t quantize_gated_row(const T* value, const T* gate, float scale, const float* multiple,
                            const int16_t* zero_point, const float* factor, float largest,
                            int64_t channels, uint8_t* codes) {
  uint32_t nan = 0;
  for (int64_t c = 0; c < channels; c++) {
    const float product = as_float(value[c]) * gelu(as_float(gate[c]));
    const float rounded = std::rint(product / (scale * multiple[c]));
    nan |= is_nan(rounded);
    codes[c] = code_of(rounded, zero_point[c], factor[c], largest);
  }
  return nan;
}

}  // namespace dgq
