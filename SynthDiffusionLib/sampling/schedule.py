"""The forward process of a model: its noise schedule and what its network predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PREDICTIONS = ("epsilon", "v_prediction", "sample")  # "velocity" belongs to rectified flow: see `flow`


@dataclass(frozen=True)
class DiffusionSpec:
    """As in a package's `model.json`.

    Args:
        train_steps: T.
        beta_schedule: "linear" or "scaled_linear" or "squaredcos_cap_v2", as diffusers names them; or "rectified_flow",
            which has no betas.
        beta_start: first beta (unused for the cosine schedule).
        beta_end: last beta (unused for the cosine schedule).
        prediction: what the network predicts; "v_prediction" is v = sqrt(a) eps - sqrt(1 - a) x0 of Salimans and Ho,
            arXiv:2202.00512, section 4 and appendix D; "velocity" is x0 - noise, of rectified flow.
        shift_numel: voxels of a latent at which rectified flow is not shifted; None: it never is.
    """

    train_steps: int = 1000
    beta_schedule: str = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    prediction: str = "epsilon"
    shift_numel: int | None = None

    def alphas_cumprod(self) -> torch.Tensor:
        """(T,) float32, the products of 1 - beta."""
        from diffusers import DDPMScheduler

        return DDPMScheduler(
            num_train_timesteps=self.train_steps,
            beta_schedule=self.beta_schedule,
            beta_start=self.beta_start,
            beta_end=self.beta_end,
        ).alphas_cumprod


def diffuse(
    x0: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor, prediction: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy sample and training target.

    Args:
        x0: (B, C, D, H, W) clean images.
        noise: same shape, standard normal.
        alpha_bar: (B,) product of 1 - beta at each image's time step.
        prediction: one of `PREDICTIONS`.

    Returns:
        noisy images and what the network should predict, both (B, C, D, H, W).
    """
    a = alpha_bar.view(-1, *([1] * (x0.ndim - 1))).to(x0)
    noisy = a.sqrt() * x0 + (1 - a).sqrt() * noise
    targets = {"epsilon": noise, "sample": x0, "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * x0}
    return noisy, targets[prediction]
