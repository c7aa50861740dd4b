"""Export PyTorch modules to ONNX graphs."""
