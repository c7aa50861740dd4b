"""Open, cache and time sessions of inference backends."""
