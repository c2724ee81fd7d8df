// NCCL: every other rank holds what this one holds. Bytes are counted as the operation's whole buffer, on this rank.
#include "device.h"

#include <nccl.h>

#include <cstring>

namespace nullcuda {

struct Communicator {
  int size, rank;
  std::string name;
};

static size_t width(ncclDataType_t type) {
  switch (type) {
    case ncclInt8:
    case ncclUint8:
    case ncclFloat8e4m3:
    case ncclFloat8e5m2: return 1;
    case ncclFloat16:
    case ncclBfloat16: return 2;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64: return 8;
    default: return 4;
  }
}

static Communicator &behind(ncclComm_t communicator) { return *reinterpret_cast<Communicator *>(communicator); }

static ncclResult_t operation(const char *name, ncclComm_t communicator, size_t bytes, cudaStream_t stream) {
  if (enqueue(stream, name)) return ncclUnhandledCudaError;
  Lock lock(mutex);
  std::string key = std::string(name) + " " + behind(communicator).name;
  record.collectives[key]++;
  record.bytes[key] += static_cast<int64_t>(bytes);
  return ncclSuccess;
}

static void copy(void *to, const void *from, size_t bytes) {
  if (to != from && bytes <= DONE_UP_TO) memmove(to, from, bytes);
}

// An identifier is a number in text; whoever reads the report knows which group was told it.
static ncclResult_t join(ncclComm_t *communicator, int size, const ncclUniqueId &id, int rank) {
  Lock lock(mutex);
  call("ncclCommInitRank");
  std::string name(id.internal, strnlen(id.internal, sizeof id.internal));
  *communicator = reinterpret_cast<ncclComm_t>(new Communicator{size, rank, name});
  return ncclSuccess;
}

}  // namespace nullcuda

using namespace nullcuda;

API ncclResult_t ncclGetVersion(int *version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}
API ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  Lock lock(mutex);
  static int made = 0;
  *id = {};
  std::string name = "mine " + std::to_string(made++);
  memcpy(id->internal, name.data(), name.size());
  return ncclSuccess;
}
API ncclResult_t ncclCommInitRank(ncclComm_t *communicator, int size, ncclUniqueId id, int rank) {
  return join(communicator, size, id, rank);
}
API ncclResult_t ncclCommInitRankConfig(ncclComm_t *communicator, int size, ncclUniqueId id, int rank, ncclConfig_t *) {
  return join(communicator, size, id, rank);
}
API ncclResult_t ncclCommInitRankScalable(ncclComm_t *communicator, int size, int rank, int, ncclUniqueId *ids,
                                          ncclConfig_t *) {
  return join(communicator, size, ids[0], rank);
}
API ncclResult_t ncclCommDestroy(ncclComm_t communicator) {
  delete &behind(communicator);
  return ncclSuccess;
}
API ncclResult_t ncclCommAbort(ncclComm_t communicator) { return ncclCommDestroy(communicator); }
API ncclResult_t ncclCommCount(ncclComm_t communicator, int *size) {
  *size = behind(communicator).size;
  return ncclSuccess;
}
API ncclResult_t ncclCommUserRank(ncclComm_t communicator, int *rank) {
  *rank = behind(communicator).rank;
  return ncclSuccess;
}
API ncclResult_t ncclCommGetAsyncError(ncclComm_t, ncclResult_t *error) {
  *error = ncclSuccess;
  return ncclSuccess;
}
API const char *ncclGetErrorString(ncclResult_t error) {
  return error == ncclSuccess ? "no error" : "the null device refused it";
}
API const char *ncclGetLastError(ncclComm_t) { return "the null device refused it"; }

API ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t,
                               ncclComm_t communicator, cudaStream_t stream) {
  copy(to, from, count * width(type));
  return operation("all-reduce", communicator, count * width(type), stream);
}
API ncclResult_t ncclReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t, int,
                            ncclComm_t communicator, cudaStream_t stream) {
  copy(to, from, count * width(type));
  return operation("reduce", communicator, count * width(type), stream);
}
API ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int,
                               ncclComm_t communicator, cudaStream_t stream) {
  copy(to, from, count * width(type));
  return operation("broadcast", communicator, count * width(type), stream);
}
API ncclResult_t ncclBcast(void *, size_t count, ncclDataType_t type, int, ncclComm_t communicator, cudaStream_t stream) {
  return operation("broadcast", communicator, count * width(type), stream);
}
API ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type, ncclComm_t communicator,
                               cudaStream_t stream) {
  size_t bytes = count * width(type), ranks = behind(communicator).size;
  for (size_t rank = 0; rank < ranks && bytes * ranks <= DONE_UP_TO; rank++) {
    copy(static_cast<char *>(to) + rank * bytes, from, bytes);
  }
  return operation("all-gather", communicator, bytes * ranks, stream);
}
API ncclResult_t ncclReduceScatter(const void *, void *, size_t count, ncclDataType_t type, ncclRedOp_t,
                                   ncclComm_t communicator, cudaStream_t stream) {
  return operation("reduce-scatter", communicator, count * width(type) * behind(communicator).size, stream);
}
API ncclResult_t ncclSend(const void *, size_t count, ncclDataType_t type, int, ncclComm_t communicator,
                          cudaStream_t stream) {
  return operation("send", communicator, count * width(type), stream);
}
API ncclResult_t ncclRecv(void *, size_t count, ncclDataType_t type, int, ncclComm_t communicator, cudaStream_t stream) {
  return operation("receive", communicator, count * width(type), stream);
}
// Nothing is sent, so that nothing has to be sent together.
API ncclResult_t ncclGroupStart() { return ncclSuccess; }
API ncclResult_t ncclGroupEnd() { return ncclSuccess; }
API ncclResult_t ncclMemAlloc(void **pointer, size_t bytes) {
  return cudaMalloc(pointer, bytes) ? ncclUnhandledCudaError : ncclSuccess;
}
API ncclResult_t ncclMemFree(void *pointer) { return cudaFree(pointer) ? ncclUnhandledCudaError : ncclSuccess; }
