"""Calibration: from prompts to INT8 ranges."""
