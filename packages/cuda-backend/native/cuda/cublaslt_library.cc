// Finds cuBLASLt: FP8_CUBLASLT if set; what the loader finds under the names of versions 13 and 12; the toolkit's folders.
#include <dlfcn.h>

#include <cstdlib>
#include <vector>

#include "../cublaslt.h"

namespace fp8lm::lt {

namespace {

std::vector<std::string> candidates() {
  if (const char* v = std::getenv("FP8_CUBLASLT")) return {v};
  std::vector<std::string> folders = {""};
  for (const char* name : {"CUDA_HOME", "CUDA_PATH"})
    if (const char* v = std::getenv(name)) folders.push_back(std::string(v) + "/lib64/");
  folders.push_back("/usr/local/cuda/lib64/");
  folders.push_back("/usr/local/cuda/targets/x86_64-linux/lib/");
  std::vector<std::string> out;
  for (const std::string& folder : folders)
    for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"}) out.push_back(folder + name);
  return out;
}

template <class F> bool resolve(void* library, const char* name, F& f, std::string& missing) {
  f = reinterpret_cast<F>(dlsym(library, name));
  if (!f) missing += std::string(missing.empty() ? "" : ", ") + name;
  return f != nullptr;
}

Library load() {
  Library l;
  std::string tried;
  void* handle = nullptr;
  for (const std::string& name : candidates()) {
    handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle) {
      l.where = name;
      break;
    }
    tried += (tried.empty() ? "" : ", ") + name;
  }
  if (!handle) {
    l.error = "cuBLASLt was not found (looked for " + tried + "); install libcublas of the CUDA toolkit 12 or 13, or set FP8_CUBLASLT to its path";
    return l;
  }
  std::string missing;
  resolve(handle, "cublasLtCreate", l.create, missing);
  resolve(handle, "cublasLtGetVersion", l.version, missing);
  resolve(handle, "cublasLtMatmulDescCreate", l.descCreate, missing);
  resolve(handle, "cublasLtMatmulDescDestroy", l.descDestroy, missing);
  resolve(handle, "cublasLtMatmulDescSetAttribute", l.descSet, missing);
  resolve(handle, "cublasLtMatrixLayoutCreate", l.layoutCreate, missing);
  resolve(handle, "cublasLtMatrixLayoutDestroy", l.layoutDestroy, missing);
  resolve(handle, "cublasLtMatmulPreferenceCreate", l.preferenceCreate, missing);
  resolve(handle, "cublasLtMatmulPreferenceDestroy", l.preferenceDestroy, missing);
  resolve(handle, "cublasLtMatmulPreferenceSetAttribute", l.preferenceSet, missing);
  resolve(handle, "cublasLtMatmulAlgoGetHeuristic", l.heuristic, missing);
  resolve(handle, "cublasLtMatmul", l.matmul, missing);
  if (!missing.empty()) l.error = l.where + " lacks " + missing + "; cuBLASLt 12 or newer is needed";
  else if (l.version() < 120000) l.error = l.where + " is version " + std::to_string(l.version()) + "; cuBLASLt 12 or newer is needed";
  return l;
}

}  // namespace

const Library& library() {
  static const Library l = load();
  return l;
}

}  // namespace fp8lm::lt
