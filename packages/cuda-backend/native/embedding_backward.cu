// Gradient of the embedding, without float atomics: the same bits each time. The rows are sorted by token, stably, so that
// equal tokens lie side by side in the order of the rows. Pieces of a fixed number of rows of that order are then summed, a
// block each: a token that lies within one piece goes straight to the table, one that crosses into another leaves partial
// sums, which a last kernel adds up in order. So no block has more to do than another, whichever token is frequent.
#include "../../fp8-kernels/native/kernels.gen.h"
#include "embedding.h"

namespace fp8lm {

namespace {

// --- stable radix sort of the rows by token ------------------------------------------------------------------------------

constexpr int kDigitBits = 8, kDigits = 1 << kDigitBits, kSortRounds = 4, kSortTile = kThreads * kSortRounds;
static_assert(kDigits == kThreads, "one thread a digit");

/// Token of a row within the shard; `vocab` for those of other shards, which sort to the end.
struct Keys {
  Ptr<const int32_t> tokens;
  int64_t vocab, vocabStart;
  __device__ __forceinline__ int of(int64_t row) const {
    const int64_t at = int64_t(tokens[row]) - vocabStart;
    return at < 0 || at >= vocab ? int(vocab) : int(at);
  }
};

/// How often each digit occurs in each tile of the order so far (none: that of the rows).
__global__ void __launch_bounds__(kThreads) digitCountKernel(Ptr<unsigned> counts, Ptr<const int32_t> order, Keys keys, int64_t rows, int shift) {
  beginKernel();
  FP8_SHARED(unsigned, count, kDigits);
  count[threadIdx.x] = 0u;
  __syncthreads();
  for (int k = 0; k < kSortRounds; k++) {
    const int64_t i = int64_t(blockIdx.x) * kSortTile + k * kThreads + threadIdx.x;
    if (i < rows) atomicAddAt(count, keys.of(order ? order[i] : i) >> shift & (kDigits - 1), 1u);
  }
  __syncthreads();
  counts[int64_t(blockIdx.x) * kDigits + threadIdx.x] = count[threadIdx.x];
}

/// Moves each row of a tile behind all with a smaller digit, and all with the same one before it.
__global__ void __launch_bounds__(kThreads) digitScatterKernel(Ptr<int32_t> sorted, Ptr<const int32_t> order, Ptr<const unsigned> counts, Keys keys, int64_t rows, int shift) {
  beginKernel();
  constexpr int warps = kThreads / kWarp;
  FP8_SHARED(unsigned, place, warps * kDigits);
  FP8_SHARED(unsigned, ofWarp, warps);
  const int lane = laneOf(), warp = warpOf(), digitOfThread = int(threadIdx.x);
  for (int w = 0; w < warps; w++) place[w * kDigits + digitOfThread] = 0u;
  __syncthreads();

  // Within the warp's rows, which follow each other: how many with this digit came before.
  int row[kSortRounds], digit[kSortRounds];
  unsigned before[kSortRounds];
#pragma unroll
  for (int k = 0; k < kSortRounds; k++) {
    const int64_t i = int64_t(blockIdx.x) * kSortTile + warp * (kWarp * kSortRounds) + k * kWarp + lane;
    row[k] = i < rows ? (order ? int(order[i]) : int(i)) : -1;
    digit[k] = row[k] >= 0 ? keys.of(row[k]) >> shift & (kDigits - 1) : 0;
    unsigned same = __ballot_sync(kAllLanes, row[k] >= 0);
#pragma unroll
    for (int b = 0; b < kDigitBits; b++) {
      const bool bit = (digit[k] >> b & 1) != 0;
      const unsigned set = __ballot_sync(kAllLanes, bit);
      same &= bit ? set : ~set;
    }
    const unsigned earlier = same & ((1u << lane) - 1u);
    before[k] = row[k] >= 0 ? place[warp * kDigits + digit[k]] + unsigned(__popc(earlier)) : 0u;
    __syncwarp();
    if (row[k] >= 0 && earlier == 0u) place[warp * kDigits + digit[k]] += unsigned(__popc(same));
    __syncwarp();
  }

  // Where the digits of the thread begin: behind all smaller ones of all tiles, and the equal ones of the tiles before.
  unsigned total = 0, ofTilesBefore = 0;
  for (unsigned t = 0; t < gridDim.x; t++) {
    const unsigned c = counts[int64_t(t) * kDigits + digitOfThread];
    total += c;
    if (t < blockIdx.x) ofTilesBefore += c;
  }
  unsigned upTo = total;
  for (int d = 1; d < kWarp; d *= 2) {
    const unsigned left = __shfl_sync(kAllLanes, upTo, lane >= d ? lane - d : lane);
    if (lane >= d) upTo += left;
  }
  if (lane == kWarp - 1) ofWarp[warp] = upTo;
  __syncthreads();  // and all warps have counted
  unsigned begin = upTo - total + ofTilesBefore;
  for (int w = 0; w < warp; w++) begin += ofWarp[w];
  for (int w = 0; w < warps; w++) {
    const unsigned c = place[w * kDigits + digitOfThread];
    place[w * kDigits + digitOfThread] = begin;
    begin += c;
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kSortRounds; k++)
    if (row[k] >= 0) sorted[place[warp * kDigits + digit[k]] + before[k]] = row[k];
}

// --- sums over pieces of the sorted rows -----------------------------------------------------------------------------------

constexpr int kPiece = 16, kInFlight = 8;

/// Slots of `partials` [pieces, 2, dim]: of the token that came from the piece before, of the one that goes on in the next.
enum PartialSlot { kFromBefore = 0, kGoesOn = 1 };

template <DType D, int V>
__global__ void __launch_bounds__(kThreads, 3) pieceSumKernel(Ptr<float> dtable, Ptr<float> partials, Ptr<const int32_t> order, Keys keys, Ptr<const Code<D>> dy, int64_t rows, int64_t dim) {
  beginKernel();
  // Of the piece and its neighbours on both sides; -1 beyond the ends.
  FP8_SHARED(int, row, kPiece + 2);
  FP8_SHARED(int, token, kPiece + 2);
  const int64_t piece = blockIdx.x, first = piece * kPiece;
  const int count = rows - first < kPiece ? int(rows - first) : kPiece;
  if (int(threadIdx.x) < kPiece + 2) {
    const int64_t i = first - 1 + int64_t(threadIdx.x);
    const bool inside = i >= 0 && i < rows;
    const int r = inside ? int(order[i]) : 0;
    row[threadIdx.x] = r;
    token[threadIdx.x] = inside ? keys.of(r) : -1;
  }
  __syncthreads();
  const bool fromBefore = token[0] == token[1], goesOn = token[count] == token[count + 1];
  for (int64_t c = int64_t(threadIdx.x) * V; c < dim; c += int64_t(blockDim.x) * V) {
    float sum[V] = {};
    bool begun = !fromBefore;  // the present token, in this piece
    for (int k = 1; k <= count; k += kInFlight) {
      float v[kInFlight][V];
#pragma unroll
      for (int q = 0; q < kInFlight; q++) {
        const int at = k + q <= count ? k + q : count;
        loadColumns<D, V>(dy, int64_t(row[at]) * dim + c, v[q]);
      }
#pragma unroll
      for (int q = 0; q < kInFlight; q++) {
        const int at = k + q;
        if (at > count || token[at] >= keys.vocab) continue;
#pragma unroll
        for (int e = 0; e < V; e++) sum[e] = math::add(sum[e], v[q][e]);
        if (at < count && token[at + 1] == token[at]) continue;
        if (at == count && goesOn) storeColumns<V>(partials, (2 * piece + (begun ? kGoesOn : kFromBefore)) * dim + c, sum);
        else if (!begun) storeColumns<V>(partials, (2 * piece + kFromBefore) * dim + c, sum);
        else addColumns<V>(dtable, int64_t(token[at]) * dim + c, sum);
        begun = true;
#pragma unroll
        for (int e = 0; e < V; e++) sum[e] = 0.0f;
      }
    }
  }
}

/// Adds up the partial sums of a token that crosses pieces: the block of the piece in which it begins.
template <int V>
__global__ void __launch_bounds__(kThreads, 3) crossingTokenKernel(Ptr<float> dtable, Ptr<const float> partials, Ptr<const int32_t> order, Keys keys, int64_t rows, int64_t dim) {
  beginKernel();
  const int64_t piece = blockIdx.x, next = (piece + 1) * kPiece;
  if (next >= rows) return;
  const int token = keys.of(order[next]);
  const auto isHere = [&](int64_t i) { return keys.of(order[i]) == token; };
  if (token >= keys.vocab || !isHere(next - 1)) return;
  if (piece > 0 && isHere(piece * kPiece) && isHere(piece * kPiece - 1)) return;
  int more = 0;  // pieces that it goes on in
  for (;;) {
    const int64_t begin = next + (more + int64_t(threadIdx.x)) * kPiece;
    const int found = blockReduce<Reduce::sum>(begin < rows && isHere(begin) ? 1 : 0);
    more += found;
    if (found < int(blockDim.x)) break;
  }
  for (int64_t c = int64_t(threadIdx.x) * V; c < dim; c += int64_t(blockDim.x) * V) {
    float sum[V];
    loadColumns<DType::f32, V>(partials, (2 * piece + kGoesOn) * dim + c, sum);
#pragma unroll 4
    for (int p = 1; p <= more; p++) {
      float v[V];
      loadColumns<DType::f32, V>(partials, (2 * (piece + p) + kFromBefore) * dim + c, v);
#pragma unroll
      for (int e = 0; e < V; e++) sum[e] = math::add(sum[e], v[e]);
    }
    addColumns<V>(dtable, int64_t(token) * dim + c, sum);
  }
}

/// A block a position: its rows are those of the batch.
template <DType D, int V>
__global__ void __launch_bounds__(kThreads, 3) positionGradientKernel(Ptr<float> dpositions, Keys keys, Ptr<const Code<D>> dy, int64_t dim, int64_t batch, int64_t position) {
  beginKernel();
  const int64_t t = blockIdx.x;
  for (int64_t c = int64_t(threadIdx.x) * V; c < dim; c += int64_t(blockDim.x) * V) {
    float sum[V] = {};
#pragma unroll 4
    for (int64_t b = 0; b < batch; b++) {
      const int64_t r = t * batch + b;
      float v[V];
      loadColumns<D, V>(dy, r * dim + c, v);
      const bool mine = keys.of(r) < keys.vocab;
#pragma unroll
      for (int e = 0; e < V; e++)
        if (mine) sum[e] = math::add(sum[e], v[e]);
    }
    addColumns<V>(dpositions, (position + t) * dim + c, sum);
  }
}

}  // namespace

void embedding_backward(const Tensor& dtable, const Tensor& dpositions, const Tensor& tokens, const Tensor& dy, int64_t rows, int64_t dim, int64_t vocab, int64_t vocab_start, int64_t batch, int64_t position, int64_t max_seq) {
  constexpr const char* name = "embedding_backward";
  checkMultiple("rows", rows, "batch", batch);
  if (dpositions) checkPositions(position, rows / batch, max_seq);
  if (rows == 0 || dim == 0) return;
  if (rows > INT32_MAX || vocab >= INT32_MAX) throw std::runtime_error("rows " + std::to_string(rows) + ", vocabulary " + std::to_string(vocab) + "; expected both below 2^31");

  const Keys keys{ptr<const int32_t>(tokens, "tokens"), vocab, vocab_start};
  const int64_t tiles = (rows + kSortTile - 1) / kSortTile, pieces = (rows + kPiece - 1) / kPiece;
  const Scratch orders[2] = {Scratch(size_t(rows) * sizeof(int32_t)), Scratch(size_t(rows) * sizeof(int32_t))};
  const Scratch counts(size_t(tiles * kDigits) * sizeof(unsigned)), partialSums(size_t(pieces * 2 * dim) * sizeof(float));
  const auto digitCounts = counts.as<unsigned>("digit counts");
  Ptr<const int32_t> order = nullptr;
  for (int shift = 0, turn = 0; shift == 0 || vocab >> shift > 0; shift += kDigitBits, turn ^= 1) {
    const auto sorted = orders[turn].as<int32_t>("rows by token");
    launch(name, digitCountKernel, dim3(unsigned(tiles)), dim3(kThreads), digitCounts, order, keys, rows, shift);
    launch(name, digitScatterKernel, dim3(unsigned(tiles)), dim3(kThreads), sorted, order, digitCounts, keys, rows, shift);
    order = sorted;
  }
  const auto partials = partialSums.as<float>("partial sums");
  withAct(dy.dtype, [&](auto d) {
    constexpr DType D = decltype(d)::value;
    withColumns<D>(isAligned(dy) && isAligned(dtable) && (!dpositions || isAligned(dpositions)), dim, [&](auto v) {
      constexpr int V = decltype(v)::value;
      const dim3 block(threadsFor(dim / V));
      const auto table = ptr<float>(dtable, "dtable");
      const auto gradient = ptr<const Code<D>>(dy, "dy");
      launch(name, pieceSumKernel<D, V>, dim3(unsigned(pieces)), block, table, partials, order, keys, gradient, rows, dim);
      launch(name, crossingTokenKernel<V>, dim3(unsigned(pieces)), block, table, partials, order, keys, rows, dim);
      if (!dpositions) return;
      launch(name, positionGradientKernel<D, V>, dim3(unsigned(rows / batch)), block, ptr<float>(dpositions, "dpositions"), keys, gradient, dim, batch, position);
    });
  });
}

}  // namespace fp8lm
