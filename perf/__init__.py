"""Benchmarks, each with a peer measured in the same run: python -m perf.<name>."""

from reference_impl.quiet import quieten_libraries

# Before any of them imports Megatron-Core.
quieten_libraries()
