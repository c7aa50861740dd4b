"""Benchmarks of a bundle and its peers."""
