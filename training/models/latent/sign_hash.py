"""Numbers that are the same on every machine, and nothing that a checkpoint has to hold."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def hashed_signs(name: str, rows: int, columns: int) -> Tensor:
    """+1 and -1, float32 (rows, columns), the same on every machine: bits of SHAKE-128 of a name."""
    digest = hashlib.shake_128(name.encode()).digest(rows * columns // 8 + 1)
    bits = [byte >> place & 1 for byte in digest for place in range(8)]
    return 2.0 * torch.tensor(bits[: rows * columns], dtype=torch.float32).view(rows, columns) - 1.0
