// Products of a few rows of byte codes and a panel of byte weights in AVX2, exact for all values.
//
// An instruction multiplies four inputs of a row by the weights of eight outputs and adds up pairs
// of products in 16 bits. The largest code and the weights decide how many such steps 16 bits hold
// before sums are widened to 32 bits. If they do not hold a single one, words are multiplied.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace dgq {

constexpr int64_t MICRO = 6;      // rows whose sums the registers hold
constexpr int64_t COLUMNS = 16;   // output channels whose sums they hold: two vectors
constexpr int64_t HALF = 8;       // output channels of a vector
constexpr int64_t DEPTH = 512;    // inputs of a panel, whose bytes take 8 KiB
constexpr int64_t STEP = 4;       // inputs of a step
constexpr int64_t LANES = 32;     // inputs of a vector
constexpr int64_t MOST_OF_16_BITS = 32767;

// Up to LANES bytes, followed by zeros.
inline __m256i loaded(const void* from, int64_t n) {
  if (n >= LANES) return _mm256_loadu_si256((const __m256i*)from);
  int8_t edge[LANES] = {};
  if (n > 0) std::memcpy(edge, from, n);
  return _mm256_loadu_si256((const __m256i*)edge);
}

// largest[i] = max(largest[i], codes[i]), up to a multiple of LANES.
inline void raise_to(uint8_t* largest, const uint8_t* codes, int64_t n) {
  for (int64_t i = 0; i < n; i += LANES) {
    __m256i* to = (__m256i*)(largest + i);
    _mm256_storeu_si256(to, _mm256_max_epu8(_mm256_loadu_si256(to), loaded(codes + i, n - i)));
  }
}

inline void widen(const uint8_t* __restrict codes, int64_t n, int16_t* __restrict to) {
  for (int64_t i = 0; i < n; i++) to[i] = codes[i];
}

// The weights of up to COLUMNS outputs and DEPTH inputs, zero padded.
struct alignas(32) Panel {
  int8_t bytes[DEPTH * COLUMNS];   // [step][COLUMNS][STEP]
  int16_t words[DEPTH * COLUMNS];  // [step][2][COLUMNS][2], if a chain is 0 steps long
  int64_t steps;
  int64_t chain;  // steps whose sums 16 bits hold

  // n inputs from the first one of some rows of a weight [out, depth], for codes up to the largest
  // of each input.
  void pack(const int8_t* weight, int64_t depth, int64_t columns, int64_t first, int64_t n,
            const uint8_t* largest_codes) {
    for (int64_t c = 0; c < COLUMNS; c += HALF)
      for (int64_t k = 0; k < n; k += LANES)
        transpose(weight + c * depth + first + k, depth, columns - c, n - k,
                  bytes + k * COLUMNS + STEP * c);
    steps = (n + STEP - 1) / STEP;
    chain = (MOST_OF_16_BITS - 1) / largest_sum(largest_codes);
    if (in_words()) widen();
  }

  bool in_words() const { return chain == 0; }

 private:
  // LANES inputs of HALF rows, as [step][row][STEP].
  static void transpose(const int8_t* weight, int64_t stride, int64_t rows, int64_t n, int8_t* to) {
    __m256i a[8], b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) a[i] = loaded(weight + i * stride, i < rows ? n : 0);
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
      b[i] = _mm256_unpacklo_epi32(a[i], a[i + 1]);
      b[i + 1] = _mm256_unpackhi_epi32(a[i], a[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
      a[i] = _mm256_unpacklo_epi64(b[i], b[i + 2]);
      a[i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 2]);
      a[i + 2] = _mm256_unpacklo_epi64(b[i + 1], b[i + 3]);
      a[i + 3] = _mm256_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      const __m256i low = _mm256_permute2x128_si256(a[i], a[i + 4], 0x20);
      const __m256i high = _mm256_permute2x128_si256(a[i], a[i + 4], 0x31);
      _mm256_storeu_si256((__m256i*)(to + STEP * COLUMNS * i), low);
      _mm256_storeu_si256((__m256i*)(to + STEP * COLUMNS * (i + 4)), high);
    }
  }

  // The largest magnitude of the sum of two neighbouring products, at least 1; MOST_OF_16_BITS or
  // more if 16 bits may not hold it.
  int64_t largest_sum(const uint8_t* largest_codes) const {
    const __m256i zero = _mm256_setzero_si256();
    __m256i most = _mm256_set1_epi16(1), least = zero;
    for (int64_t s = 0; s < steps; s++) {
      int32_t four;
      std::memcpy(&four, largest_codes + s * STEP, STEP);
      const __m256i codes = _mm256_set1_epi32(four);
      for (int64_t half = 0; half < 2; half++) {
        const __m256i w = _mm256_load_si256((const __m256i*)(bytes + s * STEP * COLUMNS) + half);
        const __m256i positive = _mm256_maddubs_epi16(codes, _mm256_max_epi8(w, zero));
        const __m256i negative = _mm256_maddubs_epi16(codes, _mm256_min_epi8(w, zero));
        most = _mm256_max_epi16(most, positive), least = _mm256_min_epi16(least, negative);
      }
    }
    int16_t high[16], low[16];
    _mm256_storeu_si256((__m256i*)high, most), _mm256_storeu_si256((__m256i*)low, least);
    return std::max<int64_t>(*std::max_element(high, high + 16),
                             -int64_t(*std::min_element(low, low + 16)));
  }

  // The bytes 2 i and 2 i + 1 of each row's step as words, for i of 0 or 1.
  template <int PAIR>
  static __m256i pair_as_words(__m256i step) {
    const __m128i at = _mm_set_epi8(13, 0, 12, 0, 9, 0, 8, 0, 5, 0, 4, 0, 1, 0, 0, 0);
    const __m256i of_pair =
        _mm256_broadcastsi128_si256(_mm_add_epi8(at, _mm_set1_epi16(2 * PAIR << 8)));
    return _mm256_srai_epi16(_mm256_shuffle_epi8(step, of_pair), 8);
  }

  void widen() {
    const __m256i* from = (const __m256i*)bytes;
    __m256i* to = (__m256i*)words;
    for (int64_t s = 0; s < steps; s++, from += 2, to += 4) {
      to[0] = pair_as_words<0>(from[0]), to[1] = pair_as_words<0>(from[1]);
      to[2] = pair_as_words<1>(from[0]), to[3] = pair_as_words<1>(from[1]);
    }
  }
};

// The loops are in assembler, because compilers move sums to memory and back although the 16
// registers suffice: 12 for sums, two for weights, two for codes and products.

#define DGQ_EACH_ROW(DO)                                                                     \
  DO("(%[at])", "0", "1")                                                                    \
  DO("(%[at],%[stride])", "2", "3")                                                          \
  DO("(%[at],%[stride],2)", "4", "5")                                                        \
  DO("(%[at],%[three])", "6", "7")                                                           \
  DO("(%[at],%[stride],4)", "8", "9")                                                        \
  DO("(%[at],%[five])", "10", "11")
#define DGQ_EACH_SUM(DO)                                                                     \
  DO("0", "0") DO("1", "32") DO("2", "64") DO("3", "96") DO("4", "128") DO("5", "160")       \
  DO("6", "192") DO("7", "224") DO("8", "256") DO("9", "288") DO("10", "320") DO("11", "352")

// One step: its weights, the products of each row, and on to the next four bytes of each row.
#define DGQ_STEP(DO)                                                                         \
  "vmovdqa (%[weights]), %%ymm12\n\t"                                                        \
  "vmovdqa 32(%[weights]), %%ymm13\n\t" DGQ_EACH_ROW(DO)                                     \
  "add $4, %[at]\n\t"                                                                        \
  "add $64, %[weights]\n\t"                                                                  \
  "dec %[n]\n\t"

#define DGQ_BEGIN_CHAIN(codes, low, high)                                                    \
  "vpbroadcastd " codes ", %%ymm14\n\t"                                                      \
  "vpmaddubsw %%ymm12, %%ymm14, %%ymm" low "\n\t"                                            \
  "vpmaddubsw %%ymm13, %%ymm14, %%ymm" high "\n\t"
#define DGQ_ADD_TO_CHAIN(codes, low, high)                                                   \
  "vpbroadcastd " codes ", %%ymm14\n\t"                                                      \
  "vpmaddubsw %%ymm12, %%ymm14, %%ymm15\n\t"                                                 \
  "vpmaddubsw %%ymm13, %%ymm14, %%ymm14\n\t"                                                 \
  "vpaddw %%ymm15, %%ymm" low ", %%ymm" low "\n\t"                                           \
  "vpaddw %%ymm14, %%ymm" high ", %%ymm" high "\n\t"
#define DGQ_ADD_WIDENED(codes, low, high)                                                    \
  "vpbroadcastd " codes ", %%ymm14\n\t"                                                      \
  "vpmaddubsw %%ymm12, %%ymm14, %%ymm15\n\t"                                                 \
  "vpmaddubsw %%ymm13, %%ymm14, %%ymm14\n\t"                                                 \
  "vpmaddwd %[ones], %%ymm15, %%ymm15\n\t"                                                   \
  "vpmaddwd %[ones], %%ymm14, %%ymm14\n\t"                                                   \
  "vpaddd %%ymm15, %%ymm" low ", %%ymm" low "\n\t"                                           \
  "vpaddd %%ymm14, %%ymm" high ", %%ymm" high "\n\t"
#define DGQ_ADD_WORDS(codes, low, high)                                                      \
  "vpbroadcastd " codes ", %%ymm14\n\t"                                                      \
  "vpmaddwd %%ymm12, %%ymm14, %%ymm15\n\t"                                                   \
  "vpmaddwd %%ymm13, %%ymm14, %%ymm14\n\t"                                                   \
  "vpaddd %%ymm15, %%ymm" low ", %%ymm" low "\n\t"                                           \
  "vpaddd %%ymm14, %%ymm" high ", %%ymm" high "\n\t"

#define DGQ_CLEAR(sum, at) "vpxor %%ymm" sum ", %%ymm" sum ", %%ymm" sum "\n\t"
#define DGQ_STORE(sum, at)                                                                   \
  "vpaddd " at "(%[sums]), %%ymm" sum ", %%ymm" sum "\n\t"                                   \
  "vmovdqu %%ymm" sum ", " at "(%[sums])\n\t"
#define DGQ_STORE_CHAIN(sum, at)                                                             \
  "vpmaddwd %%ymm12, %%ymm" sum ", %%ymm" sum "\n\t" DGQ_STORE(sum, at)

alignas(32) constexpr int16_t ONES[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
typedef int16_t __attribute__((may_alias)) Vector[16];

#define DGQ_OPERANDS                                                                         \
  : [at] "+r"(at), [weights] "+r"(weights), [n] "+r"(n)                                      \
  : [stride] "r"(stride), [three] "r"(3 * stride), [five] "r"(5 * stride), [sums] "r"(sums), \
    [ones] "m"(*(const Vector*)ONES)                                                         \
  : "memory", "cc", "ymm0", "ymm1", "ymm2", "ymm3", "ymm4", "ymm5", "ymm6", "ymm7", "ymm8",  \
    "ymm9", "ymm10", "ymm11", "ymm12", "ymm13", "ymm14", "ymm15"
// n > 0 steps whose sums stay in 32 bits.
#define DGQ_STEPS(DO)                                                                        \
  asm volatile(DGQ_EACH_SUM(DGQ_CLEAR) "1:\n\t" DGQ_STEP(DO) "jnz 1b\n\t"                    \
               DGQ_EACH_SUM(DGQ_STORE) DGQ_OPERANDS)

// sums[MICRO][COLUMNS] += the products of n > 0 steps, added up in 16 bits.
inline void add_chain(const uint8_t* at, int64_t stride, const int8_t* weights, int64_t n,
                      int32_t* sums) {
  asm volatile(DGQ_STEP(DGQ_BEGIN_CHAIN)
               "jz 2f\n\t"
               "1:\n\t" DGQ_STEP(DGQ_ADD_TO_CHAIN)
               "jnz 1b\n\t"
               "2:\n\t"
               "vmovdqa %[ones], %%ymm12\n\t" DGQ_EACH_SUM(DGQ_STORE_CHAIN) DGQ_OPERANDS);
}

// sums[MICRO][COLUMNS] += the products of n > 0 steps, each widened to 32 bits.
inline void add_steps(const uint8_t* at, int64_t stride, const int8_t* weights, int64_t n,
                      int32_t* sums) {
  DGQ_STEPS(DGQ_ADD_WIDENED);
}

// sums[MICRO][COLUMNS] += the products of n > 0 pairs of words. The stride is in bytes.
inline void add_words(const int16_t* at, int64_t stride, const int16_t* weights, int64_t n,
                      int32_t* sums) {
  DGQ_STEPS(DGQ_ADD_WORDS);
}

// MICRO rows of codes, as bytes and as words, which only panels in words read.
struct MicroRows {
  const uint8_t* bytes;
  const int16_t* words;
  int64_t byte_stride, word_stride;
};

// sums[MICRO][COLUMNS] += rows times a panel.
inline void multiply(const MicroRows& rows, const Panel& panel, int32_t* sums) {
  if (panel.in_words())
    add_words(rows.words, 2 * rows.word_stride, panel.words, 2 * panel.steps, sums);
  else if (panel.chain == 1)
    add_steps(rows.bytes, rows.byte_stride, panel.bytes, panel.steps, sums);
  else
    for (int64_t s = 0; s < panel.steps; s += panel.chain)
      add_chain(rows.bytes + s * STEP, rows.byte_stride, panel.bytes + s * STEP * COLUMNS,
                std::min(panel.chain, panel.steps - s), sums);
}

}  // namespace dgq
