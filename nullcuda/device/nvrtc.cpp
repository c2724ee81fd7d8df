// NVRTC: compiles nothing; a name is its own lowered name.
#include "device.h"

#include <nvrtc.h>

#include <cstring>

namespace nullcuda {
struct Program {
  std::map<std::string, std::string> names;
};
constexpr size_t NOTHING = 16;  // bytes of a program's code
}  // namespace nullcuda

using namespace nullcuda;

API nvrtcResult nvrtcCreateProgram(nvrtcProgram *program, const char *, const char *, int, const char *const *,
                                   const char *const *) {
  *program = reinterpret_cast<nvrtcProgram>(new Program);
  return NVRTC_SUCCESS;
}
API nvrtcResult nvrtcDestroyProgram(nvrtcProgram *program) {
  delete reinterpret_cast<Program *>(*program);
  *program = nullptr;
  return NVRTC_SUCCESS;
}
API nvrtcResult nvrtcAddNameExpression(nvrtcProgram program, const char *name) {
  reinterpret_cast<Program *>(program)->names[name] = name;
  return NVRTC_SUCCESS;
}
API nvrtcResult nvrtcGetLoweredName(nvrtcProgram program, const char *name, const char **lowered) {
  *lowered = reinterpret_cast<Program *>(program)->names[name].c_str();
  return NVRTC_SUCCESS;
}
API nvrtcResult nvrtcCompileProgram(nvrtcProgram, int, const char *const *) {
  Lock lock(mutex);
  call("nvrtcCompileProgram");
  return NVRTC_SUCCESS;
}
API nvrtcResult nvrtcGetPTXSize(nvrtcProgram, size_t *size) {
  *size = NOTHING;
  return NVRTC_SUCCESS;
}
API nvrtcResult nvrtcGetPTX(nvrtcProgram, char *text) {
  memset(text, 0, NOTHING);
  return NVRTC_SUCCESS;
}
API nvrtcResult nvrtcGetCUBINSize(nvrtcProgram, size_t *size) {
  *size = NOTHING;
  return NVRTC_SUCCESS;
}
API nvrtcResult nvrtcGetCUBIN(nvrtcProgram, char *code) {
  memset(code, 0, NOTHING);
  return NVRTC_SUCCESS;
}
API nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram, size_t *size) {
  *size = 1;
  return NVRTC_SUCCESS;
}
API nvrtcResult nvrtcGetProgramLog(nvrtcProgram, char *text) {
  *text = 0;
  return NVRTC_SUCCESS;
}
static const int ARCHITECTURES[] = {80, 86, 89, 90, 100, 103};
API nvrtcResult nvrtcGetNumSupportedArchs(int *count) {
  *count = sizeof ARCHITECTURES / sizeof *ARCHITECTURES;
  return NVRTC_SUCCESS;
}
API nvrtcResult nvrtcGetSupportedArchs(int *architectures) {
  memcpy(architectures, ARCHITECTURES, sizeof ARCHITECTURES);
  return NVRTC_SUCCESS;
}
API nvrtcResult nvrtcVersion(int *major, int *minor) {
  *major = CUDART_VERSION / 1000;
  *minor = CUDART_VERSION % 1000 / 10;
  return NVRTC_SUCCESS;
}
API const char *nvrtcGetErrorString(nvrtcResult) { return "the null device compiles nothing"; }
