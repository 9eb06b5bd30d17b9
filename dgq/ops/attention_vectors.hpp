// Products of attention by vectors of bfloat16 (AVX512-BF16).

#pragma once

#include <cstring>

#include "attention_layout.hpp"

namespace dgq {

constexpr int64_t MICRO = 6;  // queries whose sums the registers hold

inline __m512bh load_pairs(const uint16_t* p) { return (__m512bh)_mm512_loadu_si512(p); }

inline __m256bh load_half_pairs(const uint16_t* p) {
  return (__m256bh)_mm256_loadu_si256((const __m256i*)p);
}

inline __m512i broadcast_pair(const uint16_t* p) {
  int32_t pair;
  std::memcpy(&pair, p, 4);
  return _mm512_set1_epi32(pair);
}

// out[MICRO][columns] (+)= left[MICRO][2 pairs] right[pairs][columns][2], where columns are VECTORS
// of 16 and, with HALF, eight more: heads of 40 would waste a sixth of the work on whole vectors.
template <int VECTORS, bool HALF, bool ADD>
inline void multiply(const uint16_t* left, int64_t left_stride, const uint16_t* right,
                     int64_t right_stride, int64_t pairs, float* out, int64_t out_stride) {
  constexpr int64_t WHOLE = LANES * VECTORS;  // columns before the half vector
  __m512 sums[MICRO][VECTORS];
  __m256 half_sums[MICRO];
#pragma GCC unroll 8
  for (int i = 0; i < MICRO; i++) {
    const float* from = out + i * out_stride;
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; j++)
      sums[i][j] = ADD ? _mm512_loadu_ps(from + LANES * j) : _mm512_setzero_ps();
    if (HALF) half_sums[i] = ADD ? _mm256_loadu_ps(from + WHOLE) : _mm256_setzero_ps();
  }
  for (int64_t p = 0; p < pairs; p++, right += 2 * right_stride) {
    __m512bh columns[VECTORS];
    __m256bh half_columns;
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; j++) columns[j] = load_pairs(right + 2 * LANES * j);
    if (HALF) half_columns = load_half_pairs(right + 2 * WHOLE);
#pragma GCC unroll 8
    for (int i = 0; i < MICRO; i++) {
      const __m512i pair = broadcast_pair(left + i * left_stride + 2 * p);
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; j++)
        sums[i][j] = _mm512_dpbf16_ps(sums[i][j], (__m512bh)pair, columns[j]);
      if (HALF) {
        const __m256bh half_pair = (__m256bh)_mm512_castsi512_si256(pair);
        half_sums[i] = _mm256_dpbf16_ps(half_sums[i], half_pair, half_columns);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < MICRO; i++) {
    float* to = out + i * out_stride;
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; j++) _mm512_storeu_ps(to + LANES * j, sums[i][j]);
    if (HALF) _mm256_storeu_ps(to + WHOLE, half_sums[i]);
  }
}

// The same for up to 64 columns, a multiple of eight.
template <bool ADD>
inline void multiply_columns(int64_t columns, const uint16_t* left, int64_t left_stride,
                             const uint16_t* right, int64_t right_stride, int64_t pairs, float* out,
                             int64_t out_stride) {
  const auto run = [&](auto kernel) {
    kernel(left, left_stride, right, right_stride, pairs, out, out_stride);
  };
  switch (columns / 8) {
    case 1: return run(multiply<0, true, ADD>);
    case 2: return run(multiply<1, false, ADD>);
    case 3: return run(multiply<1, true, ADD>);
    case 4: return run(multiply<2, false, ADD>);
    case 5: return run(multiply<2, true, ADD>);
    case 6: return run(multiply<3, false, ADD>);
    case 7: return run(multiply<3, true, ADD>);
    default: return run(multiply<4, false, ADD>);
  }
}

struct Vectors {
  static constexpr int64_t ROWS = 48;     // queries at a time
  static constexpr int64_t UNIT = MICRO;  // queries whose products are made together
  static constexpr int64_t DEPTH = 2;     // dims, to a multiple of which queries and keys are padded
  static constexpr int64_t WIDTH = 8;     // the same for values

  // logits[rows][keys] = query[rows][depth] keys, which start at the first of a panel.
  static void score(const uint16_t* query, const uint16_t* panels, int64_t rows, int64_t keys,
                    int64_t depth, float* logits) {
    for (int64_t k = 0; k < keys; k += PANEL)
      for (int64_t r = 0; r < rows; r += MICRO)
        multiply_columns<false>(std::min(PANEL, keys - k), query + r * depth, depth,
                                panels + k * depth, PANEL, depth / 2, logits + r * LOGITS + k, LOGITS);
  }

  // mixed[rows][width] += scores[rows][keys] values
  static void mix(const uint16_t* scores, const uint16_t* values, int64_t rows, int64_t keys,
                  int64_t width, float* mixed) {
    for (int64_t c = 0; c < width; c += PANEL)
      for (int64_t r = 0; r < rows; r += MICRO)
        multiply_columns<true>(std::min(PANEL, width - c), scores + r * SCORES, SCORES,
                               values + 2 * c, width, keys / 2, mixed + r * width + c, width);
  }
};

}  // namespace dgq
