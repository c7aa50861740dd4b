"""Check ONNX graphs from unknown sources, without the onnx library."""
