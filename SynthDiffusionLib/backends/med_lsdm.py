"""Med-LSDM (Tang, Seyam and Yang, arXiv:2507.00206): a latent diffusion model led by the drawing through SPADE.

A 3D VQ-GAN shrinks the volume; a U-Net whose convolutions act within slices and whose attention acts along them too
denoises the latents; the drawing, one-hot and encoded once, sets the normalisation of its decoder. Latents are scaled
by the ends of the codebook; the sample is quantised before it is decoded, with the drawing where the decoder takes it.

The networks see windows of a fixed depth. A deeper volume is made in overlapping windows, and they are joined either at
every step, on one common latent (MultiDiffusion, Bar-Tal et al., arXiv:2302.08113, section 3), or as finished volumes,
which is how the paper's code joins them. The paper's text is not public; what is not in its code is this project's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import TYPE_CHECKING

import numpy as np
import torch

from SynthDiffusionLib.backends import ESTIMATE, OnEstimate, OnPart, nothing_told
from SynthDiffusionLib.backends.controls import DEFAULT_CONTROLS, Controls
from SynthDiffusionLib.backends.latent import (
    autocast_for,
    cropped,
    decoded,
    finite_or_raise,
    load_weights,
    out_of_memory_is_told,
    pad_channels,
    to_unit_range,
)
from SynthDiffusionLib.backends.stages import Stages
from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.labels.condition import Condition
from SynthDiffusionLib.labels.onehot import one_hot_condition
from SynthDiffusionLib.memory.execution import TOGETHER
from SynthDiffusionLib.memory.plan import Plan
from SynthDiffusionLib.memory.working_grids import latent_divisor, smallest_sides, working_grid
from SynthDiffusionLib.networks.build import build_network
from SynthDiffusionLib.sampling.denoising import Predict
from SynthDiffusionLib.sampling.denoising import sample as draw_sample
from SynthDiffusionLib.sampling.guidance import guided, joined
from SynthDiffusionLib.sampling.schedule import DiffusionSpec

if TYPE_CHECKING:
    from SynthDiffusionLib.models import ModelPackage

# Numbers of B windows, their noisy latents (B, C, i, j, d) and time steps (B,) to the network's predictions.
Evaluate = Callable[[Sequence[int], torch.Tensor, torch.Tensor], torch.Tensor]


class MedLSDM:
    """A trained Med-LSDM, ready to draw volumes.

    Args:
        package: its description and weights.

    Raises:
        ModelError: the weights are not those of the networks, or the windows do not fit the latent.
    """

    def __init__(self, package: ModelPackage) -> None:
        spec = package.spec
        self.latent, self.windows = spec.latent, spec.windows
        self.diffusion = DiffusionSpec(**spec.raw["diffusion"])
        self._smallest, self._divisor = smallest_sides(spec), latent_divisor(spec)
        through_plane = self.latent.factors[2]
        if self.windows and (self.windows.depth % through_plane or self.windows.stride % through_plane):
            raise ModelError(
                f"'windows' of '{spec.id}' must be multiples of {through_plane}, the voxels that its autoencoder "
                f"shrinks to one, not {self.windows.depth} with a stride of {self.windows.stride}",
                "Get the model package again.",
            )
        self.autoencoder = load_weights(build_network(spec.autoencoder), package.file("autoencoder"))
        self.network = load_weights(build_network(spec.network), package.file("denoiser"))
        # The ends of the codebook, as the diffusion has them: no latent that is quantised needs to lie beyond.
        codebook, factor = self.autoencoder.codebook, self.latent.scale_factor
        ends = (float(codebook.min()) * factor, float(codebook.max()) * factor)
        self._clip = ends if self.latent.range is None else (-1.0, 1.0)
        self._decoder_takes_masks = bool(spec.autoencoder.parameters.get("condition_channels"))

    @property
    def weight_bytes(self) -> int:
        """Size of all weights in fp32."""
        return 4 * sum(t.numel() for n in (self.autoencoder, self.network) for t in n.state_dict().values())

    def working_grid(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The grid of voxels that the networks work on for a condition of `shape`; at least one window deep."""
        return working_grid(shape, self._smallest, self._divisor)

    def sample(
        self,
        condition: Condition,
        plan: Plan,
        *,
        sampler: str,
        steps: int,
        seed: int,
        guidance: float = 1.0,
        known: None = None,
        controls: Controls = DEFAULT_CONTROLS,
        on_step: Callable[[int, int], None] = lambda done, total: None,
        on_estimate: OnEstimate | None = None,
        on_part: OnPart = nothing_told,
    ) -> np.ndarray:
        """Draws one volume on the condition's grid.

        Args:
            condition: with no class given it is the null condition, an all-zero map, and guidance has no effect.
            guidance: w in eps_null + w (eps_cond - eps_null); 1 is off, otherwise a step costs the U-Net twice. Means
                something only for a model that was trained with the null condition too (`ControlsSpec.guidance`). The
                paper's 1.5 is eps_cond + 1.5 (eps_cond - eps_null), 2.5 here.
            known: must be None; this model does not inpaint.
            controls: none of them is used.
            on_step: called after every step with (done, total): all windows have then done one more step. Windows that
                are joined as finished volumes are made one after the other, and it tells of equal shares of the work.
            on_estimate: called before `on_step` with a function of no arguments that decodes the estimate of the volume
                at this step. Of windows made one after the other, those that have not begun are at the lowest value.
            on_part: told how far decoding has come, of windows made one after the other by equal shares of them; see
                `backends.OnPart`.

        Returns:
            (I, J, K) float32 in [-1, 1].

        Raises:
            OutOfMemory: in spite of the plan.
            RunFailed: the networks give values that are not numbers.
        """
        device = torch.device(plan.device)
        shape, (rows, columns, slices) = (1, *self.latent.shape(plan.grid)), condition.shape
        draw = partial(
            draw_sample,
            shape=shape,
            diffusion=self.diffusion,
            sampler=sampler,
            steps=steps,
            seed=seed,
            device=device,
            clip=self._clip,
        )
        with out_of_memory_is_told(plan.grid), torch.inference_mode():
            networks = {"denoiser": self.network, "autoencoder": self.autoencoder}
            used = {"condition": ["denoiser"], "denoise": ["denoiser"], "decode": ["autoencoder"]}
            stages = Stages(plan, networks, used)
            channels = pad_channels(condition.channels(), plan.grid)
            pieces = self._pieces(shape[-1])

            def denoiser(of: Sequence[slice]) -> Evaluate:
                stages.begin("condition")
                scale = guidance if condition.given else 1.0
                made = stages.attempt("condition", lambda: self._denoiser(channels, of, scale, stages.plan))
                stages.begin("denoise")
                return made

            at_every_step = len(pieces) == 1 or self.windows.join == "steps"
            shares = 1 if at_every_step else len(pieces)

            def decode(latents: torch.Tensor, piece: slice, stage: str = "decode", done: int = 0) -> np.ndarray:
                stages.begin("decode")
                with torch.inference_mode():
                    part = finite_or_raise(latents), channels[..., self._voxels(piece)]

                    def listen(fraction: float) -> None:
                        on_part(stage, (done + fraction) / shares)

                    volume = stages.attempt("decode", lambda: self._decode(*part, stages.plan, listen))
                    return cropped(finite_or_raise(volume), (rows, columns, volume.shape[-1]))

            if at_every_step:
                everything = slice(0, shape[-1])

                def finished(latents: torch.Tensor, stage: str = "decode") -> np.ndarray:
                    return decode(latents, everything, stage)[..., :slices]

                def estimate(clean: torch.Tensor) -> np.ndarray:
                    volume = finished(clean, ESTIMATE)
                    stages.begin("denoise")
                    return volume

                told = None if on_estimate is None else lambda clean: on_estimate(lambda: estimate(clean))
                # What the drawing does to the network is forgotten after this call, before anything is decoded.
                latents = draw(
                    _averaged(denoiser(pieces), stages, pieces, shape[-1], device), on_step=on_step, on_estimate=told
                )
                return finished(latents)

            made: list[tuple[slice, np.ndarray]] = []
            pace = _Pace(len(pieces), steps, on_step, on_estimate)
            for index, piece in enumerate(pieces):

                def so_far(latents: torch.Tensor, piece: slice = piece) -> np.ndarray:
                    present = (self._voxels(piece), decode(latents[..., piece], piece, ESTIMATE))
                    stages.begin("denoise")
                    return _mean([*made, present], plan.grid[2])[..., :slices]

                latents = draw(
                    _alone(denoiser([piece]), stages, piece), on_step=pace.step, on_estimate=pace.estimate(so_far)
                )
                made.append((self._voxels(piece), decode(latents[..., piece], piece, done=index)))
            return _mean(made, plan.grid[2])[..., :slices]

    def _pieces(self, depth: int) -> list[slice]:
        """The windows of a latent of this depth; all of it where the model has none."""
        if self.windows is None:
            return [slice(0, depth)]
        factor = self.latent.factors[2]
        return window_slices(depth, self.windows.depth // factor, self.windows.stride // factor)

    def _voxels(self, piece: slice) -> slice:
        """Slices of the volume that belong to slices of the latent."""
        factor = self.latent.factors[2]
        return slice(piece.start * factor, piece.stop * factor)

    def _denoiser(self, channels: np.ndarray, pieces: Sequence[slice], guidance: float, plan: Plan) -> Evaluate:
        """The network on some windows at once, with guidance.

        What the drawing does to the network does not depend on the step: it is computed once, window by window, so that
        a window's borders are to the mask encoder what they were in training.

        Args:
            channels: (C, I, J, K) of `Condition.channels`, padded.
            pieces: the windows, in slices of the latent.
            guidance: 1 is off.
            plan: of which device, precision and the way of guidance are used.
        """
        autocast = autocast_for(plan)

        def modulations(part: np.ndarray) -> list[torch.Tensor]:
            masks = torch.from_numpy(one_hot_condition(part))[None].to(plan.device)
            with autocast:
                return self.network.modulate(self.network.embed(masks))

        null = None
        if guidance != 1.0:
            null = modulations(np.zeros_like(channels[..., self._voxels(pieces[0])]))

        def evaluate(noisy: torch.Tensor, timesteps: torch.Tensor, told: list[torch.Tensor]) -> torch.Tensor:
            with autocast:
                return self.network(noisy, timesteps, modulations=told).float()

        drawn = [modulations(channels[..., self._voxels(piece)]) for piece in pieces]

        def predict(which: Sequence[int], noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            told = reduce(joined, (drawn[index] for index in which))
            untold = null and [t.expand(len(which), *t.shape[1:]) for t in null]
            return guided(evaluate, told, untold, guidance, plan.execution.guidance == TOGETHER)(noisy, timesteps)

        return predict

    def _decode(
        self, latents: torch.Tensor, channels: np.ndarray, plan: Plan, on_progress: Callable[[float], None]
    ) -> torch.Tensor:
        """A volume from latents: to the range of the codebook, quantised in fp32, decoded.

        Args:
            latents: (1, E, i, j, k) as diffusion has them.
            channels: (C, I, J, K) of the same slices, for a decoder that takes the drawing.
            plan: how it is decoded.
            on_progress: told the fraction that is done.

        Returns:
            (1, 1, I, J, K), -1 and 1 the ends of the model's intensity range, not clipped.
        """
        z = latents.float()
        if self.latent.range is not None:
            low, high = self.latent.range
            z = (z + 1.0) * (0.5 * (high - low)) + low
        codes, _ = self.autoencoder.quantise(z / self.latent.scale_factor)
        masks = None
        if self._decoder_takes_masks:
            masks = torch.from_numpy(one_hot_condition(channels))[None].to(latents.device)
        volume = decoded(self.autoencoder, codes, plan, masks, on_progress)
        return to_unit_range(volume, self.latent.decoded_range)


def window_slices(depth: int, window: int, stride: int) -> list[slice]:
    """Windows that cover a depth; the last one ends with it, and overlaps the one before by more than the others where
    the strides do not fit.

    Raises:
        ValueError: the depth is less than a window.

    Example:
        >>> window_slices(11, 4, 3)
        [slice(0, 4, None), slice(3, 7, None), slice(6, 10, None), slice(7, 11, None)]
    """
    if depth < window:
        raise ValueError(f"a window of {window} does not fit into a depth of {depth}")
    starts = [*range(0, depth - window, stride), depth - window]
    return [slice(start, start + window) for start in starts]


def window_weights(pieces: Sequence[slice], depth: int) -> list[torch.Tensor]:
    """Weights of overlapping windows, greatest in a window's middle: nothing jumps where a window ends.

    Args:
        pieces: as of `window_slices`.
        depth: of all of them.

    Returns:
        for each window (d,) float32, d its depth; their sum is 1 everywhere.
    """
    total = torch.zeros(depth)
    triangles = []
    for piece in pieces:
        n = piece.stop - piece.start
        rising = torch.arange(1, n + 1, dtype=torch.float32)
        triangles.append(torch.minimum(rising, rising.flip(0)))
        total[piece] += triangles[-1]
    return [triangle / total[piece] for triangle, piece in zip(triangles, pieces)]


def _averaged(evaluate: Evaluate, stages: Stages, pieces: Sequence[slice], depth: int, device: torch.device) -> Predict:
    """The prediction for a whole latent: the weighted mean of its windows', as many at once as the plan says."""
    weights = [w.to(device) for w in window_weights(pieces, depth)]

    def averaged(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        prediction = torch.zeros_like(noisy)
        at_once = stages.plan.execution.windows
        for start in range(0, len(pieces), at_once):
            which = range(start, min(start + at_once, len(pieces)))
            windows = torch.cat([noisy[..., pieces[index]] for index in which])
            for index, part in zip(which, evaluate(which, windows, timesteps.repeat(len(which)))):
                prediction[..., pieces[index]] += weights[index] * part
        return prediction

    return stages.attempting("denoise", averaged)


def _alone(evaluate: Evaluate, stages: Stages, piece: slice) -> Predict:
    """The prediction within one window, and 0 beyond it.

    The sampler works voxel by voxel, so that the window is sampled as if it were alone; since it works on the whole
    latent, all windows share the noise of their common seed, that of the start and that of every step.
    """

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        prediction = torch.zeros_like(noisy)
        prediction[..., piece] = evaluate((0,), noisy[..., piece], timesteps)
        return prediction

    return stages.attempting("denoise", predict)


def _mean(volumes: Sequence[tuple[slice, np.ndarray]], depth: int) -> np.ndarray:
    """Overlapping volumes averaged, -1 where there is none.

    Args:
        volumes: slices along the third axis, and what is there.
        depth: of the result.
    """
    total = np.zeros((*volumes[0][1].shape[:2], depth), np.float32)
    count = np.zeros(depth, np.float32)
    for where, volume in volumes:
        total[..., where] += volume
        count[where] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.float32(-1.0))


class _Pace:
    """Tells of windows made one after the other in as many steps as those of one.

    Args:
        windows: how many there are.
        steps: of each.
        on_step: as of `MedLSDM.sample`.
        on_estimate: likewise.
    """

    def __init__(
        self, windows: int, steps: int, on_step: Callable[[int, int], None], on_estimate: OnEstimate | None
    ) -> None:
        self._windows, self._steps, self._done = windows, steps, 0
        self._on_step, self._on_estimate = on_step, on_estimate

    def step(self, *_: int) -> None:
        """A window has done one more step."""
        self._done += 1
        if self._done % self._windows == 0:
            self._on_step(self._done // self._windows, self._steps)

    def estimate(self, volume: Callable[[torch.Tensor], np.ndarray]) -> Callable[[torch.Tensor], None] | None:
        """What the sampler is given as its `on_estimate`; `volume` makes one from latents."""
        if self._on_estimate is None:
            return None

        def told(clean: torch.Tensor) -> None:
            if (self._done + 1) % self._windows == 0:
                self._on_estimate(lambda: volume(clean))

        return told
