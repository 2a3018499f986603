// The part of cuBLASLt's C interface that this package calls, declared here since its headers need not be installed. The
// library is found with dlopen (cuda/cublaslt_library.cc); on the simulated device a stand-in with the same functions and the
// same refusals takes its place (sim/cublaslt_standin.cc). Names and numbers are NVIDIA's (cublasLt.h).
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "device.h"

namespace fp8lm::lt {

enum Status : int { kSuccess = 0, kNotInitialized = 1, kInvalidValue = 7, kNotSupported = 15 };
enum DataType : int { kF32 = 0, kF16 = 2, kBF16 = 14, kE4M3 = 28, kE5M2 = 29 };
enum ComputeType : int { kCompute32F = 68 };
enum Operation : int { kN = 0, kT = 1 };
enum Epilogue : int { kEpilogueDefault = 1, kEpilogueBias = 4 };
enum PointerMode : int { kHost = 0, kDevice = 1 };
enum DescAttribute : int {
  kPointerMode = 2,
  kTransA = 3,
  kTransB = 4,
  kEpilogue = 7,
  kBiasPointer = 8,
  kAScalePointer = 17,
  kBScalePointer = 18,
  kFastAccum = 25,
  kBiasDataType = 26,
};
enum PreferenceAttribute : int {
  kMaxWorkspaceBytes = 1,
  kMinAlignmentA = 5,
  kMinAlignmentB = 6,
  kMinAlignmentC = 7,
  kMinAlignmentD = 8,
};

struct Handle_;
struct Desc_;
struct Layout_;
struct Preference_;
using Handle = Handle_*;
using Desc = Desc_*;
using Layout = Layout_*;
using Preference = Preference_*;

struct Algo {
  uint64_t data[8];
};
struct HeuristicResult {
  Algo algo;
  size_t workspaceSize;
  Status state;
  float wavesCount;
  int reserved[4];
};

/// The functions, resolved once. `error` says where the library was looked for if it was not found.
struct Library {
  Status (*create)(Handle*) = nullptr;
  size_t (*version)() = nullptr;
  Status (*descCreate)(Desc*, ComputeType, DataType scaleType) = nullptr;
  Status (*descDestroy)(Desc) = nullptr;
  Status (*descSet)(Desc, DescAttribute, const void*, size_t) = nullptr;
  Status (*layoutCreate)(Layout*, DataType, uint64_t rows, uint64_t cols, int64_t ld) = nullptr;
  Status (*layoutDestroy)(Layout) = nullptr;
  Status (*preferenceCreate)(Preference*) = nullptr;
  Status (*preferenceDestroy)(Preference) = nullptr;
  Status (*preferenceSet)(Preference, PreferenceAttribute, const void*, size_t) = nullptr;
  Status (*heuristic)(Handle, Desc, Layout a, Layout b, Layout c, Layout d, Preference, int requested, HeuristicResult*, int* found) = nullptr;
  Status (*matmul)(Handle, Desc, const void* alpha, const void* a, Layout, const void* b, Layout, const void* beta, const void* c, Layout, void* d, Layout, const Algo*, void* workspace, size_t workspaceBytes, cudaStream_t) = nullptr;
  std::string where, error;
};

const Library& library();

}  // namespace fp8lm::lt
