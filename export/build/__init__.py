"""A build: from a checkpoint to a bundle."""
