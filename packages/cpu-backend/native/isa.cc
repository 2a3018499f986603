#include "isa.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace fp8lm {
namespace {

struct Choice {
  Isa best = Isa::generic, used = Isa::generic;
  bool dot = false, useDot = false;
  char error[256] = "";

  Choice() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) best = Isa::avx2;
    if (best == Isa::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      best = Isa::avx512;
    dot = best == Isa::avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi");
    useDot = dot && __builtin_cpu_is("amd");
#endif
    used = best;
    readIsa();
    readGemm();
    if (used != Isa::avx512) useDot = false;
  }

  void readIsa() {
    const char* text = std::getenv("FP8_ISA");
    if (!text || !*text) return;
    for (Isa x : {Isa::generic, Isa::avx2, Isa::avx512}) {
      if (std::strcmp(text, isaName(x)) != 0) continue;
      if (x <= best) used = x;
      else
        std::snprintf(error, sizeof error, "FP8_ISA=%s: this CPU only supports up to %s; unset FP8_ISA or lower it", text,
                      isaName(best));
      return;
    }
    std::snprintf(error, sizeof error, "FP8_ISA=%.40s: unknown; expected generic, avx2 or avx512", text);
  }

  void readGemm() {
    const char* text = std::getenv("FP8_GEMM");
    if (!text || !*text || error[0]) return;
    if (std::strcmp(text, "fma") == 0) useDot = false;
    else if (std::strcmp(text, "dot") != 0)
      std::snprintf(error, sizeof error, "FP8_GEMM=%.40s: unknown; expected fma or dot", text);
    else if (!dot || used != Isa::avx512)
      std::snprintf(error, sizeof error, "FP8_GEMM=dot: needs AVX512_BF16 and AVX512_VBMI, which is not in use; unset FP8_GEMM or choose fma");
    else
      useDot = true;
  }
};

const Choice& choice() {
  static const Choice instance;
  return instance;
}

}  // namespace

Isa isa() { return choice().used; }
Isa bestIsa() { return choice().best; }
const char* isaName(Isa x) { return x == Isa::avx512 ? "avx512" : x == Isa::avx2 ? "avx2" : "generic"; }
const char* isaError() { return choice().error[0] ? choice().error : nullptr; }
bool hasDot() { return choice().dot; }
bool preferDot() { return choice().useDot; }

}  // namespace fp8lm
