"""Messages between a process and its isolated child, who may be hostile."""

import json
import socket
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.isolation.messages import HEADER, Connection, ConnectionClosedError, Message

LARGEST = 1 << 20


@pytest.fixture
def ends():
    pair = socket.socketpair()
    yield tuple(Connection(one, LARGEST) for one in pair)
    for one in pair:
        one.close()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
        np.float16(3),
        np.zeros((0, 5), np.uint8),
        np.array([True, False]),
    ],
)
def test_what_is_sent_is_received(ends, array):
    ends[0].send(Message(values={"stage": "latent 🐶", "n": [1, None]}, arrays={"x": array}))
    found = ends[1].receive(time.monotonic() + 5)
    assert found.values == {"stage": "latent 🐶", "n": [1, None]}
    assert found.arrays["x"].dtype == array.dtype
    assert np.array_equal(found.arrays["x"], array)


def test_nothing_within_the_time_is_a_timeout(ends):
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        ends[0].receive(start + 0.1)
    assert time.monotonic() - start < 5


def test_a_closed_connection_is_told_from_a_slow_one(ends):
    ends[1].close()
    with pytest.raises(ConnectionClosedError):
        ends[0].receive(time.monotonic() + 5)


def framed(value):
    text = json.dumps(value).encode()
    return HEADER.pack(len(text)) + text


HOSTILE = {
    "a huge message": HEADER.pack(1 << 60),
    "no JSON": HEADER.pack(3) + b"abc",
    "another object": framed({"values": {}}),
    "a list": framed([1]),
    "arrays that are none": framed({"values": {}, "arrays": [1]}),
    "objects": framed({"values": {}, "arrays": {"x": ["object", [1]]}}),
    "a negative size": framed({"values": {}, "arrays": {"x": ["int8", [-1]]}}),
    "a size that is no integer": framed({"values": {}, "arrays": {"x": ["int8", [1.5]]}}),
    "an array that is too large": framed({"values": {}, "arrays": {"x": ["int8", [LARGEST + 1]]}}),
    "arrays that are together too large": framed(
        {"values": {}, "arrays": {name: ["int64", [LARGEST // 9]] for name in "xy"}}
    ),
    "thousands of arrays": framed({"values": {}, "arrays": {str(n): ["int8", [0]] for n in range(2000)}}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_message_is_refused_that_is(case):
    first, second = socket.socketpair()
    with first, second:
        first.sendall(HOSTILE[case])
        with pytest.raises(IntegrityError, match="isolated process"):
            Connection(second, LARGEST).receive(time.monotonic() + 5)


@given(st.binary(max_size=100))
def test_any_bytes_are_refused(data):
    first, second = socket.socketpair()
    with second:
        with first:
            first.sendall(HEADER.pack(len(data)) + data)
        with pytest.raises((IntegrityError, ConnectionClosedError)):
            Connection(second, LARGEST).receive(time.monotonic() + 5)
