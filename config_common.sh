# What every config shares; sourced by it first. The config's file name is the name of its system.
DGXSYSTEM=$(basename "${BASH_SOURCE[1]}" .sh)
export DGXSYSTEM=${DGXSYSTEM#config_}
export CONFIG_FILENAME=config_$DGXSYSTEM.sh
