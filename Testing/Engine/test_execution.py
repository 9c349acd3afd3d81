"""The same volume under every strategy, by every latent backend, and what of a strategy reaches the networks."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import test_backend_maisi as maisi
import test_backend_med_lsdm as lsdm
import test_backend_medlord as medlord
import test_backend_slice_ldm as slices
import torch
from monai.networks.blocks.selfattention import SABlock
from tiny_latent import make_latent_package
from tiny_med_lsdm import make_lsdm_package
from tiny_slice_ldm import make_joint_package
from torch import nn

from SynthDiffusionLib.backends import ESTIMATE, load_backend, stages
from SynthDiffusionLib.backends.stages import Stages
from SynthDiffusionLib.errors import BadInput, Cancelled
from SynthDiffusionLib.memory import plan as plan_module
from SynthDiffusionLib.memory.devices import choose_precision
from SynthDiffusionLib.memory.execution import CHUNK, OFFLOAD, STRATEGIES, STREAM, TOGETHER, WHOLE, Execution
from SynthDiffusionLib.memory.plan import Plan, resolve_plan, resolve_precision
from SynthDiffusionLib.models.presets import load_preset, networks, preset_ids
from SynthDiffusionLib.networks import streaming
from SynthDiffusionLib.networks.build import build_network

EXACT = 1e-4  # of the range of the volume, which is 2


class Tiny:
    """A tiny model of one method, and a volume drawn by it."""

    def __init__(self, backend, condition, settings: dict, joint: bool = False) -> None:
        self.backend, self.condition, self.settings, self.joint = backend, condition, settings, joint

    def plan(self, execution: Execution, precision: str = "fp32") -> Plan:
        shape = slices.SHAPE if self.joint else self.condition.shape
        grid = self.backend.working_grid(shape)
        return Plan("cpu", precision, execution.summary, None, 0, 1, grid, execution)

    def draw(self, execution: Execution, precision: str = "fp32", **more) -> np.ndarray:
        settings = self.settings | more
        if self.joint:
            image, mask = self.backend.sample_joint(slices.TUMOUR, self.plan(execution, precision), **settings)
            return np.stack([image, mask])
        return self.backend.sample(self.condition, self.plan(execution, precision), **settings)


@pytest.fixture(scope="module", params=["maisi", "medlord", "med_lsdm", "med_lsdm, windows", "slice_ldm"])
def tiny(request, tmp_path_factory) -> Tiny:
    folder, name = tmp_path_factory.mktemp("models"), request.param
    settings = {"sampler": "dpmpp-2m", "steps": 2, "seed": 5}
    if name == "maisi":
        backend = load_backend(maisi.write_package(folder, "rflow"))
        return Tiny(backend, maisi.condition(), settings)
    if name == "medlord":
        package = make_latent_package(folder / "tiny-limb")
        return Tiny(load_backend(package), medlord.condition_for(package), settings)
    if name == "slice_ldm":
        backend = load_backend(make_joint_package(folder / "tiny-joint", controls={"guidance": True}))
        return Tiny(backend, None, settings | {"shape": slices.SHAPE}, joint=True)
    package = make_lsdm_package(folder / "tiny-lsdm", spade_decoder=True)
    backend, shape = load_backend(package), lsdm.SHAPE
    if name == "med_lsdm, windows":
        backend.windows, shape = lsdm.WindowsSpec(16, 8, "samples"), lsdm.DEEP
    return Tiny(backend, lsdm.condition_for(package, shape), settings)


@pytest.fixture(scope="module")
def usual(tiny) -> np.ndarray:
    return tiny.draw(Execution())


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Tiny volumes take several slabs, as full-size ones do."""
    monkeypatch.setattr(streaming, "SLAB_BYTES_ON_CPU", 20_000)
    monkeypatch.setattr(stages, "CHUNK_ELEMENTS", 500)
    monkeypatch.setattr("SynthDiffusionLib.backends.latent.CHUNK_ELEMENTS", 500)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_decoding_is_the_same_in_every_way(tiny, usual, strategy):
    told = []
    found = tiny.draw(Execution(decode=strategy), on_part=lambda stage, fraction: told.append((stage, fraction)))
    assert usual.std() > 0.01
    assert np.abs(found - usual).max() <= 2 * EXACT
    assert {stage for stage, _ in told} == {"decode"}
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions) and fractions[0] == 0.0 and fractions[-1] == pytest.approx(1.0)
    slab_by_slab = strategy.startswith("stream") and not tiny.joint
    assert len(told) > 50 if slab_by_slab else len(told) <= 16


@pytest.mark.parametrize("strategy", [OFFLOAD, CHUNK])
def test_the_other_stages_are_the_same_in_every_way(tiny, usual, strategy, monkeypatch):
    calls = []
    original = nn.functional.conv3d

    def noted(x, *arguments):
        calls.append(x.numel())
        return original(x, *arguments)

    monkeypatch.setattr(nn.functional, "conv3d", noted)
    assert np.array_equal(tiny.draw(Execution()), usual)
    whole = len(calls)
    names = ("denoise", "refine") if tiny.joint else ("condition", "denoise")
    found = tiny.draw(Execution(**dict.fromkeys(names, strategy)))
    assert np.abs(found - usual).max() <= 2 * EXACT
    if strategy == CHUNK:
        assert len(calls) > 3 * whole
    assert np.array_equal(tiny.draw(Execution()), usual), "nothing of it stays"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits_in_every_way(tiny, precision):
    """Decoded in slabs, 16 bits differ from fp32 about as they do whole."""
    exact = tiny.draw(Execution())
    whole, slab = (tiny.draw(Execution(decode=way), precision) for way in (WHOLE, STREAM))
    assert np.isfinite(slab).all()
    assert np.abs(slab - whole).mean() <= 2 * np.abs(whole - exact).mean() + 1e-3


@pytest.mark.parametrize("scale", [2.5, 0.0])
def test_guidance_in_one_batch_is_guidance_in_turn(tiny, scale, monkeypatch):
    if isinstance(tiny.backend, maisi.Maisi):  # guidance goes without a drawing
        monkeypatch.setattr(tiny, "condition", maisi.condition(given=()))
    sizes = []
    network = tiny.backend.network
    hook = network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    try:
        turn = tiny.draw(Execution(), guidance=scale)
        count = len(sizes)
        together = tiny.draw(Execution(guidance=TOGETHER), guidance=scale)
    finally:
        hook.remove()
    assert set(sizes[:count]) == {1} and sizes[count:] == [2] * (count // 2)
    assert np.abs(together - turn).max() <= 2 * EXACT
    assert np.abs(turn - tiny.draw(Execution())).max() > 10 * EXACT


def test_channels_last_is_the_same(tiny, usual):
    found = tiny.draw(Execution(channels_last=True))
    weights = [m.weight for m in tiny.backend.network.modules() if isinstance(m, nn.Conv3d) and m.kernel_size[0] > 1]
    assert all(w.is_contiguous(memory_format=torch.channels_last_3d) for w in weights)
    assert np.abs(found - usual).max() <= 2 * EXACT
    assert np.array_equal(tiny.draw(Execution()), usual)


def test_estimates_are_decoded_in_the_same_way(tiny, usual):
    """And cost nothing of the denoising after them."""
    told, made = [], []
    found = tiny.draw(
        Execution(decode=STREAM, denoise=CHUNK),
        on_part=lambda stage, fraction: told.append(stage),
        on_estimate=lambda give: made.append(give()),
    )
    assert made and set(told) == {ESTIMATE, "decode"}
    assert np.abs(found - usual).max() <= 2 * EXACT


@pytest.mark.parametrize("at", [1, 5])
def test_what_is_raised_while_decoding_ends_it(tiny, usual, at):
    asked = []

    def stop(stage: str, fraction: float) -> None:
        asked.append(fraction)
        if len(asked) == at:
            raise Cancelled

    if tiny.joint and at > 1:
        pytest.skip("a tiny volume has too few slices")
    with pytest.raises(Cancelled):
        tiny.draw(Execution(decode=STREAM), on_part=stop)
    assert len(asked) == at
    assert np.array_equal(tiny.draw(Execution()), usual)


def test_features_of_a_drawing_are_computed_once_for_all_samples(tiny):
    backend = tiny.backend
    if getattr(backend, "controlnet", None) is None:
        pytest.skip("has no ControlNet")
    layers = backend.embedding if isinstance(backend, maisi.Maisi) else backend.controlnet.embedding
    calls = []
    hook = layers.register_forward_hook(lambda module, inputs, output: calls.append(1))
    try:
        first = [tiny.draw(Execution(guidance=TOGETHER), seed=seed) for seed in (1, 2, 1)]
        assert len(calls) == 1
        assert np.array_equal(first[0], first[2]) and not np.array_equal(first[0], first[1])
        other = dataclasses.replace(tiny.condition)
        tiny.backend.sample(other, tiny.plan(Execution(guidance=TOGETHER)), **tiny.settings)
        assert len(calls) == 2  # another drawing, as far as one can tell
    finally:
        hook.remove()


class Placed(nn.Module):
    """A network that only remembers where it was sent."""

    def __init__(self, name: str, log: list[tuple[str, str]]) -> None:
        super().__init__()
        self.name, self.log = name, log

    def to(self, device):
        self.log.append((self.name, str(torch.device(device))))
        return self


@pytest.mark.parametrize(
    ("execution", "alone", "expected"),
    [
        (Execution(), False, [("unet", "cuda:0"), ("vae", "cuda:0")]),
        (Execution(), True, [("vae", "cpu"), ("unet", "cuda:0"), ("unet", "cpu"), ("vae", "cuda:0")]),
        (Execution(decode=STREAM), False, [("unet", "cuda:0"), ("unet", "cpu"), ("vae", "cuda:0")]),
        (Execution(denoise=OFFLOAD), False, [("vae", "cpu"), ("unet", "cuda:0"), ("vae", "cuda:0")]),
    ],
)
def test_networks_of_other_stages_leave_the_gpu_first(execution, alone, expected):
    log: list[tuple[str, str]] = []
    placed = {name: Placed(name, log) for name in ("unet", "vae")}
    plan = Plan("cuda:0", "bf16", execution.summary, None, 0, 1, (8, 8, 8), execution)
    of = Stages(plan, placed, {"denoise": ["unet"], "decode": ["vae"]}, alone)
    of.begin("denoise")
    of.begin("decode")
    assert log == expected


def test_execution_as_json_and_what_is_refused():
    execution = Execution(decode="stream-host", denoise="offload", guidance="together", channels_last=True)
    content = {"denoise": "offload", "decode": "stream-host", "guidance": "together", "channels_last": True}
    assert execution.to_json() == content and Execution.from_json(content) == execution
    assert execution.summary == "stream-host" and Execution().summary == "whole" and Execution().to_json() == {}
    assert Execution.from_json(None) == Execution()
    for wrong, message in (
        ({"decoder": "stream"}, "no stage 'decoder'"),
        ({"decode": "tiles"}, "'decode' cannot be computed as 'tiles'"),
        ({"denoise": "stream"}, "'denoise' cannot be computed as 'stream'"),
        ({"decode": ["stream"]}, "'decode'"),
        ({"channels_last": 1}, "'channels_last'"),
        ({"guidance": True}, "'guidance'"),
    ):
        with pytest.raises(BadInput, match=message) as refused:
            Execution.from_json(wrong)
        assert refused.value.hint


def test_a_plan_says_how_it_is_computed():
    execution = Execution(decode="stream")
    settings = {"device": "cpu", "precision": "fp32", "vram_limit": None, "grid": (64, 64, 64)}
    plan = resolve_plan(load_preset("medlord-x8"), **settings, strategies={"decode": "stream"})
    assert plan.execution == execution and plan.strategy == "stream"
    assert plan.to_json()["execution"] == {"decode": "stream"}
    assert resolve_plan(load_preset("medlord-x8"), **settings).strategy == "whole"


def test_a_gpu_without_bf16_takes_fp16(monkeypatch):
    """One that emulates bf16 counts as one without."""
    assert choose_precision("bf16", "cuda:0", "fp16") == choose_precision("auto", "cuda:0", "fp16") == "fp16"
    assert choose_precision("bf16", "cuda:0", "bf16") == "bf16"
    assert choose_precision("fp32", "cuda:0", "fp16") == "fp32"
    assert choose_precision("bf16", "cpu", "fp32") == "bf16"  # every CPU computes in it, some slowly
    current: list[str] = []

    class Current:
        def __init__(self, device: str) -> None:
            self.device = device

        def __enter__(self) -> None:
            current.append(self.device)

        def __exit__(self, *_: object) -> None:
            current.pop()

    # The second GPU is older, and emulates.
    fake = SimpleNamespace(
        device=Current,
        is_bf16_supported=lambda including_emulation=True: including_emulation or current[-1] == "cuda:0",
    )
    monkeypatch.setattr(torch, "cuda", fake)
    assert resolve_precision("auto", "cuda:0") == resolve_precision("bf16", "cuda:0") == "bf16"
    assert resolve_precision("auto", "cuda:1") == resolve_precision("bf16", "cuda:1") == "fp16"
    assert resolve_precision("fp32", "cuda:1") == "fp32"
    assert plan_module.resolve_precision("bf16", "cpu") == "bf16"


def test_all_attention_is_scaled_dot_product():
    """Of every network of every preset."""
    found = 0
    for name in preset_ids():
        spec = load_preset(name)
        for _, network in networks(spec):
            with torch.device("meta"):
                built = build_network(network, spec.label_scheme)
            blocks = [m for m in built.modules() if isinstance(m, SABlock)]
            assert all(block.use_flash_attention for block in blocks), (name, network.name)
            found += len(blocks)
    assert found > 20
