"""Comparison of graphs with PyTorch."""
