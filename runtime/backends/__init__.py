"""Inference libraries, one file each, imported when they are asked for."""

from textual_vision.runtime.backends.telemetry import disable_telemetry

disable_telemetry()  # here, since every backend's module is imported after this
