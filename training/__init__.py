"""Training: from captioned pictures to a checkpoint."""
