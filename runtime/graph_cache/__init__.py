"""Graphs that ONNX Runtime has optimized for this processor, kept between processes."""
