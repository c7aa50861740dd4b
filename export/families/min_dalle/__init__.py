"""min-dalle: codes one after the other by a transformer with cached keys and values, then a VQ-GAN."""
