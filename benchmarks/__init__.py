"""The benchmark suite: ``pytest benchmarks``. benchmarks/README.md says how to run and read it."""
