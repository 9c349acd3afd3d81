"""Rows of `speed_table.py` on denoising: beside MONAI and diffusers, with the size of the volume, and compiled."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from monai.networks.blocks.selfattention import SABlock
from speed_parts import (
    DTYPES,
    Setting,
    denoised,
    deviation,
    drawing,
    fill_zeros,
    give_back,
    in_turn,
    peak_of,
    plan_of,
    random_backend,
    size_of,
    spec_of,
    synchronised,
    timed,
)
from streamed_decode import peak_memory
from torch import nn

from SynthDiffusionLib.backends.controls import DEFAULT_CONTROLS
from SynthDiffusionLib.backends.latent import pad_channels
from SynthDiffusionLib.backends.maisi import binary_code
from SynthDiffusionLib.backends.medlord import masks_of
from SynthDiffusionLib.networks.build import build_network
from SynthDiffusionLib.sampling.flow import flow_levels, shift_ratio

SEED = 3
SAMPLER = {"medlord": "dpmpp-2m", "maisi": "euler"}


class Monai:
    """The networks of a backend as MONAI has them, with the backend's weights: attention as MONAI computes it by
    default, and the ControlNet given the whole drawing at every step.

    MedLoRD's ControlNet is slimmer than any of MONAI's: there it is this project's, of MONAI's blocks.

    Args:
        backend: of MedLoRD or MAISI, on the CPU.
        spec: of its preset.
        setting: device and precision.
    """

    def __init__(self, backend: Any, spec: Any, setting: Setting) -> None:
        self.backend, self.spec, self.setting = backend, spec, setting
        self.flow = spec.backend == "maisi"
        states = {k: v for k, v in backend.controlnet.state_dict().items()}
        if self.flow:
            states |= {f"controlnet_cond_embedding.{k}": v for k, v in backend.embedding.state_dict().items()}
        self.network = _as_monai_has_it(spec.network, backend.network.state_dict())
        self.controlnet = _as_monai_has_it(spec.controlnet, states)

    @property
    def networks(self) -> list[nn.Module]:
        """These and the backend's, whose weights they share on a CPU."""
        embedding = [self.backend.embedding] if self.flow else []
        return [self.backend.network, self.backend.controlnet, *embedding, self.network, self.controlnet]

    def with_fused_attention(self, work: Callable[[], torch.Tensor]) -> torch.Tensor:
        """`work` with MONAI's own option for scaled-dot-product attention, which is off by default."""
        blocks = [m for network in (self.network, self.controlnet) for m in network.modules() if isinstance(m, SABlock)]
        for block in blocks:
            block.use_flash_attention = True
        try:
            return work()
        finally:
            for block in blocks:
                block.use_flash_attention = False

    def drawn(self, condition: Any, grid: tuple[int, int, int]) -> torch.Tensor:
        """(1, C, I, J, K), the drawing as the ControlNet takes it."""
        if self.flow:
            digits = self.spec.controlnet.parameters["conditioning_embedding_in_channels"]
            masks = binary_code(pad_channels(condition.class_map, grid), digits).astype(np.float32)
        else:
            masks = pad_channels(masks_of(condition.channels()), grid)
        return torch.from_numpy(masks)[None].to(self.setting.device)

    def told(self, condition: Any) -> dict[str, torch.Tensor]:
        """What the U-Net is told beside latents and time."""
        if not self.flow:
            return {}
        return self.backend._inputs(condition, DEFAULT_CONTROLS, torch.device(self.setting.device))

    def control(self, x: torch.Tensor, t: torch.Tensor, masks: torch.Tensor, told: dict) -> Any:
        """Residuals, the drawing's features computed anew."""
        if not self.flow:
            return self.controlnet(x, t, condition=masks)
        classes = {k: v for k, v in told.items() if k == "class_labels"}
        return self.controlnet(x, t, masks, **classes)

    def autocast(self) -> AbstractContextManager:
        """Of the row's precision."""
        enabled = self.setting.precision != "fp32"
        dtype = DTYPES[self.setting.precision] if enabled else None
        return torch.autocast(torch.device(self.setting.device).type, dtype, enabled=enabled)

    def noise(self, grid: tuple[int, int, int]) -> torch.Tensor:
        """As the backend begins with."""
        shape = (1, *self.spec.latent.shape(grid))
        return torch.randn(shape, generator=torch.Generator().manual_seed(SEED)).to(self.setting.device)

    @torch.inference_mode()
    def with_diffusers(self, condition: Any, grid: tuple[int, int, int]) -> torch.Tensor:
        """Latents by a loop over a scheduler of diffusers, as its documentation has it."""
        masks, told, x = self.drawn(condition, grid), self.told(condition), self.noise(grid)
        scheduler = self._scheduler(x)
        if not self.flow:
            x = x * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            t = timestep.to(x.device).expand(1)
            with self.autocast():
                down, mid = self.control(x, t, masks, told)
                made = self.network(
                    x, t, down_block_additional_residuals=down, mid_block_additional_residual=mid, **told
                ).float()
            x = scheduler.step(-made if self.flow else made, timestep, x).prev_sample
        return x

    def _scheduler(self, x: torch.Tensor) -> Any:
        import diffusers

        diffusion = self.backend.diffusion
        if self.flow:
            # Explicit levels, and no shift of its own: it would be applied twice.
            scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=diffusion.train_steps, shift=1.0)
            levels = flow_levels(self.setting.steps, shift_ratio(diffusion, x[0, 0].numel()))
            scheduler.set_timesteps(sigmas=levels[:-1])
            return scheduler
        scheduler = diffusers.DPMSolverMultistepScheduler(
            num_train_timesteps=diffusion.train_steps,
            beta_schedule=diffusion.beta_schedule,
            prediction_type=diffusion.prediction,
            timestep_spacing="linspace",
            solver_order=2,
        )
        scheduler.set_timesteps(self.setting.steps)
        return scheduler

    @torch.inference_mode()
    def with_inferer(self, name: str, condition: Any, grid: tuple[int, int, int]) -> torch.Tensor:
        """Latents by one of MONAI's inferers with MONAI's own scheduler.

        Args:
            name: of the class. One for latents is given an autoencoder that leaves them as they are.
            condition: the drawing.
            grid: voxels.
        """
        from monai import inferers

        told, x = self.told(condition), self.noise(grid)

        def network(noisy: torch.Tensor | None = None, timesteps: Any = None, context: Any = None, **more: Any) -> Any:
            return self.network(noisy if noisy is not None else more.pop("x"), timesteps, **more, **told).float()

        def controlnet(x: torch.Tensor, timesteps: Any, controlnet_cond: torch.Tensor, context: Any) -> Any:
            return self.control(x, timesteps, controlnet_cond, told)

        settings: dict[str, Any] = {"input_noise": x, "diffusion_model": network, "verbose": False}
        if "ControlNet" in name:
            settings |= {"controlnet": controlnet, "cn_cond": self.drawn(condition, grid)}
        if "Latent" in name:
            settings["autoencoder_model"] = _Unchanged()
        with self.autocast():
            return getattr(inferers, name)(self._monai_scheduler(x)).sample(**settings)

    def _monai_scheduler(self, x: torch.Tensor) -> Any:
        from monai.networks.schedulers import DDPMScheduler, RFlowScheduler

        diffusion = self.backend.diffusion
        if self.flow:
            scheduler = RFlowScheduler(
                diffusion.train_steps, False, use_timestep_transform=True, base_img_size_numel=diffusion.shift_numel
            )
            scheduler.set_timesteps(self.setting.steps, input_img_size_numel=torch.tensor(x[0, 0].numel()))
            return scheduler
        scheduler = DDPMScheduler(diffusion.train_steps, schedule="cosine", prediction_type=diffusion.prediction)
        scheduler.set_timesteps(self.setting.steps)
        return scheduler


class _Unchanged(nn.Module):
    def decode_stage_2_outputs(self, z: torch.Tensor) -> torch.Tensor:
        return z


def _as_monai_has_it(spec: Any, state: dict[str, torch.Tensor]) -> nn.Module:
    with torch.device("meta"):
        network = build_network(spec)
    network.load_state_dict(state, assign=True)
    for module in network.modules():
        if isinstance(module, SABlock):
            module.use_flash_attention = False
    return network.eval().requires_grad_(False)


def beside_monai(row: str, setting: Setting) -> dict[str, Any]:
    """Group a: a preset at a size, by the backend, by MONAI with diffusers, by MONAI's inferers; the same weights.

    Args:
        row: "PRESET:XxYxZ".
        setting: of which `steps` are denoised.
    """
    preset, size = row.split(":")
    spec, grid = spec_of(preset), size_of(size)
    backend = random_backend(preset)
    monai = Monai(backend, spec, setting)
    for network in monai.networks:
        network.to(setting.device)
    plan = plan_of(grid, setting)

    def ours() -> torch.Tensor:
        return denoised(
            backend, drawing(spec, grid), plan, sampler=SAMPLER[spec.backend], steps=setting.steps, seed=SEED
        )

    ways: dict[str, Callable[[], torch.Tensor]] = {
        "ours": ours,
        "monai-diffusers": lambda: monai.with_diffusers(drawing(spec, grid), grid),
        "monai-diffusers-fused": lambda: monai.with_fused_attention(
            lambda: monai.with_diffusers(drawing(spec, grid), grid)
        ),
        "ControlNetDiffusionInferer": lambda: monai.with_inferer(
            "ControlNetDiffusionInferer", drawing(spec, grid), grid
        ),
        "LatentDiffusionInferer": lambda: monai.with_inferer("LatentDiffusionInferer", drawing(spec, grid), grid),
    }
    try:
        monai.with_inferer("ControlNetLatentDiffusionInferer", drawing(spec, grid), grid)
        said = "it ran"
    except (RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:160]
    medians, results = in_turn(ways, setting.device, setting.repeats)
    for name, work in ways.items():
        medians[name]["peak_bytes"] = peak_of(work, setting.device, monai.networks)
    return {
        "ways": medians,
        "steps": setting.steps,
        "deviation": deviation(results["monai-diffusers"], results["ours"]),
        "latent_std": float(results["ours"].std()),
        "default_steps": spec.sampling.default_steps,
        "monai_steps": backend.diffusion.train_steps,
        "control_latent_inferer": said,
    }


def growth(row: str, setting: Setting) -> dict[str, Any]:
    """Group d: a volume by the plan of a job without a limit; one evaluation, the decoding, and the process's peak.

    Args:
        row: "PRESET:XxYxZ".
        setting: of which `steps` are denoised; the first evaluation is not timed.
    """
    from full_size import Sampled

    from SynthDiffusionLib.errors import OutOfMemory
    from SynthDiffusionLib.memory.plan import resolve_plan

    preset, size = row.split(":")
    spec, shape = spec_of(preset), size_of(size)
    backend = random_backend(preset)
    grid = backend.working_grid(shape)
    try:
        plan = resolve_plan(spec, grid, device=setting.device, precision=setting.precision, vram_limit=None)
    except OutOfMemory as error:
        return {"said": error.one_line()}
    times = [time.perf_counter()]

    def on_step(done: int, total: int) -> None:
        synchronised(setting.device)
        times.append(time.perf_counter())

    def work() -> None:
        backend.sample(
            drawing(spec, shape),
            plan,
            sampler=spec.sampling.default_sampler,
            steps=1 + setting.steps,
            seed=SEED,
            on_step=on_step,
        )
        times.append(time.perf_counter())

    import psutil

    give_back()
    before = psutil.Process().memory_info().rss
    sampled = Sampled(setting.device) if setting.on_gpu else None
    if sampled:
        sampled.start()
    with peak_memory() as found:
        work()
    nvml = sampled.end() if sampled else 0
    return {
        "grid": list(grid),
        "execution": plan.execution.to_json(),
        "seconds_per_evaluation": (times[-2] - times[1]) / setting.steps,
        "decode_s": times[-1] - times[-2],
        "measured_bytes": nvml or torch.cuda.max_memory_reserved() if setting.on_gpu else before + found["peak"],
        "predicted_bytes": plan.predicted_bytes,
        "by_stage": dict(plan.stage_bytes),
    }


def predictions(row: str, setting: Setting) -> dict[str, Any]:
    """Group d: what the planner says of every size, on the row's device and for a GPU, without a limit and in 24 GiB.

    Args:
        row: a preset.
        setting: of which device and precision are used.
    """
    from SynthDiffusionLib.memory.devices import GIB, budget_for
    from SynthDiffusionLib.memory.predict import Request, plan_choice
    from SynthDiffusionLib.memory.working_grids import padded, size_problem

    spec, found = spec_of(row), {}
    for side in ("64x64x64", "128x128x128", "256x256x256", "512x512x256", "512x512x512"):
        size = size_of(side)
        grid = padded(spec, size)
        told: dict[str, Any] = {"grid": list(grid), "outside": size_problem(spec, size) is not None}
        for name, device, precision in (("cpu", "cpu", "fp32"), ("cuda", "cuda", "bf16")):
            request = Request(spec, device, precision)
            free = plan_choice(request, grid, None, look_for_smaller=False)
            told[name] = {stage: option.device_bytes for stage, option in free.stages.items()}
            if device == "cuda":
                within = plan_choice(request, grid, budget_for("cuda", 24 * GIB, None).allowed, look_for_smaller=False)
                told["within_24"] = {stage: option.way for stage, option in within.stages.items()}
                told["within_24_bytes"] = within.peak_bytes if within.fits else None
        found[side] = told
    return {"sizes": found}


def compiled(row: str, setting: Setting) -> dict[str, Any]:
    """Group h: one evaluation as it is, by `torch.compile`, and on a GPU replayed from a CUDA graph.

    Args:
        row: "MODEL:XxYxZ", a preset or a shipped model with a ControlNet.
        setting: of which `repeats` count.
    """
    model, size = row.split(":")
    spec, grid = spec_of(model), size_of(size)
    if not setting.on_gpu and not any(shutil.which(name) for name in ("g++", "clang++", "cl")):
        return {"said": f"torch.compile needs a C++ compiler on a CPU; this machine ({sys.platform}) has none"}
    torch.manual_seed(0)
    networks = [build_network(part).eval() for part in (spec.network, spec.controlnet)]
    fill_zeros(networks)  # else the result is zero, however it is computed
    network, controlnet = (made.to(setting.device) for made in networks)
    flow = spec.backend == "maisi"
    x = torch.randn((1, *spec.latent.shape(grid)), generator=torch.Generator().manual_seed(SEED)).to(setting.device)
    t = torch.tensor([7.0], device=setting.device)
    width = network.conv_in(x).shape[1] if flow else controlnet.channels[0]
    features = torch.zeros((1, width, *x.shape[2:]), device=setting.device)
    told: dict[str, Any] = {}
    if flow:
        controlnet.controlnet_cond_embedding, controlnet.use_checkpointing = nn.Identity(), False
        told = {"class_labels": torch.tensor([1], device=setting.device)}
    spacing = {"spacing_tensor": torch.ones((1, 3), device=setting.device)} if flow else {}

    def evaluate(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if flow:
            down, mid = controlnet(x, t, features, **told)
        else:
            down, mid = controlnet(x, t, embedded=features)
        return network(
            x, t, down_block_additional_residuals=down, mid_block_additional_residual=mid, **told, **spacing
        ).float()

    enabled = setting.precision != "fp32"
    cast = torch.autocast(
        torch.device(setting.device).type, DTYPES[setting.precision] if enabled else None, enabled=enabled
    )
    ways = {"as it is": lambda: evaluate(x, t)}
    sampling = spec.sampling
    evaluations = sampling.default_steps * (2 if sampling.default_guidance != 1.0 else 1)
    result: dict[str, Any] = {"evaluations": evaluations, "graphs_said": "CUDA only"}
    # What an earlier process has compiled lies in a folder, which is an empty one here. Not in inference mode, in which
    # guards of torch.compile have failed before.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache, torch.no_grad(), cast:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        expected = evaluate(x, t)
        fast = torch.compile(evaluate, dynamic=False)
        try:
            made, first, _ = timed(lambda: fast(x, t), setting.device)
        except Exception as error:  # what a compiler raises is not ours to list: the row says it
            return result | {"said": f"it fails: {' '.join(str(error).split())[:160]}"}
        result["deviation"] = deviation(made, expected)
        ways["compiled"] = lambda: fast(x, t)
        if setting.on_gpu:
            ways["CUDA graph"], result["capture_s"] = _graph(evaluate, x, t)
        medians, _ = in_turn(ways, setting.device, setting.repeats)
    one = medians["compiled"]["seconds"]
    return result | {"ways": medians, "compile_s": first - one}


def _graph(evaluate: Callable, x: torch.Tensor, t: torch.Tensor) -> tuple[Callable[[], torch.Tensor], float]:
    """The replay of an evaluation, and the seconds that capturing it took."""
    began = time.perf_counter()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            evaluate(x, t)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = evaluate(x, t)
    torch.cuda.synchronize()

    def replay() -> torch.Tensor:
        graph.replay()
        return made

    return replay, time.perf_counter() - began
