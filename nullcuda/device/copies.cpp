// Copies and fills. Small ones are done, so that what the host reads back is what it wrote.
#include "device.h"

#include <cstring>

namespace nullcuda {

static const char *name_of(Where from, Where to) {
  if (from == Where::device) return to == Where::device ? "device to device" : "device to host";
  return to == Where::device ? "host to device" : "host to host";
}

static cudaError_t copy(void *to, const void *from, size_t bytes, bool blocking, cudaStream_t stream) {
  Lock lock(mutex);
  Where source = where(from), target = where(to);
  bool on_device = source == Where::device && target == Where::device;
  bool pageable = !on_device && (source == Where::pageable || target == Where::pageable);
  std::string name = std::string("copy ") + name_of(source, target) + (pageable ? ", pageable" : "");
  if (blocking || pageable) {
    // Of pageable memory an asynchronous copy may wait, too (CUDA's table of API synchronisation behaviour).
    if (cudaError_t error = outside_of_captures(name.c_str())) return error;
    // To the device, it is read once what is queued before has run; from there, it is written before the call returns.
    if (source != Where::device) wait_for_work(stream, name.c_str());
  }
  if (cudaError_t error = enqueue(stream, name.c_str())) return error;
  call(name.c_str());
  if ((blocking || pageable) && source == Where::device && !on_device) wait_for_work(stream, name.c_str());
  if (bytes <= DONE_UP_TO) memmove(to, from, bytes);
  return cudaSuccess;
}

static cudaError_t fill(void *start, int value, size_t bytes, cudaStream_t stream) {
  if (cudaError_t error = enqueue(stream, "memset")) return error;
  call("memset");
  if (bytes <= DONE_UP_TO) memset(start, value, bytes);
  return cudaSuccess;
}

}  // namespace nullcuda

using namespace nullcuda;

API cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind) {
  return copy(to, from, bytes, true, nullptr);
}
API cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return copy(to, from, bytes, false, stream);
}
API cudaError_t cudaMemcpyPeerAsync(void *to, int, const void *from, int, size_t bytes, cudaStream_t stream) {
  return copy(to, from, bytes, false, stream);
}
API cudaError_t cudaMemset(void *start, int value, size_t bytes) { return fill(start, value, bytes, nullptr); }
API cudaError_t cudaMemsetAsync(void *start, int value, size_t bytes, cudaStream_t stream) {
  return fill(start, value, bytes, stream);
}
