"""Training of the slice-based latent diffusion model (Kebaili et al., arXiv:2406.05421): three stages, one package.

`autoencoder` (slices of image and mask), `refiner` (this project's own mend of slices that do not fit together) and
`diffusion` (the stack of the slices' latents), which writes the package.
"""
