"""A null CUDA device, and the driver that runs a rank of any world on it. README.md says what it answers."""
