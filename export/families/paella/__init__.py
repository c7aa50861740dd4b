"""Paella: codes sampled in few steps with renoising, then decoded by a VQ-GAN."""
