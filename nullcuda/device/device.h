// What the families of the null device share: one lock, the GPU that is played, what was counted, what was refused.
//
// A null device answers for CUDA's libraries and computes nothing. Memory is address space, work is counted, rules that
// CUDA documents are kept. Each family has a file of its own; nullcuda/README.md has the table of what each answers.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

// The libraries' own names, as loaders look for them.
#define API extern "C" __attribute__((visibility("default")))

namespace nullcuda {

using Lock = std::lock_guard<std::recursive_mutex>;
extern std::recursive_mutex mutex;

// The GPU that is played. Set once by nullcuda_become, before the first call that asks for it.
struct Gpu {
  std::string name = "NVIDIA H100 80GB HBM3 (null)";
  int capability = 90;                         // 10 x major + minor
  size_t memory = size_t{81559} << 20;         // bytes
  int multiprocessors = 132;
  int count = 8;
};
extern Gpu gpu;
extern thread_local int current;               // device of this thread

// Copies and fills up to here are done, so that flags, sums and shapes arrive; larger ones would only touch memory.
constexpr size_t DONE_UP_TO = size_t{1} << 20;

// What was asked for, by name. Reset by nullcuda_reset, read as JSON by nullcuda_report.
using Counts = std::map<std::string, int64_t>;
struct Record {
  Counts calls;         // of what costs the host or the device time, by function
  Counts waits;         // of the host for the device, by function
  Counts kernels;       // launches, by kernel
  Counts products;      // matrix products, by types and shape
  Counts flops;         // of matrix products and attention, by phase
  Counts collectives;   // "operation communicator": calls
  Counts bytes;         // the same: bytes
  Counts faults;        // rules of CUDA that a call broke
  Counts unanswered;    // functions that nothing here implements; they said success
};
extern Record record;
extern std::string phase;                      // under which FLOPs are counted, set by nullcuda_phase

void call(const char *name, int64_t times = 1);

// --- errors: the last one is kept until it is asked for, as CUDA does ------------------------------------------------
cudaError_t fail(cudaError_t error);
cudaError_t fault(cudaError_t error, const std::string &what);

// --- memory ----------------------------------------------------------------------------------------------------------
enum class Where { device, pinned, pageable };
Where where(const void *pointer);
// Takes physical memory of the current device; false if it has not so much left.
bool take(size_t bytes);
void give_back(int device, size_t bytes);

// --- streams ---------------------------------------------------------------------------------------------------------
// The host waits for a stream, if anything has been queued in it since somebody last did.
void wait_for_work(cudaStream_t stream, const char *name);
// The same, of all streams.
void wait_for_all(const char *name);

// --- captures --------------------------------------------------------------------------------------------------------
// One operation in a stream: something to wait for, and a node of the graph where the stream is captured. An error where that is not allowed.
cudaError_t enqueue(cudaStream_t stream, const char *what);
// A call that may not be made while a capture is under way, such as an allocation or a wait for the whole device.
cudaError_t outside_of_captures(const char *what);

// Floating-point operations that were just enqueued, of matrix products or of attention; in a capture, the graph's, which count
// whenever it is launched.
void operations(cudaStream_t stream, bool attention, int64_t flops);

}  // namespace nullcuda
