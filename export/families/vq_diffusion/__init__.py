"""VQ-Diffusion: codes by diffusion in discrete space, then decoded by a VQ-GAN."""
