// A convolution of bytes as a product: its sizes, what its rows read, and what sums are scaled by.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace dgq {

struct Convolution {
  int64_t batch, height, width, channels;  // of the codes, padding included
  int64_t out_height, out_width, out_channels;
  int64_t kernel_height, kernel_width, stride_height, stride_width, dilation_height, dilation_width;

  int64_t depth() const { return kernel_height * kernel_width * channels; }
  int64_t pixels() const { return out_height * out_width; }
  int64_t rows() const { return batch * pixels(); }
};

// The codes from first to first + n of the window of an output pixel, ordered by kernel pixel, then
// by channel.
inline void copy_window(const uint8_t* codes, const Convolution& c, int64_t row, int64_t first,
                        int64_t n, uint8_t* to) {
  const int64_t sample = row / c.pixels(), pixel = row % c.pixels();
  const int64_t h = pixel / c.out_width * c.stride_height, w = pixel % c.out_width * c.stride_width;
  for (int64_t k = first; k < first + n;) {
    const int64_t tap = k / c.channels, channel = k % c.channels;
    const int64_t y = h + tap / c.kernel_width * c.dilation_height;
    const int64_t x = w + tap % c.kernel_width * c.dilation_width;
    const int64_t some = std::min(c.channels - channel, first + n - k);
    std::memcpy(to, codes + ((sample * c.height + y) * c.width + x) * c.channels + channel, some);
    k += some, to += some;
  }
}

// The sampler step of each sample, or one of all samples.
struct SampleSteps {
  const int64_t* step;
  int64_t n;

  // Of a table with a row for each step, or with one row for all.
  int64_t row_of(int64_t sample, int64_t rows) const {
    return rows > 1 ? step[n > 1 ? sample : 0] : 0;
  }
};

// weight_scale [out]; scale [n_scales]; bias [n_biases, out].
struct Tables {
  const float *weight_scale, *scale, *bias;
  int64_t n_scales, n_biases;
  SampleSteps steps;
};

}  // namespace dgq
