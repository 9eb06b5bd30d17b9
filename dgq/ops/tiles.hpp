// Tiles (AMX): shared by products of bytes and of bfloat16.

#pragma once

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace dgq {

// All tiles have 16 rows of 64 bytes.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// A thread has tiles while it has such an object.
class TilesOfThread {
 public:
  // Linux lets a process use tiles when it has asked for them.
  static bool allowed() {
    constexpr int REQUEST = 0x1023, TILE_DATA = 18;
    static const bool is = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
    return is;
  }

  TilesOfThread() {
    // In static memory: before GCC 12.4 the compiler believes that only 8 bytes are read.
    static constexpr TileShapes SHAPES;
    _tile_loadconfig(&SHAPES);
  }

  ~TilesOfThread() { _tile_release(); }

  TilesOfThread(const TilesOfThread&) = delete;
};

// Compilers do not know what memory loads of tiles read, and might store to it later.
inline void finish_stores() { asm volatile("" ::: "memory"); }

}  // namespace dgq
