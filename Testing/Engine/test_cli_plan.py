"""`synthdiffusion plan`: what is said in words and as JSON, limits, sizes, wrong input."""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from SynthDiffusionLib.cli import main, plan_command
from SynthDiffusionLib.memory import working_grids
from SynthDiffusionLib.memory.devices import CONTEXT_BYTES, DEFAULT_LIMIT, GIB
from SynthDiffusionLib.models.grid_rules import GridRules
from SynthDiffusionLib.models.presets import load_preset

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def plan(capsys):
    def run(*arguments, code=0):
        assert main(["plan", *map(str, arguments)]) == code
        out = capsys.readouterr()
        return out.err if code and "--json" not in arguments else out.out.rstrip("\n").splitlines()

    return run


def answer(plan, *arguments, code=0):
    return json.loads(plan(*arguments, "--json", code=code)[-1])


def test_plan_in_words(plan):
    text = "\n".join(plan("--model", "medlord-x4", "--size", "500x500x200"))
    assert "500 x 500 x 200, padded to 512 x 512 x 224" in text
    assert "128 x 128 x 56, 8 channels" in text
    assert "Stage condition" in text and "Stage denoise" in text and "Stage decode" in text
    assert "the CUDA context, assumed" in text and "predictions" in text
    assert re.search(r"^Fits +yes$", text, re.MULTILINE)
    assert re.search(r"^Largest size +512 x 512 x 256$", text, re.MULTILINE)


def test_plan_as_json(plan):
    found = answer(plan, "--model", "maisi-rflow", "--size", "512x512x256")
    assert (found["model"], found["kind"], found["measured"]) == ("maisi-rflow", "preset", False)
    assert (found["grid"], found["latent"]) == ([512, 512, 256], [4, 128, 128, 64])
    assert [s["name"] for s in found["stages"]] == ["condition", "denoise", "decode"]
    assert found["peak_bytes"] == max(s["peak_bytes"] for s in found["stages"]) <= found["limit_bytes"] == 24 * GIB
    assert found["allocator_cap_bytes"] == 24 * GIB - CONTEXT_BYTES
    assert found["fits"] and found["exact"] and found["strategy"].startswith("stream")
    assert all(s["host_bytes"] > 0 for s in found["stages"])
    without = answer(plan, "--model", "maisi-rflow", "--unconditional")
    assert [s["name"] for s in without["stages"]] == ["denoise", "decode"] and without["conditional"] is False
    assert without["size"] == [512, 512, 128]  # the model's default


def test_less_memory_is_answered_with_slower_exact_ways(plan):
    """The decoder of MAISI at 512 x 512 x 256: whole where it fits, then in slabs, then with maps in host memory."""
    ways, peaks = [], []
    for limit in (120, 40, 24, 12):
        found = answer(plan, "--model", "maisi-rflow", "--size", "512x512x256", "--vram-limit", f"{limit}GiB")
        ways.append(found["stages"][-1]["strategy"])
        peaks.append(found["peak_bytes"])
        assert found["exact"] and not found["warnings"] and found["peak_bytes"] <= limit * GIB
    order = ["offload", "stream", "stream-recompute", "stream-host"]
    assert [order.index(way) for way in ways] == sorted(order.index(way) for way in ways) and len(set(ways)) > 2
    assert peaks == sorted(peaks, reverse=True)


def test_a_desktop_is_left_a_gib(plan):
    arguments = ("--model", "medlord-x4", "--size", "256x256x256")
    alone, shared = answer(plan, *arguments), answer(plan, *arguments, "--display")
    assert alone["allocator_cap_bytes"] - shared["allocator_cap_bytes"] == GIB
    least = [
        answer(plan, *a, "--vram-limit", "1.1GiB", code=2)["least_limit_bytes"]
        for a in (arguments, (*arguments, "--display"))
    ]
    assert least[1] == least[0] + GIB and alone["least_limit_bytes"] is None


def test_host_memory_is_bounded_too(plan):
    arguments = ("--model", "maisi-rflow", "--size", "512x512x512", "--vram-limit", "24GiB")
    free = answer(plan, *arguments)
    assert free["host_bytes"] > 8 * GIB
    refused = answer(plan, *arguments, "--host-limit", "4GiB", code=2)
    assert not refused["fits"] and 4 * GIB < refused["least_host_bytes"] <= free["host_bytes"]
    said = plan(*arguments, "--host-limit", "4GiB", code=2)
    assert "host memory" in said and "raise the limit of host memory" in said
    # What is called the least is enough, and less is not.
    for size, code in ((refused["least_host_bytes"], 0), (refused["least_host_bytes"] - 2**20, 2)):
        assert answer(plan, *arguments, "--host-limit", str(size), code=code)["fits"] is (code == 0)


def test_what_does_not_fit_exits_with_2_and_says_what_is_least_and_what_would(plan):
    arguments = ("--model", "maisi-rflow", "--size", "512x512x256")
    refused = answer(plan, *arguments, "--vram-limit", "2GiB", code=2)
    assert refused["fits"] is False and refused["largest_size"] is None
    line = plan(*arguments, "--vram-limit", "2GiB", code=2)
    assert line.count("\n") == 1 and "needs at least" in line and "Not even the smallest grid" in line
    least = math.ceil(refused["least_limit_bytes"] / 2**20)
    assert answer(plan, *arguments, "--vram-limit", f"{least}MiB")["fits"]
    assert not answer(plan, *arguments, "--vram-limit", f"{least - 2}MiB", code=2)["fits"]
    smaller = answer(plan, *arguments, "--vram-limit", f"{least - 2}MiB", code=2)["largest_size"]
    assert smaller and math.prod(smaller) < 512 * 512 * 256
    size = "x".join(map(str, smaller))
    assert answer(plan, "--model", "maisi-rflow", "--size", size, "--vram-limit", f"{least - 2}MiB")["fits"]


def test_lower_precision_comes_last_and_is_warned_of(plan):
    arguments = ("--model", "medlord-x4", "--size", "512x512x256", "--precision", "fp32")
    exact = answer(plan, *arguments)
    assert exact["exact"] and exact["precision"] == "fp32"
    least = answer(plan, *arguments, "--vram-limit", "1GiB", code=2)["least_limit_bytes"]
    for gib in range(1, 9):
        code = 0 if gib * GIB >= least else 2
        found = answer(plan, *arguments, "--vram-limit", f"{gib}GiB", code=code)
        if found["fits"] and not found["exact"]:
            assert (found["precision"], found["strategy"]) == ("bf16", "precision")
            assert "changes the image" in found["warnings"][0]
            break
    else:
        pytest.fail("no limit at which fp32 does not fit and bf16 does")


def test_plan_of_a_package_and_of_a_design_in_voxel_space(plan):
    package = answer(plan, "--model", "lung-nodule-ct", "--device", "cpu")
    assert package["kind"] == "package" and package["fits"] and package["parameters"] == {"denoiser": 3197601}
    assert package["context_bytes"] == 0 and package["allocator_cap_bytes"] is None
    preset = answer(plan, "--model", "patch-ddpm", "--vram-limit", "3GiB", code=2)
    assert not preset["fits"] and preset["largest_size"] == [128, 128, 128]


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
        (("--model", "medlord-x4", "--host-limit", "much"), "24GiB"),
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
    assert answer(plan, "--model", "medlord-x8", "--device", "cuda:7")["device"] == "cuda"


def test_presets_and_shipped_models_are_planned_without_torch():
    """The panel can plan before PyTorch is installed; and the first seconds of a program are not spent on it."""
    code = (
        "import sys\n"
        "from SynthDiffusionLib.cli import main\n"
        "cases = ('medlord-x4', '512x512x256'), ('maisi-rflow', '512x512x512'), ('lung-nodule-ct', '50x60x64')\n"
        "for model, size in cases:\n"
        "    assert main(['plan', '--model', model, '--size', size]) == 0\n"
        "assert not {'torch', 'monai'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120, capture_output=True)


@pytest.mark.parametrize("preset", ["maisi-ddpm", "maisi-rflow-mr", "maisi-rflow-mr-brain"])
def test_sizes_are_judged_as_a_run_judges_them(preset):
    """At a spacing that no rule is against."""
    spec = load_preset(preset)
    rules = GridRules.from_grid(spec.grid)
    sizes = [*working_grids.allowed_sizes(spec), (128, 256, 256), (512, 512, 256), (300, 300, 128), (256, 512, 128)]
    found = {size: working_grids.size_problem(spec, size) is None for size in sizes}
    assert found == {size: not rules.problems(size, (2.0, 2.0, 2.0)) for size in sizes}
    assert found[tuple(spec.grid.default_size)] and set(found.values()) == {True, False}


def test_plan_of_small_packages_of_all_methods(tmp_path, plan):
    from tiny_med_lsdm import make_lsdm_package
    from tiny_slice_ldm import make_joint_package

    from SynthDiffusionLib.backends import load_backend

    for package, names in (
        (make_lsdm_package(tmp_path / "tiny-lsdm"), ["condition", "denoise", "decode"]),
        (make_joint_package(tmp_path / "tiny-joint"), ["denoise", "decode", "refine"]),
    ):
        default = package.spec.grid.default_size
        found = answer(plan, "--model", package.folder, "--size", "x".join(map(str, default)))
        assert [stage["name"] for stage in found["stages"]] == names and found["fits"]
        grid = load_backend(package).working_grid(default)
        assert found["grid"] == list(grid) and found["latent"] == list(package.spec.latent.shape(grid))
        assert set(found["parameters"]) == {f.role for f in package.spec.files} - {"segmenter"}


@pytest.mark.parametrize(
    ("preset", "size", "latent"),
    [("med-lsdm", "256x256x32", [8, 64, 64, 8]), ("slice-ldm", "192x192x96", [4, 24, 24, 96])],
)
def test_plan_of_the_presets_of_windows_and_slices(plan, preset, size, latent):
    """At the sizes of their papers' code."""
    found = answer(plan, "--model", preset, "--size", size)
    assert found["latent"] == latent and found["fits"] and found["strategy"] == "whole"
    assert 0.5 * GIB < found["peak_bytes"] < DEFAULT_LIMIT
