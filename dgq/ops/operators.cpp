// The operators torch.ops.dgq on a CPU (library.py): checks, memory for outputs, and the kernels.
//
// What kernels do not accept is left to the reference, whose errors have words.

#include <torch/csrc/stable/library.h>

#include <array>
#include <stdexcept>
#include <string>
#include <tuple>

#include "kernels.hpp"
#include "operands.hpp"

namespace {

using namespace dgq;
using Codes = uint8_t;

// The outputs of an operator's reference.
template <typename... Arguments>
auto outputs_of_reference(const char* name, const Arguments&... arguments) {
  constexpr size_t MOST_OUTPUTS = 2;
  std::array<StableIValue, std::max(MOST_OUTPUTS, sizeof...(Arguments))> stack{
      torch::stable::detail::from(arguments)...};
  if (torch_call_dispatcher(name, "reference", stack.data(), TORCH_ABI_VERSION) != TORCH_SUCCESS) {
    const std::string message = torch_exception_get_what_without_backtrace();
    throw std::runtime_error(message.substr(0, message.find("\n\nAt:\n")));  // Python's stack
  }
  return stack;
}

template <typename... Arguments>
Tensor by_reference(const char* name, const Arguments&... arguments) {
  return torch::stable::detail::to<Tensor>(outputs_of_reference(name, arguments...)[0]);
}

template <typename... Arguments>
std::tuple<Tensor, Tensor> both_by_reference(const char* name, const Arguments&... arguments) {
  const auto outputs = outputs_of_reference(name, arguments...);
  return {torch::stable::detail::to<Tensor>(outputs[0]),
          torch::stable::detail::to<Tensor>(outputs[1])};
}

Tensor new_tensor(const Numbers& shape, ScalarType type) {
  const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
  return torch::stable::empty(shape, type, std::nullopt, cpu);
}

template <typename T>
T* written(const Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

bool is_bfloat16(const Tensor& x) { return x.scalar_type() == ScalarType::BFloat16; }

Numbers shape_of(const Tensor& x) { return {x.sizes().begin(), x.sizes().end()}; }

// The same with another number of channels.
Numbers with_channels(const Tensor& x, int64_t channels) {
  Numbers shape = shape_of(x);
  shape.back() = channels;
  return shape;
}

// An activation in a type that kernels read.
Tensor as_read(const Tensor& x) {
  const ScalarType type = x.scalar_type();
  const bool converted = type == ScalarType::Half || type == ScalarType::Double;
  return converted ? torch::stable::to(x, ScalarType::Float) : x;
}

// The sizes of an activation; if it is no image, that of one which is a pixel high.
Image image_of(const Tensor& x, int64_t channels, const Numbers& padding) {
  const bool is_image = x.dim() == 4;
  const int64_t batch = x.size(0), height = is_image ? x.size(1) : 1;
  const int64_t width = x.numel() / (batch * height * x.size(-1));
  if (padding.empty()) return {batch, height, width, channels, 0, 0};
  return {batch, height, width, channels, padding[0], padding[1]};
}

SampleSteps read_steps(const Tensor& step) { return {read<int64_t>(step), step.numel()}; }

// A quantizer's tables, laid out. They are read as long as this lives.
struct QuantizerInMemory {
  Tensor scale, multiple, zero_point, factor;

  explicit QuantizerInMemory(const QuantizerTensors& x)
      : scale(laid_out(x.scale)),
        multiple(laid_out(x.multiple)),
        zero_point(laid_out(x.zero_point)),
        factor(laid_out(x.factor)) {}

  Quantizer read_with(int64_t largest) const {
    return {read<float>(scale),  read<float>(multiple), read<int16_t>(zero_point),
            read<float>(factor), scale.numel(),         float(largest)};
  }
};

// What a product reads, laid out. It is read as long as this lives.
struct OperandsInMemory {
  Tensor codes, weight, weight_scale, scale, bias, step;

  explicit OperandsInMemory(const Operands& x)
      : codes(laid_out(x.codes)),
        weight(laid_out(x.weight)),
        weight_scale(laid_out(x.weight_scale)),
        scale(laid_out(x.scale)),
        bias(laid_out(x.bias)),
        step(laid_out(x.step)) {}

  Tables tables() const {
    return {read<float>(weight_scale), read<float>(scale), read<float>(bias), scale.numel(),
            bias.size(0),              read_steps(step)};
  }
};

Tensor quantize_marking(const Tensor& x, const Tensor& scale, const Tensor& multiple,
                        const Tensor& zero_point, const Tensor& factor, const Tensor& step,
                        int64_t largest, const Numbers& padding, std::optional<int64_t> offset,
                        std::optional<Tensor> spoilt) {
  const QuantizerTensors tables{scale, multiple, zero_point, factor};
  const Tensor numbers = as_read(x);
  if (offset || !can_quantize(numbers, 1, tables, step) || !can_pad(x, padding) ||
      !can_mark(spoilt, x))
    return by_reference("dgq::quantize", x, scale, multiple, zero_point, factor, step, largest,
                        padding, offset, spoilt);
  const Image sizes = image_of(x, x.size(-1), padding);
  Numbers shape = shape_of(x);
  if (x.dim() == 4) shape[1] += 2 * sizes.pad_height, shape[2] += 2 * sizes.pad_width;
  const Tensor codes = new_tensor(shape, ScalarType::Byte);
  const Tensor in = laid_out(numbers), steps = laid_out(step);
  const QuantizerInMemory quantizer(tables);
  quantize(in.const_data_ptr(), is_bfloat16(in), quantizer.read_with(largest),
           read_steps(steps), sizes, written<Codes>(codes),
           spoilt ? written<float>(*spoilt) : nullptr);
  return codes;
}

Tensor quantize_only(const Tensor& x, const Tensor& scale, const Tensor& multiple,
                     const Tensor& zero_point, const Tensor& factor, const Tensor& step,
                     int64_t largest, const Numbers& padding, std::optional<int64_t> offset) {
  return quantize_marking(x, scale, multiple, zero_point, factor, step, largest, padding, offset,
                          std::nullopt);
}

Tensor quantize_gated_marking(const Tensor& x, const Tensor& scale, const Tensor& multiple,
                              const Tensor& zero_point, const Tensor& factor, const Tensor& step,
                              int64_t largest, std::optional<int64_t> offset,
                              std::optional<Tensor> spoilt) {
  const QuantizerTensors tables{scale, multiple, zero_point, factor};
  const Tensor numbers = as_read(x);
  if (offset || !can_quantize(numbers, 2, tables, step) || !can_mark(spoilt, x))
    return by_reference("dgq::quantize_gated", x, scale, multiple, zero_point, factor, step,
                        largest, offset, spoilt);
  const Image sizes = image_of(x, x.size(-1) / 2, {});
  const Tensor codes = new_tensor(with_channels(x, sizes.channels), ScalarType::Byte);
  const Tensor in = laid_out(numbers), steps = laid_out(step);
  const QuantizerInMemory quantizer(tables);
  quantize_gated(in.const_data_ptr(), is_bfloat16(in), quantizer.read_with(largest),
                 read_steps(steps), sizes, written<Codes>(codes),
                 spoilt ? written<float>(*spoilt) : nullptr);
  return codes;
}

Tensor quantize_gated_only(const Tensor& x, const Tensor& scale, const Tensor& multiple,
                           const Tensor& zero_point, const Tensor& factor, const Tensor& step,
                           int64_t largest, std::optional<int64_t> offset) {
  return quantize_gated_marking(x, scale, multiple, zero_point, factor, step, largest, offset,
                                std::nullopt);
}

std::tuple<Tensor, Tensor> ranges_of_channels(const Tensor& x) {
  const Tensor numbers = as_read(x);
  if (!is_float_or_bfloat16(numbers.scalar_type()) || x.dim() < 3 || x.numel() == 0)
    return both_by_reference("dgq::channel_ranges", x);
  const Image sizes = image_of(x, x.size(-1), {});
  const Numbers shape{sizes.batch, sizes.channels};
  const Tensor low = new_tensor(shape, ScalarType::Float);
  const Tensor high = new_tensor(shape, ScalarType::Float);
  const Tensor in = laid_out(numbers);
  channel_ranges(in.const_data_ptr(), is_bfloat16(in), sizes, written<float>(low),
                 written<float>(high));
  return {low, high};
}

Tensor attention_by(bool by_tiles, const Tensor& query, const Tensor& key, const Tensor& value,
                    int64_t heads, double scale) {
  if (!has_attention() || !can_attend(query, key, value, heads, scale))
    return by_reference("dgq::attention", query, key, value, heads, scale);
  const Tensor q = laid_out(query), k = laid_out(key), v = laid_out(value);
  const Tensor out = new_tensor(shape_of(q), ScalarType::BFloat16);
  attend(read<uint16_t>(q), read<uint16_t>(k), read<uint16_t>(v),
         {q.size(0), heads, q.size(1), k.size(1), q.size(2) / heads}, float(scale), by_tiles,
         written<uint16_t>(out));
  return out;
}

Tensor attention(const Tensor& query, const Tensor& key, const Tensor& value, int64_t heads,
                 double scale) {
  return attention_by(has_tile_attention(), query, key, value, heads, scale);
}

Tensor attention_without_tiles(const Tensor& query, const Tensor& key, const Tensor& value,
                               int64_t heads, double scale) {
  return attention_by(false, query, key, value, heads, scale);
}

// A weight [out, in, height, width] as the kernel reads it: [out, height, width, in].
Tensor channels_last(const Tensor& weight) {
  if (weight.dim() != 4) return weight;
  return torch::stable::transpose(torch::stable::transpose(weight, 1, 2), 2, 3);
}

Tensor in_type(const Tensor& x, ScalarType type) {
  return x.scalar_type() == type ? x : torch::stable::to(x, type);
}

Tensor by_tiles(const Operands& x, const Convolution& sizes, const Numbers& shape,
                ScalarType type) {
  const Tensor out = new_tensor(shape, is_float_or_bfloat16(type) ? type : ScalarType::Float);
  const OperandsInMemory in(x);
  convolve_tiles(read<Codes>(in.codes), read<int8_t>(in.weight), in.tables(), sizes,
                 is_bfloat16(out), out.mutable_data_ptr());
  return in_type(out, type);
}

Tensor without_tiles(const Operands& x, const Convolution& sizes, const Numbers& shape,
                     ScalarType type) {
  const Tensor out = new_tensor(shape, ScalarType::Float), weight = channels_last(x.weight);
  const OperandsInMemory in({x.codes, weight, x.weight_scale, x.scale, x.bias, x.step});
  convolve(read<Codes>(in.codes), read<int8_t>(in.weight), in.tables(), sizes, written<float>(out));
  return in_type(out, type);
}

// A product; nothing where no kernel accepts the operands. A weight that is not in tiles has to have
// the shape of the layer's.
std::optional<Tensor> multiplied(const Operands& x, const Convolution& sizes,
                                 std::initializer_list<int64_t> weight_shape, const Numbers& shape,
                                 ScalarType type) {
  if (is_in_tiles(x.weight)) {
    if (has_tile_products() && can_multiply_tiles(x, sizes)) return by_tiles(x, sizes, shape, type);
  } else if (has_products() && can_multiply(x, sizes) && has_shape(x.weight, weight_shape)) {
    return without_tiles(x, sizes, shape, type);
  }
  return std::nullopt;
}

Tensor int_linear(const Tensor& codes, const Tensor& weight, const Tensor& weight_scale,
                  const Tensor& scale, const Tensor& bias, const Tensor& step, ScalarType type,
                  std::optional<Tensor> residual) {
  const Operands operands{codes, weight, weight_scale, scale, bias, step};
  const auto sizes = linear_layer(codes, weight_scale.numel());
  if (sizes && !residual) {
    const Numbers shape = with_channels(codes, sizes->out_channels);
    if (auto out = multiplied(operands, *sizes, {shape.back(), sizes->channels}, shape, type))
      return *out;
  }
  return by_reference("dgq::int_linear", codes, weight, weight_scale, scale, bias, step, type,
                      residual);
}

Tensor int_conv2d(const Tensor& codes, const Tensor& weight, const Tensor& weight_scale,
                  const Tensor& scale, const Tensor& bias, const Tensor& step,
                  const Numbers& kernel, const Numbers& stride, const Numbers& dilation,
                  int64_t groups, ScalarType type, std::optional<Tensor> residual) {
  const Operands operands{codes, weight, weight_scale, scale, bias, step};
  const auto sizes = convolution(codes, weight_scale.numel(), kernel, stride, dilation, groups);
  if (sizes && !residual) {
    const int64_t out_channels = sizes->out_channels;
    const Numbers shape{sizes->batch, sizes->out_height, sizes->out_width, out_channels};
    const auto of_layer = {out_channels, sizes->channels, kernel[0], kernel[1]};
    if (auto out = multiplied(operands, *sizes, of_layer, shape, type)) return *out;
  }
  return by_reference("dgq::int_conv2d", codes, weight, weight_scale, scale, bias, step, kernel,
                      stride, dilation, groups, type, residual);
}

Tensor int_linear_gated(const Tensor& codes, const Tensor& weight, const Tensor& weight_scale,
                        const Tensor& scale, const Tensor& bias, const Tensor& step,
                        const Tensor& next_scale, const Tensor& multiple, const Tensor& zero_point,
                        const Tensor& factor, int64_t largest, std::optional<int64_t> offset) {
  const Operands operands{codes, weight, weight_scale, scale, bias, step};
  const QuantizerTensors next{next_scale, multiple, zero_point, factor};
  const auto sizes = linear_layer(codes, weight_scale.numel());
  if (offset || !sizes || !has_tile_products() || !can_multiply_tiles_gated(operands, *sizes, next)) {
    const Tensor both =
        int_linear(codes, weight, weight_scale, scale, bias, step, ScalarType::Float, std::nullopt);
    return quantize_gated_only(both, next_scale, multiple, zero_point, factor, step, largest,
                               offset);
  }
  const Tensor out = new_tensor(with_channels(codes, sizes->out_channels / 2), ScalarType::Byte);
  const OperandsInMemory in(operands);
  const QuantizerInMemory quantizer(next);
  convolve_tiles_gated(read<Codes>(in.codes), read<int8_t>(in.weight), in.tables(), *sizes,
                       quantizer.read_with(largest), written<Codes>(out));
  return out;
}

// What the rounding of a weight is learned from, laid out. It is read as long as this lives.
struct SoftWeightInMemory {
  Tensor logits, floor, zero_point, scale;
  std::optional<Tensor> factor;

  explicit SoftWeightInMemory(const SoftWeightTensors& x)
      : logits(laid_out(x.logits)),
        floor(laid_out(x.floor)),
        zero_point(laid_out(x.zero_point)),
        scale(laid_out(x.scale)) {
    if (x.factor) factor = laid_out(*x.factor);
  }

  SoftWeight read_with(int64_t largest) const {
    const int64_t rows = logits.size(0), columns = logits.size(1);
    return {read<float>(logits),     read<float>(floor),
            read<float>(zero_point), read<float>(scale),
            factor ? read<float>(*factor) : nullptr,
            rows,                    columns,
            factor && factor->size(0) > 1 ? columns : 0,
            float(largest)};
  }
};

Tensor weight_softly_rounded(const Tensor& logits, const Tensor& floor, const Tensor& zero_point,
                             const Tensor& scale, std::optional<Tensor> factor, int64_t largest) {
  const SoftWeightTensors operands{logits, floor, zero_point, scale, factor};
  if (!can_round(operands))
    return by_reference("dgq::soft_weight", logits, floor, zero_point, scale, factor, largest);
  const Tensor weight = new_tensor(shape_of(logits), ScalarType::Float);
  const SoftWeightInMemory in(operands);
  soft_weight(in.read_with(largest), written<float>(weight));
  return weight;
}

std::tuple<Tensor, Tensor> gradients_of_soft_weight(const Tensor& gradient, const Tensor& logits,
                                                    const Tensor& floor, const Tensor& zero_point,
                                                    const Tensor& scale,
                                                    std::optional<Tensor> factor,
                                                    int64_t largest) {
  const SoftWeightTensors operands{logits, floor, zero_point, scale, factor};
  if (!can_round(operands) || !all_are(ScalarType::Float, gradient) ||
      !has_shape(gradient, {logits.size(0), logits.size(1)}))
    return both_by_reference("dgq::soft_weight_gradients", gradient, logits, floor, zero_point,
                             scale, factor, largest);
  const Tensor of_logits = new_tensor(shape_of(logits), ScalarType::Float);
  const Tensor of_scale = new_tensor(shape_of(scale), ScalarType::Float);
  const Tensor of_weight = laid_out(gradient);
  const SoftWeightInMemory in(operands);
  soft_weight_gradients(in.read_with(largest), read<float>(of_weight), written<float>(of_logits),
                        written<float>(of_scale));
  return {of_logits, of_scale};
}

std::tuple<Tensor, Tensor> penalty_of_rounding(const Tensor& logits, double temperature) {
  if (logits.dim() != 2 || !all_are(ScalarType::Float, logits) || temperature < 1)
    return both_by_reference("dgq::rounding_penalty", logits, temperature);
  const Tensor gradient = new_tensor(shape_of(logits), ScalarType::Float);
  const Tensor penalty = new_tensor({}, ScalarType::Float);
  const Tensor in = laid_out(logits);
  *written<float>(penalty) = rounding_penalty(read<float>(in), in.size(0), in.size(1),
                                              float(temperature), written<float>(gradient));
  return {penalty, gradient};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgq, CPU, library) {
  library.impl("quantize", TORCH_BOX(&quantize_only));
  library.impl("quantize.marking", TORCH_BOX(&quantize_marking));
  library.impl("quantize_gated", TORCH_BOX(&quantize_gated_only));
  library.impl("quantize_gated.marking", TORCH_BOX(&quantize_gated_marking));
  library.impl("channel_ranges", TORCH_BOX(&ranges_of_channels));
  library.impl("attention", TORCH_BOX(&attention));
  library.impl("attention.without_tiles", TORCH_BOX(&attention_without_tiles));
  library.impl("int_linear", TORCH_BOX(&int_linear));
  library.impl("int_linear_gated", TORCH_BOX(&int_linear_gated));
  library.impl("int_conv2d", TORCH_BOX(&int_conv2d));
  library.impl("soft_weight", TORCH_BOX(&weight_softly_rounded));
  library.impl("soft_weight_gradients", TORCH_BOX(&gradients_of_soft_weight));
  library.impl("rounding_penalty", TORCH_BOX(&penalty_of_rounding));
}

// What this CPU has kernels for.
#define EXPORTED extern "C" __attribute__((visibility("default")))
EXPORTED bool dgq_has_attention() { return has_attention(); }
EXPORTED bool dgq_has_tile_attention() { return has_tile_attention(); }
EXPORTED bool dgq_has_products() { return has_products(); }
EXPORTED bool dgq_has_tile_products() { return has_tile_products(); }
