// Products of bytes by tiles (AMX), which multiply eight times as fast as vectors.
//
// The weight is laid out in tiles (tile_layout.py): [panel][block][LANES][LANES][4], panels of LANES
// output channels, blocks of DEPTH inputs. Tiles of codes are read from the image itself where the
// windows of LANES neighbouring pixels are equally far apart; otherwise windows are copied. All sums
// of a unit stay in tiles until they are complete.

#include "kernels.hpp"

#if defined(__AMX_INT8__) && defined(__AVX512BF16__) && defined(__linux__)
#pragma GCC target("prefer-vector-width=512")  // half of it is the compilers' choice
#include <omp.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "codes.hpp"
#include "tiles.hpp"

namespace {

using namespace dgq;

constexpr int64_t LANES = TILE_LANES;       // rows of a tile of codes, columns of one of weights
constexpr int64_t DEPTH = TILE_DEPTH;       // inputs of a tile
constexpr int64_t UNIT = 2 * LANES;         // rows and columns whose sums are made together
constexpr int64_t CODES = 1 << 20;          // bytes of codes at a time: half of a second cache
constexpr int64_t WEIGHTS = 1 << 19;        // bytes of weights at a time: a quarter of it
constexpr int64_t MOST_ROWS = 1024;         // at a time
constexpr int64_t JOBS = 4;                 // for each thread: none waits long for the last
constexpr int64_t PARALLEL_FROM = 1 << 22;  // products; below, threads cost more than they gain

struct alignas(64) Sums {
  int32_t of[UNIT][UNIT];
};

// Two tiles' rows of codes; those of block b are offsets[b] further on.
struct Rows {
  const uint8_t *above, *below;  // below is null if there are no more than LANES rows
  int64_t stride;
  const int64_t* offsets;
};

// sums = rows times two panels. Tiles 0 to 3 hold sums, 4 and 5 codes, 6 and 7 weights.
template <bool BELOW>
void multiply(const Rows& rows, const int8_t* first, const int8_t* second, int64_t blocks,
              Sums& sums) {
  _tile_zero(0);
  _tile_zero(1);
  if (BELOW) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t b = 0; b < blocks; b++) {
    _tile_loadd(4, rows.above + rows.offsets[b], rows.stride);
    _tile_loadd(6, first + b * LANES * DEPTH, DEPTH);
    _tile_dpbusd(0, 4, 6);
    _tile_loadd(7, second + b * LANES * DEPTH, DEPTH);
    _tile_dpbusd(1, 4, 7);
    if (BELOW) {
      _tile_loadd(5, rows.below + rows.offsets[b], rows.stride);
      _tile_dpbusd(2, 5, 6);
      _tile_dpbusd(3, 5, 7);
    }
  }
  constexpr int64_t STRIDE = UNIT * 4;
  _tile_stored(0, sums.of[0], STRIDE);
  _tile_stored(1, sums.of[0] + LANES, STRIDE);
  if (BELOW) {
    _tile_stored(2, sums.of[LANES], STRIDE);
    _tile_stored(3, sums.of[LANES] + LANES, STRIDE);
  }
}

// The left operand of a product: the windows of a convolution's outputs, a row each.
class Windows {
 public:
  Windows(const uint8_t* codes, const Convolution& sizes)
      : codes_(codes), sizes_(sizes), blocks_((sizes.depth() + DEPTH - 1) / DEPTH) {
    copied_ = sizes.channels % DEPTH || sizes.out_width % LANES;
    // An odd number of cache lines: rows would else share cache sets.
    stride_ = copied_ ? (blocks_ | 1) * DEPTH : sizes.stride_width * sizes.channels;
    for (int64_t b = 0; b < blocks_; b++) offsets_.push_back(copied_ ? b * DEPTH : offset_of(b));
  }

  int64_t blocks() const { return blocks_; }

  // How many are multiplied at a time, so that they stay in the second cache.
  int64_t at_once() const {
    const int64_t row = sizes_.stride_width * sizes_.stride_height * sizes_.channels;
    const int64_t n = CODES / (copied_ ? stride_ : row);
    const int64_t most = std::min(MOST_ROWS, (sizes_.rows() + UNIT - 1) / UNIT * UNIT);
    return std::clamp(n / UNIT * UNIT, UNIT, most);
  }

  int64_t bytes_to_copy() const { return copied_ ? at_once() * stride_ : 0; }

  void copy(int64_t first, int64_t n, uint8_t* to) const {
    if (!copied_) return;
    const int64_t depth = sizes_.depth();
    for (int64_t r = 0; r < n; r++, to += stride_) {
      copy_window(codes_, sizes_, first + r, 0, depth, to);
      // The weights that meet these are 0 if the layout is that of these inputs.
      std::memset(to + depth, 0, blocks_ * DEPTH - depth);
    }
  }

  // n rows from one on, of those that were copied from the first.
  Rows rows(int64_t first, int64_t row, int64_t n, const uint8_t* copies) const {
    const auto at = [&](int64_t r) {
      return copied_ ? copies + (r - first) * stride_ : codes_ + place_of(r);
    };
    return {at(row), n > LANES ? at(row + LANES) : nullptr, stride_, offsets_.data()};
  }

 private:
  int64_t pixel(int64_t sample, int64_t y, int64_t x) const {
    return ((sample * sizes_.height + y) * sizes_.width + x) * sizes_.channels;
  }

  // Where the window of an output begins.
  int64_t place_of(int64_t row) const {
    const int64_t in_sample = row % sizes_.pixels();
    return pixel(row / sizes_.pixels(), in_sample / sizes_.out_width * sizes_.stride_height,
                 in_sample % sizes_.out_width * sizes_.stride_width);
  }

  // How far from the start of a window a block of its inputs is.
  int64_t offset_of(int64_t block) const {
    const int64_t k = block * DEPTH, tap = k / sizes_.channels;
    return pixel(0, tap / sizes_.kernel_width * sizes_.dilation_height,
                 tap % sizes_.kernel_width * sizes_.dilation_width) +
           k % sizes_.channels;
  }

  const uint8_t* codes_;
  const Convolution& sizes_;
  const int64_t blocks_;
  bool copied_;
  int64_t stride_;
  std::vector<int64_t> offsets_;
};

// The row of each table for one row after another.
class Steps {
 public:
  Steps(const Convolution& sizes, const Tables& tables, int64_t row)
      : tables_(tables), pixels_(sizes.pixels()), sample_(row / pixels_), pixel_(row % pixels_) {}

  int64_t row_of(int64_t n) const { return tables_.steps.row_of(sample_, n); }

  void advance() {
    if (++pixel_ < pixels_) return;
    pixel_ = 0;
    sample_++;
  }

 private:
  const Tables& tables_;
  const int64_t pixels_;
  int64_t sample_, pixel_;
};

inline void store(float* to, __mmask16 which, __m512 x) { _mm512_mask_storeu_ps(to, which, x); }

inline void store(uint16_t* to, __mmask16 which, __m512 x) {
  _mm256_mask_storeu_epi16(to, which, (__m256i)_mm512_cvtneps_pbh(x));
}

// Up to LANES neighbouring output channels.
class Columns {
 public:
  Columns(const Convolution& sizes, const Tables& tables, int64_t first)
      : sizes_(sizes), tables_(tables), first_(first) {
    const int64_t n = std::min(LANES, sizes.out_channels - first);
    which_ = (1u << n) - 1;
    weight_scale_ = _mm512_maskz_loadu_ps(which_, tables.weight_scale + first);
  }

  __mmask16 which() const { return which_; }

  // Outputs from the sums of a row.
  __m512 scaled(const int32_t* sums, const Steps& steps) const {
    const __m512 scale = _mm512_set1_ps(tables_.scale[steps.row_of(tables_.n_scales)]);
    const float* bias = tables_.bias + steps.row_of(tables_.n_biases) * sizes_.out_channels + first_;
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums)),
                           _mm512_mul_ps(weight_scale_, scale),
                           _mm512_maskz_loadu_ps(which_, bias));
  }

 private:
  const Convolution& sizes_;
  const Tables& tables_;
  const int64_t first_;
  __mmask16 which_;
  __m512 weight_scale_;
};

// Writes scaled sums with a bias; units are neighbouring panels.
template <typename T>
struct Outputs {
  const Convolution& sizes;
  const Tables& tables;
  T* out;

  int64_t panels() const { return (sizes.out_channels + LANES - 1) / LANES; }
  int64_t units() const { return (panels() + 1) / 2; }
  int64_t first(int64_t unit) const { return 2 * unit; }
  int64_t second(int64_t unit) const { return std::min(2 * unit + 1, panels() - 1); }

  void write(const Sums& sums, int64_t row, int64_t n, int64_t unit) const {
    for (int64_t half = 0; half < UNIT; half += LANES) {
      const int64_t first = unit * UNIT + half;
      if (first >= sizes.out_channels) return;
      const Columns columns(sizes, tables, first);
      Steps steps(sizes, tables, row);
      for (int64_t r = 0; r < n; r++, steps.advance())
        store(out + (row + r) * sizes.out_channels + first, columns.which(),
              columns.scaled(sums.of[r] + half, steps));
    }
  }
};

// Writes the codes of value * gelu(gate); units are a panel of values and one of gates.
struct GatedCodes {
  const Convolution& sizes;
  const Tables& tables;
  const Quantizer& next;
  uint8_t* out;

  int64_t channels() const { return sizes.out_channels / 2; }
  int64_t units() const { return channels() / LANES; }
  int64_t first(int64_t unit) const { return unit; }
  int64_t second(int64_t unit) const { return units() + unit; }

  void write(const Sums& sums, int64_t row, int64_t n, int64_t unit) const {
    const int64_t first = unit * LANES;
    const Columns values(sizes, tables, first), gates(sizes, tables, channels() + first);
    Steps steps(sizes, tables, row);
    // One loop for all rows: with a byte for each output, compilers vectorize 64 at a time.
    alignas(64) float value[UNIT][LANES], gate[UNIT][LANES], width[UNIT][LANES], factor[UNIT][LANES];
    int16_t zero_point[UNIT][LANES];
    uint8_t codes[UNIT][LANES];
    const __m512 multiples = _mm512_loadu_ps(next.multiple + first);
    const __m512 factors = _mm512_loadu_ps(next.factor + first);
    for (int64_t r = 0; r < n; r++, steps.advance()) {
      const int64_t step = steps.row_of(next.n_scales);
      _mm512_store_ps(value[r], values.scaled(sums.of[r], steps));
      _mm512_store_ps(gate[r], gates.scaled(sums.of[r] + LANES, steps));
      _mm512_store_ps(width[r], _mm512_mul_ps(_mm512_set1_ps(next.scale[step]), multiples));
      _mm512_store_ps(factor[r], factors);
      std::memcpy(zero_point[r], next.zero_point + step * channels() + first, sizeof zero_point[r]);
    }
    quantize_gated_row(value[0], gate[0], 1.0f, width[0], zero_point[0], factor[0], next.largest,
                       n * LANES, codes[0]);
    for (int64_t r = 0; r < n; r++)
      std::memcpy(out + (row + r) * channels() + first, codes[r], LANES);
  }
};

// Units of columns per job: all, if that leaves work for every thread.
int64_t units_per_job(int64_t row_blocks, int64_t units, int threads) {
  const int64_t jobs = threads > 1 ? JOBS * threads : 1;
  return std::max<int64_t>(1, units / std::max<int64_t>(1, jobs / row_blocks));
}

// The product of some rows with some units of columns. Weights stay in the second cache for all rows.
template <typename Writer>
void multiply_block(const Windows& windows, const int8_t* weight, const Writer& writer, int64_t first,
                    int64_t end, int64_t unit, int64_t last_unit, uint8_t* copy) {
  const int64_t blocks = windows.blocks(), panel = blocks * LANES * DEPTH;
  const int64_t at_once = std::max<int64_t>(1, WEIGHTS / (2 * panel));
  Sums sums;
  windows.copy(first, end - first, copy);
  finish_stores();
  for (; unit < last_unit; unit += at_once)
    for (int64_t row = first; row < end; row += UNIT) {
      const int64_t n = std::min(UNIT, end - row);
      const Rows rows = windows.rows(first, row, n, copy);
      const auto multiply_unit = n > LANES ? multiply<true> : multiply<false>;
      for (int64_t u = unit; u < std::min(unit + at_once, last_unit); u++) {
        multiply_unit(rows, weight + writer.first(u) * panel, weight + writer.second(u) * panel,
                      blocks, sums);
        writer.write(sums, row, n, u);
      }
    }
}

template <typename Writer>
void multiply_all(const uint8_t* codes, const int8_t* weight, const Convolution& sizes,
                  const Writer& writer) {
  const bool small = sizes.rows() * sizes.out_channels * sizes.depth() < PARALLEL_FROM;
  const int threads = small ? 1 : omp_get_max_threads();
  const Windows windows(codes, sizes);
  const int64_t at_once = windows.at_once(), rows = sizes.rows(), units = writer.units();
  const int64_t row_blocks = (rows + at_once - 1) / at_once;
  const int64_t per_job = units_per_job(row_blocks, units, threads);
  std::vector<std::unique_ptr<uint8_t[]>> copies(threads);
  for (auto& of_thread : copies) of_thread.reset(new uint8_t[windows.bytes_to_copy()]);
#pragma omp parallel num_threads(threads)
  {
    const TilesOfThread tiles;
    uint8_t* const copy = copies[omp_get_thread_num()].get();
#pragma omp for collapse(2) schedule(dynamic)
    for (int64_t row = 0; row < rows; row += at_once)
      for (int64_t unit = 0; unit < units; unit += per_job)
        multiply_block(windows, weight, writer, row, std::min(row + at_once, rows), unit,
                       std::min(unit + per_job, units), copy);
  }
}

}  // namespace

namespace dgq {

bool has_tile_products() { return TilesOfThread::allowed(); }

void convolve_tiles(const uint8_t* codes, const int8_t* weight, const Tables& tables,
                    const Convolution& sizes, bool is_bfloat16, void* out) {
  if (is_bfloat16)
    multiply_all(codes, weight, sizes, Outputs<uint16_t>{sizes, tables, (uint16_t*)out});
  else
    multiply_all(codes, weight, sizes, Outputs<float>{sizes, tables, (float*)out});
}

void convolve_tiles_gated(const uint8_t* codes, const int8_t* weight, const Tables& tables,
                          const Convolution& sizes, const Quantizer& next, uint8_t* out) {
  multiply_all(codes, weight, sizes, GatedCodes{sizes, tables, next, out});
}

}  // namespace dgq
#else
namespace dgq {

bool has_tile_products() { return false; }

void convolve_tiles(const uint8_t*, const int8_t*, const Tables&, const Convolution&, bool, void*) {}

void convolve_tiles_gated(const uint8_t*, const int8_t*, const Tables&, const Convolution&,
                          const Quantizer&, uint8_t*) {}

}  // namespace dgq
#endif
