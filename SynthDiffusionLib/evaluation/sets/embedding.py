"""A small self-supervised embedding of volumes, in which copies of a volume lie near it even if they are changed.

A network is trained on one set of volumes so that two random changes of one volume (shift, rotation, scale, smooth
warp, blur, noise, contrast) fall on nearly the same point, and different volumes fall apart: SimCLR
(Chen et al. 2020, arXiv:2002.05709), with the loss of `monai.losses.ContrastiveLoss` (NT-Xent, their equation 1). That
copies of patients are looked for in such an embedding is the idea of Dar et al. 2024 (arXiv:2402.01054); network,
changes and sizes are ours, small enough for a CPU.

All volumes are cut to one box round their middle first, and thinned by block means where that box is large. The network
takes crops of that box that are smaller by a margin; of two volumes, several crops and all mirror images are compared,
and the nearest count, so that large shifts and mirror images need not be learnt. Training can be interrupted; it goes
on from its last checkpoint, and gives the same weights.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from SynthDiffusionLib.errors import BadInput

if TYPE_CHECKING:
    import torch

VERSION = 1  # of what is computed: another one leaves older checkpoints alone
SMALLEST_SIDE = 12
CHECKPOINT_STEPS = 25
WARP_GRID = 6  # points of the random displacement along each axis
MARGIN_SHARE = 0.08  # of each side, at both ends
VIEWS = 16  # changed versions of each training volume that the scaling is taken from
SHRINKAGE = 0.1


@dataclass(frozen=True)
class EmbeddingSettings:
    """How the embedding is trained.

    Args:
        steps: of Adam.
        batch: volumes a step, of each two changed versions; at most the volumes that there are.
        channels: of the convolutions, each of stride 2.
        features: dimensions of the embedding, a point on the unit sphere.
        temperature: of the loss.
        learning_rate: of Adam, falling to 0 by a cosine.
        longest: voxels of the longest side; larger boxes are thinned by the smallest whole factor.
        seed: of weights, order and changes.
    """

    steps: int = 400
    batch: int = 24
    channels: tuple[int, ...] = (16, 32, 64, 96)
    features: int = 64
    temperature: float = 0.1
    learning_rate: float = 2e-3
    longest: int = 32
    seed: int = 2026

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"version": VERSION}


def common_box(shapes: Sequence[tuple[int, int, int]]) -> tuple[int, int, int]:
    """The largest box that fits into all volumes.

    Raises:
        BadInput: it is too small to hold anything.
    """
    box = tuple(int(n) for n in np.array(list(shapes)).min(0))
    if min(box) < SMALLEST_SIDE:
        raise BadInput(
            f"The smallest volumes have {' x '.join(map(str, box))} voxels in common; at least {SMALLEST_SIDE} along "
            "each axis are needed",
            "Give a finer --spacing, or leave small volumes out.",
        )
    return box


def central(array: np.ndarray, box: Sequence[int]) -> np.ndarray:
    """The box round the middle of a volume."""
    starts = [(n - b) // 2 for n, b in zip(array.shape, box)]
    return array[tuple(slice(a, a + b) for a, b in zip(starts, box))]


def thinned(array: np.ndarray, factor: int) -> np.ndarray:
    """Means of blocks of `factor`³ voxels; what is left over at the ends is cut off."""
    if factor == 1:
        return array
    i, j, k = (n // factor for n in array.shape)
    blocks = array[: i * factor, : j * factor, : k * factor].reshape(i, factor, j, factor, k, factor)
    return blocks.mean((1, 3, 5))


def thinning(box: Sequence[int], longest: int) -> int:
    """The smallest whole factor that brings a box to at most `longest` voxels."""
    return max(1, math.ceil(max(box) / longest))


def prepared(
    images: Sequence[np.ndarray], box: Sequence[int], intensity_range: tuple[float, float], longest: int
) -> np.ndarray:
    """Volumes as the network takes them.

    Returns:
        (N, I, J, K) float32 in [0, 1].
    """
    low, high = intensity_range
    factor = thinning(box, longest)
    return np.stack([thinned((central(a, box) - low) / (high - low), factor) for a in images]).astype(np.float32)


def margins(shape: Sequence[int]) -> tuple[int, int, int]:
    """By how much the network's crops are smaller than the box, at both ends of each axis."""
    return tuple(max(1, round(MARGIN_SHARE * n)) for n in shape)


def build_encoder(shape: Sequence[int], settings: EmbeddingSettings) -> torch.nn.Module:
    """The network: two channels (the volume and its detail, each with mean 0 and deviation 1), convolutions of stride
    2, means over what is left, two linear layers.

    It maps (N, 1, I, J, K) to (N, features), not yet on the unit sphere.
    """
    import torch
    from monai.networks.blocks import Convolution

    class Detail(torch.nn.Module):
        """(N, 1, I, J, K) to (N, 2, I, J, K)."""

        def forward(self, volumes: torch.Tensor) -> torch.Tensor:
            both = torch.cat([volumes, volumes - _blurred(volumes)], 1)
            return torch.nn.functional.instance_norm(both, eps=1e-4)

    layers: list[torch.nn.Module] = [Detail()]
    before, sides = 2, list(shape)
    for channels in settings.channels:
        strides = tuple(2 if n >= 4 else 1 for n in sides)
        norm = ("GROUP", {"num_groups": 8, "num_channels": channels})
        layers.append(Convolution(3, before, channels, strides=strides, kernel_size=3, norm=norm, act="RELU"))
        before, sides = channels, [math.ceil(n / s) for n, s in zip(sides, strides)]
    pooled = [min(2, n) for n in sides]
    width = before * math.prod(pooled)
    # Without the last normalisation all points begin on one spot, and hundreds of steps pass before they leave it.
    head = [torch.nn.Linear(width, 128), torch.nn.BatchNorm1d(128), torch.nn.ReLU()]
    head += [torch.nn.Linear(128, settings.features), torch.nn.BatchNorm1d(settings.features, affine=False)]
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool3d(pooled), torch.nn.Flatten(), *head)


def changed(volumes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random changes of each volume (N, 1, I, J, K) in [0, 1], cut to the network's crop.

    Rotated by up to 10° about each axis, scaled by up to 5 %, shifted by up to 5 % of each side, warped by up to 4 % of
    the sides (standard deviation), blurred by up to 1.15 voxels, gamma from 2/3 to 3/2, contrast by 20 %, brightness by
    10 % of the range, noise of up to 3 % of it. Beyond the ends, the outermost voxels are repeated.
    """
    import torch
    from torch.nn import functional

    n = len(volumes)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    angles = uniform(-1.0, 1.0, 3) * math.radians(10.0)
    matrix = uniform(0.95, 1.05, 1, 1) * torch.eye(3)
    for axis in range(3):
        a, b = [i for i in range(3) if i != axis]
        turn = torch.eye(3).repeat(n, 1, 1)
        sine, cosine = angles[:, axis].sin(), angles[:, axis].cos()
        turn[:, a, a], turn[:, b, b], turn[:, a, b], turn[:, b, a] = cosine, cosine, -sine, sine
        matrix = turn @ matrix
    theta = torch.cat([matrix, uniform(-0.1, 0.1, 3, 1)], 2)  # the sides are 2 long
    inner = [side - 2 * m for side, m in zip(volumes.shape[2:], margins(volumes.shape[2:]))]
    theta[:, :, :3] *= torch.tensor([n / side for n, side in zip(inner, volumes.shape[2:])][::-1])
    places = functional.affine_grid(theta, [n, 1, *inner], align_corners=False)
    rough = torch.randn(n, 3, *[WARP_GRID] * 3, generator=generator) * uniform(0.0, 0.08, 1, 1, 1, 1)
    smooth = functional.interpolate(rough, size=inner, mode="trilinear", align_corners=True)
    places = places + smooth.permute(0, 2, 3, 4, 1)
    out = functional.grid_sample(volumes, places, mode="bilinear", padding_mode="border", align_corners=False)
    out = torch.lerp(out, _blurred(out), uniform(0.0, 1.0, 1, 1, 1, 1))
    gamma = torch.exp(uniform(-1.0, 1.0, 1, 1, 1, 1) * math.log(1.5))
    out = out.clamp(0.0, 1.0) ** gamma
    out = (out - 0.5) * uniform(0.8, 1.2, 1, 1, 1, 1) + 0.5 + uniform(-0.1, 0.1, 1, 1, 1, 1)
    return out + uniform(0.0, 0.03, 1, 1, 1, 1) * torch.randn(out.shape, generator=generator)


def _blurred(volumes: torch.Tensor) -> torch.Tensor:
    """Means over 3³ voxels, taken twice: about a Gaussian with a standard deviation of 1.15 voxels."""
    from torch.nn import functional

    for _ in range(2):
        volumes = functional.avg_pool3d(functional.pad(volumes, [1] * 6, mode="replicate"), 3, stride=1)
    return volumes


def train_embedding(
    volumes: np.ndarray,
    key: str,
    settings: EmbeddingSettings,
    cache: Path,
    *,
    name: str = "embedding",
    on_event: Callable[[dict], None] = lambda event: None,
) -> Embedding:
    """Trains the network, or reads it from the cache; goes on where it was interrupted.

    Args:
        volumes: (N, I, J, K) of `prepared`.
        key: what the volumes are: checksums of their files and how they were read.
        settings: see there.
        cache: folder of the checkpoint; made if missing.
        name: first part of the checkpoint's name, and of the stage that events name.
    """
    import torch
    from monai.losses import ContrastiveLoss

    whole = json.dumps([key, settings.to_json(), list(volumes.shape)], sort_keys=True)
    path = Path(cache) / f"{name}-{hashlib.sha256(whole.encode()).hexdigest()[:24]}.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = build_encoder([n - 2 * m for n, m in zip(volumes.shape[1:], margins(volumes.shape[1:]))], settings)
    optimiser = torch.optim.Adam(network.parameters(), settings.learning_rate)
    begin = _resume(path, network, optimiser)
    given = torch.from_numpy(volumes)[:, None]
    loss_of = ContrastiveLoss(settings.temperature)
    for step in range(begin, settings.steps):
        on_event({"event": "progress", "stage": f"training the {name}", "step": step, "total": settings.steps})
        # Of the step alone, so that training goes on after an interruption as it would have without.
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        chosen = given[torch.randperm(len(given), generator=generator)[: settings.batch]]
        # A mirror image counts as another volume: there are more of them then. The search turns what it compares.
        turned = [i + 2 for i, on in enumerate(torch.rand(3, generator=generator) < 0.5) if on]
        chosen = torch.flip(chosen, turned)
        views = changed(torch.cat([chosen, chosen]), generator)
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / settings.steps))
        one, other = network(views).chunk(2)
        optimiser.zero_grad()
        loss_of(one, other).backward()
        optimiser.step()
        if (step + 1) % CHECKPOINT_STEPS == 0 or step + 1 == settings.steps:
            _save(path, network, optimiser, step + 1)
    return _scaled(network.eval(), volumes, settings.seed)


def _save(path: Path, network: torch.nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    import torch

    from SynthDiffusionLib.volumes.atomic import atomic_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as stream:
        torch.save({"step": step, "network": network.state_dict(), "optimiser": optimiser.state_dict()}, stream)


def _resume(path: Path, network: torch.nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """The step that training goes on from: 0 without a usable checkpoint."""
    import torch

    if not path.is_file():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        return int(state["step"])
    except Exception as error:  # whatever torch makes of a damaged file
        raise BadInput(f"The checkpoint '{path}' is damaged ({type(error).__name__})", "Remove it.") from error


def crops(volumes: np.ndarray, *, searched: bool) -> np.ndarray:
    """What the network is shown of each volume (N, I, J, K).

    Args:
        searched: of the volumes that are searched, the crops at 27 places of the box; else, of the volumes that are
            looked for, those in its eight corners and the eight mirror images of each. Between the two, all shifts
            occur up to twice the margin along each axis, in steps of it.

    Returns:
        (N, 27 or 64, I', J', K').
    """
    cut = margins(volumes.shape[1:])
    inner = [n - 2 * m for n, m in zip(volumes.shape[1:], cut)]
    starts = product(*((0, m, 2 * m) if searched else (0, 2 * m) for m in cut))
    taken = [volumes[(slice(None), *(slice(a, a + n) for a, n in zip(s, inner)))] for s in starts]
    whole = np.stack(taken, 1)
    if searched:
        return whole
    turned = product((False, True), repeat=3)
    return np.concatenate([np.flip(whole, [i + 2 for i, on in enumerate(flips) if on]) for flips in turned], 1)


@dataclass(frozen=True)
class Embedding:
    """A trained network, and how its output is scaled.

    Args:
        network: see `build_encoder`.
        mean: (D,) of the training volumes.
        scale: (D, D) by which differences from it are multiplied: it makes what random changes of one volume do to its
            point alike in all directions (within-class covariance normalisation, Hatch, Kajarekar and Stolcke 2006,
            Interspeech), so that directions in which only different volumes differ count more.
    """

    network: torch.nn.Module
    mean: np.ndarray
    scale: np.ndarray

    def points(
        self,
        volumes: np.ndarray,
        *,
        searched: bool,
        stage: str = "embedding",
        on_event: Callable[[dict], None] = lambda event: None,
    ) -> np.ndarray:
        """Points of volumes (N, I, J, K) on the unit sphere, one for each of `crops`; (N, 27 or 64, D) float64."""
        parts = []
        for number, volume in enumerate(volumes):
            on_event({"event": "progress", "stage": stage, "step": number, "total": len(volumes)})
            parts.append(_outputs(self.network, crops(volume[None], searched=searched)[0]))
        points = (np.stack(parts) - self.mean) @ self.scale
        return points / np.maximum(np.linalg.norm(points, axis=-1, keepdims=True), 1e-12)


def _outputs(network: torch.nn.Module, volumes: np.ndarray) -> np.ndarray:
    """(N, I, J, K) to (N, D), float64."""
    import torch

    with torch.inference_mode():
        return network(torch.from_numpy(np.ascontiguousarray(volumes))[:, None]).double().numpy()


def _scaled(network: torch.nn.Module, volumes: np.ndarray, seed: int) -> Embedding:
    """Scales the output of a trained network by what changes of the training volumes do to it."""
    import torch

    generator = torch.Generator().manual_seed(seed * 1_000_003 - 1)
    given = torch.from_numpy(volumes)[:, None]
    with torch.inference_mode():
        views = [_outputs(network, changed(given, generator)[:, 0].numpy()) for _ in range(VIEWS)]
    outputs = np.stack(views, 1)  # (N, VIEWS, D)
    within = (outputs - outputs.mean(1, keepdims=True)).reshape(-1, outputs.shape[-1])
    covariance = within.T @ within / (len(within) - len(volumes))
    size = len(covariance)
    values, vectors = np.linalg.eigh(covariance + SHRINKAGE * np.trace(covariance) / size * np.eye(size))
    return Embedding(network, outputs.mean((0, 1)), vectors / np.sqrt(values))


def cosine_distances(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """1 minus the largest cosine between the points of two volumes; 0 to 2.

    Args:
        points: (N, A, D) on the unit sphere, of N volumes that are looked for.
        others: (M, B, D), of the volumes that are searched.

    Returns:
        (N, M).
    """
    flat = others.reshape(-1, others.shape[-1]).T
    best = [(one @ flat).reshape(len(one), len(others), -1).max((0, 2)) for one in points]
    return np.clip(1.0 - np.array(best), 0.0, 2.0)
