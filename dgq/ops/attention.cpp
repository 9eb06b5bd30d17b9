// Attention in bfloat16 on a CPU, whose scores stay in the cache. Plain C interface; compiled when
// first used (compiling.py), for CPUs that multiply bfloat16.

#include <cstdint>

#ifdef __AVX512BF16__
#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace {

constexpr int64_t ROWS = 48;   // queries at a time
constexpr int64_t KEYS = 256;  // keys at a time: ROWS x KEYS scores take 48 KiB
constexpr int64_t TILE = 64;   // keys that the registers hold scores for
constexpr int64_t LANES = 16;  // floats of a vector
constexpr int64_t MICRO = 6;   // queries that the registers hold scores for
constexpr float FAR_BELOW = -1e30f;

inline int64_t up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

// Memory for n values from the start of a cache line on. What is allocated is a multiple of the
// alignment, as the C standard demands, and never nothing, for which it allows a null pointer.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t n)
      : memory_((T*)std::aligned_alloc(64, up(std::max<int64_t>(n, 1) * sizeof(T), 64))) {
    if (!memory_) throw std::bad_alloc();
  }
  operator T*() const { return memory_.get(); }

 private:
  std::unique_ptr<T, Free> memory_;
};

inline __m512bh load_pairs(const uint16_t* p) { return (__m512bh)_mm512_loadu_si512(p); }

inline __m256bh load_half_pairs(const uint16_t* p) {
  return (__m256bh)_mm256_loadu_si256((const __m256i*)p);
}

inline uint32_t pair_at(const uint16_t* p) {
  uint32_t pair;
  std::memcpy(&pair, p, 4);
  return pair;
}

inline __m512i broadcast_pair(const uint16_t* p) { return _mm512_set1_epi32(pair_at(p)); }

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

// 2^x to a relative 1e-4; bfloat16 keeps 4e-3.
inline __m512 exp2(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-200.0f), x);  // in this order it keeps NaN
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 rest = _mm512_sub_ps(x, whole);
  __m512 y = _mm512_set1_ps(0.055171773f);
  for (float c : {0.24261138f, 0.69326097f, 0.999928f})
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(c));
  return _mm512_scalef_ps(y, whole);
}

// Keys as [tile][pair of dims][key in tile][2] and values as [pair of keys][dim][2], zero padded.
void pack_tile(const uint16_t* key, const uint16_t* value, int64_t token_stride, int64_t n_keys,
               int64_t dim, int64_t depth, int64_t width, uint16_t* keys, uint16_t* values) {
  std::memset(keys, 0, TILE * depth * 2);
  std::memset(values, 0, TILE * width * 2);
  uint32_t *key_pairs = (uint32_t*)keys, *value_pairs = (uint32_t*)values;
  for (int64_t j = 0; j < n_keys && j < TILE; j++) {
    const uint16_t *k = key + j * token_stride, *v = value + j * token_stride;
    for (int64_t d = 0; d < dim / 2; d++) key_pairs[d * TILE + j] = pair_at(k + 2 * d);
    if (dim % 2) key_pairs[dim / 2 * TILE + j] = k[dim - 1];
    uint32_t* pairs = value_pairs + j / 2 * width;
    const int shift = j % 2 * 16;
    for (int64_t d = 0; d < dim; d++) pairs[d] |= uint32_t(v[d]) << shift;
  }
}

void add_values(const uint16_t* scores, const uint16_t* values, int64_t width, int64_t keys,
                int64_t rows, float* mixed) {
  for (int64_t c = 0; c < width; c += 64)
    for (int64_t r = 0; r < rows; r += MICRO)
      multiply_columns<true>(std::min<int64_t>(64, width - c), scores + r * KEYS, KEYS,
                             values + c * 2, width, keys / 2, mixed + r * width + c, width);
}

// One row of logits to unnormalized scores under a running maximum (online softmax, 1805.02867).
void soften(const float* logits, int64_t keys, float factor, int64_t width, float& top, float& sum,
            float* mixed, uint16_t* scores) {
  __m512 most = _mm512_loadu_ps(logits);
  for (int64_t j = 16; j < keys; j += 16) most = _mm512_max_ps(most, _mm512_loadu_ps(logits + j));
  const float new_top = std::max(top, _mm512_reduce_max_ps(most) * factor);
  if (new_top > top) {
    const __m512 shrink = exp2(_mm512_set1_ps(top - new_top));
    for (int64_t d = 0; d < width; d += 8)
      _mm256_storeu_ps(mixed + d,
                       _mm256_mul_ps(_mm256_loadu_ps(mixed + d), _mm512_castps512_ps256(shrink)));
    sum *= _mm512_cvtss_f32(shrink);
    top = new_top;
  }
  const __m512 by = _mm512_set1_ps(factor), less = _mm512_set1_ps(-top);
  __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
  for (int64_t j = 0; j < keys; j += 32) {
    const __m512 a = exp2(_mm512_fmadd_ps(_mm512_loadu_ps(logits + j), by, less));
    const __m512 b = exp2(_mm512_fmadd_ps(_mm512_loadu_ps(logits + j + 16), by, less));
    even = _mm512_add_ps(even, a);
    odd = _mm512_add_ps(odd, b);
    _mm512_storeu_si512(scores + j, (__m512i)_mm512_cvtne2ps_pbh(b, a));
  }
  sum += _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
}

struct Head {
  const uint16_t *keys, *values;  // packed
  int64_t n_keys, depth, width;
  float factor;  // of the logits, in powers of two
};

// Memory of one thread.
struct Scratch {
  Buffer<uint16_t> query, scores;
  Buffer<float> logits, mixed;
  float top[ROWS], sum[ROWS];

  Scratch(int64_t depth, int64_t width)
      : query(ROWS * depth), scores(ROWS * KEYS), logits(ROWS * KEYS), mixed(ROWS * width) {}
};

// Memory of a call, all of it before threads start, where an error has nowhere to go.
struct Memory {
  Buffer<uint16_t> keys, values;  // packed
  std::vector<Scratch> scratch;

  Memory(int64_t n_keys, int64_t depth, int64_t width)
      : keys(n_keys * depth), values(n_keys * width) {
    for (int i = 0; i < omp_get_max_threads(); i++) scratch.emplace_back(depth, width);
  }
};

// Softmax attention of up to ROWS queries to all keys of a head; the sums are left in scratch.
void attend(const Head& head, int64_t rows, Scratch& at) {
  std::fill_n((float*)at.mixed, ROWS * head.width, 0.0f);
  std::fill(at.top, at.top + ROWS, FAR_BELOW);
  std::fill(at.sum, at.sum + ROWS, 0.0f);
  const int64_t padded = up(head.n_keys, 2 * LANES);
  for (int64_t first = 0; first < padded; first += KEYS) {
    const int64_t keys = std::min(KEYS, padded - first);
    for (int64_t t = 0; t < keys; t += TILE)
      for (int64_t r = 0; r < rows; r += MICRO)
        multiply_columns<false>(std::min(TILE, keys - t), at.query + r * head.depth, head.depth,
                                head.keys + (first + t) * head.depth, TILE, head.depth / 2,
                                at.logits + r * KEYS + t, KEYS);
    for (int64_t r = 0; r < rows; r++) {
      float* logits = at.logits + r * KEYS;
      for (int64_t j = std::max<int64_t>(0, head.n_keys - first); j < keys; j++)
        logits[j] = FAR_BELOW;
      soften(logits, keys, head.factor, head.width, at.top[r], at.sum[r],
             at.mixed + r * head.width, at.scores + r * KEYS);
    }
    add_values(at.scores, head.values + first * head.width, head.width, keys, rows, at.mixed);
  }
}

void write_row(const float* mixed, float sum, int64_t dim, uint16_t* out) {
  const __m256 inverse = _mm256_set1_ps(1.0f / sum);
  for (int64_t d = 0; d < dim; d += 8) {
    const __m256 value = _mm256_mul_ps(_mm256_loadu_ps(mixed + d), inverse);
    const __m128bh rounded = _mm256_cvtneps_pbh(value);
    std::memcpy(out + d, &rounded, 2 * std::min<int64_t>(8, dim - d));
  }
}

}  // namespace

// query, out [batch, queries, heads, dim]; key, value [batch, keys, heads, dim]; bfloat16.
// Returns 0, or 1 without memory.
extern "C" int dgq_attention(const uint16_t* query, const uint16_t* key, const uint16_t* value,
                             int64_t batch, int64_t heads, int64_t n_queries, int64_t n_keys,
                             int64_t dim, float scale, uint16_t* out) try {
  const int64_t depth = up(dim, 2), width = up(dim, 8), padded = up(n_keys, TILE);
  const int64_t stride = heads * dim, n_heads = batch * heads;
  Memory memory(n_heads * padded, depth, width);
  uint16_t *keys = memory.keys, *values = memory.values;
#pragma omp parallel
  {
#pragma omp for collapse(2) schedule(static)
    for (int64_t head = 0; head < n_heads; head++)
      for (int64_t first = 0; first < padded; first += TILE) {
        const int64_t from = (head / heads * n_keys + first) * stride + head % heads * dim;
        pack_tile(key + from, value + from, stride, n_keys - first, dim, depth, width,
                  keys + (head * padded + first) * depth,
                  values + (head * padded + first) * width);
      }
    Scratch& at = memory.scratch[omp_get_thread_num()];
    const int64_t blocks = (n_queries + ROWS - 1) / ROWS;
#pragma omp for schedule(dynamic, 4)
    for (int64_t job = 0; job < n_heads * blocks; job++) {
      const int64_t head = job / blocks, first = job % blocks * ROWS;
      const int64_t n = std::min(ROWS, n_queries - first);
      const int64_t from = (head / heads * n_queries + first) * stride + head % heads * dim;
      std::memset(at.query, 0, ROWS * depth * 2);
      for (int64_t i = 0; i < n; i++)
        std::memcpy(at.query + i * depth, query + from + i * stride, dim * 2);
      attend({keys + head * padded * depth, values + head * padded * width, n_keys, depth, width,
              scale * 1.44269504f},
             up(n, MICRO), at);
      for (int64_t i = 0; i < n; i++)
        write_row(at.mixed + i * width, at.sum[i], dim, out + from + i * stride);
    }
  }
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

extern "C" int dgq_has_attention() { return 1; }
#else
extern "C" int dgq_attention(const uint16_t*, const uint16_t*, const uint16_t*, int64_t, int64_t,
                             int64_t, int64_t, int64_t, float, uint16_t*) {
  return 0;
}
extern "C" int dgq_has_attention() { return 0; }
#endif
