"""The latent network as it is exported."""
