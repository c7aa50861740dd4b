"""Precisions of a bundle: float32, float16, and how weights are stored."""
