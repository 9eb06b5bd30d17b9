// Products of attention by tiles of bfloat16 (AMX), which multiply sixteen times as fast as vectors.

#pragma once

#include "attention_layout.hpp"
#include "tiles.hpp"

namespace dgq {

// Tiles 0 to 3 hold sums, of two times 16 rows and two times 16 columns; 4 and 5 rows of the left
// operand; 6 and 7 columns of the right one. Intrinsics are statements, and take literals.
struct Tiles : TilesOfThread {
  static constexpr int64_t ROWS = 64;   // queries at a time
  static constexpr int64_t UNIT = 32;   // queries whose products are made together
  static constexpr int64_t DEPTH = 32;  // dims, to a multiple of which queries and keys are padded
  static constexpr int64_t WIDTH = 16;  // the same for values

  // logits[rows][keys] = query[rows][depth] keys, which start at the first of a panel.
  static void score(const uint16_t* query, const uint16_t* panels, int64_t rows, int64_t keys,
                    int64_t depth, float* logits) {
    finish_stores();
    for (int64_t k = 0; k < keys; k += GROUP)
      for (int64_t r = 0; r < rows; r += UNIT)
        score_group(query + r * depth, panels + k / PANEL * PANEL * depth + k % PANEL * 2, depth,
                    logits + r * LOGITS + k);
  }

  // mixed[rows][width] += scores[rows][keys] values
  static void mix(const uint16_t* scores, const uint16_t* values, int64_t rows, int64_t keys,
                  int64_t width, float* mixed) {
    finish_stores();
    for (int64_t r = 0; r < rows; r += UNIT)
      for (int64_t c = 0; c < width; c += 2 * LANES) {
        const auto add = c + LANES < width ? add_values<true> : add_values<false>;
        add(scores + r * SCORES, values + 2 * c, keys, width, mixed + r * width + c);
      }
  }

 private:
  // logits[UNIT][GROUP] = query[UNIT][depth] keys
  static void score_group(const uint16_t* query, const uint16_t* keys, int64_t depth,
                          float* logits) {
    const int64_t left = depth * 2, right = PANEL * 4, out = LOGITS * 4;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t d = 0; d < depth; d += DEPTH, query += DEPTH, keys += DEPTH * PANEL) {
      _tile_loadd(4, query, left);
      _tile_loadd(6, keys, right);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, keys + 2 * LANES, right);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, query + LANES * depth, left);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, logits, out);
    _tile_stored(1, logits + LANES, out);
    _tile_stored(2, logits + LANES * LOGITS, out);
    _tile_stored(3, logits + LANES * LOGITS + LANES, out);
  }

  // mixed[UNIT][16 or, if both, 32] += scores[UNIT][keys] values
  template <bool BOTH>
  static void add_values(const uint16_t* scores, const uint16_t* values, int64_t keys,
                         int64_t width, float* mixed) {
    const int64_t left = SCORES * 2, right = width * 4, out = width * 4;
    float* below = mixed + LANES * width;
    _tile_loadd(0, mixed, out);
    _tile_loadd(2, below, out);
    if (BOTH) {
      _tile_loadd(1, mixed + LANES, out);
      _tile_loadd(3, below + LANES, out);
    }
    for (int64_t k = 0; k < keys; k += GROUP, scores += GROUP, values += GROUP * width) {
      _tile_loadd(4, scores, left);
      _tile_loadd(6, values, right);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, scores + LANES * SCORES, left);
      _tile_dpbf16ps(2, 5, 6);
      if (BOTH) {
        _tile_loadd(7, values + 2 * LANES, right);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
    _tile_stored(0, mixed, out);
    _tile_stored(2, below, out);
    if (BOTH) {
      _tile_stored(1, mixed + LANES, out);
      _tile_stored(3, below + LANES, out);
    }
  }
};

}  // namespace dgq
