// Checks every cast of float8.h (and whatever encoders.h lists) against the oracle of formats.h, and against NVIDIA's
// and the CPU's own casts where they exist. Usage: codecs <stride> <threads> [--json]; stride 1 = all 2^32 patterns.
// Prints patterns and differences per codec; exit code 1 on any difference. Run it through run.mjs, which compiles it.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "independent.h"
#include "scale.h"
#include "stochastic.h"
#include "tally.h"

using namespace oracle;

namespace {

std::vector<Tally> results;
bool json = false;
std::chrono::steady_clock::time_point began;

void finish(const Tally& t) {
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  const unsigned long long checked = t.checked, differences = t.differences;
  if (json) {
    printf("%s{\"name\":\"%s\",\"against\":\"%s\",\"checked\":%llu,\"differences\":%llu}", results.empty() ? "" : ",",
           t.name.c_str(), t.against.c_str(), checked, differences);
  } else {
    printf("%-28s %-24s %12llu checked %6llu differences  %5.1f s\n", t.name.c_str(), t.against.c_str(), checked,
           differences, seconds);
    if (t.differences) printf("    first: %s\n", t.first.c_str());
    fflush(stdout);
  }
  results.push_back(t);
  began = std::chrono::steady_clock::now();
}

template <class Code> bool isNan(const Format& f, Code code) { return std::isnan(value(f, code)); }

/// All patterns of the given stride through one encoder, in blocks shared among the threads.
template <class Code> void sweep(const Encoder<Code>& encoder, uint64_t stride, int threads) {
  const Format& f = encoder.format;
  const Staircase stairs(f);
  const EncodeMany<Code> other = opinion(encoder);
  constexpr size_t block = 1 << 15;
  const uint64_t perSign = ((1ull << 31) + stride - 1) / stride, blocks = (perSign + block - 1) / block;
  std::atomic<uint64_t> next{0};
  Tally exact{encoder.name, "exact staircase"};
  Tally second{encoder.name, sizeof(Code) == 1 ? "cuda_fp8.h" : "F16C"};
  std::mutex lock;
  auto work = [&] {
    std::vector<uint32_t> patterns(block);
    std::vector<Code> ours(block), expected(block);
    const float* x = reinterpret_cast<const float*>(patterns.data());
    Tally mine, mineSecond;
    for (uint64_t b; (b = next++) < 2 * blocks;) {
      const uint64_t begin = (b % blocks) * block, start = begin * stride + (b >= blocks ? 1ull << 31 : 0);
      const size_t count = size_t(std::min<uint64_t>(block, perSign - begin));
      for (size_t i = 0; i < count; i++) patterns[i] = uint32_t(start + i * stride);
      encoder.encode(x, ours.data(), count);
      stairs.fill(start, stride, count, encoder.saturate, expected.data());
      mine.checked += count;
      if (std::memcmp(ours.data(), expected.data(), count * sizeof(Code))) {
        for (size_t i = 0; i < count; i++) mine.compare(patterns[i], ours[i], expected[i]);
      }
      if (!other) continue;
      other(x, expected.data(), count);
      mineSecond.checked += count;
      if (!std::memcmp(ours.data(), expected.data(), count * sizeof(Code))) continue;
      for (size_t i = 0; i < count; i++) {
        if (isNan(f, ours[i]) && isNan(f, expected[i])) continue;
        mineSecond.compare(patterns[i], ours[i], expected[i]);
      }
    }
    const std::lock_guard<std::mutex> hold(lock);
    exact.add(mine);
    second.add(mineSecond);
  };
  std::vector<std::thread> pool;
  for (int t = 1; t < threads; t++) pool.emplace_back(work);
  work();
  for (auto& t : pool) t.join();
  finish(exact);
  if (other) finish(second);
}

/// Around every step of the staircase and every power of two: the literal search, the staircase and the encoder agree.
template <class Code> void boundaries(const Encoder<Code>& encoder) {
  const Format& f = encoder.format;
  const Staircase stairs(f);
  const Table table(f);
  Tally search{encoder.name, "table search, boundaries"};
  Tally self{std::string(f.name) + " staircase", search.against};
  std::vector<uint32_t> centres = {0, 0x7f800000u, 0x7fc00000u, 0x7fffffffu};
  const uint32_t every = sizeof(Code) == 1 ? 1 : 61;  // the search walks the whole table: thin out the 16-bit formats
  for (uint32_t code = 1; code <= f.overflow(); code += code + every < f.overflow() ? every : 1) {
    centres.push_back(stairs.first[code]);
    if (code < f.overflow()) centres.push_back(bitsOf(float(magnitude(f, code))));
  }
  for (uint32_t e = 1; e < 255; e += every) centres.push_back(e << 23);
  for (const uint32_t centre : centres) {
    for (int d = -2; d <= 2; d++) {
      const uint32_t abs = centre + uint32_t(d);
      if (abs >> 31) continue;
      for (const uint32_t pattern : {abs, abs | 0x80000000u}) {
        const Code expected = Code(table.nearest(pattern, encoder.saturate));
        const float x = floatOf(pattern);
        Code ours, step;
        encoder.encode(&x, &ours, 1);
        stairs.fill(pattern, 1, 1, encoder.saturate, &step);
        search.checked++, self.checked++;
        search.compare(pattern, ours, expected);
        self.compare(pattern, step, expected);
      }
    }
  }
  finish(search);
  finish(self);
}

/// Every length from 0 to 200 at every alignment: the same bits as one by one, and nothing written beyond the end.
template <class Code> void tails(const Encoder<Code>& encoder) {
  Tally tally{encoder.name, "lengths and alignments"};
  std::vector<float> x(320);
  std::vector<Code> expected(320), out(400);
  const Table table(encoder.format);
  uint64_t state = 88172645463325252ull;
  for (size_t i = 0; i < x.size(); i++) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    const uint32_t near1 = uint32_t(state >> 33) % 0x18000000u + 0x33000000u;  // within the formats' ranges, both signs
    x[i] = floatOf(i % 7 ? near1 | uint32_t(state << 31) : uint32_t(state));
    expected[i] = Code(table.nearest(bitsOf(x[i]), encoder.saturate));
  }
  for (size_t length = 0; length <= 200; length++) {
    for (size_t from = 0; from < 64; from += 3) {
      const Code canary = Code(0xa5a5);
      std::fill(out.begin(), out.end(), canary);
      encoder.encode(x.data() + from, out.data() + from + 1, length);
      for (size_t i = 0; i < out.size(); i++) {
        const bool inside = i > from && i <= from + length;
        tally.checked++;
        tally.compare(uint32_t(length), out[i], inside ? expected[i - 1] : canary);
      }
    }
  }
  finish(tally);
}

/// Every code of a format back to float32: the float64 value is exact in float32, so bits must agree (NaN as NaN).
template <class Code> void decodes(const Format& f, float (*decode)(Code)) {
  Tally exact{std::string("float8.h decode ") + f.name, "definition"};
  Tally nvidia{exact.name, "cuda_fp8.h"};
  for (uint32_t code = 0; code < 2 * f.signBit(); code++) {
    const float ours = decode(Code(code)), expected = float(value(f, code));
    exact.checked++;
    const bool bothNan = std::isnan(ours) && std::isnan(expected) && std::signbit(ours) == ((code & f.signBit()) != 0);
    if (!bothNan) exact.compare(code, bitsOf(ours), bitsOf(expected));
    uint16_t half;
    if (sizeof(Code) > 1 || !nvidiaDecode(f, uint8_t(code), half)) continue;
    nvidia.checked++;
    const double theirs = value(f16, half);
    if (!(std::isnan(ours) && std::isnan(theirs))) nvidia.compare(code, bitsOf(ours), bitsOf(float(theirs)));
  }
  finish(exact);
  if (nvidia.checked) finish(nvidia);
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t stride = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 257;
  const int threads = argc > 2 ? std::atoi(argv[2]) : 2;
  json = argc > 3 && std::string(argv[3]) == "--json";
  if (stride < 1 || threads < 1) {
    fprintf(stderr, "codecs: stride and threads must be at least 1\n");
    return 2;
  }
  began = std::chrono::steady_clock::now();
  if (json) printf("[");

  decodes<uint8_t>(e4m3, fp8lm::decodeE4M3);
  decodes<uint8_t>(e5m2, fp8lm::decodeE5M2);
  decodes<uint16_t>(f16, fp8lm::decodeF16);
  decodes<uint16_t>(bf16, fp8lm::decodeBF16);
  for (const auto& encoder : encoders8) boundaries(encoder), tails(encoder);
  for (const auto& encoder : encoders16) boundaries(encoder), tails(encoder);
  for (const Tally& t : checkScales(stride)) finish(t);
  for (const Tally& t : checkStochastic(stride == 1)) finish(t);
  for (const auto& encoder : encoders8) sweep(encoder, stride, threads);
  for (const auto& encoder : encoders16) sweep(encoder, stride, threads);
  uint64_t differences = 0;
  for (const Tally& t : results) differences += t.differences;
  if (json) printf("]\n");
  return differences ? 1 : 0;
}
