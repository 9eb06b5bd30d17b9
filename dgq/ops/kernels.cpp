// Kernels that torch lacks on a CPU: quantization of an input in one pass, and attention in bfloat16
// whose scores stay in the cache. Plain C interface; compiled when first used (native.py).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int64_t PARALLEL_FROM = 1 << 15;  // elements; below, threads cost more than they bring

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

// Whole, so that it can be summed up in a loop of vectors. The code of NaN is a number like others:
// who wants to know of it is told apart.
inline uint32_t is_nan(float x) { return x != x; }

// One pixel's codes; x is null outside of the image, where the value is zero. Returns whether one of
// the values was NaN.
template <typename T>
inline uint32_t quantize_pixel(const T* x, float scale, const float* multiple,
                               const int16_t* zero_point, const float* factor, float largest,
                               int64_t channels, uint8_t* codes) {
  uint32_t nan = 0;
  for (int64_t c = 0; c < channels; c++) {
    const float rounded = x ? std::rint(as_float(x[c]) / (scale * multiple[c])) : 0.0f;
    nan |= is_nan(rounded);
    codes[c] = code_of(rounded, zero_point[c], factor[c], largest);
  }
  return nan;
}

// Threads may note the same sample at once, with the same value.
inline void note(uint32_t nan, float* spoilt) {
  if (!nan || !spoilt) return;
#pragma omp atomic write
  *spoilt = NAN;
}

// e^x of x <= 0, to a relative 4e-6, without a call, so that loops become vectors.
inline float exp_of_negative(float x) {
  x = (x > -87.0f ? x : -87.0f) * 1.44269504f;
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

// x Phi(x), by Abramowitz and Stegun's 7.1.26: the error function to 2e-6.
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

template <typename T>
void quantize_gated_all(const T* x, const float* scale, const float* multiple,
                        const int16_t* zero_point, const float* factor, const int64_t* step,
                        int64_t samples_with_own_step, int64_t batch, int64_t tokens,
                        int64_t channels, float largest, uint8_t* codes, float* spoilt) {
#pragma omp parallel for schedule(static) if (batch * tokens * channels >= PARALLEL_FROM)
  for (int64_t row = 0; row < batch * tokens; row++) {
    const int64_t t = step[samples_with_own_step > 1 ? row / tokens : 0];
    const int16_t* zero = zero_point + t * channels;
    const T *value = x + row * 2 * channels, *gate = value + channels;
    uint8_t* out = codes + row * channels;
    const float finest = scale[t];
    uint32_t nan = 0;
    for (int64_t c = 0; c < channels; c++) {
      const float product = as_float(value[c]) * gelu(as_float(gate[c]));
      const float rounded = std::rint(product / (finest * multiple[c]));
      nan |= is_nan(rounded);
      out[c] = code_of(rounded, zero[c], factor[c], largest);
    }
    note(nan, spoilt ? spoilt + row / tokens : nullptr);
  }
}

template <typename T>
void quantize_all(const T* x, const float* scale, const float* multiple, const int16_t* zero_point,
                  const float* factor, const int64_t* step, int64_t samples_with_own_step,
                  int64_t batch, int64_t height, int64_t width, int64_t channels,
                  int64_t pad_height, int64_t pad_width, float largest, uint8_t* codes,
                  float* spoilt) {
  const int64_t out_height = height + 2 * pad_height, out_width = width + 2 * pad_width;
  const int64_t rows = batch * out_height;
#pragma omp parallel for schedule(static) if (rows * out_width * channels >= PARALLEL_FROM)
  for (int64_t row = 0; row < rows; row++) {
    const int64_t sample = row / out_height, h = row % out_height - pad_height;
    const int64_t t = step[samples_with_own_step > 1 ? sample : 0];
    const bool inside = h >= 0 && h < height;
    uint32_t nan = 0;
    for (int64_t w = -pad_width; w < width + pad_width; w++) {
      const bool in = inside && w >= 0 && w < width;
      const T* pixel = in ? x + ((sample * height + h) * width + w) * channels : nullptr;
      uint8_t* out = codes + (row * out_width + w + pad_width) * channels;
      nan |= quantize_pixel(pixel, scale[t], multiple, zero_point + t * channels, factor, largest,
                            channels, out);
    }
    note(nan, spoilt ? spoilt + sample : nullptr);
  }
}

constexpr int64_t SLICE = 64;  // channels whose ranges stay in registers and in the first cache

template <typename T>
void ranges_all(const T* x, int64_t batch, int64_t pixels, int64_t channels, float* low,
                float* high) {
  const int64_t slices = (channels + SLICE - 1) / SLICE;
#pragma omp parallel for collapse(2) schedule(static) if (batch * pixels * channels >= PARALLEL_FROM)
  for (int64_t sample = 0; sample < batch; sample++)
    for (int64_t slice = 0; slice < slices; slice++) {
      const int64_t first = slice * SLICE, n = std::min(SLICE, channels - first);
      const T* pixel = x + sample * pixels * channels + first;
      float *least = low + sample * channels + first, *most = high + sample * channels + first;
      for (int64_t c = 0; c < n; c++) least[c] = most[c] = as_float(pixel[c]);
      for (int64_t p = 1; p < pixels; p++) {
        pixel += channels;
        for (int64_t c = 0; c < n; c++) {
          const float value = as_float(pixel[c]);
          least[c] = value < least[c] ? value : least[c];
          most[c] = value > most[c] ? value : most[c];
        }
      }
    }
}

}  // namespace

// x [batch, pixels, channels]; low and high [batch, channels].
extern "C" void dgq_channel_ranges(const void* x, int is_bfloat16, int64_t batch, int64_t pixels,
                                   int64_t channels, float* low, float* high) {
  if (is_bfloat16)
    ranges_all((const uint16_t*)x, batch, pixels, channels, low, high);
  else
    ranges_all((const float*)x, batch, pixels, channels, low, high);
}

// x [batch, height, width, channels]; scale [steps]; multiple, factor [channels]; zero_point
// [steps, channels]; step [1 or batch]; codes [batch, height + 2 pad, width + 2 pad, channels]; spoilt
// [batch], which is set to NaN for samples with a NaN, or null.
extern "C" void dgq_quantize(const void* x, int is_bfloat16, const float* scale, const float* multiple,
                             const int16_t* zero_point, const float* factor, const int64_t* step,
                             int64_t samples_with_own_step, int64_t batch, int64_t height,
                             int64_t width, int64_t channels, int64_t pad_height,
                             int64_t pad_width, float largest, uint8_t* codes, float* spoilt) {
  if (is_bfloat16)
    quantize_all((const uint16_t*)x, scale, multiple, zero_point, factor, step, samples_with_own_step,
                 batch, height, width, channels, pad_height, pad_width, largest, codes, spoilt);
  else
    quantize_all((const float*)x, scale, multiple, zero_point, factor, step, samples_with_own_step,
                 batch, height, width, channels, pad_height, pad_width, largest, codes, spoilt);
}

// x [batch, tokens, 2 channels], values and then gates; codes [batch, tokens, channels].
extern "C" void dgq_quantize_gated(const void* x, int is_bfloat16, const float* scale,
                                   const float* multiple, const int16_t* zero_point,
                                   const float* factor, const int64_t* step,
                                   int64_t samples_with_own_step, int64_t batch, int64_t tokens,
                                   int64_t channels, float largest, uint8_t* codes,
                                   float* spoilt) {
  if (is_bfloat16)
    quantize_gated_all((const uint16_t*)x, scale, multiple, zero_point, factor, step,
                       samples_with_own_step, batch, tokens, channels, largest, codes, spoilt);
  else
    quantize_gated_all((const float*)x, scale, multiple, zero_point, factor, step,
                       samples_with_own_step, batch, tokens, channels, largest, codes, spoilt);
}

#ifdef __AVX512BF16__
#include <immintrin.h>

namespace {

constexpr int64_t ROWS = 48;   // queries at a time
constexpr int64_t KEYS = 256;  // keys at a time: ROWS x KEYS scores take 48 KiB
constexpr int64_t TILE = 64;   // keys that the registers hold scores for
constexpr int64_t MICRO = 6;   // queries that the registers hold scores for
constexpr float FAR_BELOW = -1e30f;

inline int64_t up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

template <typename T>
T* allocate(int64_t n) {
  return (T*)std::aligned_alloc(64, up(n * sizeof(T), 64));
}

inline __m512bh load_pairs(const uint16_t* p) { return (__m512bh)_mm512_loadu_si512(p); }

inline __m512bh broadcast_pair(const uint16_t* p) {
  int32_t pair;
  std::memcpy(&pair, p, 4);
  return (__m512bh)_mm512_set1_epi32(pair);
}

// out[MICRO][16 VECTORS] (+)= left[MICRO][2 pairs] right[pairs][16 VECTORS][2]
template <int VECTORS, bool ADD>
inline void multiply(const uint16_t* left, int64_t left_stride, const uint16_t* right,
                     int64_t right_stride, int64_t pairs, float* out, int64_t out_stride) {
  __m512 sums[MICRO][VECTORS];
#pragma GCC unroll 8
  for (int i = 0; i < MICRO; i++)
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; j++)
      sums[i][j] = ADD ? _mm512_loadu_ps(out + i * out_stride + 16 * j) : _mm512_setzero_ps();
  for (int64_t p = 0; p < pairs; p++) {
    __m512bh columns[VECTORS];
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; j++) columns[j] = load_pairs(right + (p * right_stride + 16 * j) * 2);
#pragma GCC unroll 8
    for (int i = 0; i < MICRO; i++) {
      const __m512bh row = broadcast_pair(left + i * left_stride + 2 * p);
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; j++) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], row, columns[j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < MICRO; i++)
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; j++) _mm512_storeu_ps(out + i * out_stride + 16 * j, sums[i][j]);
}

// 2^x to a relative 2e-6; bfloat16 keeps 4e-3.
inline __m512 exp2(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-200.0f));
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 rest = _mm512_sub_ps(x, whole);
  __m512 y = _mm512_set1_ps(1.3333558e-3f);
  for (float c : {9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.0f})
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(c));
  return _mm512_scalef_ps(y, whole);
}

// Keys as [tile][pair of dims][key in tile][2] and values as [pair of keys][dim][2], zero padded.
void pack_tile(const uint16_t* key, const uint16_t* value, int64_t token_stride, int64_t n_keys,
               int64_t dim, int64_t depth, int64_t width, uint16_t* keys, uint16_t* values) {
  for (int64_t j = 0; j < TILE; j++) {
    const uint16_t *k = key + j * token_stride, *v = value + j * token_stride;
    for (int64_t d = 0; d < depth; d++)
      keys[(d / 2 * TILE + j) * 2 + d % 2] = j < n_keys && d < dim ? k[d] : 0;
    for (int64_t d = 0; d < width; d++)
      values[(j / 2 * width + d) * 2 + j % 2] = j < n_keys && d < dim ? v[d] : 0;
  }
}

void add_values(const uint16_t* scores, const uint16_t* values, int64_t width, int64_t keys,
                int64_t rows, float* mixed) {
  for (int64_t c = 0; c < width; c += 64) {
    const int64_t vectors = std::min<int64_t>(4, (width - c) / 16);
    for (int64_t r = 0; r < rows; r += MICRO) {
      const uint16_t *left = scores + r * KEYS, *right = values + c * 2;
      float* out = mixed + r * width + c;
      if (vectors == 4) multiply<4, true>(left, KEYS, right, width, keys / 2, out, width);
      if (vectors == 3) multiply<3, true>(left, KEYS, right, width, keys / 2, out, width);
      if (vectors == 2) multiply<2, true>(left, KEYS, right, width, keys / 2, out, width);
      if (vectors == 1) multiply<1, true>(left, KEYS, right, width, keys / 2, out, width);
    }
  }
}

// One row of logits to unnormalized scores under a running maximum (online softmax, 1805.02867).
void soften(const float* logits, int64_t keys, float factor, int64_t width, float& top, float& sum,
            float* mixed, uint16_t* scores) {
  __m512 most = _mm512_loadu_ps(logits);
  for (int64_t j = 16; j < keys; j += 16) most = _mm512_max_ps(most, _mm512_loadu_ps(logits + j));
  const float new_top = std::max(top, _mm512_reduce_max_ps(most) * factor);
  if (new_top > top) {
    const __m512 shrink = exp2(_mm512_set1_ps(top - new_top));
    for (int64_t d = 0; d < width; d += 16)
      _mm512_storeu_ps(mixed + d, _mm512_mul_ps(_mm512_loadu_ps(mixed + d), shrink));
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
  uint16_t *query, *scores;
  float *logits, *mixed, top[ROWS], sum[ROWS];

  Scratch(int64_t depth, int64_t width)
      : query(allocate<uint16_t>(ROWS * depth)),
        scores(allocate<uint16_t>(ROWS * KEYS)),
        logits(allocate<float>(ROWS * KEYS)),
        mixed(allocate<float>(ROWS * width)) {}

  ~Scratch() {
    for (void* memory : {(void*)query, (void*)scores, (void*)logits, (void*)mixed}) std::free(memory);
  }
};

// Softmax attention of up to ROWS queries to all keys of a head; the sums are left in scratch.
void attend(const Head& head, int64_t rows, Scratch& at) {
  std::fill(at.mixed, at.mixed + ROWS * head.width, 0.0f);
  std::fill(at.top, at.top + ROWS, FAR_BELOW);
  std::fill(at.sum, at.sum + ROWS, 0.0f);
  const int64_t padded = up(head.n_keys, TILE);
  for (int64_t first = 0; first < padded; first += KEYS) {
    const int64_t keys = std::min(KEYS, padded - first);
    for (int64_t t = 0; t < keys; t += TILE)
      for (int64_t r = 0; r < rows; r += MICRO)
        multiply<4, false>(at.query + r * head.depth, head.depth,
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
  const __m512 inverse = _mm512_set1_ps(1.0f / sum);
  for (int64_t d = 0; d < dim; d += 16) {
    const __m512 value = _mm512_mul_ps(_mm512_loadu_ps(mixed + d), inverse);
    const __m256bh rounded = _mm512_cvtneps_pbh(value);
    std::memcpy(out + d, &rounded, 2 * std::min<int64_t>(16, dim - d));
  }
}

}  // namespace

// query, out [batch, queries, heads, dim]; key, value [batch, keys, heads, dim]; bfloat16.
extern "C" void dgq_attention(const uint16_t* query, const uint16_t* key, const uint16_t* value,
                              int64_t batch, int64_t heads, int64_t n_queries, int64_t n_keys,
                              int64_t dim, float scale, uint16_t* out) {
  const int64_t depth = up(dim, 2), width = up(dim, 16), padded = up(n_keys, TILE);
  const int64_t stride = heads * dim, n_heads = batch * heads;
  uint16_t* keys = allocate<uint16_t>(n_heads * padded * depth);
  uint16_t* values = allocate<uint16_t>(n_heads * padded * width);
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
    Scratch at(depth, width);
    const int64_t blocks = (n_queries + ROWS - 1) / ROWS;
#pragma omp for schedule(dynamic, 4)
    for (int64_t job = 0; job < n_heads * blocks; job++) {
      const int64_t head = job / blocks, first = job % blocks * ROWS;
      const int64_t n = std::min(ROWS, n_queries - first);
      const int64_t from = (head / heads * n_queries + first) * stride + head % heads * dim;
      for (int64_t i = 0; i < ROWS; i++)
        for (int64_t d = 0; d < depth; d++)
          at.query[i * depth + d] = i < n && d < dim ? query[from + i * stride + d] : 0;
      attend({keys + head * padded * depth, values + head * padded * width, n_keys, depth, width,
              scale * 1.44269504f},
             up(n, MICRO), at);
      for (int64_t i = 0; i < n; i++)
        write_row(at.mixed + i * width, at.sum[i], dim, out + from + i * stride);
    }
  }
  std::free(keys);
  std::free(values);
}

extern "C" int dgq_has_attention() { return 1; }
#else
extern "C" void dgq_attention(const uint16_t*, const uint16_t*, const uint16_t*, int64_t, int64_t,
                              int64_t, int64_t, int64_t, float, uint16_t*) {}
extern "C" int dgq_has_attention() { return 0; }
#endif
