// cuBLAS and cuBLASLt: every matrix product is one, of a shape and types, that takes 2 m n k operations.
#include "device.h"

#include <cublasLt.h>
#include <cublas_v2.h>

#include <cstring>

namespace nullcuda {

static void product(cudaStream_t stream, const std::string &types, int64_t m, int64_t n, int64_t k, int64_t batch) {
  Lock lock(mutex);
  std::string shape = std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k);
  record.products[types + " " + shape + (batch == 1 ? "" : " times " + std::to_string(batch))]++;
  operations(stream, false, 2 * m * n * k * batch);
  call("matrix products");
}

static std::string name_of(cudaDataType type) {
  switch (static_cast<int>(type)) {
    case CUDA_R_64F: return "fp64";
    case CUDA_R_32F: return "fp32";
    case CUDA_R_16F: return "fp16";
    case CUDA_R_16BF: return "bf16";
    case CUDA_R_8F_E4M3: return "e4m3";
    case CUDA_R_8F_E5M2: return "e5m2";
    case CUDA_R_4F_E2M1: return "e2m1";
    default: return "type " + std::to_string(static_cast<int>(type));
  }
}

struct Blas {
  cudaStream_t stream;
  cublasMath_t math;
  cublasPointerMode_t mode;
};
struct Layout {
  cudaDataType type;
  uint64_t rows, columns;
};
struct Description {
  int32_t transposed_a, transposed_b;
};

template <class Handle, class Value>
static Value &behind(Handle handle) { return *reinterpret_cast<Value *>(handle); }

static cublasStatus_t multiply(cublasHandle_t handle, cudaDataType type, int m, int n, int k, int batch) {
  cudaStream_t stream = behind<cublasHandle_t, Blas>(handle).stream;
  if (enqueue(stream, "a matrix product")) return CUBLAS_STATUS_EXECUTION_FAILED;
  product(stream, name_of(type), m, n, k, batch);
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace nullcuda

using namespace nullcuda;

API cublasStatus_t cublasCreate_v2(cublasHandle_t *handle) {
  *handle = reinterpret_cast<cublasHandle_t>(new Blas{});
  return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
  delete reinterpret_cast<Blas *>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
  behind<cublasHandle_t, Blas>(handle).stream = stream;
  return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t, void *, size_t) { return CUBLAS_STATUS_SUCCESS; }
API cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  behind<cublasHandle_t, Blas>(handle).math = mode;
  return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t *mode) {
  *mode = behind<cublasHandle_t, Blas>(handle).math;
  return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t mode) {
  behind<cublasHandle_t, Blas>(handle).mode = mode;
  return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t *mode) {
  *mode = behind<cublasHandle_t, Blas>(handle).mode;
  return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t, cublasOperation_t, int m, int n, int k,
                                  const float *, const float *, int, const float *, int, const float *, float *, int) {
  return multiply(handle, CUDA_R_32F, m, n, k, 1);
}
API cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t, cublasOperation_t, int m, int n, int k,
                                const void *, const void *, cudaDataType type, int, const void *, cudaDataType, int,
                                const void *, void *, cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t) {
  return multiply(handle, type, m, n, k, 1);
}
API cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t, cublasOperation_t, int m, int n,
                                              int k, const void *, const void *, cudaDataType type, int, long long,
                                              const void *, cudaDataType, int, long long, const void *, void *,
                                              cudaDataType, int, long long, int batch, cublasComputeType_t,
                                              cublasGemmAlgo_t) {
  return multiply(handle, type, m, n, k, batch);
}
API const char *cublasGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS ? "success" : "the null device refused it";
}

// --- cuBLASLt: a product's shape is in its layouts --------------------------------------------------------------------
API size_t cublasLtGetVersion() { return CUBLAS_VERSION; }
API size_t cublasLtGetCudartVersion() { return CUDART_VERSION; }
API cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
  static int the_handle;
  *handle = reinterpret_cast<cublasLtHandle_t>(&the_handle);
  return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows,
                                              uint64_t columns, int64_t) {
  *layout = reinterpret_cast<cublasLtMatrixLayout_t>(new Layout{type, rows, columns});
  return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete reinterpret_cast<Layout *>(layout);
  return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *description, cublasComputeType_t, cudaDataType) {
  *description = reinterpret_cast<cublasLtMatmulDesc_t>(new Description{});
  return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  delete reinterpret_cast<Description *>(description);
  return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description,
                                                  cublasLtMatmulDescAttributes_t which, const void *value, size_t) {
  auto &known = behind<cublasLtMatmulDesc_t, Description>(description);
  if (which == CUBLASLT_MATMUL_DESC_TRANSA) known.transposed_a = *static_cast<const int32_t *>(value);
  if (which == CUBLASLT_MATMUL_DESC_TRANSB) known.transposed_b = *static_cast<const int32_t *>(value);
  return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasLtMatmulDescGetAttribute(cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, void *value,
                                                  size_t size, size_t *written) {
  memset(value, 0, size);
  if (written) *written = size;
  return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
  static int the_preference;
  *preference = reinterpret_cast<cublasLtMatmulPreference_t>(&the_preference);
  return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t) { return CUBLAS_STATUS_SUCCESS; }
API cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t, int, const void *, size_t) {
  return CUBLAS_STATUS_SUCCESS;
}
// One algorithm, without a workspace.
API cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                                  cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                                  cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int,
                                                  cublasLtMatmulHeuristicResult_t *results, int *found) {
  *results = {};
  results->state = CUBLAS_STATUS_SUCCESS;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}
API cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t description, const void *, const void *,
                                  cublasLtMatrixLayout_t a, const void *, cublasLtMatrixLayout_t b, const void *,
                                  const void *, cublasLtMatrixLayout_t, void *, cublasLtMatrixLayout_t d,
                                  const cublasLtMatmulAlgo_t *, void *, size_t, cudaStream_t stream) {
  if (enqueue(stream, "a matrix product")) return CUBLAS_STATUS_EXECUTION_FAILED;
  const auto &left = behind<cublasLtMatrixLayout_t, Layout>(a), &right = behind<cublasLtMatrixLayout_t, Layout>(b);
  const auto &out = behind<cublasLtMatrixLayout_t, Layout>(d);
  const auto &how = behind<cublasLtMatmulDesc_t, Description>(description);
  product(stream, name_of(left.type) + " x " + name_of(right.type) + " to " + name_of(out.type), out.rows, out.columns,
          how.transposed_a ? left.rows : left.columns, 1);
  return CUBLAS_STATUS_SUCCESS;
}
