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
DATATYPES = {"uint64": "UINT64", "int64": "INT64", "int32": "INT32", "float32": "FP32", "uint8": "UINT8"}
STAGE_MODEL = '''"""Runs model.onnx with the file's own tensors, as Triton's ONNX Runtime backend does."""

import json
import os

import onnxruntime
import triton_python_backend_utils as utils


class TritonPythonModel:
    def initialize(self, args):
        folder = os.path.join(args["model_repository"], args["model_version"])
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            os.path.join(folder, "model.onnx"), settings, providers=["CPUExecutionProvider"]
        )
        self.names = {one["name"] for one in json.loads(args["model_config"])["input"]}
        assert self.names == {one.name for one in self.session.get_inputs()}

    def execute(self, requests):
        return [self.response(request) for request in requests]

    def response(self, request):
        given = {one.name(): one.as_numpy() for one in request.inputs()}
        outputs = [one.name for one in self.session.get_outputs()]
        values = self.session.run(outputs, given)
        tensors = [utils.Tensor(name, value) for name, value in zip(outputs, values)]
        wanted = set(request.requested_output_names())
        return utils.InferenceResponse([one for one in tensors if one.name() in wanted])
'''


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
            assert self.process.poll() is None and time.monotonic() < deadline, self.errors()
            time.sleep(0.1)

    def errors(self):
        """The log's lines about errors, and those that follow them."""
        lines = self.log.read_text("utf-8", "replace").splitlines()
        shown = [line for line in lines if not line.startswith(("I", "+", "|", "W")) and line.strip()]
        return "\n".join(shown)[-5000:]

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


def client_of(server, kind):
    """The module and the client of a protocol, "http" or "grpc"."""
    if kind == "http":
        import tritonclient.http as module

        return module, module.InferenceServerClient(server.http, network_timeout=60, connection_timeout=60)
    import tritonclient.grpc as module

    return module, module.InferenceServerClient(server.grpc)


def inputs_of(module, tensors):
    """The inputs of a request, from arrays by name; text is encoded."""
    inputs = []
    for name, tensor in tensors.items():
        datatype = {"O": "BYTES"}.get(tensor.dtype.kind, DATATYPES.get(tensor.dtype.name))
        one = module.InferInput(name, list(tensor.shape), datatype)
        one.set_data_from_numpy(tensor)
        inputs.append(one)
    return inputs


def ask(kind_and_client, prompts, seeds, count=None, version="", **numbers):
    """`image` and `codes` of a request; `numbers` are float32, one for all rows."""
    module, client = kind_and_client
    texts = [one if isinstance(one, bytes) else one.encode() for one in prompts]
    tensors = {
        "prompt": np.array([[one] for one in texts], np.object_),
        "seed": np.array([[one] for one in seeds], np.uint64),
    }
    if count is not None:
        tensors["count"] = np.full((len(seeds), 1), count, np.int32)
    tensors |= {name: np.full((len(seeds), 1), one, np.float32) for name, one in numbers.items()}
    answer = client.infer(MODEL, inputs_of(module, tensors), model_version=version)
    return answer.as_numpy("image"), answer.as_numpy("codes")


def run_stages_by_python(repository):
    """Let the Python backend run the stages that are meant for the ONNX Runtime backend, which is not here.

    It loads the very files, takes the tensors that the configuration promises, and is warmed up by it.
    """
    for config in repository.glob(f"{MODEL}_*/config.pbtxt"):
        text = config.read_text("utf-8")
        assert 'backend: "onnxruntime"' in text
        text = text.replace('backend: "onnxruntime"', 'backend: "python"')
        config.write_text(text.replace('"model.onnx"', '"model.py"'), "utf-8")
        for graph in config.parent.glob("*/model.onnx"):
            (graph.parent / "model.py").write_text(STAGE_MODEL, "utf-8")
