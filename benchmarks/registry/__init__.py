"""The schema registry and the generated encoders, measured: `python -m benchmarks.registry`."""
