// Streams, events, captures and graphs, by the rules of the CUDA programming guide on stream capture.
//
// What a capture depends on is kept as a vector clock: of each stream, how many of its operations are behind this one.
// A capture may end when its first stream is behind every operation of every stream that joined it.
#include "device.h"

#include <chrono>
#include <thread>

namespace nullcuda {

struct Graph {
  int64_t nodes = 0;
  int64_t products = 0, attention = 0;  // floating-point operations
};

using Clock = std::map<cudaStream_t, int64_t>;

struct Capture {
  cudaStream_t origin;
  cudaStreamCaptureMode mode;
  std::thread::id thread;
  bool valid = true;
  Graph *graph;
  std::map<cudaStream_t, Clock> behind;  // of each stream in it
};

struct Stream {
  unsigned flags = 0;
  int priority = 0;
  int64_t capture = 0;  // 0: none
  bool busy = false;    // something has been queued since the host last waited for it
};

struct Event {
  unsigned flags = 0;
  bool recorded = false;
  std::chrono::steady_clock::time_point at;
  cudaStream_t stream = nullptr;
  int64_t capture = 0;  // in which it was last recorded
  Clock behind;
};

static std::map<cudaStream_t, Stream> streams;
static std::map<int64_t, Capture> captures;
static int64_t next_capture = 1;
static thread_local cudaStreamCaptureMode mode_of_thread = cudaStreamCaptureModeGlobal;

// The legacy stream and the two names that it and the thread's own one have.
static cudaStream_t own(cudaStream_t stream) {
  return stream == cudaStreamLegacy || stream == cudaStreamPerThread ? nullptr : stream;
}

static Capture *capture_of(cudaStream_t stream) {
  auto it = streams.find(own(stream));
  if (it == streams.end() || it->second.capture == 0) return nullptr;
  return &captures.at(it->second.capture);
}

void wait_for_work(cudaStream_t stream, const char *name) {
  Lock lock(mutex);
  bool &busy = streams[own(stream)].busy;
  if (busy) record.waits[name]++;
  busy = false;
}

void wait_for_all(const char *name) {
  Lock lock(mutex);
  bool busy = false;
  for (auto &entry : streams) {
    busy |= entry.second.busy;
    entry.second.busy = false;
  }
  if (busy) record.waits[name]++;
}

// What breaks a capture ends it: all that follows in it fails, and so does its end.
static cudaError_t invalidate(Capture &capture, cudaError_t error, const std::string &what) {
  capture.valid = false;
  return fault(error, what);
}

// Whether a capture forbids calls that might be unsafe, made by this thread.
static Capture *strict() {
  if (mode_of_thread == cudaStreamCaptureModeRelaxed) return nullptr;
  for (auto &entry : captures) {
    Capture &capture = entry.second;
    bool here = capture.thread == std::this_thread::get_id();
    if (capture.mode == cudaStreamCaptureModeGlobal && mode_of_thread == cudaStreamCaptureModeGlobal) return &capture;
    if (capture.mode != cudaStreamCaptureModeRelaxed && here) return &capture;
  }
  return nullptr;
}

cudaError_t outside_of_captures(const char *what) {
  Capture *capture = strict();
  return capture ? invalidate(*capture, cudaErrorStreamCaptureUnsupported, std::string(what) + " during a capture")
                 : cudaSuccess;
}

cudaError_t enqueue(cudaStream_t stream, const char *what) {
  Lock lock(mutex);
  stream = own(stream);
  streams[stream].busy = true;
  if (!stream) {
    // Work in the legacy stream waits for every stream that is not made non-blocking.
    for (auto &entry : captures) {
      for (auto &member : entry.second.behind) {
        if (streams[member.first].flags & cudaStreamNonBlocking) continue;
        return invalidate(entry.second, cudaErrorStreamCaptureImplicit, std::string(what) + " in the legacy stream");
      }
    }
    return cudaSuccess;
  }
  Capture *capture = capture_of(stream);
  if (!capture) return cudaSuccess;
  if (!capture->valid) return fail(cudaErrorStreamCaptureInvalidated);
  capture->graph->nodes++;
  capture->behind[stream][stream]++;
  return cudaSuccess;
}

void operations(cudaStream_t stream, bool attention, int64_t flops) {
  Lock lock(mutex);
  Capture *capture = capture_of(stream);
  if (capture) {
    (attention ? capture->graph->attention : capture->graph->products) += flops;
  } else {
    record.flops[attention ? "attention" : phase] += flops;
  }
}

static cudaError_t create(cudaStream_t *stream, unsigned flags, int priority) {
  Lock lock(mutex);
  call("cudaStreamCreate");
  *stream = reinterpret_cast<cudaStream_t>(new char[16]);
  streams[*stream] = {flags, priority, 0, false};
  return cudaSuccess;
}

static cudaError_t wait_for(cudaStream_t stream, const char *name) {
  Lock lock(mutex);
  if (Capture *capture = capture_of(stream)) {
    return invalidate(*capture, cudaErrorStreamCaptureUnsupported, std::string(name) + " of a captured stream");
  }
  wait_for_work(stream, name);
  return cudaSuccess;
}

static cudaError_t ask(cudaEvent_t handle, const char *name) {
  Lock lock(mutex);
  auto *event = reinterpret_cast<Event *>(handle);
  auto it = captures.find(event->capture);
  if (it == captures.end()) return outside_of_captures(name);
  return invalidate(it->second, cudaErrorCapturedEvent, std::string(name) + " of a captured event");
}

static cudaError_t end(cudaStream_t stream, cudaGraph_t *graph) {
  *graph = nullptr;
  Capture *capture = capture_of(stream);
  if (!capture) return fault(cudaErrorIllegalState, "end of a capture that was not begun");
  if (capture->origin != stream) return invalidate(*capture, cudaErrorStreamCaptureUnmatched, "end in another stream");
  if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id()) {
    return fault(cudaErrorStreamCaptureWrongThread, "end of a capture in another thread");
  }
  cudaError_t error = capture->valid ? cudaSuccess : fail(cudaErrorStreamCaptureInvalidated);
  const Clock &last = capture->behind[stream];
  for (auto &member : capture->behind) {
    streams[member.first].capture = 0;
    auto behind = last.find(member.first);
    int64_t joined = behind == last.end() ? 0 : behind->second;
    if (!error && member.second[member.first] > joined) {
      error = fault(cudaErrorStreamCaptureUnjoined, "end of a capture that a stream has not joined again");
    }
  }
  if (error) {
    delete capture->graph;
  } else {
    *graph = reinterpret_cast<cudaGraph_t>(capture->graph);
  }
  for (auto it = captures.begin(); it != captures.end(); ++it) {
    if (&it->second == capture) {
      captures.erase(it);
      break;
    }
  }
  return error;
}

}  // namespace nullcuda

using namespace nullcuda;

API cudaError_t cudaStreamCreate(cudaStream_t *stream) { return create(stream, 0, 0); }
API cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) { return create(stream, flags, 0); }
API cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
  return create(stream, flags, priority);
}

API cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Lock lock(mutex);
  if (!streams.erase(stream)) return fail(cudaErrorInvalidResourceHandle);
  delete[] reinterpret_cast<char *>(stream);
  return cudaSuccess;
}

API cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) {
  Lock lock(mutex);
  *priority = streams[own(stream)].priority;
  return cudaSuccess;
}

API cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned *flags) {
  Lock lock(mutex);
  *flags = streams[own(stream)].flags;
  return cudaSuccess;
}

API cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

// Work ends as soon as it is queued.
API cudaError_t cudaStreamQuery(cudaStream_t stream) {
  Lock lock(mutex);
  Capture *capture = capture_of(stream);
  if (capture) return invalidate(*capture, cudaErrorStreamCaptureUnsupported, "cudaStreamQuery of a captured stream");
  return cudaSuccess;
}

API cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return wait_for(stream, "cudaStreamSynchronize"); }

API cudaError_t cudaDeviceSynchronize() {
  Lock lock(mutex);
  if (cudaError_t error = outside_of_captures("cudaDeviceSynchronize")) return error;
  wait_for_all("cudaDeviceSynchronize");
  return cudaSuccess;
}

API cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
  if (cudaError_t error = enqueue(stream, "cudaLaunchHostFunc")) return error;
  Lock lock(mutex);
  if (!capture_of(stream)) function(data);
  return cudaSuccess;
}

API cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t function, void *data, unsigned) {
  Lock lock(mutex);
  if (Capture *capture = capture_of(stream)) {
    return invalidate(*capture, cudaErrorStreamCaptureUnsupported, "cudaStreamAddCallback to a captured stream");
  }
  function(stream, cudaSuccess, data);
  return cudaSuccess;
}

// --- events ----------------------------------------------------------------------------------------------------------
API cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
  auto *made = new Event;
  made->flags = flags;
  *event = reinterpret_cast<cudaEvent_t>(made);
  return cudaSuccess;
}
API cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }

API cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<Event *>(event);
  return cudaSuccess;
}

API cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream) {
  Lock lock(mutex);
  auto *event = reinterpret_cast<Event *>(handle);
  Capture *capture = capture_of(stream);
  if (capture && !capture->valid) return fail(cudaErrorStreamCaptureInvalidated);
  event->at = std::chrono::steady_clock::now();
  event->recorded = true;
  event->stream = own(stream);
  event->capture = capture ? streams[own(stream)].capture : 0;
  event->behind = capture ? capture->behind[own(stream)] : Clock{};
  call("cudaEventRecord");
  return cudaSuccess;
}
API cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return cudaEventRecord(event, stream);
}

API cudaError_t cudaEventQuery(cudaEvent_t event) { return ask(event, "cudaEventQuery"); }

API cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (cudaError_t error = ask(event, "cudaEventSynchronize")) return error;
  Lock lock(mutex);
  auto *waited = reinterpret_cast<Event *>(event);
  if (waited->recorded) wait_for_work(waited->stream, "cudaEventSynchronize");
  return cudaSuccess;
}

// Host time: how long the work would have taken is not known.
API cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t first, cudaEvent_t second) {
  auto *a = reinterpret_cast<Event *>(first), *b = reinterpret_cast<Event *>(second);
  if (!a->recorded || !b->recorded) return fail(cudaErrorInvalidResourceHandle);
  if ((a->flags | b->flags) & cudaEventDisableTiming) return fail(cudaErrorInvalidResourceHandle);
  *milliseconds = std::chrono::duration<float, std::milli>(b->at - a->at).count();
  return cudaSuccess;
}

API cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t handle, unsigned) {
  Lock lock(mutex);
  auto *event = reinterpret_cast<Event *>(handle);
  stream = own(stream);
  auto it = captures.find(event->capture);
  Capture *theirs = it == captures.end() ? nullptr : &it->second, *ours = capture_of(stream);
  call("cudaStreamWaitEvent");
  streams[stream].busy |= event->recorded;
  if (!theirs) {
    // An event that nobody has recorded is no dependency.
    if (!ours || !event->recorded) return cudaSuccess;
    return invalidate(*ours, cudaErrorStreamCaptureIsolation, "wait in a capture for an event of before it");
  }
  if (ours && ours != theirs) {
    theirs->valid = false;
    return invalidate(*ours, cudaErrorStreamCaptureMerge, "wait in a capture for an event of another one");
  }
  if (!theirs->valid) return fail(cudaErrorStreamCaptureInvalidated);
  if (!stream) return invalidate(*theirs, cudaErrorStreamCaptureImplicit, "the legacy stream in a capture");
  streams[stream].capture = it->first;
  Clock &mine = theirs->behind[stream];
  for (auto &entry : event->behind) {
    int64_t &known = mine[entry.first];
    if (entry.second > known) known = entry.second;
  }
  return cudaSuccess;
}

// --- captures and graphs ---------------------------------------------------------------------------------------------
API cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  Lock lock(mutex);
  stream = own(stream);
  if (!stream) return fault(cudaErrorStreamCaptureUnsupported, "capture of the legacy stream");
  if (capture_of(stream)) return fault(cudaErrorIllegalState, "capture of a stream that is captured");
  int64_t id = next_capture++;
  captures[id] = {stream, mode, std::this_thread::get_id(), true, new Graph, {{stream, {}}}};
  streams[stream].capture = id;
  call("captures");
  return cudaSuccess;
}

API cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
  Lock lock(mutex);
  return end(own(stream), graph);
}

API cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status) {
  Lock lock(mutex);
  Capture *capture = capture_of(stream);
  *status = !capture ? cudaStreamCaptureStatusNone
                     : capture->valid ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusInvalidated;
  return cudaSuccess;
}

API cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus *status, unsigned long long *id,
                                         cudaGraph_t *graph, const cudaGraphNode_t **nodes,
                                         const cudaGraphEdgeData **edges, size_t *count) {
  Lock lock(mutex);
  cudaStreamIsCapturing(stream, status);
  Capture *capture = capture_of(stream);
  if (id) *id = capture ? streams[own(stream)].capture : 0;
  if (graph) *graph = capture ? reinterpret_cast<cudaGraph_t>(capture->graph) : nullptr;
  if (nodes) *nodes = nullptr;
  if (edges) *edges = nullptr;
  if (count) *count = 0;
  return cudaSuccess;
}

API cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *mode) {
  std::swap(*mode, mode_of_thread);
  return cudaSuccess;
}

API cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long) {
  if (!graph) return fail(cudaErrorInvalidValue);
  *executable = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph *>(graph)));
  return cudaSuccess;
}

API cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  Lock lock(mutex);
  if (cudaError_t error = enqueue(stream, "cudaGraphLaunch")) return error;
  const auto *graph = reinterpret_cast<Graph *>(executable);
  call("cudaGraphLaunch");
  call("operations in graphs", graph->nodes);
  operations(stream, false, graph->products);
  operations(stream, true, graph->attention);
  return cudaSuccess;
}

API cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *, size_t *count) {
  *count = reinterpret_cast<Graph *>(graph)->nodes;
  return cudaSuccess;
}

API cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Graph *>(graph);
  return cudaSuccess;
}

API cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete reinterpret_cast<Graph *>(executable);
  return cudaSuccess;
}
