"""TensorRT and TensorRT-RTX: the library, CUDA memory, and engines as sessions."""
