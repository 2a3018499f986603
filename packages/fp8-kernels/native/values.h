// Values for JavaScript: what the N-API glue of a backend returns.
#pragma once
#include <node_api.h>

#include <string>
#include <vector>

namespace fp8lm::glue {

inline napi_value makeNumber(napi_env env, double v) {
  napi_value out = nullptr;
  napi_create_double(env, v, &out);
  return out;
}

inline napi_value makeList(napi_env env, const std::vector<double>& numbers) {
  napi_value out = nullptr;
  napi_create_array_with_length(env, numbers.size(), &out);
  for (size_t i = 0; i < numbers.size(); i++) napi_set_element(env, out, uint32_t(i), makeNumber(env, numbers[i]));
  return out;
}

/// An object under construction.
class Object {
 public:
  explicit Object(napi_env env) : env_(env) { napi_create_object(env, &value_); }

  Object& set(const char* name, napi_value value) {
    napi_set_named_property(env_, value_, name, value);
    return *this;
  }
  Object& set(const char* name, double number) { return set(name, makeNumber(env_, number)); }
  Object& set(const char* name, const std::string& text) {
    napi_value value = nullptr;
    napi_create_string_utf8(env_, text.c_str(), text.size(), &value);
    return set(name, value);
  }

  napi_value value() const { return value_; }

 private:
  napi_env env_;
  napi_value value_ = nullptr;
};

}  // namespace fp8lm::glue
