# The template for a new system: copy it to config_<SYSTEM>_<NODES>x<GPUS>x<MINIBS>xtp<TP>pp<PP>cp<CP>.sh and change it.
# `llama31 config new` writes such a file with the numbers worked out; this one explains them.
#
# A config only exports. The rules derive everything else (learning rate, warm-up, evaluation interval ...):
#   llama31 show config_DGX.sh          every value with its origin, every derived value with its equation
#   llama31 preflight config_DGX.sh     would its logs be valid?
#   source config_DGX.sh && sbatch -N "$DGXNNODES" -t "$WALLTIME" run.sub
source "$(dirname "${BASH_SOURCE[0]}")/config_common.sh"
export BENCHMARK=llama31_405b RULESET=6.0.0

# Nodes, and GPUs of each.
export DGXNNODES=64 DGXNGPU=8

# How one copy of the model is split. Tensor parallelism stays inside a node (it divides the 8 query groups). Pipeline x
# interleaved divides 126 layers, or 128 if embedding and loss count as layers, too. Context parallelism splits the sequence.
export TENSOR_MODEL_PARALLEL=8 PIPELINE_MODEL_PARALLEL=8 INTERLEAVED_PIPELINE=8 CONTEXT_PARALLEL=2

# Copies = nodes x GPUs / (TP x PP x CP) = 64 x 8 / 128 = 4, a whole number. MINIBS is the number of samples that each copy
# trains on in a step: global batch size = MINIBS x copies = 288 x 4 = 1152. MINIBS / MICRO_BATCH_SIZE must be a multiple of
# PIPELINE_MODEL_PARALLEL. The reference's convergence is known at 1152, 2304 and 4608, and interpolated between them.
export MINIBS=288 MICRO_BATCH_SIZE=1

# bf16, fp8 or nvfp4, if the GPU supports it.
export PRECISION=${PRECISION:-bf16}

# The model fits only with gradients in bf16, by `llama31 plan config_DGX.sh`.
export GRAD_REDUCE_IN_FP32=False

# Minutes of the job, with all its runs. `llama31 plan config_DGX.sh` says which to ask for.
export WALLTIME=${WALLTIME:-490}

# Not set here, because they depend on the site: DATADIR, LOAD_CHECKPOINT, LOGDIR, CONT and CONTAINER_RUNTIME (docs/slurm.md),
# NEXP=3 for the three runs of a result, SAVE_CHECKPOINT and NPAR to continue after a node has died, and
# TELEMETRY_INTERVAL=10 to sample the nodes.
