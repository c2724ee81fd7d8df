// cuDNN: descriptors keep what they are told, one engine without knobs or workspace takes every graph of operations.
#include "device.h"

#include <cudnn.h>

#include <cstring>
#include <vector>

namespace nullcuda {

struct Descriptor {
  cudnnBackendDescriptorType_t type;
  std::map<int, std::vector<int64_t>> numbers;
  std::map<int, std::vector<Descriptor *>> parts;

  Descriptor *part(int attribute) const {
    auto it = parts.find(attribute);
    return it == parts.end() || it->second.empty() ? nullptr : it->second[0];
  }
};

static Descriptor *behind(cudnnBackendDescriptor_t descriptor) { return static_cast<Descriptor *>(descriptor); }

static const std::vector<int64_t> NONE;
static const std::vector<int64_t> &dimensions(const Descriptor &operation, int attribute) {
  Descriptor *tensor = operation.part(attribute);
  return tensor ? tensor->numbers[CUDNN_ATTR_TENSOR_DIMENSIONS] : NONE;
}

static int64_t volume(const std::vector<int64_t> &dimensions) {
  int64_t product = dimensions.empty() ? 0 : 1;
  for (int64_t dimension : dimensions) product *= dimension;
  return product;
}

// Of one operation. A product of [batch, heads, rows, inner] is one of scores, of weights and values, or of gradients; a whole
// forward pass, from [batch, heads, queries, size] and [batch, groups, keys, size], is two. Masked entries count, too.
static int64_t flops_of(const Descriptor &operation) {
  if (operation.type == CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR) {
    const auto &left = dimensions(operation, CUDNN_ATTR_OPERATION_MATMUL_ADESC);
    return left.empty() ? 0 : 2 * left.back() * volume(dimensions(operation, CUDNN_ATTR_OPERATION_MATMUL_CDESC));
  }
  if (operation.type == CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR) {
    const auto &keys = dimensions(operation, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC);
    return keys.size() < 2 ? 0 : 4 * keys[keys.size() - 2] * volume(dimensions(operation, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC));
  }
  return 0;
}

static Descriptor *graph_of(Descriptor *plan) {
  Descriptor *configuration = plan->part(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
  if (!configuration) return nullptr;
  if (Descriptor *engine = configuration->part(CUDNN_ATTR_ENGINECFG_ENGINE)) {
    return engine->part(CUDNN_ATTR_ENGINE_OPERATION_GRAPH);
  }
  return configuration->part(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
}

static size_t width(cudnnBackendAttributeType_t type) { return type == CUDNN_TYPE_INT32 ? 4 : 8; }

}  // namespace nullcuda

using namespace nullcuda;

API size_t cudnnGetVersion() { return CUDNN_VERSION; }
API size_t cudnnGetCudartVersion() { return CUDART_VERSION; }
API cudnnStatus_t cudnnCreate(cudnnHandle_t *handle) {
  *handle = reinterpret_cast<cudnnHandle_t>(new cudaStream_t{});
  return CUDNN_STATUS_SUCCESS;
}
API cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
  delete reinterpret_cast<cudaStream_t *>(handle);
  return CUDNN_STATUS_SUCCESS;
}
API cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  *reinterpret_cast<cudaStream_t *>(handle) = stream;
  return CUDNN_STATUS_SUCCESS;
}
API cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t *stream) {
  *stream = *reinterpret_cast<cudaStream_t *>(handle);
  return CUDNN_STATUS_SUCCESS;
}
API const char *cudnnGetErrorString(cudnnStatus_t status) {
  return status == CUDNN_STATUS_SUCCESS ? "success" : "the null device refused it";
}
API void cudnnGetLastErrorString(char *text, size_t size) {
  if (size) *text = 0;
}

API cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *descriptor) {
  *descriptor = new Descriptor{type, {}, {}};
  return CUDNN_STATUS_SUCCESS;
}

// Others may still point to it, as a plan does to its graph; what a run makes of them is small.
API cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t) { return CUDNN_STATUS_SUCCESS; }
API cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t) { return CUDNN_STATUS_SUCCESS; }

API cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                           cudnnBackendAttributeType_t type, int64_t count, const void *values) {
  Lock lock(mutex);
  if (type == CUDNN_TYPE_INT64) {
    auto *numbers = static_cast<const int64_t *>(values);
    behind(descriptor)->numbers[name].assign(numbers, numbers + count);
  } else if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {
    auto *parts = static_cast<Descriptor *const *>(values);
    behind(descriptor)->parts[name].assign(parts, parts + count);
  }
  return CUDNN_STATUS_SUCCESS;
}

API cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                           cudnnBackendAttributeType_t type, int64_t room, int64_t *count, void *values) {
  Lock lock(mutex);
  int64_t found = 0;
  if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR && name != CUDNN_ATTR_ENGINECFG_KNOB_CHOICES) {
    found = 1;
    if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS && values && room > 0) {
      // The engine configuration that the caller brings is for the graph that the heuristic was asked about.
      auto graph = behind(descriptor)->parts[CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH];
      static_cast<Descriptor **>(values)[0]->parts[CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH] = graph;
    }
  } else if (type == CUDNN_TYPE_INT64 || type == CUDNN_TYPE_INT32) {
    found = 1;  // no workspace, no shared memory, the first engine: 0
    if (values && room > 0) memset(values, 0, width(type));
  }
  if (count) *count = found;
  return CUDNN_STATUS_SUCCESS;
}

API cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t) {
  cudaStream_t stream = *reinterpret_cast<cudaStream_t *>(handle);
  if (enqueue(stream, "cudnnBackendExecute")) return CUDNN_STATUS_EXECUTION_FAILED;
  Lock lock(mutex);
  call("cudnnBackendExecute");
  record.kernels["cuDNN's execution of a graph"]++;
  Descriptor *graph = graph_of(behind(plan));
  if (!graph) return CUDNN_STATUS_SUCCESS;
  for (Descriptor *operation : graph->parts[CUDNN_ATTR_OPERATIONGRAPH_OPS]) {
    operations(stream, true, flops_of(*operation));
  }
  return CUDNN_STATUS_SUCCESS;
}
