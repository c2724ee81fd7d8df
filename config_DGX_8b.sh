# The template for llama31_8b on a new system, one node of 8 GPUs here: copy it to
# configs/config_<SYSTEM>_<NODES>x<GPUS>x<MINIBS>xtp<TP>pp<PP>cp<CP>_8b.sh, source ../config_common.sh there, and change it.
# `llama31 config new --benchmark llama31_8b` writes such a file with the numbers worked out; this one explains them.
#
# A config only exports. The rules derive everything else (evaluation interval, decay ...):
#   llama31 show config_DGX_8b.sh          every value with its origin, every derived value with its equation
#   llama31 preflight config_DGX_8b.sh     would its logs be valid?
#   source config_DGX_8b.sh && bash run_and_time.sh      runs on one node, without Slurm or a container
source "$(dirname "${BASH_SOURCE[0]}")/config_common.sh"
export BENCHMARK=llama31_8b RULESET=6.1.0

# Nodes, and GPUs of each.
export DGXNNODES=1 DGXNGPU=8

# How one copy of the model is split: over two GPUs, so that it fits into 80 GB. With 141 GB or more, a copy fits into one
# GPU: leave the line out, and halve MINIBS. Published runs on many nodes also split the sequence (CONTEXT_PARALLEL=2).
export TENSOR_MODEL_PARALLEL=2

# Copies = nodes x GPUs / (TP x PP x CP) = 1 x 8 / 2 = 4. MINIBS is the number of samples that each copy trains on in a step:
# global batch size = MINIBS x copies = 4 x 4 = 16. The reference's convergence is known at 16, 32, 64, 96 and 128, and
# interpolated between them.
export MINIBS=4 MICRO_BATCH_SIZE=1

# bf16, fp8 or nvfp4, if the GPU supports it.
export PRECISION=${PRECISION:-bf16}

# Gradients in bf16, as in every published run whose log states the type.
export GRAD_REDUCE_IN_FP32=False

# The rules leave LEARNING_RATE and WARMUP_STEPS to the submitter. If unset, they are the reference's at this batch size (here
# 4e-4 and 16). At a batch size that the reference does not have, set both.

# Minutes of the job, with all its runs. `llama31 plan config_DGX_8b.sh --gpu GPU` says which to ask for.
export WALLTIME=${WALLTIME:-570}

# Not set here, because they depend on the site: DATADIR, TOKENIZER, LOGDIR and CONT (docs/slurm.md), NEXP=10 for the ten runs
# of a result, SAVE_CHECKPOINT to continue after the node has died, and TELEMETRY_INTERVAL=10 to sample it.
