"""The MAISI backend against MONAI's networks and schedulers in a loop written here, at tiny size.

The networks are of MAISI's classes, three levels deep, with weights drawn from a seed; latents are 4 x 4 x 8 voxels.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from SynthDiffusionLib.backends import load_backend
from SynthDiffusionLib.backends.controls import Controls
from SynthDiffusionLib.backends.maisi import Maisi, binary_code, spacing_of
from SynthDiffusionLib.errors import BadInput, ModelError, OutOfMemory, RunFailed
from SynthDiffusionLib.labels.condition import Condition
from SynthDiffusionLib.labels.regions import REGIONS
from SynthDiffusionLib.labels.scheme import LabelClass, LabelScheme
from SynthDiffusionLib.memory.plan import Plan
from SynthDiffusionLib.models.spec import ControlsSpec, LatentSpec, NetworkSpec
from SynthDiffusionLib.networks.build import build_network, use_fast_attention

SHAPE = (16, 16, 32)
LATENT = (1, 4, 4, 4, 8)
SCALE_FACTOR = 1.3
SCHEME = LabelScheme(
    (
        LabelClass("body", 200, derive="outline"),
        LabelClass("liver", 1),
        LabelClass("left lung upper lobe", 28),
        LabelClass("lung tumor", 23),
    )
)
AUTOENCODER = {
    "class": "AutoencoderKlMaisi",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 4,
    "num_channels": [8, 8, 16],
    "num_res_blocks": [1, 1, 1],
    "norm_num_groups": 4,
    "attention_levels": [False, False, False],
    "with_encoder_nonlocal_attn": False,
    "with_decoder_nonlocal_attn": False,
    "num_splits": 4,  # as shipped, with the next two: the backend goes its own way
    "dim_split": 1,
    "norm_float16": True,
}
BODY = {
    "spatial_dims": 3,
    "in_channels": 4,
    "num_channels": [16, 16, 32],
    "attention_levels": [False, False, True],
    "num_head_channels": [0, 0, 8],
    "num_res_blocks": 1,
    "norm_num_groups": 8,
}
FLOW = {"num_class_embeds": 12, "resblock_updown": True, "include_fc": True}
REGION = {"include_top_region_index_input": True, "include_bottom_region_index_input": True}
UNET = {
    "class": "DiffusionModelUNetMaisi",
    "out_channels": 4,
    "include_spacing_input": True,
    "use_flash_attention": True,
}
CONTROL = {
    "class": "ControlNetMaisi",
    "conditioning_embedding_in_channels": 8,
    "conditioning_embedding_num_channels": [8, 8, 16],
}
RFLOW = {"train_steps": 1000, "beta_schedule": "rectified_flow", "prediction": "velocity", "shift_numel": 16}
DDPM = {
    "train_steps": 20,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "prediction": "epsilon",
}


def randomised(network: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Weights of a seed, none of them zero, as the last layers of diffusion networks are at first; what the U-Net is
    told beside the latents has about as much say as they do."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in network.named_parameters():
            scale = p[0].numel() ** -0.5 if p.ndim > 1 else 0.1
            if name.startswith(("spacing_layer.0", "top_region_index_layer.0", "bottom_region_index_layer.0")):
                scale /= 100  # their inputs are a hundredfold
            elif "class_embedding" in name or "time_emb_proj" in name:
                scale = 1.0
            elif "cond_embedding" in name:
                scale *= 1.5  # against the halving of SiLU, layer after layer
            is_gain = p.ndim == 1 and "norm" in name and "weight" in name
            p.copy_(torch.randn(p.shape, generator=generator) * scale + float(is_gain))
    return network


def write_package(folder: Path, kind: str, controlnet: bool = True, **changes) -> SimpleNamespace:
    """What the backend reads of a package, with weights in a folder."""
    flow = kind == "rflow"
    described = {"network": UNET | BODY | (FLOW if flow else REGION), "autoencoder": dict(AUTOENCODER)}
    if controlnet:
        described["controlnet"] = CONTROL | BODY | (FLOW if flow else {})
    specs = {role: NetworkSpec.from_json(data) for role, data in described.items()}
    files = {}
    for seed, (role, spec) in enumerate(specs.items()):
        files["denoiser" if role == "network" else role] = path = folder / f"{role}.safetensors"
        network = randomised(build_network(spec), seed)
        if role == "autoencoder":  # most of what it decodes lies between 0 and 1
            with torch.no_grad():
                last = network.decoder.blocks[-1].conv.conv
                last.weight.mul_(4)
                last.bias.fill_(0.5)
        save_file(network.state_dict(), path)
    spec = SimpleNamespace(
        **{
            "id": f"tiny-{kind}",
            "backend": "maisi",
            "network": specs["network"],
            "autoencoder": specs["autoencoder"],
            "controlnet": specs.get("controlnet"),
            "latent": LatentSpec(4, 4, SCALE_FACTOR, (0.0, 1.0)),
            "controls": ControlsSpec(True, () if flow else REGIONS, {"CT": 1, "MR": 9} if flow else {}),
            "grid": SimpleNamespace(min_size=(16, 16, 16)),
            "raw": {"diffusion": RFLOW if flow else DDPM},
        }
        | changes
    )
    return SimpleNamespace(spec=spec, file=files.__getitem__, has=files.__contains__, folder=folder)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """At these sizes a second thread costs more than it does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rflow(tmp_path_factory) -> Maisi:
    return Maisi(write_package(tmp_path_factory.mktemp("rflow"), "rflow"))


@pytest.fixture(scope="module")
def ddpm(tmp_path_factory) -> Maisi:
    return Maisi(write_package(tmp_path_factory.mktemp("ddpm"), "ddpm"))


def plan(grid: tuple[int, int, int] = SHAPE, precision: str = "fp32") -> Plan:
    return Plan("cpu", precision, "whole", None, 0, 1, grid)


def condition(spacing=(0.8, 0.7, 3.0), shape=SHAPE, tumour: int = 23, given=None) -> Condition:
    """A body in air, with a liver, a lung and a tumour in it."""
    class_map = np.zeros(shape, np.uint8)
    class_map[2:-2, 2:-2, :] = 200
    class_map[3:8, 3:8, 3:10] = 1
    class_map[6:12, 3:-3, 12:-2] = 28
    class_map[8:11, 6:10, 16:22] = tumour
    given = tuple(c.name for c in SCHEME.classes) if given is None else given
    return Condition(class_map if given else np.zeros(shape, np.uint8), np.diag([*spacing, 1.0]), SCHEME, given)


def draw(backend: Maisi, drawn: Condition, **options) -> np.ndarray:
    flow = backend.diffusion.beta_schedule == "rectified_flow"
    settings = {"sampler": "maisi-rflow" if flow else "ddpm", "steps": 3, "seed": 7}
    used = options.pop("plan", plan(backend.working_grid(drawn.shape)))
    return backend.sample(drawn, used, **settings | options)


class Reference:
    """MONAI's networks as they are, with the weights of a package."""

    def __init__(self, folder: Path, kind: str) -> None:
        from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
        from monai.apps.generation.maisi.networks.controlnet_maisi import ControlNetMaisi
        from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
        from safetensors.torch import load_file

        def made(cls, data: dict, role: str, **changes):
            arguments = {k: v for k, v in (data | changes).items() if k not in ("class", "use_flash_attention")}
            network = cls(**arguments)
            network.load_state_dict(load_file(folder / f"{role}.safetensors"))
            return use_fast_attention(network.eval())

        extra = FLOW if kind == "rflow" else {}
        self.unet = made(DiffusionModelUNetMaisi, UNET | BODY | (extra or REGION), "network")
        self.controlnet = made(ControlNetMaisi, CONTROL | BODY | extra, "controlnet", use_checkpointing=False)
        self.autoencoder = made(AutoencoderKlMaisi, AUTOENCODER, "autoencoder", num_splits=1, norm_float16=False)

    def predict(self, x: torch.Tensor, t: float, code: torch.Tensor, spacing, **told) -> torch.Tensor:
        time = torch.tensor([float(t)])
        classes = {k: v for k, v in told.items() if k == "class_labels"}
        down, mid = self.controlnet(x, time, code, **classes)
        return self.unet(
            x,
            time,
            spacing_tensor=torch.tensor([spacing]) * 100,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            **told,
        )

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        volume = self.autoencoder.decode_stage_2_outputs(latents / SCALE_FACTOR)
        return (volume * 2 - 1).clamp(-1, 1)[0, 0].numpy()


def code_of(class_map: np.ndarray) -> torch.Tensor:
    """The binary code by Python's own formatting, lowest digit first."""
    table = np.array([[int(digit) for digit in reversed(f"{value:08b}")] for value in range(256)], np.float32)
    return torch.from_numpy(np.moveaxis(table[class_map], -1, 0)[None].copy())


def noise(seed: int = 7) -> torch.Tensor:
    return torch.randn(LATENT, generator=torch.Generator().manual_seed(seed))


def test_rectified_flow_is_monais_loop_to_the_bit(rflow, tmp_path):
    from monai.networks.schedulers import RFlowScheduler

    write_package(tmp_path, "rflow")
    reference, drawn = Reference(tmp_path, "rflow"), condition()
    scheduler = RFlowScheduler(
        use_discrete_timesteps=False, use_timestep_transform=True, base_img_size_numel=RFLOW["shift_numel"]
    )
    scheduler.set_timesteps(3, input_img_size_numel=torch.tensor(4 * 4 * 8))
    x, times = noise(), scheduler.timesteps
    with torch.inference_mode():
        for t, following in zip(times, [*times[1:], torch.tensor(0)]):
            told = {"class_labels": torch.tensor([1])}
            v = reference.predict(x, t, code_of(drawn.class_map), [0.8, 0.7, 3.0], **told)
            x, _ = scheduler.step(v, t, x, following)
        expected = reference.decode(x)
    expected[drawn.class_map == 0] = -1.0
    assert expected.std() > 0.05
    assert np.array_equal(draw(rflow, drawn), expected)


def test_ddpm_is_monais_loop(ddpm, tmp_path):
    """At all T steps, where MONAI's DDPMScheduler is right."""
    from monai.networks.schedulers import DDPMScheduler

    write_package(tmp_path, "ddpm")
    reference, drawn = Reference(tmp_path, "ddpm"), condition()
    scheduler = DDPMScheduler(20, schedule="scaled_linear_beta", beta_start=0.0015, beta_end=0.0195, clip_sample=False)
    scheduler.set_timesteps(20)
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(LATENT, generator=generator)
    told = {
        "top_region_index_tensor": torch.tensor([[0.0, 100.0, 0.0, 0.0]]),
        "bottom_region_index_tensor": torch.tensor([[0.0, 0.0, 100.0, 0.0]]),
    }
    with torch.inference_mode():
        for t in scheduler.timesteps:
            prediction = reference.predict(x, t, code_of(drawn.class_map), [0.8, 0.7, 3.0], **told)
            x, _ = scheduler.step(prediction, t, x, generator=generator)
        expected = reference.decode(x)
    expected[drawn.class_map == 0] = -1.0
    found = draw(ddpm, drawn, steps=20)
    assert expected[drawn.class_map > 0].std() > 0.05
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert np.array_equal(draw(ddpm, drawn, steps=20, controls=Controls(region=("chest", "abdomen"))), found)
    assert not np.array_equal(draw(ddpm, drawn, steps=20, controls=Controls(region=("head", "head"))), found)


def test_binary_code_has_the_lowest_digit_first():
    every = np.arange(256, dtype=np.uint8).reshape(8, 8, 4)
    assert np.array_equal(binary_code(every, 8), code_of(every)[0].numpy())
    body = binary_code(np.full((1, 1, 1), 200, np.uint8), 8).ravel().tolist()
    assert body == [0, 0, 0, 1, 0, 0, 1, 1]  # 8 + 64 + 128


def test_every_input_has_its_effect(rflow):
    first = draw(rflow, condition())
    assert np.array_equal(draw(rflow, condition()), first)
    others = {
        "label": draw(rflow, condition(tumour=28)),
        "spacing": draw(rflow, condition(spacing=(0.8, 0.7, 2.0))),
        "seed": draw(rflow, condition(), seed=8),
        "modality": draw(rflow, condition(), controls=Controls(modality="MR")),
        "strength": draw(rflow, condition(), controls=Controls(condition_scale=0.5)),
        "drawing": draw(rflow, condition(given=())),
    }
    for name, other in others.items():
        assert np.abs(other - first).max() > 2e-3, f"the {name} does nothing"
    assert np.array_equal(draw(rflow, condition(), controls=Controls(modality="CT")), first)


def test_a_strength_of_nought_is_no_drawing(rflow, tmp_path):
    without = Maisi(write_package(tmp_path, "rflow", controlnet=False))
    unconditional = draw(without, condition(given=()))
    assert np.array_equal(draw(rflow, condition(), controls=Controls(condition_scale=0.0)), unconditional)
    assert np.array_equal(draw(rflow, condition(given=())), unconditional)


def test_the_drawing_is_embedded_once(rflow):
    calls = []
    hook = rflow.embedding.register_forward_hook(lambda module, inputs, output: calls.append(inputs[0].shape))
    try:
        draw(rflow, condition(), steps=4)
    finally:
        hook.remove()
    assert calls == [(1, 8, *SHAPE)]


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp-2m", "unipc"])
def test_the_last_estimate_is_the_volume(rflow, sampler):
    told, estimates = [], []
    volume = draw(
        rflow,
        condition(),
        sampler=sampler,
        steps=4,
        on_step=lambda done, total: told.append((done, total)),
        on_estimate=lambda give: estimates.append(give()),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)] and len(estimates) == 4
    assert volume.dtype == np.float32 and np.abs(volume).max() <= 1
    if sampler != "heun":  # whose last two evaluations are averaged
        np.testing.assert_allclose(estimates[-1], volume, atol=1e-4)
    assert not np.allclose(estimates[0], volume, atol=1e-2)


def test_guidance_leads_away_from_images_of_any_kind(rflow, tmp_path):
    write_package(tmp_path, "rflow")
    reference = Reference(tmp_path, "rflow")

    def velocity(kind: int, x: torch.Tensor) -> torch.Tensor:
        told = {"class_labels": torch.tensor([kind]), "spacing_tensor": torch.tensor([[80.0, 70.0, 300.0]])}
        return reference.unet(x, torch.tensor([1000.0]), **told)

    with torch.inference_mode():
        x = noise()
        any_kind, ct = velocity(0, x), velocity(1, x)
        expected = reference.decode(x + any_kind + 2.5 * (ct - any_kind))
    found = draw(rflow, condition(given=()), sampler="euler", steps=1, guidance=2.5)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not np.allclose(draw(rflow, condition(given=()), sampler="euler", steps=1), expected, atol=1e-2)


def test_bf16_on_the_cpu(rflow):
    """MAISI's own settings, fp16 normalisation, cannot decode in bf16."""
    full, low = (draw(rflow, condition(), plan=plan(precision=precision)) for precision in ("fp32", "bf16"))
    assert 0 < np.abs(low - full).mean() < 0.03


def test_sizes_between_are_padded_with_the_edge_and_cropped(rflow):
    small = condition(shape=(15, 13, 32))
    grid = rflow.working_grid(small.shape)
    assert grid == (16, 16, 32)
    assert rflow.working_grid((33, 48, 1)) == (48, 48, 16)
    padded = np.pad(small.class_map, [(0, g - n) for g, n in zip(grid, small.shape)], mode="edge")
    whole = draw(rflow, Condition(padded, small.affine, SCHEME, small.given))
    found = draw(rflow, small)
    assert found.shape == small.shape
    assert np.array_equal(found, whole[:15, :13])


def test_outside_the_outline_is_air(rflow):
    drawn = condition()
    volume = draw(rflow, drawn)
    assert (volume[drawn.class_map == 0] == -1).all() and (volume[drawn.class_map > 0] > -1).mean() > 0.3
    no_outline = condition(given=("liver", "lung tumor"))
    assert (draw(rflow, no_outline)[drawn.class_map == 0] > -1).any()


def test_decoded_range(tmp_path):
    """Twice as wide, the same decoder outputs stand for values half as far from the lower end."""
    narrow = Maisi(write_package(tmp_path, "rflow", controlnet=False))
    wide = Maisi(write_package(tmp_path, "rflow", controlnet=False, latent=LatentSpec(4, 4, SCALE_FACTOR, (0.0, 2.0))))
    a, b = draw(narrow, condition(given=())), draw(wide, condition(given=()))
    inside = np.abs(a) < 1
    assert inside.mean() > 0.05
    np.testing.assert_allclose(b[inside] + 1, (a[inside] + 1) / 2, atol=1e-6)
    assert (b > 0).any(), "what passes the end of the narrow range is clipped in the wide one too"


def test_failures_are_told(rflow, tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(rflow.network, "forward", full)
        with pytest.raises(OutOfMemory, match="16x16x32"):
            draw(rflow, condition())
    with monkeypatch.context() as patch:
        patch.setattr(rflow.autoencoder, "decode", full)
        with pytest.raises(OutOfMemory, match="16x16x32"):
            draw(rflow, condition())
    with monkeypatch.context() as patch:
        patch.setattr(rflow.network, "forward", lambda x, *a, **k: x * float("nan"))
        with pytest.raises(RunFailed, match="not numbers"):
            draw(rflow, condition())
    package = write_package(tmp_path, "rflow")
    assert isinstance(load_backend(package), Maisi)
    save_file({"x": torch.zeros(1)}, tmp_path / "controlnet.safetensors")
    with pytest.raises(ModelError, match=r"controlnet\.safetensors"):
        load_backend(package)


def test_refusals(rflow, ddpm, tmp_path):
    without = Maisi(write_package(tmp_path, "rflow", controlnet=False))
    with pytest.raises(ModelError, match="no ControlNet"):
        draw(without, condition())
    with pytest.raises(BadInput, match="guidance of 2"):
        draw(rflow, condition(), guidance=2.0)
    with pytest.raises(BadInput, match="one kind of image"):
        draw(ddpm, condition(given=()), guidance=2.0)
    with pytest.raises(BadInput, match="takes no body region"):
        draw(rflow, condition(), controls=Controls(region=("head", "head")))
    with pytest.raises(BadInput, match="'PET'") as refusal:
        draw(rflow, condition(), controls=Controls(modality="PET"))
    assert "CT, MR" in refusal.value.hint
    with pytest.raises(BadInput, match="one kind of image"):
        draw(ddpm, condition(), controls=Controls(modality="CT"))
    with pytest.raises(ModelError, match="betas"):
        draw(rflow, condition(), sampler="ddim")
    with pytest.raises(ModelError, match="straight lines"):
        draw(ddpm, condition(), sampler="euler")


def test_weights_are_counted_once(rflow, tmp_path):
    package = write_package(tmp_path, "rflow")
    specs = (package.spec.network, package.spec.autoencoder, package.spec.controlnet)
    assert rflow.weight_bytes == 4 * sum(p.numel() for s in specs for p in build_network(s).parameters())


def test_spacing_is_that_of_the_axes():
    turned = np.eye(4)
    turned[:3, :3] = np.array([[0, -0.5, 0], [2.0, 0, 0], [0, 0, -3.0]])
    assert spacing_of(turned) == (2.0, 0.5, 3.0)
