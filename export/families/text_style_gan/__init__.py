"""textStyleGAN: StyleGAN conditioned on a sentence."""
