"""Benchmarks of a bundle, compared with PyTorch and other runtimes."""
