// Check and benchmark of the thread pool and the cast, elementwise, norm and optimizer kernels, linked against the kernels themselves:
//
//   kernels_bench --check         each kernel against simple scalar code (check/*.h), on every instruction set this CPU has
//   kernels_bench --check-casts   the casts on all 2^32 floats (minutes)
//   kernels_bench --bench         GB/s of each kernel beside a copy measured in the same run; AdamW by recipe
//
// FP8_ISA and FP8_THREADS apply. Exits with 1 if a check fails.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "check/bench.h"
#include "check/casts.h"
#include "check/elementwise.h"
#include "check/optimizer.h"
#include "check/threads.h"
#include "isa.h"

using namespace fp8lm;

namespace {

int onEachIsa(const char* program, const char* flag) {
  int failed = 0;
  for (const Isa i : {Isa::generic, Isa::avx2, Isa::avx512}) {
    if (i > bestIsa()) continue;
    setenv("FP8_ISA", isaName(i), 1);
    failed |= std::system((std::string(program) + " " + flag).c_str());
  }
  return failed ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string flag = argc > 1 ? argv[1] : "";
  if ((flag == "--check" || flag == "--check-casts") && !getenv("FP8_ISA")) return onEachIsa(argv[0], argv[1]);
  if (flag == "--bench") {
    printf("%s\n", isaName(isa()));
    check::benchOps();
    check::benchAdamW();
    return 0;
  }
  if (flag == "--check") {
    check::checkThreads();
    check::checkCasts();
    check::checkRecodes();
    check::checkElementwise();
    check::checkNorms();
    check::checkOptimizer();
  } else if (flag == "--check-casts") {
    check::checkAllCasts();
  } else {
    printf("usage: kernels_bench --check | --check-casts | --bench\n");
    return 2;
  }
  printf("%-8s %s\n", isaName(isa()), check::failures ? "FAILED" : "all checks passed");
  return check::failures ? 1 : 0;
}
