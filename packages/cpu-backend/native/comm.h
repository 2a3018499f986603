// Sums of received payloads, per instruction set (comm_body.h): the arithmetic of fp8-dist's collectives. One thread each: the
// caller is a communication worker beside the main thread's pool.
#pragma once
#include <cstdint>

#include "table.h"

namespace fp8lm {

/// dst = encode(scale * (parts[0] op parts[1] op ...)) over [begin, end), from left to right in f32 (i32 wraps), rounded once
/// and saturating; with `steps`, rounded to the type after every addition.
using ReduceFn = void (*)(void* dst, const void* const* parts, int count, float scale, bool steps, int64_t begin, int64_t end);

/// Indexed by operation (sum, max, min) and dtype code (f32, bf16, f16, e4m3, e5m2, i32).
struct CommTable {
  ReduceFn reduce[3][6];
};

FP8_TABLE(CommTable, comm)

}  // namespace fp8lm
