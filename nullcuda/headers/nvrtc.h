// What Transformer Engine and the null device name of NVRTC.
#pragma once

typedef struct _nvrtcProgram *nvrtcProgram;
typedef enum { NVRTC_SUCCESS = 0 } nvrtcResult;
