# The template for a new system: copy it to config_<SYSTEM>_<NODES>x<GPUS>x<MINIBS>xtp<TP>pp<PP>cp<CP>.sh and change it.
# `llama31 config new` writes such a file with the numbers worked out; this one explains them.
#
# A config only exports. What it does not say (learning rate, warm-up, evaluation cadence ...) follows from the rules:
#   llama31 show config_DGX.sh          every value with its origin, every derived one with its equation
#   llama31 preflight config_DGX.sh    would its logs be valid?
#   source config_DGX.sh && sbatch -N "$DGXNNODES" -t "$WALLTIME" run.sub
source "$(dirname "${BASH_SOURCE[0]}")/config_common.sh"
export BENCHMARK=llama31_405b RULESET=6.0.0

# Nodes, and GPUs of each.
export DGXNNODES=64 DGXNGPU=8

# How one copy of the model is cut. Tensor parallelism stays inside a node (it divides the 8 query groups). Pipeline x
# interleaved divides 126 layers, or 128 where embedding and loss count as layers, too. Context parallelism cuts the sequence.
export TENSOR_MODEL_PARALLEL=8 PIPELINE_MODEL_PARALLEL=8 INTERLEAVED_PIPELINE=8 CONTEXT_PARALLEL=2

# Copies = nodes x GPUs / (TP x PP x CP) = 64 x 8 / 128 = 4, a whole number. MINIBS is what each trains on in a step, in
# sequences: global batch size = MINIBS x copies = 288 x 4 = 1152. MINIBS / MICRO_BATCH_SIZE is a multiple of
# PIPELINE_MODEL_PARALLEL. The reference's convergence is known at 1152, 2304 and 4608 and taken between them.
export MINIBS=288 MICRO_BATCH_SIZE=1

# bf16, fp8 or nvfp4, where the GPU has it.
export PRECISION=${PRECISION:-bf16}

# What it takes to fit, by `llama31 plan config_DGX.sh`: gradients in bf16.
export GRAD_REDUCE_IN_FP32=False

# Minutes of the job, all its runs together: llama31 plan config_DGX.sh knows better than a guess.
export WALLTIME=${WALLTIME:-490}

# What a site sets beforehand rather than here: DATADIR, LOAD_CHECKPOINT, LOGDIR, CONT and CONTAINER_RUNTIME (docs/slurm.md),
# NEXP=3 for the three runs of a result, SAVE_CHECKPOINT and NPAR to go on after a node has died,
# TELEMETRY_INTERVAL=10 to sample the nodes.
