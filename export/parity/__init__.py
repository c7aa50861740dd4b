"""Compare graphs with PyTorch."""
