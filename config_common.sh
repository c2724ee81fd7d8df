# The settings that all configs share; each config sources it first. The config's file name is the name of its system.
DGXSYSTEM=$(basename "${BASH_SOURCE[1]}" .sh)
export DGXSYSTEM=${DGXSYSTEM#config_}
# Drop what another config set in this shell. Otherwise a run would mix the layouts of both.
if [[ ${CONFIG_FILENAME:-config_$DGXSYSTEM.sh} != "config_$DGXSYSTEM.sh" ]]; then
  unset BENCHMARK RULESET DGXNNODES DGXNGPU TENSOR_MODEL_PARALLEL PIPELINE_MODEL_PARALLEL INTERLEAVED_PIPELINE \
    CONTEXT_PARALLEL TP_PP_DP_MAPPING MINIBS MICRO_BATCH_SIZE PRECISION FP8_PARAM_GATHER RECOMPUTE_GRANULARITY \
    RECOMPUTE_MODULES RECOMPUTE_METHOD RECOMPUTE_NUM_LAYERS GRAD_REDUCE_IN_FP32 LEARNING_RATE WARMUP_STEPS WALLTIME
fi
export CONFIG_FILENAME=config_$DGXSYSTEM.sh

# Library settings for GPUs. A value that is already set wins. They have no effect on CPUs.

# One queue of work from host to GPU, so that a collective starts before the matrix product that hides it. Megatron-Core's
# tensor-parallel layers rely on that order (megatron/core/tensor_parallel/layers.py). Its training script no longer asks for
# it on Blackwell, but NVIDIA's v5.1 configs of GB200 and GB300 still export it.
export CUDA_DEVICE_MAX_CONNECTIONS=${CUDA_DEVICE_MAX_CONNECTIONS:-1}

# Expandable segments reserve less memory that stays unused. torch has two names for this setting. Megatron-Core reads only the
# older one, and the older one wins in torch if both are set. So it takes the value of the newer one.
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-${PYTORCH_ALLOC_CONF:-expandable_segments:True}}

# With such segments, NCCL must not register the buffers of CUDA graphs. Megatron-Core warns of an illegal access, and refuses
# the combination below Blackwell (megatron/core/transformer/cuda_graphs.py).
export NCCL_GRAPH_REGISTER=${NCCL_GRAPH_REGISTER:-0}

# NCCL must not register the user's own buffers either, for the same reason (NVIDIA's v5.1 configs).
export NCCL_LOCAL_REGISTER=${NCCL_LOCAL_REGISTER:-0}

# Reductions inside the switch need gigabytes of additional buffers for each communicator (NVIDIA's v5.0 and v5.1 configs).
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}

# Few and large messages between nodes, on several channels. The same configs set this for pipelines.
export NCCL_MIN_NCHANNELS=${NCCL_MIN_NCHANNELS:-4} NCCL_P2P_NET_CHUNKSIZE=${NCCL_P2P_NET_CHUNKSIZE:-2097152}

# Multiprocessors that norms leave to concurrent collectives, so that neither waits for the other. On Blackwell also the smallest
# and largest number that a collective takes. Source: NVIDIA's v5.0 configs of each architecture.
if [[ $DGXSYSTEM == *B[23]00* ]]; then
  export NVTE_FWD_LAYERNORM_SM_MARGIN=${NVTE_FWD_LAYERNORM_SM_MARGIN:-16}
  export NVTE_BWD_LAYERNORM_SM_MARGIN=${NVTE_BWD_LAYERNORM_SM_MARGIN:-16}
  export NCCL_MIN_CTAS=${NCCL_MIN_CTAS:-16} NCCL_MAX_CTAS=${NCCL_MAX_CTAS:-32}
else
  export NVTE_FWD_LAYERNORM_SM_MARGIN=${NVTE_FWD_LAYERNORM_SM_MARGIN:-8}
  export NVTE_BWD_LAYERNORM_SM_MARGIN=${NVTE_BWD_LAYERNORM_SM_MARGIN:-8}
fi

# Ask for all memory of each node, unless the site sets it by processor or GPU: sbatch accepts one of the three. This is not a
# line of run.sub, because `sbatch --mem-per-cpu=...` could not override that.
if [[ -z ${SBATCH_MEM_PER_CPU:-}${SBATCH_MEM_PER_GPU:-} ]]; then
  export SBATCH_MEM_PER_NODE=${SBATCH_MEM_PER_NODE:-0}
fi
