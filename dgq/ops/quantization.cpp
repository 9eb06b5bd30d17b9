// Quantization of an input on a CPU, in one pass.

#ifdef __AVX512F__
#pragma GCC target("prefer-vector-width=512")  // half of it is the compilers' choice
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "codes.hpp"
#include "kernels.hpp"

namespace {

using namespace dgq;

constexpr int64_t PARALLEL_FROM = 1 << 15;  // elements; below, threads cost more than they gain

// One pixel's codes; x is null outside of the image, where the value is zero. Returns whether any
// value was NaN.
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

// Several threads may mark the same sample at once, with the same value.
inline void note(uint32_t nan, float* spoilt) {
  if (!nan || !spoilt) return;
#pragma omp atomic write
  *spoilt = NAN;
}

template <typename T>
void quantize_gated_all(const T* x, const Quantizer& q, const SampleSteps& steps, const Image& sizes,
                        uint8_t* codes, float* spoilt) {
  const int64_t tokens = sizes.height * sizes.width, channels = sizes.channels;
#pragma omp parallel for schedule(static) if (sizes.batch * tokens * channels >= PARALLEL_FROM)
  for (int64_t row = 0; row < sizes.batch * tokens; row++) {
    const int64_t sample = row / tokens, t = steps.row_of(sample, q.n_scales);
    const T* value = x + row * 2 * channels;
    const uint32_t nan = quantize_gated_row(value, value + channels, q.scale[t], q.multiple,
                                            q.zero_point + t * channels, q.factor, q.largest,
                                            channels, codes + row * channels);
    note(nan, spoilt ? spoilt + sample : nullptr);
  }
}

template <typename T>
void quantize_all(const T* x, const Quantizer& q, const SampleSteps& steps, const Image& sizes,
                  uint8_t* codes, float* spoilt) {
  const auto [batch, height, width, channels, pad_height, pad_width] = sizes;
  const int64_t out_height = height + 2 * pad_height, out_width = width + 2 * pad_width;
  const int64_t rows = batch * out_height;
#pragma omp parallel for schedule(static) if (rows * out_width * channels >= PARALLEL_FROM)
  for (int64_t row = 0; row < rows; row++) {
    const int64_t sample = row / out_height, h = row % out_height - pad_height;
    const int64_t t = steps.row_of(sample, q.n_scales);
    const bool inside = h >= 0 && h < height;
    uint32_t nan = 0;
    for (int64_t w = -pad_width; w < width + pad_width; w++) {
      const bool in = inside && w >= 0 && w < width;
      const T* pixel = in ? x + ((sample * height + h) * width + w) * channels : nullptr;
      uint8_t* out = codes + (row * out_width + w + pad_width) * channels;
      nan |= quantize_pixel(pixel, q.scale[t], q.multiple, q.zero_point + t * channels, q.factor,
                            q.largest, channels, out);
    }
    note(nan, spoilt ? spoilt + sample : nullptr);
  }
}

constexpr int64_t SLICE = 64;  // channels whose ranges stay in registers and in the first cache

template <typename T>
void ranges_all(const T* x, const Image& sizes, float* low, float* high) {
  const int64_t batch = sizes.batch, pixels = sizes.height * sizes.width, channels = sizes.channels;
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
          // Of a channel with a NaN, both are NaN.
          least[c] = value < least[c] || value != value ? value : least[c];
          most[c] = value > most[c] || value != value ? value : most[c];
        }
      }
    }
}

}  // namespace

namespace dgq {

void quantize(const void* x, bool is_bfloat16, const Quantizer& quantizer, const SampleSteps& steps,
              const Image& sizes, uint8_t* codes, float* spoilt) {
  if (is_bfloat16)
    quantize_all((const uint16_t*)x, quantizer, steps, sizes, codes, spoilt);
  else
    quantize_all((const float*)x, quantizer, steps, sizes, codes, spoilt);
}

void quantize_gated(const void* x, bool is_bfloat16, const Quantizer& quantizer,
                    const SampleSteps& steps, const Image& sizes, uint8_t* codes, float* spoilt) {
  if (is_bfloat16)
    quantize_gated_all((const uint16_t*)x, quantizer, steps, sizes, codes, spoilt);
  else
    quantize_gated_all((const float*)x, quantizer, steps, sizes, codes, spoilt);
}

void channel_ranges(const void* x, bool is_bfloat16, const Image& sizes, float* low, float* high) {
  if (is_bfloat16)
    ranges_all((const uint16_t*)x, sizes, low, high);
  else
    ranges_all((const float*)x, sizes, low, high);
}

}  // namespace dgq
