"""Export: from a checkpoint to a verified bundle of ONNX graphs and engines."""
