// A row of logits to scores in bfloat16.

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "attention_layout.hpp"

namespace dgq {

constexpr float LOWEST = std::numeric_limits<float>::lowest();

// A power of two in bfloat16 is written from its logarithm in fixed point. Whole numbers are the
// exponent; a fraction of x stands for 1 + x, which is too much by at most 0.09. FRACTIONS has that
// excess, in fixed point.
constexpr int FRACTION = 9;                        // bits of the fraction, two more than bfloat16's
constexpr float UNIT = 1 << FRACTION;
constexpr float ONE = 127 * UNIT;                  // of 2^0
constexpr int SURPLUS = FRACTION - 7;              // bits that are rounded away
constexpr float ROUNDED = 1 << (SURPLUS - 1);      // added, so that cutting them rounds

struct alignas(64) Fractions {
  uint8_t excess[64];  // by the first six bits of the fraction

  Fractions() {
    for (int i = 0; i < 64; i++) {
      const double x = (i + 0.5) / 64;
      excess[i] = uint8_t(std::lround(UNIT * (1 + x - std::exp2(x))));
    }
  }
};

inline const Fractions FRACTIONS;

// Powers of two of GROUP logarithms, in the order of key_of. What is below 2^-126, or NaN, is 0, or
// too small a number for products, which read it as 0.
inline __m512i powers(__m512i low, __m512i high) {
  const __m512i logarithm = _mm512_packus_epi32(low, high);
  const __m512i index = _mm512_srli_epi16(logarithm, FRACTION - 6);
  // The low six bits of each byte are an index; only those of low bytes are of a fraction.
  const __mmask64 low_bytes = 0x5555555555555555;
  const __m512i table = _mm512_load_si512(FRACTIONS.excess);
  const __m512i excess = _mm512_maskz_permutexvar_epi8(low_bytes, index, table);
  return _mm512_srli_epi16(_mm512_subs_epu16(logarithm, excess), SURPLUS);
}

constexpr __mmask16 ALL = 0xffff;

// The columns of the last GROUP of keys that hold keys.
struct Present {
  __mmask16 low = 0, high = 0;

  explicit Present(int64_t n) {
    for (int64_t column = 0; column < LANES; column++) {
      low |= (key_of(0, column) < n) << column;
      high |= (key_of(1, column) < n) << column;
    }
  }
};

// The largest logit of a row.
inline float largest(const float* logits, int64_t keys, const Present& present) {
  const __m512 lowest = _mm512_set1_ps(LOWEST);
  const float* last = logits + keys - GROUP;
  __m512 low = _mm512_mask_loadu_ps(lowest, present.low, last);
  __m512 high = _mm512_mask_loadu_ps(lowest, present.high, last + LANES);
  for (; logits < last; logits += GROUP) {
    low = _mm512_max_ps(low, _mm512_loadu_ps(logits));
    high = _mm512_max_ps(high, _mm512_loadu_ps(logits + LANES));
  }
  return _mm512_reduce_max_ps(_mm512_max_ps(low, high));
}

// A query while its keys are read (online softmax, 1805.02867).
struct Row {
  float top, sum;  // of the logits, and of the scores

  // Scores of some keys, a multiple of GROUP, under the largest logit so far; values that were mixed
  // before shrink when it rises. A logit of NaN counts as absent. If all are, or one is infinite, the
  // sum is 0.
  void soften(const float* logits, int64_t keys, const Present& present, float factor,
              float* mixed, int64_t width, uint16_t* scores) {
    const float new_top = std::max(top, largest(logits, keys, present));
    if (sum > 0 && new_top > top) shrink(std::exp2((top - new_top) * factor), mixed, width);
    top = new_top;
    // The top is subtracted first: of a sum with a large number, the rounding would be seen.
    const __m512 most = _mm512_set1_ps(top), by = _mm512_set1_ps(UNIT * factor);
    const __m512 plus = _mm512_set1_ps(ONE + ROUNDED);
    const auto logarithms = [&](const float* from, __mmask16 which) {
      const __m512 below = _mm512_sub_ps(_mm512_loadu_ps(from), most);
      return _mm512_maskz_cvtps_epi32(which, _mm512_fmadd_ps(below, by, plus));
    };
    const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    int64_t k = 0;
    const auto next = [&](__mmask16 low, __mmask16 high, __m512& total) {
      const __m512i some = powers(logarithms(logits + k, low), logarithms(logits + k + LANES, high));
      _mm512_storeu_si512(scores + k, some);
      total = _mm512_dpbf16_ps(total, (__m512bh)some, ones);
      k += GROUP;
    };
    while (k + 2 * GROUP < keys) next(ALL, ALL, even), next(ALL, ALL, odd);
    while (k + GROUP < keys) next(ALL, ALL, odd);
    next(present.low, present.high, even);
    sum += _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
  }

 private:
  void shrink(float by, float* mixed, int64_t width) {
    for (int64_t d = 0; d < width; d++) mixed[d] *= by;
    sum *= by;
  }
};

}  // namespace dgq
