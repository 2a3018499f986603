// What fp8-dist calls of the lane (comm_lane.h). A lane is a number, valid in every thread of the process. Part of addon.cc.
#pragma once
#include "addon.h"
#include "comm_lane.h"

namespace fp8lm::glue {

constexpr int kMaxLanes = 64;

struct Lanes {
  std::mutex mutex;
  std::atomic<lane::Lane*> list[kMaxLanes] = {};
};

/// Never destroyed: helper threads may be at work while the process ends.
inline Lanes& lanes() {
  static Lanes* all = new Lanes;
  return *all;
}

inline lane::Lane* laneOf(Call& call) {
  const int64_t id = call.integer(0, "lane");
  lane::Lane* found = call.failed() || id >= kMaxLanes ? nullptr : lanes().list[id].load();
  if (!found) call.fail("no such lane");
  return found;
}

inline lane::Lane* laneOf(Call& call, int* channel) {
  lane::Lane* found = laneOf(call);
  const int64_t id = call.integer(1, "channel");
  if (found && !call.failed() && size_t(id) >= found->numChannels()) call.fail("no such channel");
  *channel = int(id);
  return call.failed() ? nullptr : found;
}

inline bool integersOf(Call& call, napi_env env, napi_value value, std::vector<int>* out) {
  uint32_t count = 0;
  if (napi_get_array_length(env, value, &count) != napi_ok || count > 65536) return call.fail("needs an array of numbers"), false;
  for (uint32_t i = 0; i < count; i++) {
    napi_value item;
    int32_t number;
    if (napi_get_element(env, value, i, &item) != napi_ok || napi_get_value_int32(env, item, &number) != napi_ok) return call.fail("needs an array of numbers"), false;
    out->push_back(number);
  }
  return true;
}

/// laneCreate(rank, spinNs): {lane, fd}
static napi_value laneCreate(napi_env env, napi_callback_info info) {
  Call call(env, info, "laneCreate", 2);
  const int64_t rank = call.integer(0, "rank"), spin = call.integer(1, "spinNs");
  if (call.failed()) return nullptr;
  std::lock_guard<std::mutex> lock(lanes().mutex);
  int id = 0;
  while (id < kMaxLanes && lanes().list[id].load()) id++;
  if (id == kMaxLanes) return call.fail("too many lanes"), nullptr;
  lane::Lane* made = nullptr;
  call.run([&] { made = new lane::Lane(int(rank), int(spin)); });
  if (!made) return nullptr;
  lanes().list[id].store(made);
  return Object(env).set("lane", id).set("fd", made->fd()).value();
}

/// laneConnect(lane, rank, pid, fd)
static napi_value laneConnect(napi_env env, napi_callback_info info) {
  Call call(env, info, "laneConnect", 4);
  lane::Lane* l = laneOf(call);
  const int64_t rank = call.integer(1, "rank"), pid = call.integer(2, "pid"), fd = call.integer(3, "fd");
  if (!call.failed() && rank > 65535) call.fail("rank out of range");
  if (!call.failed()) call.run([&] { l->connect(int(rank), pid, int(fd)); });
  return nullptr;
}

/// laneJoin(lane, ranks[], places[], chunkBytes, eagerBytes): channel. `places`: by member, which of its channels it uses.
static napi_value laneJoin(napi_env env, napi_callback_info info) {
  Call call(env, info, "laneJoin", 5);
  lane::Lane* l = laneOf(call);
  std::vector<int> ranks, places;
  if (!l || !integersOf(call, env, call.arg(1), &ranks) || !integersOf(call, env, call.arg(2), &places)) return nullptr;
  const int64_t chunk = call.integer(3, "chunkBytes"), eager = call.integer(4, "eagerBytes");
  if (call.failed()) return nullptr;
  bool sound = ranks.size() == places.size() && ranks.size() >= 2 && ranks.size() <= size_t(lane::kMaxMembers) && chunk >= 64;
  bool member = false;
  for (size_t i = 0; sound && i < ranks.size(); i++) {
    sound = places[i] >= 0 && places[i] < lane::kMaxChannels && ranks[i] >= 0;
    member = member || ranks[i] == l->rank();
  }
  if (!sound || !member) return call.fail("ranks, places or chunkBytes out of range"), nullptr;
  int channel = -1;
  call.run([&] { channel = l->join(ranks, places, chunk, eager); });
  return call.failed() ? nullptr : makeNumber(env, channel);
}

/// laneWatch(lane, words): an Int32Array in shared memory whose first word tells that communication has failed.
static napi_value laneWatch(napi_env env, napi_callback_info info) {
  Call call(env, info, "laneWatch", 2);
  lane::Lane* l = laneOf(call);
  void* data = nullptr;
  size_t length = 0;
  if (!call.failed() && (!bytesOfArray(env, call.arg(1), &data, &length) || length < 4)) call.fail("needs an Int32Array");
  if (!call.failed()) l->watch(static_cast<const int32_t*>(data));
  return nullptr;
}

/// Adds tensors (handles) and typed arrays to a layout.
inline bool addAll(Call& call, napi_env env, napi_value list, DType dtype, lane::Layout* layout) {
  uint32_t count = 0;
  if (napi_get_array_length(env, list, &count) != napi_ok || count > uint32_t(lane::kMaxScales)) return call.fail("needs an array of at most 4096 tensors"), false;
  for (uint32_t i = 0; i < count; i++) {
    napi_value item;
    napi_valuetype type;
    if (napi_get_element(env, list, i, &item) != napi_ok || napi_typeof(env, item, &type) != napi_ok) return call.fail("bad tensor"), false;
    if (type == napi_number) {
      double handle = -1;
      napi_get_value_double(env, item, &handle);
      const Entry* e = table.find(int64_t(handle));
      if (!e) return call.fail("tensor " + std::to_string(i) + " was freed"), false;
      if (e->tensor.dtype != dtype) return call.fail("tensor " + std::to_string(i) + " has another dtype"), false;
      layout->add(e->tensor.data, e->tensor.size);
      continue;
    }
    void* data = nullptr;
    size_t length = 0;
    if (!bytesOfArray(env, item, &data, &length)) return call.fail("tensor " + std::to_string(i) + " is no tensor and no typed array"), false;
    if (length % size_t(layout->width)) return call.fail("tensor " + std::to_string(i) + " is no whole number of elements"), false;
    layout->add(data, int64_t(length) / layout->width);
  }
  return true;
}

/// lanePost(lane, channel, [seq, code, dtype, reduce, flags, root, shape], inputs, outputs | null, bounds, scales | null).
/// The memory of inputs, outputs and scales must stay until the operation is done or the lane is cancelled.
static napi_value lanePost(napi_env env, napi_callback_info info) {
  Call call(env, info, "lanePost", 7);
  int channel = 0;
  lane::Lane* l = laneOf(call, &channel);
  if (!l) return nullptr;
  void *numbers = nullptr, *bounds = nullptr, *scales = nullptr;
  size_t numberBytes = 0, boundBytes = 0, scaleBytes = 0;
  if (!bytesOfArray(env, call.arg(2), &numbers, &numberBytes) || numberBytes != 56 || !bytesOfArray(env, call.arg(5), &bounds, &boundBytes) || boundBytes % 8) {
    return call.fail("numbers or bounds are no Float64Array"), nullptr;
  }
  const double* p = static_cast<const double*>(numbers);
  const int limits[] = {0, 7, 7, 2, 7};
  for (int i = 1; i < 5; i++)
    if (!(p[i] >= 0 && p[i] <= limits[i])) return call.fail("a code is out of range"), nullptr;
  if (!(p[0] >= 1 && p[0] < 9e15 && p[5] >= 0 && p[5] < 65536 && p[6] >= 0 && p[6] < 4294967296.0)) return call.fail("a number is out of range"), nullptr;
  auto op = std::make_unique<lane::Op>();
  op->seq = uint64_t(p[0]);
  op->code = lane::Code(int(p[1]));
  op->dtype = DType(int(p[2]));
  op->reduce = int(p[3]);
  op->mean = int(p[4]) & 1;
  op->steps = int(p[4]) & 2;
  op->keep = int(p[4]) & 4;
  op->root = uint32_t(p[5]);
  op->shape = uint32_t(p[6]);
  op->in.width = op->out.width = bytesOf(op->dtype);
  if (!addAll(call, env, call.arg(3), op->dtype, &op->in)) return nullptr;
  napi_valuetype type;
  napi_typeof(env, call.arg(4), &type);
  op->outGiven = type == napi_object;
  if (op->outGiven && !addAll(call, env, call.arg(4), op->dtype, &op->out)) return nullptr;
  if (!op->outGiven) op->out = op->in;
  const double* b = static_cast<const double*>(bounds);
  for (size_t i = 0; i < boundBytes / 8; i++) {
    if (!(b[i] >= 0 && b[i] < 9e15)) return call.fail("a bound is out of range"), nullptr;
    op->bounds.push_back(int64_t(b[i]));
  }
  napi_typeof(env, call.arg(6), &type);
  if (type == napi_object) {
    if (!bytesOfArray(env, call.arg(6), &scales, &scaleBytes) || scaleBytes % 4) return call.fail("scales are no Float32Array"), nullptr;
    op->finalScales = static_cast<float*>(scales);
    op->scales.assign(op->finalScales, op->finalScales + scaleBytes / 4);
  }
  lane::Channel& c = l->channel(channel);
  const std::string fault = op->fault(c.size, c.me);
  if (!fault.empty()) return call.fail(fault), nullptr;
  op->seal(c.size, c.eagerBytes);
  call.run([&] { l->post(channel, std::move(op)); });
  return nullptr;
}

/// laneWait(lane, channel, seq, ms): 0 done, 1 not yet, 2 communication has failed, 3 trouble with a member (laneTrouble).
static napi_value laneWait(napi_env env, napi_callback_info info) {
  Call call(env, info, "laneWait", 4);
  int channel = 0;
  lane::Lane* l = laneOf(call, &channel);
  const int64_t seq = call.integer(2, "seq");
  const double ms = call.number(3, "ms");
  if (call.failed() || !(ms >= 0 && ms < 1e6)) return call.fail("ms out of range"), nullptr;
  lane::Lane::Outcome outcome = lane::Lane::Outcome::failed;
  call.run([&] { outcome = l->wait(channel, uint64_t(seq), int64_t(ms * 1e6)); });
  return makeNumber(env, int(outcome));
}

/// laneDone(lane, channel, seq): true once laneWait would not sleep.
static napi_value laneDone(napi_env env, napi_callback_info info) {
  Call call(env, info, "laneDone", 3);
  int channel = 0;
  lane::Lane* l = laneOf(call, &channel);
  const int64_t seq = call.integer(2, "seq");
  if (call.failed()) return nullptr;
  napi_value out;
  napi_get_boolean(env, l->isDone(channel, uint64_t(seq)), &out);
  return out;
}

/// laneAbsent(lane, channel, seq): members that have not announced the operation.
static napi_value laneAbsent(napi_env env, napi_callback_info info) {
  Call call(env, info, "laneAbsent", 3);
  int channel = 0;
  lane::Lane* l = laneOf(call, &channel);
  const int64_t seq = call.integer(2, "seq");
  if (call.failed()) return nullptr;
  const std::vector<int> list = l->absent(channel, uint64_t(seq));
  return makeList(env, {list.begin(), list.end()});
}

/// laneTrouble(lane, channel): {member, text, head}: head is what the member called, as a descriptor, or null.
static napi_value laneTrouble(napi_env env, napi_callback_info info) {
  Call call(env, info, "laneTrouble", 2);
  int channel = 0;
  lane::Lane* l = laneOf(call, &channel);
  if (!l) return nullptr;
  const lane::Trouble& t = l->channel(channel).trouble;
  napi_value head;
  if (t.mismatch) napi_create_buffer_copy(env, lane::kHeadBytes, t.head, nullptr, &head);
  else napi_get_null(env, &head);
  return Object(env).set("member", t.member).set("text", t.text).set("head", head).value();
}

/// laneCancel(lane): forgets all operations; their memory is touched no more.
static napi_value laneCancel(napi_env env, napi_callback_info info) {
  Call call(env, info, "laneCancel", 1);
  lane::Lane* l = laneOf(call);
  if (l) l->cancel();
  return nullptr;
}

/// laneClose(lane): ends its helper and unmaps everything.
static napi_value laneClose(napi_env env, napi_callback_info info) {
  Call call(env, info, "laneClose", 1);
  lane::Lane* l = laneOf(call);
  if (!l) return nullptr;
  l->cancel();
  lanes().list[call.integer(0, "lane")].store(nullptr);
  delete l;
  return nullptr;
}

/// laneTraffic(lane): [sent, received] bytes.
static napi_value laneTraffic(napi_env env, napi_callback_info info) {
  Call call(env, info, "laneTraffic", 1);
  lane::Lane* l = laneOf(call);
  if (!l) return nullptr;
  return makeList(env, {double(l->sent.load()), double(l->received.load())});
}

inline void defineLane(napi_env env, napi_value exports) {
  define(env, exports, "laneCreate", laneCreate);
  define(env, exports, "laneConnect", laneConnect);
  define(env, exports, "laneJoin", laneJoin);
  define(env, exports, "laneWatch", laneWatch);
  define(env, exports, "lanePost", lanePost);
  define(env, exports, "laneWait", laneWait);
  define(env, exports, "laneDone", laneDone);
  define(env, exports, "laneAbsent", laneAbsent);
  define(env, exports, "laneTrouble", laneTrouble);
  define(env, exports, "laneCancel", laneCancel);
  define(env, exports, "laneClose", laneClose);
  define(env, exports, "laneTraffic", laneTraffic);
}

}  // namespace fp8lm::glue
