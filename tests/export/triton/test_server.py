"""A real server gives the pictures of the runtime to many clients at once, and survives a killed process."""

import json
import os
import signal
import threading
import time

import numpy as np
import pytest
from triton_server import MODEL, ask, client_of, running_server

from textual_vision.export.triton.options import TritonOptions
from textual_vision.export.triton.repository import write_repository

pytestmark = pytest.mark.slow
PROMPTS = ["dog", "cat wearing sunglasses", "green forest with river", "a dog", "river", "a cat , a dog"]
CLIENTS, REQUESTS = 32, 2000
MIB = 1 << 20
INFER = f"/v2/models/{MODEL}/infer"


@pytest.fixture(scope="module")
def repository(served_bundle, tmp_path_factory):
    place = tmp_path_factory.mktemp("served") / "models"
    write_repository(served_bundle, place, TritonOptions(max_batch=4))
    return place


@pytest.fixture(scope="module")
def server(launcher, repository, tmp_path_factory):
    with running_server(launcher, repository, tmp_path_factory.mktemp("log") / "server.log") as server:
        yield server


def failure_of(server, kind, prompts, seeds, count=None):
    """Status and message of a request that fails."""
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException) as caught:
        ask(client_of(server, kind), prompts, seeds, count)
    return caught.value.status(), caught.value.message()


class Clients:
    """Threads that send requests of their own until all are sent; `results` are by request."""

    def __init__(self, server, requests):
        self.results = {}
        self._requests = iter(requests)
        self._lock = threading.Lock()
        self._server = server
        self.threads = [
            threading.Thread(target=self._work, args=(("http", "grpc")[number % 2],), daemon=True)
            for number in range(CLIENTS)
        ]

    def _work(self, kind):
        from tritonclient.utils import InferenceServerException

        client = client_of(self._server, kind)
        while True:
            with self._lock:
                request = next(self._requests, None)
            if request is None:
                return
            started = time.monotonic()
            try:
                found = ask(client, [request[0]], [request[1]])
            except InferenceServerException as error:
                found = error
            self.results[request] = (found, started, time.monotonic())

    def start(self):
        for thread in self.threads:
            thread.start()

    def join(self, seconds):
        deadline = time.monotonic() + seconds
        for thread in self.threads:
            thread.join(max(0, deadline - time.monotonic()))
        assert not any(thread.is_alive() for thread in self.threads), "a client hangs"


def requests_of(count, first_seed=0):
    return [(PROMPTS[number % len(PROMPTS)], first_seed + number) for number in range(count)]


def check_pictures(results, alone):
    for (prompt, seed), (found, _, _) in results.items():
        assert not isinstance(found, Exception), found
        expected = alone.generate([prompt], [seed])
        np.testing.assert_array_equal(found[0], expected.images)
        np.testing.assert_array_equal(found[1], expected.codes)


def test_32_clients_get_2000_pictures_as_the_runtime_generates_them_alone(server, alone, capsys):
    warm = Clients(server, requests_of(500, first_seed=1 << 32))
    warm.start()
    warm.join(120)
    before = server.memory_bytes()
    clients = Clients(server, requests_of(REQUESTS))
    started = time.monotonic()
    clients.start()
    clients.join(300)
    seconds = time.monotonic() - started
    after = server.memory_bytes()
    assert len(clients.results) == REQUESTS
    check_pictures(clients.results, alone)
    assert after - before < 32 * MIB, f"{(after - before) / MIB:.1f} MiB more after {REQUESTS} requests"
    started = time.monotonic()
    for prompt, seed in requests_of(REQUESTS):
        alone(prompt, seed)
    one = time.monotonic() - started
    with capsys.disabled():
        print(f"\nserver {REQUESTS / seconds:.0f}/s, one process and thread {REQUESTS / one:.0f}/s, ", end="")
        print(f"memory {before / MIB:.0f} MiB then {after / MIB:.0f} MiB")
    assert f'nv_inference_request_success{{model="{MODEL}",version="1"}}' in server.read_metrics()


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_seeds_rise_by_one_for_a_count_and_rows_follow_each_other(server, alone, kind):
    image, codes = ask(client_of(server, kind), ["dog", "river"], [7, 2**64 - 3], count=3)
    expected = alone.generate(["dog"] * 3 + ["river"] * 3, [7, 8, 9, 2**64 - 3, 2**64 - 2, 2**64 - 1])
    np.testing.assert_array_equal(image, expected.images)
    np.testing.assert_array_equal(codes, expected.codes)


BAD = [
    (["dog", ""], [1, 2], None, "the prompt '' is empty"),
    (["   "], [1], None, "is empty"),
    ([b"\xff\xfe"], [1], None, "the prompt is not UTF-8: byte 0"),
    (["a" * 1_000_001], [1], None, "a prompt of 1000001 characters; at most 1000000 are read"),
    (["a" * 70_000_000], [1], None, "a prompt of 70000000 characters; at most 1000000 are read"),
    (["é" * 999_999] * 4, [1] * 4, None, "4 prompts of 3999996 characters together"),
    (["dog"], [2**64 - 1], 2, "seed 18446744073709551616 is not between 0 and 18446744073709551615"),
    (["dog"], [1], 0, "a count of 0 pictures; choose 1 to 16"),
    (["dog"], [1], 17, "a count of 17 pictures; choose 1 to 16"),
]


@pytest.mark.parametrize(("prompts", "seeds", "count", "words"), BAD, ids=[one[3][:40] for one in BAD])
@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_a_mistake_of_a_client_is_told_in_the_runtimes_words(server, kind, prompts, seeds, count, words):
    status, message = failure_of(server, kind, prompts, seeds, count)
    assert status == {"http": "400", "grpc": "StatusCode.INVALID_ARGUMENT"}[kind]
    assert words in message


def test_a_request_beside_a_mistaken_one_gets_its_picture(server, alone):
    requests = [("", 1), ("dog", 2), ("   ", 3), ("river", 4), *requests_of(60)]
    clients = Clients(server, requests)
    clients.start()
    clients.join(60)
    wrong = {request: clients.results.pop(request)[0] for request in (("", 1), ("   ", 3))}
    assert all("is empty" in error.message() for error in wrong.values())
    check_pictures(clients.results, alone)


def test_json_alone_is_enough(server, alone):
    inputs = [
        {"name": "prompt", "datatype": "BYTES", "shape": [1, 1], "data": ["dog"]},
        {"name": "seed", "datatype": "UINT64", "shape": [1, 1], "data": [7]},
    ]
    outputs = [{"name": "image"}]
    status, body = server.post(INFER, json.dumps({"inputs": inputs, "outputs": outputs}).encode())
    (image,) = json.loads(body)["outputs"]
    assert status == 200
    assert image["data"] == alone("dog", 7).ravel().tolist()


def test_a_killed_process_fails_its_requests_and_later_ones_succeed(server, alone):
    clients = Clients(server, requests_of(REQUESTS))
    clients.start()
    time.sleep(0.5)
    (computing,) = server.computing()
    os.kill(computing, signal.SIGKILL)
    killed = time.monotonic()
    clients.join(120)
    failed = {request: one for request, one in clients.results.items() if isinstance(one[0], Exception)}
    good = {request: one for request, one in clients.results.items() if request not in failed}
    assert all("was ended by SIGKILL" in one[0].message() for one in failed.values())
    assert {one[0].status() for one in failed.values()} <= {"503", "StatusCode.UNAVAILABLE"}
    assert 1 <= len(failed) <= 2 * CLIENTS
    assert any(begun > killed for _, begun, _ in good.values())
    check_pictures(good, alone)
    assert server.computing() != [computing]
