"""INT8: calibration, quantized layers, the search for what to quantize."""
