"""The latent network: from quantized text and noise to image codes."""
