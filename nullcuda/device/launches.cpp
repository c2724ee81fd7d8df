// Kernels: known by the names under which programs register them, counted when launched, never run.
#include "device.h"

#include <cuda.h>

#include <cstring>
#include <vector>

namespace nullcuda {

static std::map<const void *, std::string> names;  // of kernels, by the handle that launches them

static cudaError_t launch(const void *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  Lock lock(mutex);
  auto it = names.find(kernel);
  const std::string &name = it == names.end() ? "a kernel without a name" : it->second;
  // The limits of every compute capability since 9.0, in the order of the CUDA programming guide's table.
  uint64_t threads = uint64_t{block.x} * block.y * block.z;
  bool possible = grid.x && grid.y && grid.z && grid.y <= 65535 && grid.z <= 65535 && threads && threads <= 1024 &&
                  block.z <= 64 && shared <= (size_t{227} << 10);
  if (!possible) return fault(cudaErrorInvalidConfiguration, "launch of " + name);
  if (cudaError_t error = enqueue(stream, name.c_str())) return error;
  record.kernels[name]++;
  call("launches");
  return cudaSuccess;
}

static const void *named(const char *name) {
  Lock lock(mutex);
  const void *handle = strdup(name);
  names[handle] = name;
  return handle;
}

struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};
static thread_local std::vector<Configuration> configurations;

// Something to point at, where a handle may not be null.
static int a_handle;

}  // namespace nullcuda

using namespace nullcuda;

// --- what a compiled program calls by itself -------------------------------------------------------------------------
API void **__cudaRegisterFatBinary(void *) {
  static void *handles[4];
  return handles;
}
API void __cudaRegisterFatBinaryEnd(void **) {}
API void __cudaUnregisterFatBinary(void **) {}
API void __cudaRegisterVar(void **, char *, char *, const char *, int, size_t, int, int) {}
API void __cudaRegisterFunction(void **, const char *kernel, char *, const char *name, int, void *, void *, void *,
                                void *, int *) {
  Lock lock(mutex);
  names[kernel] = name;
}
API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}
API cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
  Configuration last = configurations.back();
  configurations.pop_back();
  *grid = last.grid;
  *block = last.block;
  *shared = last.shared;
  *static_cast<cudaStream_t *>(stream) = last.stream;
  return cudaSuccess;
}
API cudaError_t __cudaGetKernel(void **kernel, const void *function) {
  *kernel = const_cast<void *>(function);
  return cudaSuccess;
}
API cudaError_t __cudaLaunchKernel(void *kernel, dim3 grid, dim3 block, void **, size_t shared, cudaStream_t stream) {
  return launch(kernel, grid, block, shared, stream);
}

// --- the runtime's launches ------------------------------------------------------------------------------------------
API cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **, size_t shared, cudaStream_t stream) {
  return launch(kernel, grid, block, shared, stream);
}
API cudaError_t cudaLaunchCooperativeKernel(const void *kernel, dim3 grid, dim3 block, void **, size_t shared,
                                            cudaStream_t stream) {
  return launch(kernel, grid, block, shared, stream);
}
API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *how, const void *kernel, void **) {
  return launch(kernel, how->gridDim, how->blockDim, how->dynamicSmemBytes, how->stream);
}
API cudaError_t cudaLibraryLoadData(cudaLibrary_t *library, const void *, cudaJitOption *, void **, unsigned,
                                    cudaLibraryOption *, void **, unsigned) {
  *library = reinterpret_cast<cudaLibrary_t>(&a_handle);
  return cudaSuccess;
}
API cudaError_t cudaLibraryGetKernel(cudaKernel_t *kernel, cudaLibrary_t, const char *name) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void *>(named(name)));
  return cudaSuccess;
}
API cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *) {
  *attributes = {};
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 64;
  // Code for a generation's first GPU runs on its later ones, and libraries choose by what there is code for.
  attributes->binaryVersion = attributes->ptxVersion = gpu.capability / 10 * 10;
  attributes->maxDynamicSharedSizeBytes = 227 << 10;
  return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *, int, size_t, unsigned) {
  *blocks = 2;
  return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveClusters(int *clusters, const void *, const cudaLaunchConfig_t *) {
  *clusters = 8;
  return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxPotentialClusterSize(int *size, const void *, const cudaLaunchConfig_t *) {
  *size = 8;
  return cudaSuccess;
}

// --- the driver's modules and launches, which Triton and NVRTC's users take ------------------------------------------
API CUresult cuModuleLoadData(CUmodule *module, const void *) {
  *module = reinterpret_cast<CUmodule>(&a_handle);
  return CUDA_SUCCESS;
}
API CUresult cuModuleLoadDataEx(CUmodule *module, const void *, unsigned, CUjit_option *, void **) {
  return cuModuleLoadData(module, nullptr);
}
API CUresult cuModuleLoad(CUmodule *module, const char *) { return cuModuleLoadData(module, nullptr); }
API CUresult cuModuleGetFunction(CUfunction *function, CUmodule, const char *name) {
  *function = reinterpret_cast<CUfunction>(const_cast<void *>(named(name)));
  return CUDA_SUCCESS;
}
API CUresult cuLibraryLoadData(CUlibrary *library, const void *, CUjit_option *, void **, unsigned, CUlibraryOption *,
                               void **, unsigned) {
  *library = reinterpret_cast<CUlibrary>(&a_handle);
  return CUDA_SUCCESS;
}
API CUresult cuLibraryGetKernel(CUkernel *kernel, CUlibrary, const char *name) {
  *kernel = reinterpret_cast<CUkernel>(const_cast<void *>(named(name)));
  return CUDA_SUCCESS;
}
API CUresult cuKernelGetFunction(CUfunction *function, CUkernel kernel) {
  *function = reinterpret_cast<CUfunction>(kernel);
  return CUDA_SUCCESS;
}
API CUresult cuFuncGetAttribute(int *value, CUfunction_attribute which, CUfunction) {
  *value = which == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : which == CU_FUNC_ATTRIBUTE_NUM_REGS ? 64 : 0;
  return CUDA_SUCCESS;
}
API CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                            unsigned bz, unsigned shared, CUstream stream, void **, void **) {
  return static_cast<CUresult>(launch(function, {gx, gy, gz}, {bx, by, bz}, shared, stream));
}
API CUresult cuLaunchCooperativeKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                                       unsigned by, unsigned bz, unsigned shared, CUstream stream, void **) {
  return static_cast<CUresult>(launch(function, {gx, gy, gz}, {bx, by, bz}, shared, stream));
}
API CUresult cuLaunchKernelEx(const CUlaunchConfig *how, CUfunction function, void **, void **) {
  return static_cast<CUresult>(launch(function, {how->gridDimX, how->gridDimY, how->gridDimZ},
                                      {how->blockDimX, how->blockDimY, how->blockDimZ}, how->sharedMemBytes,
                                      how->hStream));
}
API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction, int, size_t) {
  *blocks = 2;
  return CUDA_SUCCESS;
}
API CUresult cuOccupancyMaxActiveClusters(int *clusters, CUfunction, const CUlaunchConfig *) {
  *clusters = 8;
  return CUDA_SUCCESS;
}
