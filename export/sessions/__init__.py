"""Sessions of inference backends, and their timing."""
