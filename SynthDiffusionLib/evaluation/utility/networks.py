"""The segmentation networks of the arms: one recipe for all, as many optimiser steps for all, the last weights for all.

Nothing is chosen on validation cases: there is no early stop and no best checkpoint, so that no arm gains from more
looks at them than another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from SynthDiffusionLib.evaluation.utility.pairs import Pair

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Recipe:
    """How every network is trained.

    Args:
        steps: optimiser steps.
        batch: crops per step.
        patch: (I, J, K) voxels of a crop; multiples of 2 to the power of the levels less one.
        channels: features per level of the U-Net.
        learning_rate: peak of a one-cycle schedule.
        turned: exchange the axes at random (cubic voxels and crops).
        precision: "bf16" (autocast) or "fp32".
    """

    steps: int = 1500
    batch: int = 4
    patch: tuple[int, int, int] = (32, 32, 32)
    channels: tuple[int, ...] = (12, 24, 48, 64)
    learning_rate: float = 2e-3
    turned: bool = True
    precision: str = "bf16"

    def to_json(self) -> dict[str, Any]:
        """For the results."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def train_network(
    groups: Sequence[Sequence[Pair]],
    shares: Sequence[float] | None,
    targets: int,
    recipe: Recipe,
    seed: int,
    device: str = "cpu",
    on_event: Callable[[dict], None] = lambda event: None,
) -> torch.nn.Module:
    """Trains a residual U-Net with one sigmoid channel a target.

    Args:
        groups: examples by kind, such as real and synthetic ones.
        shares: how often a crop comes from each group; None: by their numbers, each example being as likely.
        targets: channels.
        recipe: see there.
        seed: of the first weights and of all crops. The same for all arms: they start alike.

    Returns:
        the network, in evaluation mode.
    """
    import torch
    from monai.losses import DiceCELoss

    from SynthDiffusionLib.networks.segmenter import build_segmenter
    from SynthDiffusionLib.networks.small_grids import exact_on_small_grids
    from SynthDiffusionLib.training.train_segmenter import draw_crop

    groups = [list(g) for g in groups if g]
    numbers = np.array([len(g) for g in groups], np.float64)
    weights = numbers / numbers.sum() if shares is None else np.asarray(shares, np.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = exact_on_small_grids(build_segmenter(recipe.channels, targets)).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, recipe.steps, pct_start=0.1)
    loss_function = DiceCELoss(sigmoid=True)
    network.train()
    for step in range(recipe.steps):
        rng = np.random.default_rng([seed, 11, step])
        drawn = []
        for _ in range(recipe.batch):
            group = groups[int(rng.choice(len(groups), p=weights))]
            pair = group[int(rng.integers(len(group)))]
            drawn.append(draw_crop(pair.image, pair.target, recipe.patch, rng, recipe.turned))
        images = torch.from_numpy(np.stack([d[0] for d in drawn]))[:, None].to(device)
        truth = np.stack([[d[1] == n for n in range(1, targets + 1)] for d in drawn])
        wanted = torch.from_numpy(truth).to(device).float()
        with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=recipe.precision == "bf16"):
            logits = network(images)
        # Channel by channel: given several at once, the loss would take them for exclusive classes.
        one = [loss_function(logits[:, c : c + 1].float(), wanted[:, c : c + 1]) for c in range(targets)]
        loss = torch.stack(one).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            on_event({"event": "progress", "stage": "training", "step": step, "total": recipe.steps})
    return network.eval()


def scores(
    network: torch.nn.Module, pairs: Sequence[Pair], targets: Sequence[str], recipe: Recipe, device: str = "cpu"
) -> list[dict]:
    """Dice of every example, target by target; 1 where a target is neither there nor found.

    The volume is searched in windows of the size of the training crops, half overlapping, blended by a Gaussian: whole
    volumes shift the statistics of the instance normalisation, and networks find less in them.

    Returns:
        {"case", "patient", "dice": {target: value}} each.
    """
    import torch
    from monai.inferers import sliding_window_inference

    from SynthDiffusionLib.training.train_segmenter import dice

    results = []
    for pair in pairs:
        image = torch.from_numpy(pair.image)[None, None].to(device)
        with torch.inference_mode():
            logits = sliding_window_inference(
                image, recipe.patch, 4, network, overlap=0.5, mode="gaussian", padding_mode="constant", cval=-1.0
            )
        found = (logits[0] > 0).cpu().numpy()
        by_target = {name: dice(found[n], pair.target == n + 1) for n, name in enumerate(targets)}
        results.append({"case": pair.case, "patient": pair.patient, "dice": by_target})
    return results
