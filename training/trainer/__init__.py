"""The training run: phases, objectives, optimizers, checkpoints of its state."""
