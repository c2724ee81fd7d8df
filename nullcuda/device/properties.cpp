// Devices: how many there are, what they can do, and the texts of errors.
#include "device.h"

#include <cuda.h>

#include <cstdio>
#include <cstring>

namespace nullcuda {

// Of a data-centre GPU since Hopper, from the table of compute capabilities in the CUDA programming guide.
constexpr int THREADS_PER_BLOCK = 1024, THREADS_PER_MULTIPROCESSOR = 2048, BLOCKS_PER_MULTIPROCESSOR = 32;
constexpr int SHARED_PER_BLOCK = 48 << 10, SHARED_PER_BLOCK_OPTIN = 227 << 10, SHARED_PER_MULTIPROCESSOR = 228 << 10;
constexpr int REGISTERS = 65536, GRID_X = 2147483647, GRID_YZ = 65535, L2_CACHE = 50 << 20;

static int attribute(int which) {
  switch (which) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY: return THREADS_PER_BLOCK;
    case cudaDevAttrMaxBlockDimZ: return 64;
    case cudaDevAttrMaxGridDimX: return GRID_X;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: return GRID_YZ;
    case cudaDevAttrMaxSharedMemoryPerBlock: return SHARED_PER_BLOCK;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return SHARED_PER_BLOCK_OPTIN;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return SHARED_PER_MULTIPROCESSOR;
    case cudaDevAttrReservedSharedMemoryPerBlock: return 1024;
    case cudaDevAttrWarpSize: return 32;
    case cudaDevAttrMultiProcessorCount: return gpu.multiprocessors;
    case cudaDevAttrComputeCapabilityMajor: return gpu.capability / 10;
    case cudaDevAttrComputeCapabilityMinor: return gpu.capability % 10;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return THREADS_PER_MULTIPROCESSOR;
    case cudaDevAttrMaxBlocksPerMultiprocessor: return BLOCKS_PER_MULTIPROCESSOR;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor: return REGISTERS;
    case cudaDevAttrL2CacheSize: return L2_CACHE;
    // Clocks and bus widths are only shown; what else is asked for is whether something can be done.
    default: return 1;
  }
}

}  // namespace nullcuda

using namespace nullcuda;

API cudaError_t cudaGetDeviceCount(int *count) {
  *count = gpu.count;
  return cudaSuccess;
}
API cudaError_t cudaGetDevice(int *device) {
  *device = current;
  return cudaSuccess;
}
API cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= gpu.count) return fail(cudaErrorInvalidDevice);
  current = device;
  return cudaSuccess;
}
API cudaError_t cudaDriverGetVersion(int *version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
API cudaError_t cudaRuntimeGetVersion(int *version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr which, int) {
  *value = attribute(which);
  return cudaSuccess;
}
API CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice) {
  *value = attribute(which);
  return CUDA_SUCCESS;
}

API cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int) {
  *properties = {};
  snprintf(properties->name, sizeof properties->name, "%s", gpu.name.c_str());
  properties->totalGlobalMem = gpu.memory;
  properties->sharedMemPerBlock = SHARED_PER_BLOCK;
  properties->sharedMemPerBlockOptin = SHARED_PER_BLOCK_OPTIN;
  properties->sharedMemPerMultiprocessor = SHARED_PER_MULTIPROCESSOR;
  properties->regsPerBlock = properties->regsPerMultiprocessor = REGISTERS;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = THREADS_PER_BLOCK;
  properties->maxThreadsDim[2] = 64;
  properties->maxGridSize[0] = GRID_X;
  properties->maxGridSize[1] = properties->maxGridSize[2] = GRID_YZ;
  properties->maxThreadsPerMultiProcessor = THREADS_PER_MULTIPROCESSOR;
  properties->maxBlocksPerMultiProcessor = BLOCKS_PER_MULTIPROCESSOR;
  properties->major = gpu.capability / 10;
  properties->minor = gpu.capability % 10;
  properties->multiProcessorCount = gpu.multiprocessors;
  properties->l2CacheSize = L2_CACHE;
  properties->textureAlignment = 512;
  properties->asyncEngineCount = 3;
  properties->unifiedAddressing = properties->concurrentKernels = properties->cooperativeLaunch = 1;
  properties->streamPrioritiesSupported = properties->memoryPoolsSupported = properties->clusterLaunch = 1;
  return cudaSuccess;
}

API cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int device) {
  snprintf(text, size, "0000:%02X:00.0", device);
  return cudaSuccess;
}
API cudaError_t cudaDeviceCanAccessPeer(int *can, int, int) {
  *can = 1;
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int) {
  static int the_pool;
  *pool = reinterpret_cast<cudaMemPool_t>(&the_pool);
  return cudaSuccess;
}
API cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void *value) {
  *static_cast<uint64_t *>(value) = 0;
  return cudaSuccess;
}

// --- errors ----------------------------------------------------------------------------------------------------------
namespace nullcuda {
static cudaError_t last = cudaSuccess;
cudaError_t fail(cudaError_t error) { return last = error; }
cudaError_t fault(cudaError_t error, const std::string &what) {
  Lock lock(mutex);
  record.faults[what]++;
  return fail(error);
}

struct Text {
  cudaError_t error;
  const char *name, *text;
};
// In CUDA's words, by which torch tells out of memory from the rest.
static const Text TEXTS[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorIllegalState, "cudaErrorIllegalState", "the operation cannot be performed in the present state"},
    {cudaErrorHostMemoryAlreadyRegistered, "cudaErrorHostMemoryAlreadyRegistered",
     "part or all of the requested memory range is already mapped"},
    {cudaErrorHostMemoryNotRegistered, "cudaErrorHostMemoryNotRegistered",
     "pointer does not correspond to a registered memory region"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureMerge, "cudaErrorStreamCaptureMerge",
     "operation would result in a merge of separate capture sequences"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
     "capture was not ended in the same stream as it began"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined",
     "capturing stream has unjoined work"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream"},
    {cudaErrorStreamCaptureWrongThread, "cudaErrorStreamCaptureWrongThread",
     "attempt to terminate a thread-local capture sequence from another thread"},
};

static const Text &text_of(cudaError_t error) {
  for (const Text &text : TEXTS) {
    if (text.error == error) return text;
  }
  static const Text other{cudaErrorUnknown, "cudaErrorUnknown", "unknown error"};
  return other;
}
}  // namespace nullcuda

API cudaError_t cudaGetLastError() {
  cudaError_t error = nullcuda::last;
  nullcuda::last = cudaSuccess;
  return error;
}
API cudaError_t cudaPeekAtLastError() { return nullcuda::last; }
API const char *cudaGetErrorString(cudaError_t error) { return text_of(error).text; }
API const char *cudaGetErrorName(cudaError_t error) { return text_of(error).name; }
