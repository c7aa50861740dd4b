"""The networks: text encoder, codebook, latent network, generator, discriminator."""
