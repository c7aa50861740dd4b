"""A real Triton Inference Server for tests, and the requests that its clients send."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
START_SECONDS = 90
END_SECONDS = 30
MODEL = "text_to_image"


class Server:
    """A running server; `http` and `grpc` are its addresses."""

    def __init__(self, launcher, repository, log, *options):
        ports = free_ports(3)
        self.http, self.grpc, self.metrics = (f"127.0.0.1:{port}" for port in ports)
        named = zip(("--http-port", "--grpc-port", "--metrics-port"), map(str, ports), strict=True)
        command = [launcher, "--model-repository", repository, "--exit-timeout-secs", "10"]
        command += [word for pair in named for word in pair]
        # The models import the working tree, not the copy that was installed with the server.
        environment = {**os.environ, "PYTHONPATH": str(ROOT / ".typings"), "OMP_NUM_THREADS": "1"}
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [*map(str, command), *options], stdout=file, stderr=subprocess.STDOUT, env=environment
            )

    def wait(self, path="/v2/health/ready"):
        """Return when the server answers `path` with 200."""
        deadline = time.monotonic() + START_SECONDS
        while self.status(path) != 200:
            assert self.process.poll() is None, self.log.read_text("utf-8", "replace")[-3000:]
            assert time.monotonic() < deadline, self.log.read_text("utf-8", "replace")[-3000:]
            time.sleep(0.1)

    def status(self, path, data=None):
        """HTTP's status of a request, 0 where nobody listens."""
        return self.post(path, data)[0]

    def post(self, path, data=None, headers=()):
        """Status and body of an answer by HTTP."""
        request = urllib.request.Request(f"http://{self.http}{path}", data=data, headers=dict(headers))
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def read_metrics(self):
        """The metrics page: Prometheus's text format."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10) as answer:
            return answer.read().decode()

    def stubs(self):
        """The processes of the Python backend that the server started."""
        return children_of(self.process.pid)

    def computing(self):
        """The processes that compute: children of the Python backend's."""
        return [child for stub in self.stubs() for child in children_of(stub)]

    def memory_bytes(self):
        """Resident memory of the server and of all processes below it."""
        return sum(resident_bytes(one) for one in [self.process.pid, *self.stubs(), *self.computing()])

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def running_server(launcher, repository, log, *options):
    server = Server(launcher, repository, log, *options)
    try:
        server.wait()
        yield server
    finally:
        server.close()


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def children_of(process):
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            words = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(words[1]) == process and words[0] != "Z":
                found.append(int(folder.name))
    return sorted(found)


def resident_bytes(process):
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def inputs_of(module, prompts, seeds, count=None):
    """The inputs of a request; `module` is tritonclient.http or tritonclient.grpc."""
    texts = [one if isinstance(one, bytes) else one.encode() for one in prompts]
    columns = [
        ("prompt", "BYTES", np.array([[one] for one in texts], np.object_)),
        ("seed", "UINT64", np.array([[one] for one in seeds], np.uint64)),
    ]
    if count is not None:
        columns.append(("count", "INT32", np.full((len(seeds), 1), count, np.int32)))
    inputs = []
    for name, datatype, tensor in columns:
        one = module.InferInput(name, list(tensor.shape), datatype)
        one.set_data_from_numpy(tensor)
        inputs.append(one)
    return inputs


def ask(module, client, prompts, seeds, count=None, version=""):
    """`image` and `codes` of a request."""
    inputs = inputs_of(module, prompts, seeds, count)
    answer = client.infer(MODEL, inputs, model_version=version)
    return answer.as_numpy("image"), answer.as_numpy("codes")
