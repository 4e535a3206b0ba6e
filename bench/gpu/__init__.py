"""Benchmarks on a GPU: `bench/gpu.sh {check|ops|encoder|train|tune|all}`, or `python -m bench.gpu STAGE`.

As in `bench`, arms are timed in interleaved rounds and a wrong arm is never timed; times are CUDA events. Peers
that cannot run here, or are wrong, become rows with the reason. `--dry-run` walks through a stage on the CPU with
tiny sizes, to show that the harness works; it measures nothing.
"""
