// Memory: cudaMalloc and friends, and the driver's virtual memory that expandable segments are made of.
#include "device.h"

#include <cuda.h>
#include <sys/mman.h>

#include <cstring>

namespace nullcuda {

// The least that the driver maps at once (cuMemGetAllocationGranularity on every data-centre GPU).
constexpr size_t GRANULE = size_t{2} << 20;

struct Range {
  size_t bytes;
  Where where;
  int device;
};
static std::map<uintptr_t, Range> ranges;
static std::map<int, size_t> used, peak;
static std::map<CUmemGenericAllocationHandle, std::pair<int, size_t>> physical;
static CUmemGenericAllocationHandle next_physical = 1;

static size_t whole(size_t bytes) { return (bytes + GRANULE - 1) / GRANULE * GRANULE; }

static void *reserve_addresses(size_t bytes) {
  // Never touched but by small copies, so that 100 GB of a GPU cost nothing here.
  void *start = mmap(nullptr, bytes ? bytes : 1, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return start == MAP_FAILED ? nullptr : start;
}

static const Range *find(const void *pointer) {
  auto next = ranges.upper_bound(reinterpret_cast<uintptr_t>(pointer));
  if (next == ranges.begin()) return nullptr;
  auto it = std::prev(next);
  return reinterpret_cast<uintptr_t>(pointer) < it->first + it->second.bytes ? &it->second : nullptr;
}

Where where(const void *pointer) {
  Lock lock(mutex);
  const Range *range = find(pointer);
  return range ? range->where : Where::pageable;
}

bool take(size_t bytes) {
  if (used[current] + bytes > gpu.memory) return false;
  used[current] += bytes;
  if (used[current] > peak[current]) peak[current] = used[current];
  return true;
}

void give_back(int device, size_t bytes) { used[device] -= bytes; }

size_t used_now() { return used[current]; }
size_t used_at_most() { return peak[current]; }

static cudaError_t host(void **pointer, size_t bytes, const char *name) {
  Lock lock(mutex);
  if (cudaError_t error = outside_of_captures(name)) return error;
  call(name);
  *pointer = reserve_addresses(bytes);
  if (!*pointer) return fail(cudaErrorMemoryAllocation);
  ranges[reinterpret_cast<uintptr_t>(*pointer)] = {bytes ? bytes : 1, Where::pinned, current};
  return cudaSuccess;
}

static void forget(uintptr_t start) {
  munmap(reinterpret_cast<void *>(start), ranges[start].bytes);
  ranges.erase(start);
}

}  // namespace nullcuda

using namespace nullcuda;

API cudaError_t cudaMalloc(void **pointer, size_t bytes) {
  Lock lock(mutex);
  *pointer = nullptr;
  if (cudaError_t error = outside_of_captures("cudaMalloc")) return error;
  call("cudaMalloc");
  if (bytes == 0) return cudaSuccess;
  size_t mapped = whole(bytes);
  if (!take(mapped)) return fail(cudaErrorMemoryAllocation);
  *pointer = reserve_addresses(mapped);
  if (!*pointer) {
    give_back(current, mapped);
    return fail(cudaErrorMemoryAllocation);
  }
  ranges[reinterpret_cast<uintptr_t>(*pointer)] = {mapped, Where::device, current};
  return cudaSuccess;
}

API cudaError_t cudaFree(void *pointer) {
  Lock lock(mutex);
  if (!pointer) return cudaSuccess;
  if (cudaError_t error = outside_of_captures("cudaFree")) return error;
  auto it = ranges.find(reinterpret_cast<uintptr_t>(pointer));
  if (it == ranges.end() || it->second.where != Where::device) return fail(cudaErrorInvalidValue);
  call("cudaFree");
  // Waits for the device, which the allocator's users pay for.
  wait_for_all("cudaFree");
  give_back(it->second.device, it->second.bytes);
  forget(it->first);
  return cudaSuccess;
}

API cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned) { return host(pointer, bytes, "cudaHostAlloc"); }
API cudaError_t cudaMallocHost(void **pointer, size_t bytes) { return host(pointer, bytes, "cudaMallocHost"); }

API cudaError_t cudaFreeHost(void *pointer) {
  Lock lock(mutex);
  if (!pointer) return cudaSuccess;
  auto it = ranges.find(reinterpret_cast<uintptr_t>(pointer));
  if (it == ranges.end() || it->second.where != Where::pinned) return fail(cudaErrorInvalidValue);
  forget(it->first);
  return cudaSuccess;
}

API cudaError_t cudaHostRegister(void *pointer, size_t bytes, unsigned) {
  Lock lock(mutex);
  if (find(pointer)) return fail(cudaErrorHostMemoryAlreadyRegistered);
  ranges[reinterpret_cast<uintptr_t>(pointer)] = {bytes, Where::pinned, current};
  return cudaSuccess;
}

API cudaError_t cudaHostUnregister(void *pointer) {
  Lock lock(mutex);
  return ranges.erase(reinterpret_cast<uintptr_t>(pointer)) ? cudaSuccess : fail(cudaErrorHostMemoryNotRegistered);
}

API cudaError_t cudaHostGetDevicePointer(void **device, void *pointer, unsigned) {
  *device = pointer;
  return cudaSuccess;
}

API cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
  Lock lock(mutex);
  *total = gpu.memory;
  *available = gpu.memory - used[current];
  return cudaSuccess;
}

API cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *pointer) {
  Lock lock(mutex);
  *attributes = {};
  const Range *range = find(pointer);
  attributes->type = !range ? cudaMemoryTypeUnregistered
                            : range->where == Where::device ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
  attributes->device = range ? range->device : -2;  // cudaInvalidDeviceId
  attributes->devicePointer = range ? const_cast<void *>(pointer) : nullptr;
  attributes->hostPointer = !range || range->where == Where::pinned ? const_cast<void *>(pointer) : nullptr;
  return cudaSuccess;
}

API CUresult cuPointerGetAttribute(void *value, CUpointer_attribute attribute, CUdeviceptr pointer) {
  if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_POINTER) {
    *static_cast<CUdeviceptr *>(value) = pointer;
  } else {
    *static_cast<int *>(value) = 0;
  }
  return CUDA_SUCCESS;
}

// Memory of another process is memory of this one: all ranks of a node are played by the one that is here.
API cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *pointer) {
  *handle = {};
  memcpy(handle, &pointer, sizeof pointer);
  return cudaSuccess;
}
API cudaError_t cudaIpcOpenMemHandle(void **pointer, cudaIpcMemHandle_t handle, unsigned) {
  memcpy(pointer, &handle, sizeof *pointer);
  return cudaSuccess;
}
API cudaError_t cudaIpcCloseMemHandle(void *) { return cudaSuccess; }

// --- virtual memory: addresses are reserved once, physical memory counts from its creation. A capture does not forbid it:
// torch's expandable segments grow in one, without asking for leave as cudaMalloc has to. ------------------------------
API CUresult cuMemGetAllocationGranularity(size_t *bytes, const CUmemAllocationProp *, CUmemAllocationGranularity_flags) {
  *bytes = GRANULE;
  return CUDA_SUCCESS;
}

API CUresult cuMemAddressReserve(CUdeviceptr *pointer, size_t bytes, size_t, CUdeviceptr, unsigned long long) {
  Lock lock(mutex);
  *pointer = reinterpret_cast<CUdeviceptr>(reserve_addresses(bytes));
  if (!*pointer) return CUDA_ERROR_OUT_OF_MEMORY;
  ranges[*pointer] = {bytes, Where::device, current};
  return CUDA_SUCCESS;
}

API CUresult cuMemAddressFree(CUdeviceptr pointer, size_t) {
  Lock lock(mutex);
  if (!ranges.count(pointer)) return CUDA_ERROR_INVALID_VALUE;
  forget(pointer);
  return CUDA_SUCCESS;
}

API CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes, const CUmemAllocationProp *, unsigned long long) {
  Lock lock(mutex);
  if (bytes % GRANULE) return CUDA_ERROR_INVALID_VALUE;
  call("cuMemCreate");
  if (!take(bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  *handle = next_physical++;
  physical[*handle] = {current, bytes};
  return CUDA_SUCCESS;
}

API CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  Lock lock(mutex);
  auto it = physical.find(handle);
  if (it == physical.end()) return CUDA_ERROR_INVALID_VALUE;
  give_back(it->second.first, it->second.second);
  physical.erase(it);
  return CUDA_SUCCESS;
}

API CUresult cuMemMap(CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long) { return CUDA_SUCCESS; }
API CUresult cuMemUnmap(CUdeviceptr, size_t) { return CUDA_SUCCESS; }
API CUresult cuMemSetAccess(CUdeviceptr, size_t, const CUmemAccessDesc *, size_t) { return CUDA_SUCCESS; }
