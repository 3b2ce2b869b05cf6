"""What docs/benchmarks.md promises, measured: each program compares in one run, on the embedded model."""
