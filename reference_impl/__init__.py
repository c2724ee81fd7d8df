"""Llama 3.1 on Megatron-Core, behind the Step protocol of `benchmark.loop`."""
