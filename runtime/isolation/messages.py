"""Messages between a process and its isolated child: JSON, then the raw bytes of arrays.

Not pickle: the child may be under an attacker's control, and must not be able to run code in its parent.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from textual_vision.runtime.backends.session import Array
from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.manifest import DTYPES
from textual_vision.runtime.strict_json import json_from_bytes

HEADER = struct.Struct("<Q")
JSON_LIMIT_BYTES = 64 << 20
ARRAYS_LIMIT = 1000
PIECE_BYTES = 1 << 20


class ConnectionClosedError(Exception):
    """The other side has closed the connection."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """Plain JSON `values` and named arrays."""

    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)


class Connection:
    """One end of a pair of sockets. A deadline is a time of `time.monotonic`, or None to wait for ever."""

    def __init__(self, sock: socket.socket, largest_bytes: int) -> None:
        """No message of more than `largest_bytes` is received."""
        self._socket = sock
        self._largest = largest_bytes

    def send(self, message: Message, deadline: float | None = None) -> None:
        """Send it whole; raises TimeoutError at the deadline and ConnectionClosedError."""
        arrays = {name: np.asarray(value, order="C") for name, value in message.arrays.items()}
        described = {name: [value.dtype.name, list(value.shape)] for name, value in arrays.items()}
        text = json.dumps({"values": message.values, "arrays": described}).encode("utf-8")
        try:
            self._wait_until(deadline)
            self._socket.sendall(HEADER.pack(len(text)) + text)
            for value in arrays.values():
                self._wait_until(deadline)
                self._socket.sendall(value.reshape(-1).view(np.uint8).data)
        except (BrokenPipeError, ConnectionResetError):
            raise ConnectionClosedError from None

    def receive(self, deadline: float | None = None) -> Message:
        """The next message; raises TimeoutError, ConnectionClosedError, or IntegrityError for nonsense."""
        (size,) = HEADER.unpack(self._exactly(HEADER.size, deadline))
        if size > JSON_LIMIT_BYTES:
            raise IntegrityError(f"a message of {size} bytes from the isolated process")
        value = json_from_bytes(bytes(self._exactly(size, deadline)), "message of the isolated process")
        if not isinstance(value, dict) or set(value) != {"values", "arrays"}:
            raise IntegrityError("a malformed message from the isolated process")
        shapes = self._checked_shapes(value["arrays"])
        arrays: dict[str, Array] = {}
        for name, (dtype, shape) in shapes.items():
            data = self._exactly(np.dtype(dtype).itemsize * math.prod(shape), deadline)
            arrays[name] = np.frombuffer(data, dtype).reshape(shape)
        return Message(values=value["values"], arrays=arrays)

    def _checked_shapes(self, described: Any) -> dict[str, tuple[str, list[int]]]:
        good = isinstance(described, dict) and len(described) <= ARRAYS_LIMIT
        total = 0
        for one in described.values() if good else ():
            good = good and isinstance(one, list) and len(one) == 2 and one[0] in DTYPES
            good = good and isinstance(one[1], list) and all(type(n) is int and n >= 0 for n in one[1])
            if good:
                total += np.dtype(one[0]).itemsize * math.prod(one[1])
        if not good or total > self._largest:
            raise IntegrityError("a message of impossible size from the isolated process")
        return {name: (one[0], one[1]) for name, one in described.items()}

    def _exactly(self, size: int, deadline: float | None) -> bytearray:
        data = bytearray(size)
        place = 0
        while place < size:
            self._wait_until(deadline)
            try:
                count = self._socket.recv_into(memoryview(data)[place : place + PIECE_BYTES])
            except ConnectionResetError:
                raise ConnectionClosedError from None
            if count == 0:
                raise ConnectionClosedError
            place += count
        return data

    def _wait_until(self, deadline: float | None) -> None:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
