// Tables of range functions, one a group and instruction set, chosen at run time. FP8_TABLE(CastTable, casts) declares
// generic::casts, avx2::casts and avx512::casts (defined by casts_generic.cc, …) and the function castsTable().
#pragma once
#include "isa.h"

#if defined(__x86_64__)
#define FP8_TABLE(Type, name)                       \
  namespace generic { extern const Type name; }     \
  namespace avx2 { extern const Type name; }        \
  namespace avx512 { extern const Type name; }      \
  inline const Type& name##Table() {                \
    switch (isa()) {                                \
      case Isa::avx512: return avx512::name;        \
      case Isa::avx2: return avx2::name;            \
      default: return generic::name;                \
    }                                               \
  }
#else
#define FP8_TABLE(Type, name)                   \
  namespace generic { extern const Type name; } \
  inline const Type& name##Table() { return generic::name; }
#endif
