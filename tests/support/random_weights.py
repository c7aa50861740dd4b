"""Random weights that depend only on a tensor's key and shape, so that two implementations have the same."""

import zlib

import torch

from textual_vision.runtime.noise import noise_from_seed

SMALL = 0.1


def random_tensor(key, tensor):
    """Values of a plausible size: matrices keep the variance of their inputs, norms scale by about 1."""
    count = tensor.numel()
    if not tensor.is_floating_point() or not count:
        return tensor.clone()
    normals = torch.from_numpy(noise_from_seed(zlib.crc32(key.encode()), 1, count)[0]).reshape(tensor.shape)
    if key.endswith("running_var"):
        return (SMALL * normals).exp().to(tensor.dtype)
    if tensor.dim() >= 2:
        fan_in = max(1, count // tensor.shape[0])
        unscaled = any(part in key for part in ("emb", "codebook", "weight_orig"))
        return (normals / (1.0 if unscaled else fan_in**0.5)).to(tensor.dtype)
    about = 1.0 if key.endswith("weight") else 0.0
    return (about + SMALL * normals).to(tensor.dtype)


def random_state(module, prefix=""):
    """A state dict of random values for all tensors of `module` but those that hold no weights."""
    return {key: random_tensor(prefix + key, tensor) for key, tensor in module.state_dict().items()}
