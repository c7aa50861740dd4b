"""ONNX Runtime's CPU under the name of its CUDA provider: it computes, and notes what was asked of it."""

from __future__ import annotations

import threading

import onnxruntime

from textual_vision.runtime.backends import cuda_graphs


class PretendedSession(onnxruntime.InferenceSession):
    """Notes of each run the number of its CUDA graph, "-1" for none, and None when nothing was said."""

    def __init__(self, graph, settings=None, used="CUDAExecutionProvider"):
        super().__init__(graph, settings, providers=["CPUExecutionProvider"])
        self.used, self.settings = used, settings
        self.graph_ids, self.threads, self.buffers = [], set(), []

    def get_providers(self):
        return [self.used]

    def run(self, names, inputs, options=None):
        self._note(options)
        return super().run(names, inputs, options)

    def run_with_iobinding(self, binding, options=None):
        self._note(options)
        self.buffers.append(binding)
        super().run_with_iobinding(binding, options)

    def _note(self, options):
        self.graph_ids.append(options.get_run_config_entry("gpu_graph_id") if options else None)
        self.threads.add(threading.get_ident())


def pretend_cuda(monkeypatch, *, version="1.31.1", used="CUDAExecutionProvider", refuse=None):
    """Have it in ONNX Runtime's place; its sessions run on `used`, whatever was asked for.

    `refuse` gives the error for a provider's settings, or None. Gives two lists that fill up: the sessions
    that were opened, and the providers that were asked for.
    """
    opened, asked = [], []

    def session(graph, settings, *, providers, enable_fallback):
        asked.append(providers[0])
        if refuse is not None and (error := refuse(providers[0][1])) is not None:
            raise error
        opened.append(PretendedSession(graph, settings, used))
        return opened[-1]

    monkeypatch.setattr(onnxruntime, "__version__", version)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(cuda_graphs, "DEVICE", "cpu")
    return opened, asked
