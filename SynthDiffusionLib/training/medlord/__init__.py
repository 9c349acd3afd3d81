"""Training of MedLoRD: VQ-GAN, latent diffusion and slim ControlNet, one after the other."""
