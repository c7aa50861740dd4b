"""From PyTorch modules to ONNX graphs."""
