// Products of bytes on a CPU without VNNI instructions. Codes and weights are widened to 16 bits as
// they are copied into the cache, and multiplied in pairs, whose sums fit into 32 bits exactly for
// all weights. Plain C interface; compiled when first used (compiling.py).

#include <cstdint>

#ifdef __AVX2__
#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

namespace {

constexpr int64_t MICRO = 6;       // rows whose sums the registers hold
constexpr int64_t COLUMNS = 16;    // output channels whose sums they hold: two vectors
constexpr int64_t HALF = 8;        // output channels of a vector
constexpr int64_t ROWS = 96;       // rows at a time, whose codes stay in the second cache
constexpr int64_t DEPTH = 512;     // inputs at a time: a panel of weights takes 16 KiB
constexpr int64_t LANES = 16;      // inputs of a vector
constexpr int64_t GAP = 16;        // between rows of codes, which would else share one cache set
constexpr int64_t MOST_TILES = 40; // of COLUMNS, so that sums stay in the second cache
constexpr int64_t LEAST_TILES = 4; // below, codes are widened too often
constexpr int64_t JOBS = 4;        // for each thread, so that none waits long for the last

struct Convolution {
  int64_t batch, height, width, channels;  // of the codes, padding included
  int64_t out_height, out_width, out_channels;
  int64_t kernel_height, kernel_width, stride_height, stride_width, dilation_height, dilation_width;

  int64_t depth() const { return kernel_height * kernel_width * channels; }
  int64_t pixels() const { return out_height * out_width; }
  int64_t rows() const { return batch * pixels(); }
};

inline int64_t up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

inline void widen(const uint8_t* codes, int64_t n, int16_t* to) {
  for (int64_t i = 0; i < n; i++) to[i] = codes[i];
}

// The inputs from first to first + n of an output pixel, ordered by kernel pixel, then by channel.
void widen_window(const uint8_t* codes, const Convolution& c, int64_t row, int64_t first, int64_t n,
                  int16_t* to) {
  const int64_t sample = row / c.pixels(), pixel = row % c.pixels();
  const int64_t h = pixel / c.out_width * c.stride_height, w = pixel % c.out_width * c.stride_width;
  for (int64_t k = first; k < first + n;) {
    const int64_t tap = k / c.channels, channel = k % c.channels;
    const int64_t y = h + tap / c.kernel_width * c.dilation_height;
    const int64_t x = w + tap % c.kernel_width * c.dilation_width;
    const int64_t some = std::min(c.channels - channel, first + n - k);
    widen(codes + ((sample * c.height + y) * c.width + x) * c.channels + channel, some, to);
    k += some, to += some;
  }
}

inline __m256i widened(const int8_t* weights) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)weights));
}

// LANES inputs of HALF rows of a weight, as [pair of inputs][row][2].
void transpose(const int8_t* weight, int64_t stride, int16_t* panel) {
  __m256i a[8], b[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) a[i] = widened(weight + i * stride);
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
    _mm256_storeu_si256((__m256i*)(panel + 2 * COLUMNS * i), low);
    _mm256_storeu_si256((__m256i*)(panel + 2 * COLUMNS * (i + 4)), high);
  }
}

// Up to COLUMNS rows of a weight [out, depth], n inputs from the first one, zero padded to LANES:
// [pair of inputs][COLUMNS][2].
void pack_panel(const int8_t* weight, int64_t depth, int64_t columns, int64_t first, int64_t n,
                int16_t* panel) {
  for (int64_t c = 0; c < COLUMNS; c += HALF)
    for (int64_t k = 0; k < n; k += LANES) {
      const int8_t* from = weight + c * depth + first + k;
      int16_t* to = panel + k * COLUMNS + 2 * c;
      const int64_t some = std::min(LANES, n - k), rows = std::min(HALF, columns - c);
      if (some == LANES && rows == HALF) {
        transpose(from, depth, to);
        continue;
      }
      int8_t edge[HALF * LANES] = {};
      for (int64_t i = 0; i < rows; i++) std::memcpy(edge + i * LANES, from + i * depth, some);
      transpose(edge, LANES, to);
    }
}

typedef int32_t __attribute__((may_alias)) Pair;  // of codes

// Adds a pair of codes times two vectors of pairs of weights to one row's sums. In assembler,
// because compilers move sums to memory and back although the 16 registers suffice.
inline void add_products(const int16_t* pair, __m256i left, __m256i right, __m256i& low,
                         __m256i& high) {
  __m256i everywhere, product;
  asm("vpbroadcastd %4, %2\n\t"
      "vpmaddwd %5, %2, %3\n\t"
      "vpmaddwd %6, %2, %2\n\t"
      "vpaddd %3, %0, %0\n\t"
      "vpaddd %2, %1, %1"
      : "+x"(low), "+x"(high), "=&x"(everywhere), "=&x"(product)
      : "m"(*(const Pair*)pair), "x"(left), "x"(right));
}

// sums[MICRO][COLUMNS] (+)= rows[MICRO][2 pairs] panel[pairs][COLUMNS][2].
template <bool ADD>
inline void multiply(const int16_t* rows, int64_t stride, const int16_t* panel, int64_t pairs,
                     int32_t* sums) {
  __m256i low[MICRO], high[MICRO];
#pragma GCC unroll 8
  for (int i = 0; i < MICRO; i++) {
    const __m256i* from = (const __m256i*)(sums + i * COLUMNS);
    low[i] = ADD ? _mm256_loadu_si256(from) : _mm256_setzero_si256();
    high[i] = ADD ? _mm256_loadu_si256(from + 1) : _mm256_setzero_si256();
  }
  for (int64_t p = 0; p < pairs; p++, rows += 2, panel += 2 * COLUMNS) {
    const __m256i left = _mm256_loadu_si256((const __m256i*)panel);
    const __m256i right = _mm256_loadu_si256((const __m256i*)panel + 1);
#pragma GCC unroll 8
    for (int i = 0; i < MICRO; i++) add_products(rows + i * stride, left, right, low[i], high[i]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < MICRO; i++) {
    __m256i* to = (__m256i*)(sums + i * COLUMNS);
    _mm256_storeu_si256(to, low[i]);
    _mm256_storeu_si256(to + 1, high[i]);
  }
}

struct Tables {
  const float *weight_scale, *scale, *bias;
  const int64_t* step;
  int64_t n_steps, n_scales, n_biases;

  int64_t row_of(int64_t sample, int64_t n) const {
    return n > 1 ? step[n_steps > 1 ? sample : 0] : 0;
  }
};

// Memory of one thread.
struct Scratch {
  std::vector<int16_t> rows, panel;
  std::vector<int32_t> sums;

  explicit Scratch(int64_t tiles)
      : rows(ROWS * (DEPTH + GAP)), panel(DEPTH * COLUMNS), sums(tiles * ROWS * COLUMNS) {}
};

// Sums of n rows, at most ROWS, for some tiles of output channels: [tile][ROWS][COLUMNS].
void add_up(const uint8_t* codes, const int8_t* weight, const Convolution& c, int64_t first_row,
            int64_t n_rows, int64_t first_tile, int64_t n_tiles, Scratch& at) {
  const int64_t depth = c.depth(), stride = DEPTH + GAP;
  for (int64_t k = 0; k < depth; k += DEPTH) {
    const int64_t n = std::min(DEPTH, depth - k), padded = up(n, LANES);
    // What a row holds behind its last input is multiplied by zeros of the panel.
    for (int64_t r = 0; r < n_rows; r++)
      widen_window(codes, c, first_row + r, k, n, at.rows.data() + r * stride);
    for (int64_t t = 0; t < n_tiles; t++) {
      const int64_t column = (first_tile + t) * COLUMNS;
      pack_panel(weight + column * depth, depth, c.out_channels - column, k, n, at.panel.data());
      for (int64_t r = 0; r < n_rows; r += MICRO) {
        int32_t* sums = at.sums.data() + (t * ROWS + r) * COLUMNS;
        const int16_t* rows = at.rows.data() + r * stride;
        if (k == 0)
          multiply<false>(rows, stride, at.panel.data(), padded / 2, sums);
        else
          multiply<true>(rows, stride, at.panel.data(), padded / 2, sums);
      }
    }
  }
}

void write(const Convolution& c, const Tables& tables, int64_t first_row, int64_t n_rows,
           int64_t first_tile, int64_t n_tiles, const Scratch& at, float* out) {
  for (int64_t r = 0; r < n_rows; r++) {
    const int64_t sample = (first_row + r) / c.pixels();
    const float scale = tables.scale[tables.row_of(sample, tables.n_scales)];
    const float* bias = tables.bias + tables.row_of(sample, tables.n_biases) * c.out_channels;
    for (int64_t t = 0; t < n_tiles; t++) {
      const int64_t column = (first_tile + t) * COLUMNS;
      const int32_t* sums = at.sums.data() + (t * ROWS + r) * COLUMNS;
      float* to = out + (first_row + r) * c.out_channels + column;
      for (int64_t i = 0; i < std::min(COLUMNS, c.out_channels - column); i++)
        to[i] = float(sums[i]) * (tables.weight_scale[column + i] * scale) + bias[column + i];
    }
  }
}

// Tiles per job: as many as possible while every thread gets jobs.
int64_t tiles_at_once(int64_t row_blocks, int64_t n_tiles) {
  const int64_t jobs = JOBS * omp_get_max_threads();
  const int64_t parts = std::max<int64_t>(1, jobs / row_blocks);
  return std::clamp(n_tiles / parts, LEAST_TILES, MOST_TILES);
}

}  // namespace

// codes [batch, height, width, channels], padding included; weight [out, kernel height, kernel width,
// channels]; weight_scale [out]; scale [n_scales]; bias [n_biases, out]; step [n_steps], 1 or batch;
// sizes of a Convolution; out [batch, out height, out width, out]. Returns 0, or 1 without memory.
extern "C" int dgq_convolve(const uint8_t* codes, const int8_t* weight, const float* weight_scale,
                            const float* scale, const float* bias, const int64_t* step,
                            int64_t n_scales, int64_t n_biases, int64_t n_steps,
                            const int64_t* sizes, float* out) {
  const Convolution c{sizes[0], sizes[1], sizes[2], sizes[3],  sizes[4],  sizes[5], sizes[6],
                      sizes[7], sizes[8], sizes[9], sizes[10], sizes[11], sizes[12]};
  const Tables tables{weight_scale, scale, bias, step, n_steps, n_scales, n_biases};
  const int64_t row_blocks = (c.rows() + ROWS - 1) / ROWS;
  const int64_t n_tiles = (c.out_channels + COLUMNS - 1) / COLUMNS;
  const int64_t tiles = tiles_at_once(row_blocks, n_tiles);
  const int64_t tile_blocks = (n_tiles + tiles - 1) / tiles;
  std::vector<Scratch> scratch;
  try {
    scratch.assign(omp_get_max_threads(), Scratch(tiles));
  } catch (const std::bad_alloc&) {
    return 1;
  }
#pragma omp parallel for collapse(2) schedule(dynamic)
  for (int64_t row_block = 0; row_block < row_blocks; row_block++)
    for (int64_t tile_block = 0; tile_block < tile_blocks; tile_block++) {
      Scratch& at = scratch[omp_get_thread_num()];
      const int64_t row = row_block * ROWS, tile = tile_block * tiles;
      const int64_t n_rows = std::min(ROWS, c.rows() - row);
      const int64_t n = std::min(tiles, n_tiles - tile);
      add_up(codes, weight, c, row, n_rows, tile, n, at);
      write(c, tables, row, n_rows, tile, n, at, out);
    }
  return 0;
}

extern "C" int dgq_has_products() { return 1; }
#else
extern "C" int dgq_convolve(const uint8_t*, const int8_t*, const float*, const float*, const float*,
                            const int64_t*, int64_t, int64_t, int64_t, const int64_t*, float*) {
  return 0;
}
extern "C" int dgq_has_products() { return 0; }
#endif
