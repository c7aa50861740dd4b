"""What Triton Inference Server loads: the runtime as a model of its Python backend."""
