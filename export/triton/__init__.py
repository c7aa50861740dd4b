"""A model repository of Triton Inference Server from a bundle."""
