# The template for llama31_8b on a new system, one node of 8 GPUs here: copy it to
# configs/config_<SYSTEM>_<NODES>x<GPUS>x<MINIBS>xtp<TP>pp<PP>cp<CP>_8b.sh, source ../config_common.sh there, and change it.
# `llama31 config new --benchmark llama31_8b` writes such a file with the numbers worked out; this one explains them.
#
# A config only exports. What it does not say (evaluation cadence, decay ...) follows from the rules:
#   llama31 show config_DGX_8b.sh          every value with its origin, every derived one with its equation
#   llama31 preflight config_DGX_8b.sh    would its logs be valid?
#   source config_DGX_8b.sh && bash run_and_time.sh      on the one node, without Slurm or a container
source "$(dirname "${BASH_SOURCE[0]}")/config_common.sh"
export BENCHMARK=llama31_8b RULESET=6.1.0

# Nodes, and GPUs of each.
export DGXNNODES=1 DGXNGPU=8

# How one copy of the model is cut: two GPUs, so that it fits into 80 GB. Where there are 141 GB or more a copy fits into
# one GPU: leave the line out, and halve MINIBS. Published runs on many nodes cut the sequence, too (CONTEXT_PARALLEL=2).
export TENSOR_MODEL_PARALLEL=2

# Copies = nodes x GPUs / (TP x PP x CP) = 1 x 8 / 2 = 4. MINIBS is what each trains on in a step, in sequences: global batch
# size = MINIBS x copies = 4 x 4 = 16. The reference's convergence is known at 16, 32, 64, 96 and 128 and taken between them.
export MINIBS=4 MICRO_BATCH_SIZE=1

# bf16, fp8 or nvfp4, where the GPU has it.
export PRECISION=${PRECISION:-bf16}

# As every published run whose log says so.
export GRAD_REDUCE_IN_FP32=False

# The rules leave LEARNING_RATE and WARMUP_STEPS to the submitter. Unset, they are the reference's at this batch size (here
# 4e-4 and 16); at another batch size than it has, set both.

# Minutes of the job, all its runs together: llama31 plan config_DGX_8b.sh --gpu GPU knows better than a guess.
export WALLTIME=${WALLTIME:-570}

# What a site sets beforehand rather than here: DATADIR, TOKENIZER, LOGDIR and CONT (docs/slurm.md), NEXP=10 for the ten runs
# of a result, SAVE_CHECKPOINT to go on after the node has died, TELEMETRY_INTERVAL=10 to sample it.
