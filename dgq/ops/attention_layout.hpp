// How attention lays out keys and values for products in bfloat16, and scores between them.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

namespace dgq {

constexpr int64_t LANES = 16;              // floats of a vector
constexpr int64_t GROUP = 32;              // keys that are softened at once
constexpr int64_t PANEL = 64;               // keys that are laid out together
constexpr int64_t KEYS = 256;              // keys at a time, whose scores stay in the cache
constexpr int64_t LOGITS = KEYS + LANES;   // stride of logits; rows would else share cache sets
constexpr int64_t SCORES = KEYS + GROUP;   // stride of scores
constexpr uint16_t EXPONENT = 0x7f80;      // all of whose bits are set in what is not finite

inline int64_t up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

inline uint32_t low_bits(int64_t n) { return n >= 32 ? ~0u : n <= 0 ? 0 : (1u << n) - 1; }

// Which of GROUP keys the logits in a column of each half belong to: the order in which packing two
// vectors of 32 bits into one of 16 takes them, so that scores have the keys' order.
inline int64_t key_of(int64_t half, int64_t column) {
  return column / 4 * 8 + half * 4 + column % 4;
}

// Keys or values of a head.
struct Tokens {
  const uint16_t* first;
  int64_t stride, n, dim;

  // Up to 32 numbers of a token, followed by zeros; zeros for what is not there.
  __m512i loaded(int64_t token, int64_t from) const {
    if (token >= n) return _mm512_setzero_si512();
    return _mm512_maskz_loadu_epi16(low_bits(dim - from), first + token * stride + from);
  }
};

// A matrix of 16 x 16 numbers of 32 bits.
inline void transpose(__m512i (&rows)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const __m512i even_low = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
    const __m512i even_high = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
    const __m512i odd_low = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
    const __m512i odd_high = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
    t[i] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
    t[i + 8] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
    t[i + 12] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
  }
  std::copy(t, t + 16, rows);
}

// A panel of keys as [pair of dims][key][2], zero padded; keys in the order of key_of. Returns whether
// all are finite.
inline bool pack_keys(const Tokens& tokens, int64_t panel, int64_t depth, uint16_t* to) {
  const __m512i exponent = _mm512_set1_epi16(EXPONENT);
  __mmask32 infinite = 0;
  for (int64_t c = 0; c < PANEL; c += LANES)
    for (int64_t d = 0; d < depth; d += 2 * LANES) {
      __m512i rows[LANES];
      for (int64_t i = 0; i < LANES; i++) {
        rows[i] = tokens.loaded(panel + c / GROUP * GROUP + key_of(c % GROUP / LANES, i), d);
        infinite |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(rows[i], exponent), exponent);
      }
      transpose(rows);
      for (int64_t i = 0; i < LANES && d + 2 * i < depth; i++)
        _mm512_storeu_si512(to + (d + 2 * i) * PANEL + 2 * c, rows[i]);
    }
  return !infinite;
}

// 16 numbers of two tokens in turn, zeros for what is not there.
inline __m512i in_turn(const Tokens& tokens, int64_t token, int64_t from) {
  const auto widened = [&](int64_t token) {
    return _mm512_cvtepu16_epi32(_mm512_castsi512_si256(tokens.loaded(token, from)));
  };
  return _mm512_or_si512(widened(token), _mm512_slli_epi32(widened(token + 1), 16));
}

// A panel of values as [pair of keys][dim][2], zero padded.
inline void pack_values(const Tokens& tokens, int64_t panel, int64_t width, uint16_t* to) {
  for (int64_t k = 0; k < PANEL; k += 2)
    for (int64_t d = 0; d < width; d += LANES)
      _mm512_mask_storeu_epi32(to + k * width + 2 * d, low_bits(width - d),
                               in_turn(tokens, panel + k, d));
}

}  // namespace dgq
