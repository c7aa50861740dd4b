"""Backends that do not report to their makers: switched off before a library is imported.

Otherwise ONNX Runtime and OpenVINO each write an identifier into the user's home and open connections.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def disable_telemetry() -> None:
    """Switch off the telemetry of ONNX Runtime and OpenVINO in this process.

    ONNX Runtime's stays as the user set it by ORT_DISABLE_TELEMETRY. OpenVINO runs without the package
    `openvino_telemetry`, which is made impossible to import unless it was imported before.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)
