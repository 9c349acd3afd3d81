"""What scale costs: the arithmetic against sums by hand, the page against its measurements, the command in small."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Testing" / "Benchmarks"))

import scale_costs as command  # noqa: E402
import scale_page as page  # noqa: E402
import scale_paper as paper  # noqa: E402
import scale_volumes as volumes  # noqa: E402

from SynthDiffusionLib.errors import BadInput  # noqa: E402
from SynthDiffusionLib.models.presets import load_preset  # noqa: E402

# 40 s a volume, of which 30 on the GPU; 100 MB and a drawing of 25 MB; half a millisecond of driver while it works.
PARTS = paper.Parts(
    beside_s=10.0,
    start_s=20.0,
    volume_bytes=99e6,
    other_bytes=1e6,
    mask_bytes=25e6,
    files=4,
    calls=25,
    before_s=0.010,
    schedule_s=0.0005,
    after_s=0.005,
    driver_bytes=6000.0,
)


@pytest.fixture(scope="module")
def results() -> dict:
    return command.read(page.RESULTS)


def test_costs_are_those_worked_out_by_hand():
    found = paper.cost(80_000, 8, 30.0, PARTS)
    # 20 s + 10,000 x 40 s + 80,000 x 0.015 s
    assert found.wall_s == pytest.approx(401_220)
    assert found.busy_hours == pytest.approx(666.6667, rel=1e-6)  # 80,000 x 30 s = 2,400,000 s
    assert found.held_hours == pytest.approx(891.6, rel=1e-6)  # 8 x 401,220 s = 3,209,760 s
    assert found.idle == pytest.approx(0.252280, rel=1e-4)
    assert found.per_s == pytest.approx(0.2)
    assert found.written_per_s == pytest.approx(20e6) and found.read_per_s == pytest.approx(5e6)
    assert found.files_per_s == pytest.approx(0.8) and found.calls_per_s == pytest.approx(5.0)
    assert found.driver_share == pytest.approx(1e-4)
    assert found.link_share == pytest.approx(0.02)  # 25 of 1,250 MB/s
    assert found.stored_bytes == pytest.approx(8e12)


def test_a_last_round_that_is_not_full_takes_as_long_as_a_full_one():
    by_nine = paper.cost(9, 4, 30.0, PARTS)
    assert by_nine.wall_s == pytest.approx(20 + 3 * 40 + 9 * 0.015)


def test_what_is_full_first_changes_with_the_parts():
    assert paper.gpus_until_full(30.0, PARTS) == pytest.approx({"driver": 80_000, "link": 400, "files": 10_000})
    assert paper.first_full(30.0, 8, PARTS) == "worker"  # 25 % of each volume, against 2 % of the link
    assert paper.first_full(30.0, 200, PARTS) == "link"  # 50 %
    assert paper.first_full(30.0, 8, replace(PARTS, beside_s=0.0, schedule_s=1.0)) == "driver"
    assert paper.first_full(30.0, 8, replace(PARTS, beside_s=0.0, files=4000)) == "files"


def test_a_loss_costs_the_volume_in_hand_and_a_start():
    assert paper.losses_share(30.0, PARTS) == pytest.approx(60 / 86_400)


def test_a_line_goes_through_what_is_on_it():
    rows = [{"items": n, "list_s": 0.5 + 0.002 * n} for n in (1000, 10_000, 30_000)]
    assert paper.line(rows, "list_s") == pytest.approx((0.5, 0.002))


def test_gpu_seconds_are_those_of_their_sources():
    text = (ROOT / "Docs" / "performance.md").read_text(encoding="utf-8")
    said = f"One evaluation of the network took {paper.MEDLORD_EVALUATION_S} s, decoding {paper.MEDLORD_DECODE_S} s."
    assert said in text
    assert load_preset("medlord-x4").sampling.default_steps == paper.MEDLORD_STEPS
    medlord, rflow, ddpm, *_ = paper.gpu_seconds()
    assert medlord.middle == pytest.approx(33.75)
    assert (rflow.low, rflow.high) == (24, 26) and (ddpm.low, ddpm.high) == (292, 299)


def test_the_page_is_what_the_measurements_give(results, tmp_path):
    before = page.PAGE.read_text(encoding="utf-8")
    again = tmp_path / "SCALE.md"
    again.write_text(before, encoding="utf-8")
    page.write_page(again, results)
    assert again.read_text(encoding="utf-8") == before, "run scale_costs.py --from Docs/Tables/scale.json"


def test_the_measurements_are_of_whole_volumes(results):
    assert not results["quick"] and results["size"] == [512, 512, 256]
    assert {row["content"] for row in results["compression"]} == {volumes.CT_NAME, volumes.SAMPLE_NAME}
    assert all(row["exact"] for row in results["compression"])
    assert all(
        row["raw_bytes"] == 512 * 512 * 256 * {"int16": 2, "float32": 4}[row["type"]] for row in results["compression"]
    )
    assert [row["items"] for row in results["driver"]] == [1000, 10_000, 30_000]


def test_the_levels_of_the_writer_are_borne_out_by_the_measurements(results):
    """Level 3 is the writer's: level 6 takes twice as long or more, and saves less than 2 %."""
    for content in (volumes.CT_NAME, volumes.SAMPLE_NAME):
        rows = {r["choice"]: r for r in results["compression"] if r["content"] == content and r["type"] == "int16"}
        ours, six = rows[".nii.gz, gzip 3 (ours)"], rows[".nii.gz, gzip 6"]
        assert six["write_s"] > 1.5 * ours["write_s"] and ours["bytes"] < 1.02 * six["bytes"]


def test_a_driver_costs_the_same_for_each_item_however_many_there_are(results):
    """Nothing in it grows with the square of the list."""
    first, *_, last = results["driver"]
    for key in ("list_s", "look_new_s", "look_made_s", "schedule_s", "report_s"):
        assert last[key] / last["items"] < 2 * first[key] / first["items"], key


def test_the_command_in_small(tmp_path, monkeypatch, capsys):
    """All parts on tiny volumes, without the real CT."""
    monkeypatch.setattr(volumes, "sample_content", _phantom)
    monkeypatch.setattr(command.scale_driver, "loading", lambda repeats: dict(LOADING))
    assert command.main(["--quick", "--out", str(tmp_path / "out"), "--inputs", str(tmp_path / "none")]) == 0
    found = json.loads((tmp_path / "out" / "scale.json").read_text(encoding="utf-8"))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["scale.json", "scale.md"]
    assert {row["content"] for row in found["compression"]} == {volumes.SAMPLE_NAME}
    assert all(
        row["exact"] and row["raw_bytes"] == 64 * 64 * 16 * 2 for row in found["compression"] if row["type"] == "int16"
    )
    plain = next(row for row in found["compression"] if row["choice"].startswith("not"))
    assert plain["bytes"] == plain["raw_bytes"] + 352  # NIfTI-1: a header of 348 bytes, and four more
    (life,) = found["life"]
    assert life["files"] == 4 and life["calls"]["rename"] >= 2 and life["shape"] == [64, 64, 16]
    assert [row["items"] for row in found["driver"]] == [20, 40]
    text = (tmp_path / "out" / "scale.md").read_text(encoding="utf-8")
    assert "## What is full first" in text and "medlord-x4" in text
    assert "Written to" in capsys.readouterr().out


LOADING = {"model": "m", "start_s": 1.0, "load_s": 0.5, "weight_bytes": 10}


def _phantom(size, steps, folder) -> volumes.Content:
    array = np.random.default_rng(1).normal(-700, 60, size).astype(np.int16)
    volume = volumes.Volume(array, np.diag([-0.9, -0.9, 2.0, 1.0]), "HU")
    return volumes.Content(volumes.SAMPLE_NAME, "noise", volume, np.ones(size, np.uint8), {"medlord-x4": {"1": "lung"}})


def test_turned_copies_of_a_sample_are_all_different():
    cube = np.random.default_rng(0).integers(0, 9999, (5, 5, 5)).astype(np.int16)
    copies = [volumes._turned(cube, n) for n in range(48)]
    assert len({c.tobytes() for c in copies}) == 48
    assert all(np.array_equal(np.sort(c, axis=None), np.sort(cube, axis=None)) for c in copies)


def test_a_packed_file_is_what_nibabel_reads(tmp_path):
    volume = _phantom((9, 8, 7), 1, tmp_path).volume
    for choice in (c for c in volumes.choices() if c.suffix == ".nii.gz"):
        volumes._write(volume, tmp_path / "v.nii.gz", choice)
        image = nib.load(tmp_path / "v.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj), volume.array)
        np.testing.assert_allclose(image.affine, volume.affine)


@pytest.mark.parametrize(
    "arguments", [["--quick", "--write"], ["--write", "--parts", "life"], ["--quick", "--from", str(page.RESULTS)]]
)
def test_what_is_not_measured_whole_does_not_get_onto_the_page(capsys, arguments):
    assert command.main(arguments) == 2
    assert "whole measurements" in capsys.readouterr().err


def test_a_part_measured_anew_takes_the_place_of_the_old_one_on_the_same_machine_only(results):
    driver = {"driver": [], "machine": results["machine"], "seconds": 5.0, "commits": {"driver": "abc"}}
    joined = command.joined(results, driver)
    assert joined["driver"] == [] and joined["life"] == results["life"]
    assert joined["commits"] == results["commits"] | {"driver": "abc"}
    assert joined["seconds"] == results["seconds"] + 5
    with pytest.raises(BadInput, match="another machine"):
        command.joined(results, driver | {"machine": results["machine"] | {"cpu": "other"}})


def test_another_json_file_is_refused(tmp_path, capsys):
    (tmp_path / "x.json").write_text('{"form": "other"}', encoding="utf-8")
    assert command.main(["--from", str(tmp_path / "x.json")]) == 2
    assert "scale.json" in capsys.readouterr().err
