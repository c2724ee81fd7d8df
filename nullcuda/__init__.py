"""A null CUDA device, and the driver that runs a rank of any world on it. README.md describes what it answers."""
