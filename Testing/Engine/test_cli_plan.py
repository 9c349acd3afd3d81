"""`synthdiffusion plan` and the table behind it: its published rows, what lies between, limits, sizes, wrong input."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from SynthDiffusionLib.cli import main, plan_command
from SynthDiffusionLib.errors import BadInput, OutOfMemory
from SynthDiffusionLib.memory import outlook, table
from SynthDiffusionLib.memory.fit import DEFAULT_LIMIT, GIB, PROCESS_BYTES, check_fits
from SynthDiffusionLib.memory.needs import needs_of
from SynthDiffusionLib.memory.outlook import look_ahead
from SynthDiffusionLib.memory.table import stage_peaks, stages
from SynthDiffusionLib.models import load_package
from SynthDiffusionLib.models.grid_rules import GridRules
from SynthDiffusionLib.models.presets import load_preset, parameter_counts

ROOT = Path(__file__).resolve().parents[2]
SIZES = ((256, 256, 256), (512, 512, 128), (512, 512, 256), (512, 512, 512), (512, 512, 768))


@pytest.fixture
def plan(capsys):
    def run(*arguments, code=0):
        assert main(["plan", *map(str, arguments)]) == code
        out = capsys.readouterr()
        return out.err if code else out.out.rstrip("\n").splitlines()

    return run


@pytest.mark.parametrize(
    ("name", "gib"), [("denoise", (0.48, 0.95, 1.88, 3.73, 5.58)), ("condition", (1.03, 2.06, 4.13, 8.25, 12.4))]
)
def test_the_rows_of_the_table_for_maisi(name, gib):
    """Without margin and weights; the denoiser holds the control network's residuals beside its own tensors."""
    spec = load_preset("maisi-rflow")
    for size, expected in zip(SIZES, gib, strict=True):
        found = stage_peaks(spec, size, "fp16", margin=1.0, conditional=True)[name] / GIB
        latent = size[0] * size[1] * size[2] / 64
        # Skip connections and middle of 64/128/256/512 channels, each level an eighth of the one before, 2 bytes each.
        per_voxel = 64 * 3 + (64 + 128 * 2) / 8 + (128 + 256 * 2) / 64 + (256 + 512 * 2 + 512) / 512
        residuals = 2 * per_voxel * latent / GIB if name == "denoise" else 0.0
        assert found == pytest.approx(expected + residuals, rel=1e-6)


def test_between_and_beyond_the_rows():
    spec = load_preset("maisi-rflow")

    def denoise(size):
        return stage_peaks(spec, size, "fp16", margin=1.0, conditional=False)["denoise"] / GIB

    assert denoise((512, 512, 192)) == pytest.approx((0.95 + 1.88) / 2, rel=1e-6)  # 1.5 times, between 1 and 2
    assert denoise((128, 128, 128)) == pytest.approx(0.48 / 8, rel=1e-6)
    assert denoise((512, 512, 1536)) == pytest.approx(5.58 * 2, rel=1e-6)


def test_the_vqvae_decodes_512_x_512_x_256_in_6_gib_of_fp16_and_12_of_fp32():
    """Which is three feature maps of 128 channels at half the resolution."""
    for preset in ("medlord-x4", "medlord-x8"):
        spec = load_preset(preset)
        peaks = [stage_peaks(spec, (512, 512, 256), p, margin=1.0)["decode"] for p in ("fp16", "fp32")]
        assert peaks[0] == 3 * 128 * 256 * 256 * 128 * 2
        assert peaks == [6 * GIB, 12 * GIB]


def test_the_codebooks_distances_count_where_the_volume_is_small():
    spec = load_preset("medlord-x8")
    assert stage_peaks(spec, (64, 64, 64), "fp16", margin=1.0)["decode"] == 3 * 4 * 8**3 * 16384


def test_lower_precision_halves_the_tensors_and_keeps_a_copy_of_the_weights():
    spec = load_preset("medlord-x4")
    counts = {"denoiser": 1000, "autoencoder": 100, "controlnet": 10, "segmenter": 10**9}
    half, full = (
        {s.name: s for s in stages(spec, (256, 256, 128), p, parameters=counts, margin=1.0)} for p in ("bf16", "fp32")
    )
    assert full["denoise"].working_bytes == pytest.approx(2 * half["denoise"].working_bytes, abs=2)
    assert (full["denoise"].weight_bytes, half["denoise"].weight_bytes) == (4 * 1010, 6 * 1010)
    assert {s.resident_bytes for s in full.values()} == {4 * 1110}  # MedLoRD keeps all on the device
    assert half["decode"].peak_bytes == half["decode"].working_bytes + 6 * 1110


def test_maisi_has_the_networks_of_one_stage_on_a_gpu_and_all_on_a_cpu():
    spec, counts = load_preset("maisi-ddpm"), {"denoiser": 1000, "autoencoder": 100, "controlnet": 10}
    gpu = {s.name: s.resident_bytes for s in stages(spec, (256, 256, 256), "fp32", parameters=counts)}
    cpu = {s.name: s.resident_bytes for s in stages(spec, (256, 256, 256), "fp32", parameters=counts, device="cpu")}
    assert gpu == {"condition": 40, "denoise": 4040, "decode": 400}
    assert set(cpu.values()) == {4440 + PROCESS_BYTES}


def test_whole_decodes_that_nvidia_reports_go_before_the_table():
    spec, counts = load_preset("maisi-rflow"), parameter_counts(load_preset("maisi-rflow"))
    for size, gib in (((256, 256, 128), 15.0), ((256, 256, 256), 22.7)):
        decode = stages(spec, size, "bf16", parameters=counts)[-1]
        assert decode.peak_bytes == pytest.approx(gib * GIB, abs=1) and decode.source == table.REPORTED_BY_NVIDIA
        live = stages(spec, size, "bf16", margin=1.0, device="cpu")[-1].working_bytes
        assert 1.7 < gib * GIB / live <= table.MARGIN["cuda"] + 0.01  # what the margin is said to be made of
    decode = stages(spec, (512, 512, 512), "bf16", parameters=counts)[-1]  # reported in tiles only
    assert decode.source == table.SIMULATED


def test_what_a_package_has_measured_goes_before_the_table():
    spec = load_preset("medlord-x4")
    measured = dataclasses.replace(spec, performance={"bytes_per_voxel_fp32": 500.0})
    assert stage_peaks(measured, (64, 64, 64), "fp32") == dict.fromkeys(("condition", "denoise", "decode"), 500 * 64**3)
    assert stage_peaks(measured, (64, 64, 64), "bf16")["decode"] == 300 * 64**3
    one = dataclasses.replace(spec, performance={"bytes_per_voxel_fp32": {"decode": 500.0}})
    assert stage_peaks(one, (64, 64, 64), "fp32")["decode"] == 500 * 64**3
    assert stage_peaks(one, (64, 64, 64), "fp32")["denoise"] == stage_peaks(spec, (64, 64, 64), "fp32")["denoise"]


def test_narrow_networks_take_less():
    spec = load_preset("medlord-x4")
    network = dataclasses.replace(spec.network, parameters=spec.network.parameters | {"channels": [32, 64, 128, 256]})
    narrow = dataclasses.replace(spec, network=network)
    wide, slim = (stage_peaks(s, (128, 128, 128), "fp16", conditional=False)["denoise"] for s in (spec, narrow))
    assert slim == pytest.approx(wide / 2, abs=2)


def test_a_model_in_voxel_space_has_no_stages():
    with pytest.raises(ValueError, match="patch-ddpm"):
        stages(load_preset("patch-ddpm"), (64, 64, 64), "fp32")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_package_in_voxel_space_is_predicted_as_a_run_predicts_it(precision, device):
    package = load_package("lung-nodule-ct", verify=False)
    needs = needs_of(package)
    found = look_ahead(
        package.spec,
        (51, 51, 51),
        parameters={"denoiser": needs.weight_bytes // 4},
        device=device.split(":")[0],
        precision=precision,
        needs=needs,
    )
    fit = check_fits(
        device=device,
        precision=precision,
        vram_limit=None,
        free_bytes=100 * GIB,
        grid=needs.working_grid((51, 51, 51)),
        bytes_per_voxel=needs.bytes_per_voxel,
        weight_bytes=needs.weight_bytes,
    )
    assert found.grid == (56, 56, 56) and found.latent is None
    assert found.stages[0].peak_bytes == fit.predicted_bytes


@pytest.mark.parametrize("preset", ["medlord-x4", "maisi-ddpm", "patch-ddpm"])
@pytest.mark.parametrize("limit", [4 * GIB, 12 * GIB, DEFAULT_LIMIT, 70 * GIB])
def test_the_largest_size_fits_and_no_larger_one_does(preset, limit):
    spec = load_preset(preset)
    counts = {"denoiser": 166_000_000, "autoencoder": 22_000_000, "controlnet": 17_000_000}

    def ahead(size):
        return look_ahead(spec, size, parameters=counts, limit_bytes=limit)

    sizes = sorted(set(table.allowed_sizes(spec)), key=lambda s: s[0] * s[1] * s[2])
    fitting = [size for size in sizes if ahead(size).fits]
    largest = ahead(sizes[0]).largest
    assert (largest in fitting) if fitting else largest is None
    assert all(a[0] * a[1] * a[2] <= largest[0] * largest[1] * largest[2] for a in fitting)
    assert sizes[-1] == spec.grid.max_size


def test_a_prediction_at_the_limit_fits_and_one_byte_less_does_not():
    spec = load_preset("medlord-x4")
    peak = max(stage_peaks(spec, (256, 256, 256), "bf16").values())

    def at(limit):
        return look_ahead(spec, (256, 256, 256), parameters={}, limit_bytes=limit)

    assert at(peak).fits and at(peak).strategy == outlook.WHOLE
    assert not at(peak - 1).fits and at(peak - 1).strategy == outlook.TOO_LARGE


def test_plan_in_words(plan):
    text = "\n".join(plan("--model", "medlord-x4", "--size", "500x500x200"))
    assert "500 x 500 x 200, padded to 512 x 512 x 224" in text
    assert "128 x 128 x 56, 8 channels" in text
    assert "Stage condition" in text and "Stage denoise" in text and "Stage decode" in text
    assert "not measured" in text and "predictions, not measurements" in text
    assert "Fits             yes" in text and "512 x 512 x 256" in text


def test_plan_as_json(plan):
    result = json.loads(plan("--model", "maisi-rflow", "--size", "512x512x512", "--json")[-1])
    assert (result["model"], result["kind"], result["measured"]) == ("maisi-rflow", "preset", False)
    assert (result["grid"], result["latent"]) == ([512, 512, 512], [4, 128, 128, 128])
    assert [s["name"] for s in result["stages"]] == ["condition", "denoise", "decode"]
    assert result["peak_bytes"] == max(s["peak_bytes"] for s in result["stages"]) > result["limit_bytes"] == 24 * GIB
    assert result["fits"] is False and result["largest_size"] == [256, 256, 256]
    assert any("36 overlapping tiles" in note for note in result["notes"])
    without = json.loads(plan("--model", "maisi-rflow", "--unconditional", "--json")[-1])
    assert [s["name"] for s in without["stages"]] == ["denoise", "decode"] and without["conditional"] is False
    assert without["size"] == [512, 512, 128]  # the model's default


def test_plan_of_a_package_and_of_a_design_in_voxel_space(plan):
    package = json.loads(plan("--model", "lung-nodule-ct", "--device", "cpu", "--json")[-1])
    assert package["kind"] == "package" and package["fits"] and package["parameters"] == {"denoiser": 3197601}
    preset = json.loads(plan("--model", "patch-ddpm", "--vram-limit", "1GiB", "--json")[-1])
    assert not preset["fits"] and preset["largest_size"] == [64, 64, 64]
    assert "none fits" in "\n".join(plan("--model", "patch-ddpm", "--vram-limit", "100MiB"))
    with pytest.raises(OutOfMemory):  # as a run says it
        check_fits(
            device="cuda:0",
            precision="bf16",
            vram_limit=1 * GIB,
            free_bytes=100 * GIB,
            grid=(256, 256, 256),
            bytes_per_voxel=2000.0,
            weight_bytes=4 * 17_592_242,
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "medlord-x5"), "Did you mean 'medlord-x"),
        (("--model", "no-such-thing"), "Presets: maisi-ddpm"),
        (("--model", "medlord-x4", "--size", "512x512x512"), "at most 512 x 512 x 256"),
        (("--model", "maisi-ddpm", "--size", "300x300x128"), "256 or 384 or 512"),
        (("--model", "lung-nodule-ct", "--size", "65x64x64"), "at most 64 x 64 x 64"),
        (("--model", "lung-nodule-ct", "--unconditional"), "without a segmentation"),
        (("--model", "medlord-x4", "--vram-limit", "much"), "24GiB"),
        (("--model", "medlord-x4", "--device", "mps"), "Choose cuda or cpu"),
        (("--model", "medlord-x4", "--device", "cpu", "--precision", "fp16"), "fp32 or bf16"),
        (("--model", "medlord-x4", "--precision", "fp8"), "Unknown precision"),
    ],
)
def test_wrong_input_is_told_on_one_line_with_exit_code_2(plan, arguments, message):
    err = plan(*arguments, code=2)
    assert message in err and err.count("\n") == 1


@pytest.mark.parametrize("text", ["512", "512x512", "0x1x1", "-1x2x3", "axbxc", "5x5x5x5", "512x512x256.0", ""])
def test_what_is_no_size(text):
    with pytest.raises(argparse.ArgumentTypeError, match="no size"):
        plan_command._size_arg(text)


def test_the_device_need_not_be_there(plan):
    assert json.loads(plan("--model", "medlord-x8", "--device", "cuda:7", "--json")[-1])["device"] == "cuda"


def test_a_size_that_a_model_does_not_make_is_refused_before_anything_is_predicted():
    with pytest.raises(BadInput, match="300 x 256 x 128"):
        look_ahead(load_preset("maisi-ddpm"), (300, 256, 128), parameters={})


def test_the_table_loads_no_torch():
    code = (
        "import sys\n"
        "from SynthDiffusionLib.memory import outlook, table\n"
        "from SynthDiffusionLib.models.presets import load_preset\n"
        "found = outlook.look_ahead(load_preset('medlord-x4'), (512, 512, 256), parameters={})\n"
        "assert found.fits and not {'torch', 'monai'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


@pytest.mark.parametrize("preset", ["maisi-ddpm", "maisi-rflow-mr", "maisi-rflow-mr-brain"])
def test_sizes_are_judged_as_a_run_judges_them(preset):
    """At a spacing that no rule is against."""
    spec = load_preset(preset)
    rules = GridRules.from_grid(spec.grid)
    sizes = [*table.allowed_sizes(spec), (128, 256, 256), (512, 512, 256), (300, 300, 128), (256, 512, 128)]
    found = {size: table.size_problem(spec, size) is None for size in sizes}
    assert found == {size: not rules.problems(size, (2.0, 2.0, 2.0)) for size in sizes}
    assert found[tuple(spec.grid.default_size)] and set(found.values()) == {True, False}


def test_plan_of_the_methods_whose_layers_are_counted(tmp_path, plan):
    from tiny_med_lsdm import make_lsdm_package
    from tiny_slice_ldm import make_joint_package

    for package, names in (
        (make_lsdm_package(tmp_path / "tiny-lsdm"), ["condition", "denoise", "decode"]),
        (make_joint_package(tmp_path / "tiny-joint"), ["denoise", "decode", "refine"]),
    ):
        size = "x".join(map(str, package.spec.grid.default_size))
        found = json.loads(plan("--model", package.folder, "--size", size, "--json")[-1])
        assert [stage["name"] for stage in found["stages"]] == names and found["fits"]
        assert {stage["source"] for stage in found["stages"]} == {table.COUNTED}
        assert all(stage["working_bytes"] > 0 and stage["weight_bytes"] > 0 for stage in found["stages"])
        grid = needs_of(package).working_grid(package.spec.grid.default_size)
        assert found["grid"] == list(grid) and found["latent"] == list(package.spec.latent.shape(grid))
        assert set(found["parameters"]) == {f.role for f in package.spec.files}


@pytest.mark.parametrize(
    ("preset", "size", "latent"),
    [("med-lsdm", "256x256x32", [8, 64, 64, 8]), ("slice-ldm", "192x192x96", [4, 24, 24, 96])],
)
def test_plan_of_the_counted_presets(plan, preset, size, latent):
    """At the sizes of their papers' code."""
    found = json.loads(plan("--model", preset, "--size", size, "--json")[-1])
    assert found["latent"] == latent and found["fits"] and found["strategy"] == outlook.WHOLE
    assert {stage["source"] for stage in found["stages"]} == {table.COUNTED}
    assert 0.5 * GIB < found["peak_bytes"] < DEFAULT_LIMIT
