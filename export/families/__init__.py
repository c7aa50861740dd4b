"""Published text-to-image systems: networks with the state-dict keys of their own checkpoints."""
