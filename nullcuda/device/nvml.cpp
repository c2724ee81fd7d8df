// NVML, as far as torch's allocator and Transformer Engine ask: devices that share no fabric and run nothing else.
#include "device.h"

#include <cstdio>

using namespace nullcuda;

static int a_device;

API int nvmlInit() { return 0; }
API int nvmlInit_v2() { return 0; }
API int nvmlShutdown() { return 0; }
API const char *nvmlErrorString(int) { return "null NVML"; }
API int nvmlSystemGetCudaDriverVersion_v2(int *version) {
  *version = CUDART_VERSION;
  return 0;
}
API int nvmlSystemGetDriverVersion(char *text, unsigned size) {
  snprintf(text, size, "0.0 (null)");
  return 0;
}
API int nvmlDeviceGetCount_v2(unsigned *count) {
  *count = gpu.count;
  return 0;
}
static int device(void **handle) {
  *handle = &a_device;
  return 0;
}
API int nvmlDeviceGetHandleByIndex(unsigned, void **handle) { return device(handle); }
API int nvmlDeviceGetHandleByIndex_v2(unsigned, void **handle) { return device(handle); }
API int nvmlDeviceGetHandleByUUID(const char *, void **handle) { return device(handle); }
API int nvmlDeviceGetHandleByPciBusId_v2(const char *, void **handle) { return device(handle); }
API int nvmlDeviceGetName(void *, char *text, unsigned size) {
  snprintf(text, size, "%s", gpu.name.c_str());
  return 0;
}
API int nvmlDeviceGetComputeRunningProcesses(void *, unsigned *count, void *) {
  *count = 0;
  return 0;
}
API int nvmlDeviceGetComputeRunningProcesses_v3(void *, unsigned *count, void *) {
  *count = 0;
  return 0;
}
// NVML_ERROR_NOT_SUPPORTED: no NVLink is described and no fabric, so that no memory is shared across nodes.
API int nvmlDeviceGetNvLinkRemoteDeviceType(void *, unsigned, void *) { return 3; }
API int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *, unsigned, void *) { return 3; }
API int nvmlDeviceGetGpuFabricInfo(void *, void *) { return 0; }
API int nvmlDeviceGetGpuFabricInfoV(void *, void *) { return 0; }
