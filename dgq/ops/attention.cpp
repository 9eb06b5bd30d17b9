// Attention in bfloat16 on a CPU that multiplies it; scores stay in the cache.

#include "kernels.hpp"

#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)
#include <omp.h>

#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "attention_layout.hpp"
#include "attention_softmax.hpp"
#include "attention_vectors.hpp"
#if defined(__AMX_BF16__) && defined(__linux__)
#include "attention_tiles.hpp"
#define DGQ_TILES
#endif

namespace {

using namespace dgq;

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

struct Sizes : Heads {
  int64_t depth, width;  // of queries and keys, and of values, padded

  int64_t all_heads() const { return batch * heads; }
  int64_t keys() const { return up(n_keys, PANEL); }
  int64_t stride() const { return heads * dim; }  // of a token
  // Where a token of a head is.
  int64_t at(int64_t head, int64_t token, int64_t tokens) const {
    return (head / heads * tokens + token) * stride() + head % heads * dim;
  }
};

// Memory of one thread.
struct Scratch {
  Buffer<uint16_t> query, scores;
  Buffer<float> logits, mixed;
  std::vector<Row> rows;

  Scratch(const Sizes& sizes, int64_t n)
      : query(n * sizes.depth), scores(n * SCORES), logits(n * LOGITS), mixed(n * sizes.width),
        rows(n) {}
};

// Memory of a call, all of it before threads start, where an error has nowhere to go.
struct Memory {
  Buffer<uint16_t> keys, values;  // packed
  std::vector<float> spoilt;      // for each head, NaN if a key is not finite, else 0
  std::vector<Scratch> scratch;

  Memory(const Sizes& sizes, int64_t rows)
      : keys(sizes.all_heads() * sizes.keys() * sizes.depth),
        values(sizes.all_heads() * sizes.keys() * sizes.width),
        spoilt(sizes.all_heads()) {
    for (int i = 0; i < omp_get_max_threads(); i++) scratch.emplace_back(sizes, rows);
  }
};

void pack(const Sizes& sizes, const uint16_t* key, const uint16_t* value, int64_t head,
          int64_t panel, Memory& memory) {
  const int64_t from = sizes.at(head, 0, sizes.n_keys), to = head * sizes.keys() + panel;
  const auto tokens = [&](const uint16_t* all) {
    return Tokens{all + from, sizes.stride(), sizes.n_keys, sizes.dim};
  };
  pack_values(tokens(value), panel, sizes.width, memory.values + to * sizes.width);
  if (pack_keys(tokens(key), panel, sizes.depth, memory.keys + to * sizes.depth)) return;
#pragma omp atomic write
  memory.spoilt[head] = std::numeric_limits<float>::quiet_NaN();
}

// Softmax attention of some queries to all keys of a head; the sums are left in scratch.
template <typename Products>
void attend(const Sizes& sizes, const uint16_t* keys, const uint16_t* values, float factor,
            int64_t rows, Scratch& at) {
  std::fill_n((float*)at.mixed, rows * sizes.width, 0.0f);
  std::fill(at.rows.begin(), at.rows.end(), Row{LOWEST, 0.0f});
  const int64_t padded = up(sizes.n_keys, GROUP);
  const Present all(GROUP), last(sizes.n_keys - (padded - GROUP));
  for (int64_t first = 0; first < padded; first += KEYS) {
    const int64_t n = std::min(KEYS, padded - first);
    Products::score(at.query, keys + first * sizes.depth, rows, n, sizes.depth, at.logits);
    for (int64_t r = 0; r < rows; r++)
      at.rows[r].soften(at.logits + r * LOGITS, n, first + n < padded ? all : last, factor,
                        at.mixed + r * sizes.width, sizes.width, at.scores + r * SCORES);
    Products::mix(at.scores, values + first * sizes.width, rows, n, sizes.width, at.mixed);
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

template <typename Products>
void attention(const uint16_t* query, const uint16_t* key, const uint16_t* value, Sizes sizes,
               float scale, uint16_t* out) {
  sizes.depth = up(sizes.dim, Products::DEPTH), sizes.width = up(sizes.dim, Products::WIDTH);
  Memory memory(sizes, Products::ROWS);
  const float factor = scale * 1.44269504f;  // of logits, in powers of two
#pragma omp parallel
  {
#pragma omp for collapse(2) schedule(static)
    for (int64_t head = 0; head < sizes.all_heads(); head++)
      for (int64_t panel = 0; panel < sizes.keys(); panel += PANEL)
        pack(sizes, key, value, head, panel, memory);
    [[maybe_unused]] const Products products;
    Scratch& at = memory.scratch[omp_get_thread_num()];
    const int64_t blocks = (sizes.n_queries + Products::ROWS - 1) / Products::ROWS;
#pragma omp for schedule(dynamic, 4)
    for (int64_t job = 0; job < sizes.all_heads() * blocks; job++) {
      const int64_t head = job / blocks, first = job % blocks * Products::ROWS;
      const int64_t n = std::min(Products::ROWS, sizes.n_queries - first);
      const int64_t from = sizes.at(head, first, sizes.n_queries);
      std::memset(at.query, 0, Products::ROWS * sizes.depth * 2);
      for (int64_t i = 0; i < n; i++)
        std::memcpy(at.query + i * sizes.depth, query + from + i * sizes.stride(), sizes.dim * 2);
      attend<Products>(sizes, memory.keys + head * sizes.keys() * sizes.depth,
                       memory.values + head * sizes.keys() * sizes.width, factor,
                       up(n, Products::UNIT), at);
      for (int64_t i = 0; i < n; i++)
        write_row(at.mixed + i * sizes.width, at.rows[i].sum + memory.spoilt[head], sizes.dim,
                  out + from + i * sizes.stride());
    }
  }
}

}  // namespace

namespace dgq {

bool has_attention() { return true; }

bool has_tile_attention() {
#ifdef DGQ_TILES
  return Tiles::allowed();
#else
  return false;
#endif
}

void attend(const uint16_t* query, const uint16_t* key, const uint16_t* value, const Heads& sizes,
            float scale, [[maybe_unused]] bool by_tiles, uint16_t* out) {
  const Sizes all{sizes, 0, 0};
#ifdef DGQ_TILES
  if (by_tiles) return attention<Tiles>(query, key, value, all, scale, out);
#endif
  attention<Vectors>(query, key, value, all, scale, out);
}

}  // namespace dgq
#else
namespace dgq {

bool has_attention() { return false; }

bool has_tile_attention() { return false; }

void attend(const uint16_t*, const uint16_t*, const uint16_t*, const Heads&, float, bool, uint16_t*) {}

}  // namespace dgq
#endif
