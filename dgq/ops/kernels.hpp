// The kernels, which operators.cpp calls. They check nothing (operands.hpp does), and throw
// std::bad_alloc without memory. A kernel that was not compiled for this CPU does nothing.

#pragma once

#include <cstdint>

#include "convolution.hpp"

namespace dgq {

// A quantizer's tables: scale [n_scales]; multiple, factor [channels]; zero_point [n_scales, channels].
struct Quantizer {
  const float *scale, *multiple;
  const int16_t* zero_point;
  const float* factor;
  int64_t n_scales;
  float largest;
};

// An activation [batch, height, width, channels]; padding is not included.
struct Image {
  int64_t batch, height, width, channels;
  int64_t pad_height, pad_width;
};

// Queries [batch, queries, heads, dim]; keys and values [batch, keys > 0, heads, dim].
struct Heads {
  int64_t batch, heads, n_queries, n_keys, dim;
};

// x is bfloat16 or float32; codes [batch, height + 2 pad, width + 2 pad, channels]; spoilt [batch],
// which is set to NaN for samples with a NaN, or null.
void quantize(const void* x, bool is_bfloat16, const Quantizer& quantizer, const SampleSteps& steps,
              const Image& sizes, uint8_t* codes, float* spoilt);

// x [..., 2 channels], values and then gates.
void quantize_gated(const void* x, bool is_bfloat16, const Quantizer& quantizer,
                    const SampleSteps& steps, const Image& sizes, uint8_t* codes, float* spoilt);

// low and high [batch, channels].
void channel_ranges(const void* x, bool is_bfloat16, const Image& sizes, float* low, float* high);

// A weight whose rounding is learned: logits, floor [rows, columns]; zero_point, scale [rows]; factor
// [rows, columns], or one row for all with a stride of 0, or null.
struct SoftWeight {
  const float *logits, *floor, *zero_point, *scale, *factor;
  int64_t rows, columns, factor_stride;
  float largest;
};

// weight [rows, columns].
void soft_weight(const SoftWeight& x, float* weight);

// gradient, of_logits [rows, columns]; of_scale [rows].
void soft_weight_gradients(const SoftWeight& x, const float* gradient, float* of_logits,
                           float* of_scale);

// logits, gradient [rows, columns]; temperature >= 1. Returns the penalty.
float rounding_penalty(const float* logits, int64_t rows, int64_t columns, float temperature,
                       float* gradient);

// Softmax attention in bfloat16. The scale is not negative. By tiles only where has_tile_attention.
bool has_attention();
bool has_tile_attention();
void attend(const uint16_t* query, const uint16_t* key, const uint16_t* value, const Heads& sizes,
            float scale, bool by_tiles, uint16_t* out);

// codes [batch, height, width, channels], padding included; weight [out, kernel height, kernel width,
// channels]; out [batch, out height, out width, out].
bool has_products();
void convolve(const uint8_t* codes, const int8_t* weight, const Tables& tables,
              const Convolution& sizes, float* out);

constexpr int64_t TILE_LANES = 16;  // output channels of a tile of weights
constexpr int64_t TILE_DEPTH = 64;  // inputs

// The same for a weight in tiles (tile_layout.py); out is bfloat16 or float32.
bool has_tile_products();
void convolve_tiles(const uint8_t* codes, const int8_t* weight, const Tables& tables,
                    const Convolution& sizes, bool is_bfloat16, void* out);

// The same for a linear layer whose output is quantized value * gelu(gate); out [..., out / 2].
void convolve_tiles_gated(const uint8_t* codes, const int8_t* weight, const Tables& tables,
                          const Convolution& sizes, const Quantizer& next, uint8_t* out);

}  // namespace dgq
