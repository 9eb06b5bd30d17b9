// Products of bytes on a CPU without VNNI instructions, exact for all codes and weights (panels.hpp).

#include "kernels.hpp"

#ifdef __AVX2__
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "panels.hpp"

namespace {

using namespace dgq;

constexpr int64_t ROWS = 192;                // at a time, whose codes stay in the second cache
constexpr int64_t BYTE_STRIDE = DEPTH + 32;  // of codes; rows would else share one cache set
constexpr int64_t WORD_STRIDE = DEPTH + 16;
constexpr int64_t MOST_TILES = 20;           // of COLUMNS, so that sums stay in the second cache
constexpr int64_t LEAST_TILES = 4;           // below, codes are copied too often
constexpr int64_t JOBS = 4;                  // for each thread: none waits long for the last

struct alignas(64) Tile {
  int32_t sums[ROWS][COLUMNS];
};

// Memory of one thread, without values: setting all of it takes longer than a small layer.
struct Scratch {
  struct Rows {
    uint8_t codes[ROWS][BYTE_STRIDE];
    int16_t words[ROWS][WORD_STRIDE];
    uint8_t largest[BYTE_STRIDE];  // of the codes of each input
    Panel panel;
  };
  std::unique_ptr<Rows> rows;
  std::unique_ptr<Tile[]> tiles;

  explicit Scratch(int64_t n_tiles) : rows(new Rows), tiles(new Tile[n_tiles]) {}
};

// Sums of n rows, at most ROWS, for some tiles of output channels.
void add_up(const uint8_t* codes, const int8_t* weight, const Convolution& c, int64_t first_row,
            int64_t n_rows, int64_t first_tile, int64_t n_tiles, Scratch& at) {
  const int64_t depth = c.depth();
  auto& [codes_of, words_of, largest, panel] = *at.rows;
  for (int64_t k = 0; k < depth; k += DEPTH) {
    const int64_t n = std::min(DEPTH, depth - k);
    std::memset(largest, 0, sizeof largest);
    // What a row holds behind its last input is multiplied by zeros of the panel.
    for (int64_t r = 0; r < n_rows; r++) {
      copy_window(codes, c, first_row + r, k, n, codes_of[r]);
      raise_to(largest, codes_of[r], n);
    }
    bool widened = false;
    for (int64_t t = 0; t < n_tiles; t++) {
      const int64_t column = (first_tile + t) * COLUMNS;
      if (k == 0) at.tiles[t] = Tile();
      panel.pack(weight + column * depth, depth, c.out_channels - column, k, n, largest);
      if (panel.in_words() && !widened) {
        for (int64_t r = 0; r < n_rows; r++) widen(codes_of[r], n, words_of[r]);
        widened = true;
      }
      for (int64_t r = 0; r < n_rows; r += MICRO)
        multiply({codes_of[r], words_of[r], BYTE_STRIDE, WORD_STRIDE}, panel, at.tiles[t].sums[r]);
    }
  }
}

void write(const Convolution& c, const Tables& tables, int64_t first_row, int64_t n_rows,
           int64_t first_tile, int64_t n_tiles, const Scratch& at, float* out) {
  for (int64_t r = 0; r < n_rows; r++) {
    const int64_t sample = (first_row + r) / c.pixels();
    const float scale = tables.scale[tables.steps.row_of(sample, tables.n_scales)];
    const int64_t bias_row = tables.steps.row_of(sample, tables.n_biases);
    const float* bias = tables.bias + bias_row * c.out_channels;
    for (int64_t t = 0; t < n_tiles; t++) {
      const int64_t column = (first_tile + t) * COLUMNS;
      const int32_t* sums = at.tiles[t].sums[r];
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

namespace dgq {

bool has_products() { return true; }

void convolve(const uint8_t* codes, const int8_t* weight, const Tables& tables,
              const Convolution& sizes, float* out) {
  const int64_t row_blocks = (sizes.rows() + ROWS - 1) / ROWS;
  const int64_t n_tiles = (sizes.out_channels + COLUMNS - 1) / COLUMNS;
  const int64_t tiles = tiles_at_once(row_blocks, n_tiles);
  const int64_t tile_blocks = (n_tiles + tiles - 1) / tiles;
  std::vector<Scratch> scratch;
  scratch.reserve(omp_get_max_threads());
  while (int64_t(scratch.size()) < omp_get_max_threads()) scratch.emplace_back(tiles);
#pragma omp parallel for collapse(2) schedule(dynamic)
  for (int64_t row_block = 0; row_block < row_blocks; row_block++)
    for (int64_t tile_block = 0; tile_block < tile_blocks; tile_block++) {
      Scratch& at = scratch[omp_get_thread_num()];
      const int64_t row = row_block * ROWS, tile = tile_block * tiles;
      const int64_t n_rows = std::min(ROWS, sizes.rows() - row);
      const int64_t n = std::min(tiles, n_tiles - tile);
      add_up(codes, weight, sizes, row, n_rows, tile, n, at);
      write(sizes, tables, row, n_rows, tile, n, at, out);
    }
}

}  // namespace dgq
#else
namespace dgq {

bool has_products() { return false; }

void convolve(const uint8_t*, const int8_t*, const Tables&, const Convolution&, float*) {}

}  // namespace dgq
#endif
