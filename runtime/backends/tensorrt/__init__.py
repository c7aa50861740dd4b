"""TensorRT by itself: the library, CUDA memory, engines as sessions."""
