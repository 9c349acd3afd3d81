"""`evaluate memorisation` of folders: planted copies are found, fresh cases are not, nonsense is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_image_sets import vessels

from SynthDiffusionLib import cli
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.sets import copies, embedding, image_set, memorisation, registered
from SynthDiffusionLib.evaluation.sets.memorisation_report import NAMES
from SynthDiffusionLib.volumes import Volume, write_volume

LIMITS = (-1000.0, 400.0)
SIDE = 20
COUNTS = {"training": 24, "validation": 19, "real": 10}
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])


def write(folder: Path, name: str, image: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_volume(Volume(np.rint(image).astype(np.int16), AFFINE, "HU"), folder / f"{name}.nii.gz")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Real sets, and two generators: one that copies six of ten times, and one that is perfect."""
    root = tmp_path_factory.mktemp("sets")
    number = 0
    for role, count in COUNTS.items():
        for n in range(count):
            write(root / role, f"{role}{n}", vessels(number))
            number += 1
    rng = np.random.default_rng(0)
    for n in range(10):
        write(root / "perfect", f"other{n}_tiny-ct_seed{n}", vessels(number + n))
        image = vessels(n) if n < 6 else vessels(number + n)
        made = np.roll(np.flip(image, n % 3), (1, -1, 0), (0, 1, 2)) + 30 * rng.standard_normal(image.shape)
        write(root / "copying", f"other{n}_tiny-ct_seed{n}", np.clip(made, *LIMITS))
    return root


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Little of everything, so that a run takes seconds."""
    monkeypatch.setattr(memorisation, "MOST_PLANTED", 4)
    monkeypatch.setattr(copies.mean_images, "__defaults__", (3,))
    quick = embedding.EmbeddingSettings(steps=40, batch=16, channels=(8, 16), features=16)
    monkeypatch.setattr(memorisation.Settings, "__init__", _settings(memorisation.Settings.__init__, quick))


def _settings(original, quick):
    def init(self, *args, **named):
        original(self, *args, **({"embedding": quick} | named))

    return init


def command(folders: Path, out: Path, synthetic: str, *more: str, real: bool = True) -> int:
    words = ["evaluate", "memorisation", "--range=-1000,400", "--out", str(out)]
    for role in ("training", "validation", *(["real"] if real else [])):
        words += [f"--{role}", str(folders / role)]
    return cli.main([*words, "--synthetic", str(folders / synthetic), *more])


def read(out: Path) -> dict:
    return json.loads((out / "memorisation.json").read_text(encoding="utf-8"))


def tables(result: dict) -> dict[str, list[dict]]:
    return {t["id"]: t["rows"] for s in result["sections"] for t in s["tables"]}


def row(result: dict, table: str, label: str, space: str) -> dict:
    return next(r for r in tables(result)[table] if r["label"] == label and r["space"] == space)


@pytest.fixture(scope="module")
def copied(folders, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(memorisation, "MOST_PLANTED", 4)
    patch.setattr(copies.mean_images, "__defaults__", (3,))
    quick = embedding.EmbeddingSettings(steps=40, batch=16, channels=(8, 16), features=16)
    patch.setattr(memorisation.Settings, "__init__", _settings(memorisation.Settings.__init__, quick))
    out = tmp_path_factory.mktemp("copied")
    assert command(folders, out, "copying", "--pairs", "3") == 0
    patch.undo()
    return out


def test_a_generator_that_copies_is_found(copied):
    result = read(copied)
    found = row(result, "distances", "synthetic", "voxels")
    assert 6 <= found["flagged"] <= 7 and found["far_below"] >= 5 and found["p_holm"] < 0.01
    assert any("copying of training cases is suspected" in s for s in result["sections"][0]["sentences"])
    for planted in ("exact copies", "with noise", "shifted", "mirrored", "mirrored, shifted, with noise"):
        control = row(result, "controls", f"planted: {planted}", "voxels")
        assert control["flagged"] == control["right"] == 4, planted
    for space in ("voxels", "embedding"):
        assert row(result, "controls", "planted: exact copies", space)["flagged"] == 4
        assert row(result, "distances", "fresh real", space)["flagged"] <= 3
        fresh = row(result, "distances", "fresh real", space)
        assert fresh["low"] <= fresh["expected"] <= fresh["high"]
    # A copied case is the nearest one, and the pictures show it.
    pairs = tables(result)["pairs"]
    assert len(pairs) == 3 and all(p["flagged"] for p in pairs if p["space"] == "registered voxels")
    assert {(p["synthetic"], p["training"]) for p in pairs if p["space"] == "registered voxels"} <= {
        (f"other{n}_tiny-ct_seed{n}", f"training{n}") for n in range(6)
    }
    assert "kept like them" in (copied / "memorisation.html").read_text(encoding="utf-8")
    assert len([p for s in result["sections"] for p in s["plots"] if p["kind"] == "picture"]) == 3


def test_who_was_copied_is_given_away(copied):
    found = {r["name"]: r for r in tables(read(copied))["membership"]}
    assert found["registered voxels"]["auc"] > 0.5 and found["registered voxels"]["training_patients"] == 24
    assert 0.5 < found["registered voxels"]["smallest_found"] < 1


def test_every_figure_has_its_number_interval_and_definition(copied):
    result = read(copied)
    for r in tables(result)["distances"] + tables(result)["controls"]:
        assert r["volumes"] > 0
    for name in ("Limit", "Flag rate", "Membership AUC", "Planted copies", "No skill"):
        assert name in result["definitions"]
    assert {s["role"] for s in result["sets"]} == {"training", "validation", "synthetic", "fresh real"}
    assert result["settings"]["thresholds"]["voxels"]["paired"]
    assert result["settings"]["thresholds"]["embedding"]["patients"] == 19


def test_nothing_says_that_nothing_was_memorised(copied, folders):
    for text in ((copied / "memorisation.html").read_text(encoding="utf-8"), json.dumps(read(copied))):
        for claim in ("no memorisation", "No memorisation", "does not memorise", "anonymous", "is safe"):
            assert claim not in text
        assert str(folders) not in text


def test_a_second_run_reads_the_cache_and_gives_the_same(folders, copied, tmp_path, monkeypatch):
    shutil.copytree(copied / "cache", tmp_path / "cache")
    monkeypatch.setattr(registered, "distances", lambda *a: pytest.fail("measured again"))
    assert command(folders, tmp_path, "copying", "--pairs", "3", "--no-pictures") == 0
    before, after = read(copied), read(tmp_path)
    assert tables(before)["distances"] == tables(after)["distances"]
    assert tables(before)["membership"] == tables(after)["membership"]
    assert not [p for s in after["sections"] for p in s["plots"] if p["kind"] == "picture"]
    assert "data:image/png" not in (tmp_path / "memorisation.html").read_text(encoding="utf-8")


def test_a_perfect_generator_is_not_suspected(folders, copied, tmp_path):
    shutil.copytree(copied / "cache", tmp_path / "cache")
    assert command(folders, tmp_path, "perfect", "--no-pictures", real=False) == 0
    result = read(tmp_path)
    for space in ("voxels", "embedding"):
        found = row(result, "distances", "synthetic", space)
        assert found["flagged"] <= 3 and found["p_holm"] > 0.05 and found["far_below"] <= 1
    said = " ".join(s for part in result["sections"] for s in part["sentences"])
    assert "suspected" not in said and "No fresh real cases were given" in said and "not tested" in said


def measured(folders: Path, tmp_path: Path, synthetic: str, validation: int = 19, **named):
    frame = image_set.Frame("CT", None, LIMITS)
    sets = {r: image_set.read_set(r, folders / r, frame, least=5) for r in ("training", "validation", "real")}
    sets["validation"] = replace(sets["validation"], cases=sets["validation"].cases[:validation])
    made = image_set.read_set("synthetic", folders / synthetic, frame)
    renamed = tuple(replace(c, patient=f"training{n}") for n, c in enumerate(made.cases))
    made = replace(made, cases=renamed) if named.pop("own", False) else made
    settings = memorisation.Settings(**named)
    return memorisation.measure_copies(
        sets["training"], sets["validation"], made, sets["real"], tmp_path, settings
    ), sets


def test_volumes_of_training_masks_have_a_row_without_their_patient(folders, copied, tmp_path):
    """Each copy was made for the mask of the very patient that it copies."""
    from SynthDiffusionLib.evaluation.sets.memorisation_report import sections_of

    shutil.copytree(copied / "cache", tmp_path / "cache")
    found, sets = measured(folders, tmp_path / "cache", "copying", own=True, own_mask="leave-out", pairs=0)
    rows = {r["row"]: r for r in found["rows"] if r["space"] == "voxels"}
    assert rows["synthetic"]["flagged"] >= 6 > 3 >= rows["synthetic_other"]["flagged"]
    assert found["masks"] == {"training": 10, "validation": 0, "fresh": 0, "others": 0}
    assert {r["own_mask"] for r in found["membership"]} == {"left out", "kept"}
    synthetic = image_set.read_set("synthetic", folders / "copying", image_set.Frame("CT", None, LIMITS))
    sections = sections_of(found, sets["training"], sets["validation"], synthetic, sets["real"], pictures=False)
    assert "of another patient than that of their mask" in sections[0].sentences[0]
    assert any("10 synthetic volumes of 10 were made for masks of training" in s for s in sections[0].sentences)


class Blocks:
    """Means of blocks in the place of a trained embedding: the search of voxels is what is tested then."""

    def points(self, volumes: np.ndarray, **named) -> np.ndarray:
        coarse = volumes.reshape(len(volumes), 5, 4, 5, 4, 5, 4).mean((2, 4, 6)).reshape(len(volumes), 1, -1)
        coarse = coarse - coarse.mean(-1, keepdims=True)
        return coarse / np.linalg.norm(coarse, axis=-1, keepdims=True)


@pytest.fixture
def untrained(monkeypatch):
    monkeypatch.setattr(memorisation, "train_embedding", lambda *args, **named: Blocks())


def test_copies_among_the_later_seeds_of_a_mask_are_found(folders, copied, untrained, tmp_path):
    """The first volume of every patient is fresh; six of ten second ones are copies."""
    from SynthDiffusionLib.evaluation.sets.memorisation_report import sections_of

    shutil.copytree(copied / "cache", tmp_path / "cache")
    for n in range(10):
        for seed, source in ((1, "perfect"), (2, "copying")):
            name = f"other{n}_tiny-ct_seed{n}.nii.gz"
            (tmp_path / "several").mkdir(exist_ok=True)
            shutil.copy(folders / source / name, tmp_path / "several" / f"other{n}_tiny-ct_seed{seed}.nii.gz")
    found, sets = measured(folders, tmp_path / "cache", str(tmp_path / "several"), pairs=0)
    made = image_set.read_set("synthetic", tmp_path / "several", image_set.Frame("CT", None, LIMITS))
    sections = sections_of(found, sets["training"], sets["validation"], made, sets["real"], pictures=False)
    voxels = next(r for r in found["rows"] if r["row"] == "synthetic" and r["space"] == "voxels")
    assert voxels["volumes"] == 20 and voxels["patients"] == 10 and voxels["patients_flagged"] >= 6
    assert 0.3 <= voxels["rate"] <= 0.4 and voxels["low"] < voxels["rate"] < voxels["high"]
    assert [t["patients"] for t in voxels["places"]] == [10, 10]
    assert voxels["places"][0]["flagged"] <= 1 and voxels["places"][1]["flagged"] >= 6
    assert voxels["p"] == pytest.approx(2 * voxels["places"][1]["p"]) and voxels["p_holm"] < 0.01
    said = next(s for s in sections[0].sentences if s.startswith("In registered voxel space"))
    assert "on average" in said and "of 10 patients have any flagged volume" in said and "is suspected" in said


CHANGES = {
    "noise": lambda image, rng: image + 20 * rng.standard_normal(image.shape),
    "flip": lambda image, rng: image[::-1],
    "shift": lambda image, rng: np.roll(image, 1, 1),
}


@pytest.mark.parametrize("changes", [(), ("shift",), ("noise", "flip", "shift")])
def test_a_few_copies_among_honest_volumes_are_named_whatever_the_rate_says(
    folders, copied, untrained, tmp_path, changes
):
    from SynthDiffusionLib.evaluation.sets.memorisation_report import sections_of

    shutil.copytree(copied / "cache", tmp_path / "cache")
    shutil.copytree(folders / "perfect", tmp_path / "made")
    rng = np.random.default_rng(8)
    for n, change in enumerate(changes):
        write(tmp_path / "made", f"other{n}_tiny-ct_seed{n}", CHANGES[change](vessels(7 + n), rng))
    found, sets = measured(folders, tmp_path / "cache", str(tmp_path / "made"), pairs=0, own_mask="keep")
    made = image_set.read_set("synthetic", tmp_path / "made", image_set.Frame("CT", None, LIMITS))
    section = sections_of(found, sets["training"], sets["validation"], made, sets["real"], pictures=False)[0]
    named = [(f"other{n}_tiny-ct_seed{n}", f"training{7 + n}") for n in range(len(changes))]
    assert [(c["case"], c["nearest"]) for c in found["copies"]] == named
    rows = {r["row"]: r for r in found["rows"] if r["space"] == "voxels"}
    assert rows["synthetic"]["copies"] == len(changes)
    assert [rows[r]["copies"] for r in ("fresh", "mean", "smoothed", "cartoon", "warp")] == [0] * 5
    assert section.headlines[0]["row"] == f"{len(changes)} of 10 synthetic volumes"
    first = section.sentences[0]
    if not changes:
        assert first.startswith("Copying of training cases is not shown") and section.tables[0].id == "distances"
        return
    assert all(f"{made} (of '{training}')" in first for made, training in named) and "not shown" not in first
    assert [(r["case"], r["nearest"]) for r in section.tables[0].rows] == named and section.tables[0].id == "copies"
    unnamed = section.detail["answer"]["unnamed"]
    assert unnamed.startswith(first.partition(":")[0]) and "training7" not in unnamed and "seed0" not in unnamed
    if len(changes) == 1:  # a single one is nothing to a test of the rate
        assert rows["synthetic"]["p_holm"] > 0.05 and "by itself would not be more than chance explains" in first


def test_one_small_file_does_not_shrink_what_is_compared(folders, copied, untrained, tmp_path, capsys):
    shutil.copytree(copied / "cache", tmp_path / "out" / "cache")
    shutil.copytree(folders / "copying", tmp_path / "copying")
    write(tmp_path / "copying", "tiny", vessels(60)[:9, :9, :9])
    for role in COUNTS:
        (tmp_path / role).symlink_to(folders / role)
    assert command(tmp_path, tmp_path / "out", "copying", "--pairs", "0", "--no-pictures") == 0
    assert "tiny.nii.gz of the synthetic set is left out: its 9 x 9 x 9 voxels" in capsys.readouterr().err
    result = read(tmp_path / "out")
    assert result["settings"]["space"]["box"] == [SIDE] * 3
    assert [s["file"] for s in result["sets"][2]["skipped"]] == ["tiny.nii.gz"]
    assert tables(result)["copies"] == tables(read(copied))["copies"]


def test_held_out_cases_that_are_in_the_training_set_are_named_and_left_out(folders, copied, untrained, tmp_path):
    """Two validation images and a fresh one are mirrored training images with noise: copies are found all the same."""
    from SynthDiffusionLib.evaluation.sets.memorisation_report import limit_sentences, sections_of

    shutil.copytree(copied / "cache", tmp_path / "cache")
    rng = np.random.default_rng(7)
    for role in COUNTS:
        shutil.copytree(folders / role, tmp_path / role)
    for role, n, source in (("validation", 3, 20), ("validation", 9, 21), ("real", 4, 22)):
        image = vessels(source)[:, ::-1] + 10 * rng.standard_normal((SIDE,) * 3)
        write(tmp_path / role, f"{role}{n}", image)
    clean, _ = measured(folders, tmp_path / "cache", str(folders / "copying"), pairs=0)
    found, sets = measured(tmp_path, tmp_path / "cache", str(folders / "copying"), pairs=0)
    assert clean["leaks"] == [] and "No held-out case lies as near" in limit_sentences(clean)[-1]
    assert "No held-out case lies as near" not in str(limit_sentences(found))
    assert {(x["role"], x["case"], x["nearest"]) for x in found["leaks"]} == {
        ("validation", "validation3", "training20"),
        ("validation", "validation9", "training21"),
        ("real", "real4", "training22"),
    }
    before, after = ({(r["row"], r["space"]): r for r in f["rows"]} for f in (clean, found))
    assert after["validation", "voxels"]["volumes"] == 17 and after["fresh", "voxels"]["volumes"] == 9
    assert after["synthetic", "voxels"]["flagged"] == before["synthetic", "voxels"]["flagged"] >= 6
    assert found["thresholds"]["voxels"]["patients"] == clean["thresholds"]["voxels"]["patients"] - 2
    assert {r["fresh_patients"] for r in found["membership"]} == {9}
    made = image_set.read_set("synthetic", folders / "copying", image_set.Frame("CT", None, LIMITS))
    section = sections_of(found, sets["training"], sets["validation"], made, sets["real"], pictures=False)[0]
    assert section.sentences[0].startswith("6 of 10 synthetic volumes are probably copies of training cases: other0_")
    assert section.sentences[1].startswith("2 validation cases (validation3 and validation9) are as near")
    assert section.sentences[2].startswith("1 real case (real4) is as near")
    assert "training20" not in str(section.sentences)
    assert "6 of 10 synthetic volumes (probable copies) and 3 of 29 held-out real cases" in section.sentences[3]
    assert [t.id for t in section.tables] == ["copies", "doubles", "distances"]
    assert [r["nearest"] for r in section.tables[1].rows].count("training22") == 1


def test_a_training_case_that_is_in_twice_does_not_set_the_limit(folders, copied, untrained, tmp_path):
    for role in COUNTS:
        shutil.copytree(folders / role, tmp_path / role)
    for n in (1, 2):
        write(tmp_path / "training", f"training{n + 10}", np.rint(vessels(n)[::-1]) + n)
    found, _ = measured(tmp_path, tmp_path / "cache", str(folders / "copying"), pairs=0)
    assert {x["case"] for x in found["leaks"]} == {"training1", "training2", "training11", "training12"}
    rows = {r["row"]: r for r in found["rows"] if r["space"] == "voxels"}
    assert rows["synthetic"]["flagged"] >= 6 and found["thresholds"]["voxels"]["patients"] == 24 + 19 - 4


def test_too_few_held_out_cases_that_are_not_in_the_training_set_are_refused(folders, copied, untrained, tmp_path):
    shutil.copytree(copied / "cache", tmp_path / "cache")
    for role in COUNTS:
        shutil.copytree(folders / role, tmp_path / role)
    for n in range(16):
        write(tmp_path / "validation", f"validation{n}", vessels(n)[:, :, ::-1] + 1)
    with pytest.raises(BadInput, match=r"16 patients of the validation set are probably in the training set too"):
        measured(tmp_path, tmp_path / "cache", str(folders / "copying"), pairs=0)


def test_the_main_figures_stand_at_the_top_with_what_they_must_be_read_against(copied):
    result = read(copied)
    figures = [h for s in result["sections"] for h in s["headlines"]]
    assert [h["measure"] for h in figures] == ["Probable copies"] + [
        f"{m}, {n}" for m in ("Volumes flagged as near-copies", "Membership AUC") for n in NAMES.values()
    ]
    for h in figures:
        assert None not in (h["value"], h["low"], h["high"], h["reference"], h["cartoon"], h["n"]) and h["sentence"]
        assert h["low"] <= h["value"] <= h["high"] and h["better"] == ("near 0" if h is figures[0] else "lower")
    assert figures[0]["row"] == "6 of 10 synthetic volumes" and figures[0]["value"] == 0.6
    assert figures[0]["reference_name"] == "0 of 29 held-out real cases" and figures[0]["cartoon"] == 0
    rate, auc = figures[2], figures[4]
    assert rate["value"] == row(result, "distances", "synthetic", "voxels")["rate"] and rate["n"] == 10
    assert rate["reference"] == row(result, "distances", "fresh real", "voxels")["rate"]
    assert "expected" in rate["reference_name"] and auc["cartoon"] == 0.5 and auc["n"] == 34
    assert abs(auc["reference"] - 0.5) < 0.3  # validation volumes know neither set
    assert "Volumes flagged as near-copies" in (copied / "memorisation.html").read_text(encoding="utf-8")


def test_too_few_validation_patients_give_ranks_and_no_limit(folders, copied, tmp_path):
    from SynthDiffusionLib.evaluation.sets.memorisation_report import limit_sentences

    shutil.copytree(copied / "cache", tmp_path / "cache")
    found, _ = measured(folders, tmp_path / "cache", "copying", validation=9, pairs=0)
    assert not found["thresholds"]["embedding"]["exists"] and not found["thresholds"]["voxels"]["exists"]
    said = limit_sentences(found)
    assert "no limit at 5 % exists with 9 held-out patients: at least 19 are needed" in said[0]
    assert "only ranks are reported" in said[0] and "at least 39" in said[1]
    both, _ = measured(folders, tmp_path / "cache", "copying", validation=9, pairs=0, reference="held-out")
    assert both["thresholds"]["embedding"]["exists"] and both["thresholds"]["embedding"]["patients"] == 19


def test_an_identical_file_is_named(folders, copied, tmp_path):
    shutil.copytree(copied / "cache", tmp_path / "cache")
    shutil.copytree(folders / "perfect", tmp_path / "synthetic")
    shutil.copy(folders / "training" / "training3.nii.gz", tmp_path / "synthetic" / "zz.nii.gz")
    found, _ = measured(folders, tmp_path / "cache", str(tmp_path / "synthetic"), pairs=0)
    assert found["same_files"] == ["zz.nii.gz"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: {"--training": None}, "--training must be given with --synthetic"),
        (lambda f: {"--training": None, "--validation": None}, "--training and --validation must be given"),
        (lambda f: {"--validation": f / "training"}, "24 patients are in the training and in the validation set"),
        (lambda f: {"--real": f / "training"}, "24 patients are in the training and in the fresh real set"),
        (lambda f: {"--real": f / "validation"}, "19 patients are in the validation and in the fresh real set"),
        (lambda f: {"--synthetic": f / "real"}, "of the synthetic set is the file"),
        (lambda f: {"--synthetic": f / "nowhere"}, "does not exist"),
        (lambda f: {"--pairs": "-1"}, "-1 pairs"),
        (lambda f: {"--embedding-steps": "0"}, "0 steps"),
        (lambda f: {"--reference": "held-out", "--real": None}, "no fresh real cases to take into the reference"),
        (lambda f: {"--trained-on": f / "list.txt"}, "in the training list 'list.txt', first 'real3'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_measured(folders, tmp_path, capsys, change, said):
    (folders / "list.txt").write_text("real3\n", encoding="utf-8")
    options = {"--" + r: folders / r for r in COUNTS} | {"--synthetic": folders / "perfect"} | change(folders)
    words = [str(w) for k, v in options.items() if v is not None for w in (k, v)]
    assert cli.main(["evaluate", "memorisation", *words, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out" / "memorisation.json").exists()


def test_the_same_file_under_another_name_is_no_other_patient(folders, tmp_path):
    shutil.copytree(folders / "real", tmp_path / "real")
    shutil.copy(folders / "training" / "training0.nii.gz", tmp_path / "real" / "somebody.nii.gz")
    frame = image_set.Frame("CT", None, LIMITS)
    sets = [image_set.read_set(r, folders / r, frame) for r in ("training", "validation", "perfect")]
    with pytest.raises(BadInput, match=r"'somebody\.nii\.gz' of the real set holds the same image as 'training0"):
        memorisation.check_sets(*sets, image_set.read_set("real", tmp_path / "real", frame))


@pytest.mark.parametrize(
    "auc, low, floor, said",
    [
        (0.9, 0.8, 0.55, "The synthetic volumes give away"),
        (0.82, 0.63, 0.68, "not clearly more than what real volumes"),
        (0.2, 0.1, 0.5, "cannot be read"),
        (0.6, 0.45, 0.5, None),
    ],
)
def test_membership_is_read_beside_that_of_real_volumes(auc, low, floor, said):
    from SynthDiffusionLib.evaluation.sets.membership_report import membership_sentences

    row = {
        "space": "embedding", "own_mask": "kept", "auc": auc, "low": low, "high": 0.97, "floor": floor,
        "p_holm": 0.2 if said is None else 0.01, "training_patients": 25, "fresh_patients": 10, "smallest_found": 0.81,
    }  # fmt: skip
    text = membership_sentences({"membership": [row]})[0]
    told = [s for s in ("give away", "not clearly more", "cannot be read") if s in text]
    assert (said in text and told) if said else not told
