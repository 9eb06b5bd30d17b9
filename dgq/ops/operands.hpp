// Which operands the kernels accept: they check nothing.
//
// Each check is false where operands do not agree, so that the reference raises the error.

#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "kernels.hpp"

namespace dgq {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Numbers = std::vector<int64_t>;

constexpr int64_t LARGEST_PRODUCT = 255 * 128;  // of a code and a weight
constexpr int64_t LARGEST_SIDE = 1 << 15;       // of kernels, strides, ...: products do not overflow
constexpr int64_t TILE_DIMENSIONS = 3;          // of a weight in tiles, which no other weight has

// Tables of a quantizer.
struct QuantizerTensors {
  const Tensor &scale, &multiple, &zero_point, &factor;
};

// What a product reads.
struct Operands {
  const Tensor &codes, &weight, &weight_scale, &scale, &bias, &step;
};

// A tensor as kernels read it.
inline Tensor laid_out(const Tensor& x) {
  return x.is_contiguous() ? x : torch::stable::contiguous(x);
}

template <typename T>
const T* read(const Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}

template <typename... Tensors>
bool all_are(ScalarType type, const Tensors&... tensors) {
  return ((tensors.scalar_type() == type) && ...);
}

inline bool has_shape(const Tensor& x, std::initializer_list<int64_t> shape) {
  const auto sizes = x.sizes();
  return std::equal(sizes.begin(), sizes.end(), shape.begin(), shape.end());
}

// Whether kernels read activations, and write products, of this type.
inline bool is_float_or_bfloat16(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::BFloat16;
}

inline bool is_in_tiles(const Tensor& weight) { return weight.dim() == TILE_DIMENSIONS; }

// Whether there is a step for all samples or for each.
inline bool has_steps(const Tensor& step, int64_t batch) {
  return all_are(ScalarType::Long, step) && (has_shape(step, {1}) || has_shape(step, {batch}));
}

// Whether tables of these numbers of rows have one for each step; a single row serves all.
inline bool have_rows(const Tensor& step, std::initializer_list<int64_t> numbers) {
  const Tensor steps = laid_out(step);
  const int64_t* first = read<int64_t>(steps);
  const auto [least, most] = std::minmax_element(first, first + steps.numel());
  return std::all_of(numbers.begin(), numbers.end(),
                     [&](int64_t n) { return n == 1 || (0 <= *least && *most < n); });
}

// Whether these tables are those of a quantizer of this number of channels, at all steps.
inline bool make_codes(const QuantizerTensors& tables, int64_t channels, const Tensor& step) {
  const auto& [scale, multiple, zero_point, factor] = tables;
  return all_are(ScalarType::Short, zero_point) &&
         all_are(ScalarType::Float, scale, multiple, factor) && scale.dim() == 1 &&
         has_shape(multiple, {channels}) && has_shape(factor, {channels}) &&
         has_shape(zero_point, {scale.numel(), channels}) && have_rows(step, {scale.numel()});
}

// Whether a kernel quantizes an activation with one, or with a gate two numbers for each code.
inline bool can_quantize(const Tensor& x, int64_t numbers, const QuantizerTensors& tables,
                         const Tensor& step) {
  return is_float_or_bfloat16(x.scalar_type()) && x.dim() >= 2 && x.numel() > 0 &&
         x.size(-1) % numbers == 0 && has_steps(step, x.size(0)) &&
         make_codes(tables, x.size(-1) / numbers, step);
}

// Whether samples with a NaN can be marked, if they are to be.
inline bool can_mark(const std::optional<Tensor>& spoilt, const Tensor& x) {
  return !spoilt || (all_are(ScalarType::Float, *spoilt) && spoilt->is_contiguous() &&
                     has_shape(*spoilt, {x.size(0)}));
}

// What the rounding of a weight is learned from.
struct SoftWeightTensors {
  const Tensor &logits, &floor, &zero_point, &scale;
  const std::optional<Tensor>& factor;
};

// Whether kernels compute a weight [out, n], and its gradients, from these.
inline bool can_round(const SoftWeightTensors& x) {
  if (x.logits.dim() != 2) return false;
  const int64_t rows = x.logits.size(0), columns = x.logits.size(1);
  return all_are(ScalarType::Float, x.logits, x.floor, x.zero_point, x.scale) &&
         has_shape(x.floor, {rows, columns}) && has_shape(x.zero_point, {rows}) &&
         has_shape(x.scale, {rows}) &&
         (!x.factor || (all_are(ScalarType::Float, *x.factor) &&
                        (has_shape(*x.factor, {rows, columns}) || has_shape(*x.factor, {1, columns}))));
}

// Whether these are two numbers, for height and width, from a least one on.
inline bool are_sides(const Numbers& numbers, int64_t least) {
  return numbers.size() == 2 && std::min(numbers[0], numbers[1]) >= least &&
         std::max(numbers[0], numbers[1]) <= LARGEST_SIDE;
}

// Whether a kernel pads an activation like this: images only.
inline bool can_pad(const Tensor& x, const Numbers& padding) {
  if (padding.empty()) return true;
  return are_sides(padding, 0) && (x.dim() == 4 || padding[0] + padding[1] == 0);
}

inline bool can_attend(const Tensor& query, const Tensor& key, const Tensor& value, int64_t heads,
                       double scale) {
  if (query.dim() != 3 || key.dim() != 3 || heads < 1 || query.numel() == 0) return false;
  const int64_t batch = query.size(0), keys = key.size(1), width = query.size(2);
  return all_are(ScalarType::BFloat16, query, key, value) && has_shape(key, {batch, keys, width}) &&
         has_shape(value, {batch, keys, width}) && width % heads == 0 && keys > 0 && scale >= 0;
}

// Whether types are right, nothing is empty, tables have a row for each step, and 32 bits hold sums.
inline bool can_multiply(const Operands& x, const Convolution& sizes) {
  return all_are(ScalarType::Byte, x.codes) && all_are(ScalarType::Char, x.weight) &&
         all_are(ScalarType::Float, x.weight_scale, x.scale, x.bias) && x.codes.numel() > 0 &&
         x.weight.numel() > 0 && x.scale.dim() == 1 && x.bias.dim() == 2 &&
         has_shape(x.weight_scale, {sizes.out_channels}) && x.bias.size(1) == sizes.out_channels &&
         sizes.depth() <= INT32_MAX / LARGEST_PRODUCT && has_steps(x.step, sizes.batch) &&
         have_rows(x.step, {x.scale.numel(), x.bias.size(0)});
}

inline bool can_multiply_tiles(const Operands& x, const Convolution& sizes) {
  const int64_t panels = (sizes.out_channels + TILE_LANES - 1) / TILE_LANES;
  const int64_t blocks = (sizes.depth() + TILE_DEPTH - 1) / TILE_DEPTH;
  return can_multiply(x, sizes) && has_shape(x.weight, {panels, blocks, TILE_LANES * TILE_DEPTH});
}

// The same for a linear layer with a gate, whose output is quantized by these tables.
inline bool can_multiply_tiles_gated(const Operands& x, const Convolution& sizes,
                                     const QuantizerTensors& next) {
  return can_multiply_tiles(x, sizes) && sizes.out_channels % (2 * TILE_LANES) == 0 &&
         make_codes(next, sizes.out_channels / 2, x.step);
}

// A linear layer [batch, ..., in] as a convolution of images one pixel high.
inline std::optional<Convolution> linear_layer(const Tensor& codes, int64_t out_channels) {
  if (codes.dim() < 2 || codes.numel() == 0) return std::nullopt;
  const int64_t batch = codes.size(0), channels = codes.size(-1);
  const int64_t tokens = codes.numel() / batch / channels;
  return Convolution{batch, 1, tokens, channels, 1, tokens, out_channels, 1, 1, 1, 1, 1, 1};
}

// The sizes of a convolution without groups; nothing if no window fits into an image.
inline std::optional<Convolution> convolution(const Tensor& codes, int64_t out_channels,
                                              const Numbers& kernel, const Numbers& stride,
                                              const Numbers& dilation, int64_t groups) {
  if (codes.dim() != 4 || groups != 1) return std::nullopt;
  if (!are_sides(kernel, 1) || !are_sides(stride, 1) || !are_sides(dilation, 1)) return std::nullopt;
  int64_t out[2];
  for (int i = 0; i < 2; i++) {
    const int64_t rest = codes.size(i + 1) - dilation[i] * (kernel[i] - 1) - 1;
    if (rest < 0) return std::nullopt;
    out[i] = rest / stride[i] + 1;
  }
  return Convolution{codes.size(0), codes.size(1), codes.size(2), codes.size(3), out[0], out[1],
                     out_channels,  kernel[0],     kernel[1],     stride[0],     stride[1],
                     dilation[0],   dilation[1]};
}

}  // namespace dgq
