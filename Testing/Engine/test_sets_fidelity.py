"""Fidelity of two folders: through the command, on phantoms whose order is known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tiny_image_sets import phantom_volume, write_phantoms, write_volume

from SynthDiffusionLib import cli
from SynthDiffusionLib.evaluation.sets import (
    comparison,
    exchange,
    extraction,
    fidelity_sections,
    no_skill_sets,
    resampling,
    similarity,
)
from SynthDiffusionLib.evaluation.sets.image_set import Frame, read_set

SIDE = 18
FRAME = Frame("CT", None, (-1000.0, 1000.0))


def image_set(folder: Path, role: str = "real"):
    return read_set(role, folder, FRAME)


@pytest.fixture(scope="module", autouse=True)
def fewer_draws():
    """Fewer draws and slices than users get, for the time that the tests take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "PARTS", 12)
        patch.setattr(comparison, "AUC_SPLITS", 2)
        for name, deals in (("DEALS", 99), ("CLOUD_DEALS", 19), ("AUC_DEALS", 4)):
            patch.setattr(exchange, name, deals)
        patch.setattr(extraction, "MOST_SLICES", 7)
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    write_phantoms(root / "real", range(16), side=SIDE)
    write_phantoms(root / "other", range(100, 112), side=SIDE)

    def blurred(hu, _):
        return no_skill_sets.blurred(hu, 0.7)

    write_phantoms(root / "made", range(12), blurred, suffix="_lung-nodule-ct_seed3", side=SIDE)
    return root


def run(*words: str | Path) -> int:
    return cli.main(["evaluate", "fidelity", *map(str, words)])


@pytest.fixture(scope="module")
def result(folders, tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("results")
    assert run("--real", folders / "real", "--synthetic", folders / "made", "--reference", folders / "other",
               "--pairs", 8, "--out", out) == 0  # fmt: skip
    return json.loads((out / "fidelity.json").read_text(encoding="utf-8")) | {"out": str(out)}


def table(result: dict, name: str) -> dict[str, dict]:
    found = next(t for s in result["sections"] for t in s["tables"] if t["id"] == name)
    return {row[found["columns"][0]["key"]]: row for row in found["rows"]}


def test_every_figure_has_numbers_interval_floor_and_no_skill_rows(result):
    rows = table(result, "radiomics-energy")
    own = rows["synthetic"]
    assert own["volumes"] == own["patients"] == 12
    assert own["energy_low"] <= own["energy"] <= own["energy_high"]
    assert rows[fidelity_sections.FLOOR]["energy_at_high"] is not None
    assert rows[fidelity_sections.FLOOR]["volumes"] == "8 and 6"
    assert {*no_skill_sets.LABELS.values(), "other real volumes (--reference)"} <= set(rows)
    # Blurred images are told; other real ones are not.
    assert own["energy"] > rows["other real volumes (--reference)"]["energy"]
    assert rows["other real volumes (--reference)"]["energy_low"] < own["energy_low"]
    assert {s["role"]: s["patients"] for s in result["sets"]} == {"real": 16, "synthetic": 12, "reference": 12}
    assert result["settings"]["frame"]["spacing_mm"] is None and result["settings"]["frame"]["unit"] == "HU"
    assert {"energy distance", "Fréchet distance", "floor", "coverage"} <= set(result["definitions"])


def test_frechet_is_refused_by_name_where_volumes_are_few_and_given_for_slices(result):
    """16 and 12 volumes, 37 features; 2.5D: seven slices a volume and plane, 84 of them."""
    sentences = " ".join(s for section in result["sections"] for s in section["sentences"])
    assert "features need more than" in sentences and "there are 16 real and 12 others" in sentences
    assert not any(t["id"] == "radiomics-frechet" for s in result["sections"] for t in s["tables"])
    rows = table(result, "slices-frechet")
    assert rows["synthetic"]["frechet"] > 0
    assert rows["synthetic"]["frechet_low"] < rows["synthetic"]["frechet"] < rows["synthetic"]["frechet_high"]
    planes = [r for s in result["sections"] for t in s["tables"] if t["id"] == "slices-planes" for r in t["rows"]]
    own = [r["frechet"] for r in planes if r["set"] == "synthetic"]
    assert len(own) == 3 and np.mean(own) == pytest.approx(rows["synthetic"]["frechet"])


def test_mode_collapse_lowers_recall_and_coverage_only(result):
    rows = table(result, "radiomics-clouds")
    repeated = rows[no_skill_sets.LABELS["repeated"]]
    assert repeated["precision"] > 0.9 and repeated["recall"] <= 1 / 16 and repeated["coverage"] < 0.5
    assert table(result, "ms-ssim")[no_skill_sets.LABELS["repeated"]]["value"] == 1.0


def test_page_holds_plots_and_pictures(result):
    page = (Path(result["out"]) / "fidelity.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3 and page.count("data:image/png;base64,") == 1
    assert str(result["out"]) not in page
    headlines = [h for s in result["sections"] for h in s["headlines"]]
    assert len(headlines) <= 8 and all(h["reference"] is not None and h["cartoon"] is not None for h in headlines)


def test_a_main_figure_lies_in_its_own_interval_and_real_parts_have_their_numbers_beside_them(result):
    """Figures of half of the volumes used to stand before the spread of draws, which is no interval of theirs."""
    headlines = {h["measure"]: h for s in result["sections"] for h in s["headlines"]}
    assert {"Precision", "Recall", "Coverage", "Fréchet distance, 2.5D"} <= set(headlines)
    for name, h in headlines.items():
        assert h["low"] <= h["value"] <= h["high"], name
    assert headlines["Recall"]["value"] == table(result, "radiomics-clouds")["synthetic"]["recall"]
    assert "8 and 6 volumes; the synthetic set at these numbers" in headlines["Coverage"]["reference_name"]


def test_precision_is_never_said_without_what_flat_classes_and_a_repeated_volume_have(result):
    text = next(s for s in result["sections"] if s["id"] == "clouds")["sentences"][0]
    rows = table(result, "radiomics-clouds")
    for name in ("flat", "repeated"):
        label = no_skill_sets.LABELS[name]
        assert f"{label} {100 * rows[label]['precision']:.0f} %" in text
    assert "density" in text and "recall" in " ".join(
        next(s for s in result["sections"] if s["id"] == "clouds")["sentences"]
    )


def test_tests_are_corrected_for_both_spaces_and_blur_is_found(result):
    """Twelve of the real patients, blurred: as far as no exchange is, or hardly one in 99."""
    own = table(result, "radiomics-energy")["synthetic"]
    slices = next(s for s in result["sections"] if s["id"] == "slices")["detail"]["planes"]["synthetic"]["mean"]
    assert own["energy_p"] <= 0.03 and slices["energy"]["test"]["family"] == 2
    assert own["energy_p_holm"] >= own["energy_p"]
    told = " ".join(s for section in result["sections"] for s in section["sentences"])
    assert "The sets differ" in told and "no more than real volumes differ" not in told and "too narrow" in told


def test_copies_in_other_files_are_told_before_any_figure(folders, result, tmp_path, capsys):
    """Ten of the real volumes as float64, turned, under other names: no byte is the same, and every voxel."""
    for number in range(10):
        image = nib.load(folders / "real" / f"p{number}.nii.gz").as_reoriented([[1, 1], [0, -1], [2, 1]])
        path = tmp_path / "made" / f"q{number}.nii"
        path.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(image.get_fdata(), image.affine), path)
    shutil.copytree(Path(result["out"]) / "cache", tmp_path / "cache")  # to save time
    assert run("--real", folders / "real", "--synthetic", tmp_path / "made", "--pairs", 0, "--out", tmp_path) == 0
    found = json.loads((tmp_path / "fidelity.json").read_text(encoding="utf-8"))
    told = "10 of 10 synthetic volumes are real ones, voxel by voxel (q0 is p0, q1 is p1 and 8 more): of copies, "
    first = found["sections"][0]
    assert first["sentences"][0].startswith(told) and told in capsys.readouterr().out
    assert {(c["synthetic"], c["real"]) for c in first["detail"]["copies"]} == {(f"q{i}", f"p{i}") for i in range(10)}
    headlines = [h for s in found["sections"] for h in s["headlines"]]
    assert all(h["sentence"].startswith(told) for h in headlines)
    assert "nearer to the real ones than real patients are to each other" in first["sentences"][1]


def test_an_auc_is_best_near_a_half(result):
    """Of an AUC below 0.5 too, and the no-skill row is the one nearest to 0.5."""
    auc = next(h for s in result["sections"] for h in s["headlines"] if h["measure"].startswith("AUC"))
    rows = next(t for s in result["sections"] for t in s["tables"] if t["id"] == "auc")["rows"]
    cartoons = [row["value"] for row in rows if row["set"] in no_skill_sets.LABELS.values()]
    assert auc["better"] == "near 0.5" and len(cartoons) == 6
    assert abs(auc["cartoon"] - 0.5) == min(abs(value - 0.5) for value in cartoons)
    text = next(s for s in result["sections"] if s["id"] == "classifier")["sentences"][0]
    assert "Best is 0.5" in text and "0 is always wrong" in text
    assert "copies" not in result["sections"][0]["sentences"][0] and not result["sections"][0]["detail"]["copies"]


def test_a_second_run_takes_everything_from_the_cache(folders, result, monkeypatch):
    """As a run does that was interrupted: kept features are not computed again; a damaged one is."""
    out = Path(result["out"])
    computed = []
    real = extraction.radiomics.radiomics
    monkeypatch.setattr(extraction.radiomics, "radiomics", lambda *a: computed.append(1) or real(*a))
    monkeypatch.setattr(similarity, "ms_ssim", lambda *a: pytest.fail("computed again"))
    damaged = next((out / "cache").glob("radiomics-*.npz"))
    damaged.write_bytes(damaged.read_bytes()[:50])
    assert run("--real", folders / "real", "--synthetic", folders / "made", "--reference", folders / "other",
               "--pairs", 8, "--out", out) == 0  # fmt: skip
    assert len(computed) == 1
    again = json.loads((out / "fidelity.json").read_text(encoding="utf-8"))
    assert again["sections"] == result["sections"]


# What a user may get wrong.


def refused(capsys, *words: str | Path) -> str:
    assert run(*words) == 2
    return capsys.readouterr().err


def test_sets_of_different_spacing_are_refused_with_both(folders, tmp_path, capsys):
    for number in range(10):
        write_volume(tmp_path / "thick" / f"t{number}.nii.gz", phantom_volume(number), spacing=3.0)
    told = refused(capsys, "--real", folders / "real", "--synthetic", tmp_path / "thick", "--out", tmp_path / "o")
    assert "2 x 2 x 2 mm" in told and "3 x 3 x 3 mm" in told and "--spacing" in told


def test_sets_of_different_modality_are_refused(folders, tmp_path, capsys):
    write_phantoms(tmp_path / "mr", range(10), lambda hu, _: (hu + 1000.0) / 2.0)
    told = refused(capsys, "--real", folders / "real", "--synthetic", tmp_path / "mr", "--out", tmp_path / "o")
    assert "different modalities" in told


def test_fewer_than_ten_volumes_are_refused(folders, tmp_path, capsys):
    write_phantoms(tmp_path / "few", range(9))
    told = refused(capsys, "--real", folders / "real", "--synthetic", tmp_path / "few", "--out", tmp_path / "o")
    assert "9 usable volumes" in told


def test_volumes_of_few_patients_are_refused_before_anything_is_computed(folders, tmp_path, capsys):
    words = ["--real", folders / "real", "--synthetic", folders / "made", "--out", tmp_path / "o"]
    assert run(*words, "--patient-pattern", "(p)") == 2
    said = capsys.readouterr().err
    assert "The 16 volumes of the real set are of 1 patient, and 8 are the fewest" in said
    assert "--patient-pattern" in said and "radiomics" not in said


def test_a_corrupt_file_in_the_middle_is_named_and_counted(folders, tmp_path, capsys):
    made = write_phantoms(tmp_path / "made", range(20, 31), side=SIDE)
    whole = (made / "p25.nii.gz").read_bytes()
    (made / "p25.nii.gz").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out"
    assert run("--real", folders / "real", "--synthetic", made, "--pairs", 0, "--out", out) == 0
    assert "p25.nii.gz" in capsys.readouterr().out
    result = json.loads((out / "fidelity.json").read_text(encoding="utf-8"))
    synthetic = next(s for s in result["sets"] if s["role"] == "synthetic")
    assert synthetic["volumes"] == 10 and synthetic["skipped"][0]["file"] == "p25.nii.gz"
    assert "p25.nii.gz" in (out / "fidelity.html").read_text(encoding="utf-8")


def test_a_test_patient_in_the_training_list_is_refused(folders, tmp_path, capsys):
    (tmp_path / "trained.txt").write_text("somebody\np7\n", encoding="utf-8")
    told = refused(capsys, "--real", folders / "real", "--synthetic", folders / "made", "--trained-on",
                   tmp_path / "trained.txt", "--out", tmp_path / "o")  # fmt: skip
    assert "'p7'" in told and "training list" in told


def test_a_reference_of_the_same_patients_is_refused(folders, tmp_path, capsys):
    told = refused(capsys, "--real", folders / "real", "--synthetic", folders / "made", "--reference",
                   folders / "real", "--out", tmp_path / "o")  # fmt: skip
    assert "16 patients are in the real and in the reference set" in told


def test_missing_and_impossible_options_are_named(folders, tmp_path, capsys):
    told = refused(capsys, "--synthetic", folders / "made", "--out", tmp_path / "o")
    assert "--real" in told
    told = refused(capsys, "--real", folders / "real", "--synthetic", folders / "made", "--pairs", -1, "--out",
                   tmp_path / "o")  # fmt: skip
    assert "--pairs" in told
    told = refused(capsys, "--real", folders / "real", "--synthetic", folders / "made", "--medicalnet",
                   folders / "real" / "p1.nii.gz", "--out", tmp_path / "o")  # fmt: skip
    assert "checkpoint" in told
