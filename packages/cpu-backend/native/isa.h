// Which instructions the kernels may use, decided once at run time. FP8_ISA=generic|avx2|avx512 forces a variant.
#pragma once

namespace fp8lm {

/// generic: the compiler's baseline. avx2: AVX2, FMA, F16C. avx512: F, BW, DQ, VL.
enum class Isa { generic, avx2, avx512 };

/// The variant in use: FP8_ISA if it is valid and supported, else the best this CPU has.
Isa isa();

/// The best variant this CPU has, whatever FP8_ISA says.
Isa bestIsa();

/// "generic", "avx2" or "avx512".
const char* isaName(Isa);

/// What is wrong with FP8_ISA or FP8_GEMM, or null. isa() falls back to the best variant in that case.
const char* isaError();

/// The CPU has the BF16 dot product vdpbf16ps and the byte permutes (VBMI) that its packing uses. Cooper Lake alone has the
/// first without the second.
bool hasDot();

/// GEMMs with BF16 operands, and attention on BF16, use vdpbf16ps rather than FMA on floats: FP8_GEMM=fma|dot, else by
/// vendor. On AMD (Zen 4, 5) the dot product does twice the FMA's work per cycle; on Intel servers it runs at half the FMA's
/// rate (measured on model 207: 86 against 175 GFLOP/s a core). Decided by CPUID, never by timing, so that a machine's bits
/// are stable.
bool preferDot();

}  // namespace fp8lm
