"""The speed table: its rows, its file, its tables, and what it compares, on tiny networks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_latent import make_latent_package

BENCHMARKS = Path(__file__).resolve().parents[1] / "Benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import speed_agreement as agreement  # noqa: E402
import speed_denoise as denoise  # noqa: E402
import speed_floor as floor  # noqa: E402
import speed_page as page  # noqa: E402
import speed_parts as parts  # noqa: E402
import speed_table as table  # noqa: E402

from SynthDiffusionLib.backends import load_backend  # noqa: E402
from SynthDiffusionLib.memory.execution import STRATEGIES  # noqa: E402

GRID = (16, 24, 16)
SETTING = parts.Setting("cpu", "fp32", repeats=2, steps=2)
MACHINE = {"machine": "M", "threads": 2, "torch": "2", "monai": "1", "diffusers": "0", "system": "S", "commit": "c"}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return make_latent_package(tmp_path_factory.mktemp("models") / "tiny-limb")


def test_rows_are_chosen_by_group_and_by_name():
    cpu = table.ROWS["cpu"]
    assert table.chosen_rows("", "cpu") == list(cpu) and cpu[0].startswith("a:medlord")
    assert {row[0] for row in table.chosen_rows("b", "cpu")} == {"a", "e"}
    assert table.chosen_rows("a:medlord-x4:64x64x64,h", "cuda:1")[-1] == "a:medlord-x4:64x64x64"
    with pytest.raises(ValueError, match="'z' is no row"):
        table.chosen_rows("z", "cpu")


def test_help_and_list_load_no_torch(tmp_path):
    out = tmp_path / "rows.jsonl"
    code = "import sys, runpy; sys.argv.pop(0); sys.path.insert(0, sys.argv[0].rpartition('speed_table')[0])\n"
    code += "try:\n runpy.run_path(sys.argv[0], run_name='__main__')\nfinally:\n assert 'torch' not in sys.modules"
    script = str(BENCHMARKS / "speed_table.py")
    for arguments in (["--help"], ["--list", "--out", str(out), "--device", "cuda"]):
        done = subprocess.run(
            [sys.executable, "-c", code, script, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"{table.ROWS['cuda'][0]} not measured" and not out.exists()


def test_results_are_kept_and_a_line_that_was_cut_off_is_not(tmp_path):
    out = tmp_path / "rows.jsonl"
    row = {"row": "a:x:1x1x1", "device": "cpu"}
    lines = [row | {"error": "e"}, row | {"device": "cuda"}, row | {"n": 2}]
    out.write_text("\n".join(map(json.dumps, lines)) + '\n{"row": "a:', encoding="utf-8")
    rows = table.read_rows(out)
    assert len(rows) == 2 and table.same_row(rows[0], "a:x:1x1x1", "cpu") and rows[0]["n"] == 2


def test_the_page_names_what_is_not_measured(tmp_path):
    way = {"seconds": 2.0, "processor_s": 3.0, "peak_bytes": 2**21}
    of_a = {"steps": 2, "deviation": 1e-7, "default_steps": 30, "monai_steps": 300, "control_latent_inferer": "no"}
    common = {"device": "cpu", "precision": "fp32", "machine": MACHINE, "repeats": 5}
    compiling = {"ways": {"as it is": way, "compiled": way | {"seconds": 1.0}}, "compile_s": 60.0}
    compiling |= {"graphs_said": "no", "deviation": 1e-6, "evaluations": 20}
    rows = [
        common | {"row": "a:medlord-x4:96x96x64", "ways": {"ours": way, "monai-diffusers": way}, **of_a},
        common | {"row": "h:limb-tumour-ct:96x96x64", **compiling},
        {"row": "d:medlord-x4:64x64x64", "device": "cpu", "error": "it failed"},
    ]
    text = "\n".join(page.tables(rows))
    assert "not measured: `python Testing/Benchmarks/speed_table.py --device cuda" in text and "it failed" in text
    assert "| 30: 30 |" in text and "| 10.0 times |" in text and "| 60.0 | 60 | 3.0 | no |" in text
    assert page.break_even(10.0, 2.0, 1.0, {"evaluations": 20}) == ["10.0", "10", "0.5", "yes"]
    assert page.break_even(1.0, 1.0, 2.0, {"evaluations": 1})[1:] == ["never", "never", "no"]
    for line in text.splitlines():
        if line.startswith("|---"):
            width = line.count("|")
        elif line.startswith("| ") and not line.startswith(("| model", "| MONAI")):
            assert line.count("|") == width, line
    where = tmp_path / "page.md"
    where.write_text(f"before\n{table.BEGIN}\nof earlier\n{table.END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        page.write_page(where, rows, (table.BEGIN, table.END))
    written = where.read_text(encoding="utf-8")
    assert written.startswith("before\n") and written.endswith("\nafter\n") and "of earlier" not in written
    with pytest.raises(ValueError, match="once each"):
        page.write_page(where, rows, ("<!-- other -->", table.END))


def test_both_sides_denoise_to_the_same_latents(package):
    """The project's path and MONAI's networks in a loop over diffusers' scheduler."""
    backend, spec = load_backend(package), package.spec
    for weights in backend.controlnet.parameters():
        weights.data.add_(0.02)  # a fresh control network would change nothing
    monai = denoise.Monai(backend, spec, SETTING)
    plan, settings = parts.plan_of(GRID, SETTING), {"sampler": "dpmpp-2m", "steps": 2, "seed": denoise.SEED}
    ours = parts.denoised(backend, parts.drawing(spec, GRID), plan, **settings)
    theirs = monai.with_diffusers(parts.drawing(spec, GRID), GRID)
    assert parts.deviation(theirs, ours) < 1e-5
    empty = parts.denoised(backend, parts.drawing(spec, GRID), plan, **settings, controls=no_drawing())
    assert parts.deviation(empty, ours) > 1e-3  # the drawing counts
    assert monai.with_inferer("ControlNetDiffusionInferer", parts.drawing(spec, GRID), GRID).shape == ours.shape
    with pytest.raises(RuntimeError, match="must match"):  # MONAI shrinks the drawing twice
        monai.with_inferer("ControlNetLatentDiffusionInferer", parts.drawing(spec, GRID), GRID)
    assert backend.sample(parts.drawing(spec, GRID), plan, **settings).shape == GRID  # decodes again


def no_drawing():
    from SynthDiffusionLib.backends.controls import Controls

    return Controls(condition_scale=0.0)


def test_arithmetic_and_bytes_are_counted():
    conv, x = torch.nn.Conv3d(2, 3, 3, padding=1, bias=False), torch.ones(1, 2, 4, 5, 6)
    with torch.inference_mode():
        flop, moved = floor.counted(lambda: conv(x).relu())
    assert flop == 2 * 2 * 3 * 27 * 120 and moved == 4 * (2 * 3 * 27 + 2 * 120 + 3 * 120)


def test_every_strategy_is_asked_for_and_peaks_are_of_tensors():
    for backend in ("patch_ddpm", "medlord", "med_lsdm", "slice_ldm"):
        made = agreement.executions(backend)
        expected = {"offload", "chunk"} if backend in ("patch_ddpm", "slice_ldm") else set(STRATEGIES[1:])
        assert {name for name in made if name in STRATEGIES} == expected
    assert set(agreement.executions("medlord")["stream"].to_json()) == {"decode"}

    def work() -> None:
        big = torch.ones(1000)
        del big
        torch.ones(10)

    assert parts.peak_of(work, "cpu", []) == 4000


def test_agreement_of_a_tiny_model(package, monkeypatch):
    monkeypatch.setattr(agreement, "load_package", lambda *_, **__: package)
    monkeypatch.setattr(agreement, "SLAB_BYTES", 5_000)
    call, slabs = agreement.latent.decode_by_slabs, []

    def by_slabs(*arguments, on_progress, **settings):
        def told(fraction):
            slabs.append(fraction)
            on_progress(fraction)

        return call(*arguments, on_progress=told, **settings)

    monkeypatch.setattr(agreement.latent, "decode_by_slabs", by_slabs)
    row = agreement.agreement("tiny-limb", SETTING)
    assert set(STRATEGIES[1:]) < set(row["ways"]) and row["used_range"] > 0.01
    exact = {name: way for name, way in row["ways"].items() if not name.startswith("bf16")}
    assert all(way["same_codes"] < 1e-5 and way["codes"] < 0.01 for way in exact.values()), exact
    assert row["ways"]["whole, once more"]["largest"] == 0
    assert row["ways"]["bf16, whole"]["largest"] > 1e-4
    assert len(slabs) > 2 * 3 * 10  # the same codes and its own, in three ways of streaming
