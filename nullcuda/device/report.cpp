// What a driver asks of the null device itself.
#include "device.h"

namespace nullcuda {

std::recursive_mutex mutex;
Gpu gpu;
thread_local int current = 0;
Record record;
std::string phase = "step";

size_t used_now();
size_t used_at_most();

void call(const char *name, int64_t times) {
  Lock lock(mutex);
  record.calls[name] += times;
}

static std::string quoted(const std::string &text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 32 ? ' ' : c;
  }
  return out + "\"";
}

static std::string object(const char *name, const Counts &counts) {
  std::string out = quoted(name) + ":{";
  const char *comma = "";
  for (auto &entry : counts) {
    out += comma + quoted(entry.first) + ":" + std::to_string(entry.second);
    comma = ",";
  }
  return out + "},";
}

}  // namespace nullcuda

using namespace nullcuda;

// The GPU to be, before anything has asked for it.
API void nullcuda_become(const char *name, int capability, size_t memory, int multiprocessors, int count) {
  Lock lock(mutex);
  gpu = {name, capability, memory, multiprocessors, count};
}

API void nullcuda_phase(const char *name) {
  Lock lock(mutex);
  phase = name;
}

API void nullcuda_reset() {
  Lock lock(mutex);
  record = {};
}

// All that was counted since the last reset, as JSON; valid until the next call.
API const char *nullcuda_report() {
  Lock lock(mutex);
  static std::string text;
  text = "{" + object("calls", record.calls) + object("waits", record.waits) + object("kernels", record.kernels) +
         object("products", record.products) + object("flops", record.flops) +
         object("collectives", record.collectives) + object("bytes", record.bytes) + object("faults", record.faults) +
         object("unanswered", record.unanswered) + "\"used\":" + std::to_string(used_now()) +
         ",\"peak\":" + std::to_string(used_at_most()) + "}";
  return text.c_str();
}

// Called by every function that build.sh has to invent, since somebody imports its name.
API int nullcuda_unanswered(const char *name) {
  Lock lock(mutex);
  record.unanswered[name]++;
  return 0;
}
