// The driver's contexts, and the look-up of functions by their names.
#include "device.h"

#include <cuda.h>
#include <dlfcn.h>

#include <cstdio>

#undef cuGetProcAddress

namespace nullcuda {
static int the_context;
static CUcontext context() { return reinterpret_cast<CUcontext>(&the_context); }
}  // namespace nullcuda

using namespace nullcuda;

API CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
API CUresult cuDriverGetVersion(int *version) {
  *version = CUDA_VERSION;
  return CUDA_SUCCESS;
}
API CUresult cuDeviceGet(CUdevice *device, int ordinal) {
  if (ordinal < 0 || ordinal >= gpu.count) return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
  return CUDA_SUCCESS;
}
API CUresult cuDeviceGetCount(int *count) {
  *count = gpu.count;
  return CUDA_SUCCESS;
}
API CUresult cuDeviceGetName(char *text, int size, CUdevice) {
  snprintf(text, size, "%s", gpu.name.c_str());
  return CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxGetState(CUdevice, unsigned *flags, int *active) {
  *flags = 0;
  *active = 1;
  return CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxRetain(CUcontext *made, CUdevice) {
  *made = context();
  return CUDA_SUCCESS;
}
API CUresult cuCtxGetCurrent(CUcontext *found) {
  *found = context();
  return CUDA_SUCCESS;
}
API CUresult cuCtxGetDevice(CUdevice *device) {
  *device = current;
  return CUDA_SUCCESS;
}
API CUresult cuStreamGetCtx(CUstream, CUcontext *found) {
  *found = context();
  return CUDA_SUCCESS;
}
API CUresult cuGetErrorString(CUresult error, const char **text) {
  *text = cudaGetErrorString(static_cast<cudaError_t>(error));
  return CUDA_SUCCESS;
}
API CUresult cuGetErrorName(CUresult error, const char **text) {
  *text = cudaGetErrorName(static_cast<cudaError_t>(error));
  return CUDA_SUCCESS;
}

// Handed out for what nothing here implements; it cannot know by which name it is called.
static int success() {
  Lock lock(mutex);
  record.unanswered["looked up by name"]++;
  return 0;
}
static void *look_up(const char *name) {
  void *found = dlsym(RTLD_DEFAULT, name);
  return found ? found : reinterpret_cast<void *>(success);
}

API CUresult cuGetProcAddress_v2(const char *name, void **function, int, cuuint64_t, CUdriverProcAddressQueryResult *result) {
  *function = look_up(name);
  if (result) *result = CU_GET_PROC_ADDRESS_SUCCESS;
  return CUDA_SUCCESS;
}
API cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned, unsigned long long,
                                                 cudaDriverEntryPointQueryResult *result) {
  *function = look_up(name);
  if (result) *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
API cudaError_t cudaGetDriverEntryPoint(const char *name, void **function, unsigned long long flags,
                                        cudaDriverEntryPointQueryResult *result) {
  return cudaGetDriverEntryPointByVersion(name, function, 0, flags, result);
}

API CUresult cuMulticastGetGranularity(size_t *bytes, const CUmulticastObjectProp *, CUmulticastGranularity_flags) {
  *bytes = size_t{2} << 20;
  return CUDA_SUCCESS;
}
