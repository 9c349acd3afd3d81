"""Mask adherence of two folders: ratios with intervals, cartoons, what is left out, the command from end to end."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from test_sets_segmenters import HEAD
from tiny_label_sets import CLASSES, FRAME, Thresholds, as_set, boxes, case, image_of, phantom_set, write_set

from SynthDiffusionLib.cli import main
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.sets import adherence, cartoons, trained_segmenter
from SynthDiffusionLib.evaluation.sets.adherence import difference_of, mean_of, ratio_of, score_sets
from SynthDiffusionLib.evaluation.sets.adherence_report import build_sections
from SynthDiffusionLib.evaluation.sets.image_set import SetCase
from SynthDiffusionLib.evaluation.sets.segmenters import image_of as volume_of
from SynthDiffusionLib.evaluation.statistics import bootstrap_ratio


def numbered(values, prefix="p") -> dict[str, float]:
    return {f"{prefix}{i:02d}": float(v) for i, v in enumerate(values)}


# Ratios.


def test_ratio_of_the_same_patients_is_paired():
    rng = np.random.default_rng(1)
    real = rng.uniform(0.4, 0.9, 20)
    found = ratio_of(numbered(0.8 * real), numbered(real))
    # Proportional in every patient: paired, nothing varies.
    assert found.design == "paired" and found.paired == 20
    assert found.estimate.value == pytest.approx(0.8)
    assert found.estimate.low == pytest.approx(0.8) and found.estimate.high == pytest.approx(0.8)
    other = real * rng.uniform(0.7, 1.0, 20)
    ours, theirs = ratio_of(numbered(other), numbered(real)).estimate, bootstrap_ratio(other, real)
    assert (ours.value, ours.low, ours.high) == pytest.approx((theirs.value, theirs.low, theirs.high), abs=0.01)


def test_ratio_of_different_patients_is_of_two_samples():
    # Against the delta method: var(a/b) = (a/b)^2 (var_a / a^2 + var_b / b^2) of the two means.
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.6, 0.1, 40), rng.normal(0.8, 0.1, 60)
    found = ratio_of(numbered(a), numbered(b, "q"))
    assert found.design == "two-sample" and (found.only_synthetic, found.only_real) == (40, 60)
    ratio = a.mean() / b.mean()
    se = ratio * np.sqrt(a.var() / 40 / a.mean() ** 2 + b.var() / 60 / b.mean() ** 2)
    assert found.estimate.low == pytest.approx(ratio - 1.96 * se, abs=0.006)
    assert found.estimate.high == pytest.approx(ratio + 1.96 * se, abs=0.006)


def test_ratio_of_partly_the_same_patients():
    found = ratio_of(numbered(np.linspace(0.5, 0.7, 12)), numbered(np.linspace(0.6, 0.8, 15)))
    assert found.design == "partly paired" and (found.paired, found.only_synthetic, found.only_real) == (12, 0, 3)
    assert found.estimate.low < found.estimate.value < found.estimate.high


def test_no_interval_of_few_patients_and_no_ratio_to_zero():
    few = ratio_of(numbered(np.full(9, 0.5)), numbered(np.full(30, 0.6), "q"))
    assert few.estimate.value == pytest.approx(0.5 / 0.6) and np.isnan(few.estimate.low)
    assert np.isnan(ratio_of(numbered(np.ones(12)), numbered(np.zeros(12))).estimate.value)
    assert np.isnan(ratio_of({}, numbered(np.ones(12))).estimate.value)
    assert np.isnan(mean_of({}).value) and np.isnan(mean_of(numbered(np.ones(9))).low)
    assert difference_of({"a": 1.0, "b": 2.0}, {"b": 0.5, "c": 9.0}).value == 1.5


def test_a_difference_that_surface_dice_shows_is_not_passed_over():
    scores = adherence.Scores((1,), {1: "liver"})
    for i in range(12):
        for row, dice, surface in ((adherence.REAL, 0.80, 0.90), (adherence.SYNTHETIC, 0.80, 0.94)):
            noise = 0.01 * (-1) ** (i + (row == adherence.REAL))
            figures = {
                "dice": dice + noise,
                "surface_dice": surface + noise / 10,
                "hd95_mm": 2.0,
                "state": "both",
                "ml": 1.0,
            }
            scores.all.append(adherence.Score(row, f"c{i}", f"p{i}", 1, figures))
    told = " ".join(build_sections(scores, "a program", 1.0, 0)[0].sentences)
    assert "liver: a difference of Dice between synthetic and real images is not shown" in told
    assert "; one of surface Dice is: a ratio of 1.04" in told


def test_of_one_patient_there_is_no_answer_without_a_model(tmp_path):
    """Rows that do not exist are not scored as 0, nor made from the measured patient's own image."""
    real, synthetic = phantom_set("real", 1), phantom_set("synthetic", 1)
    scores = score_sets(real, synthetic, Thresholds(), tmp_path, tolerance_mm=1.0, seed=1)
    assert {s.row for s in scores.all} == {adherence.REAL, adherence.SYNTHETIC}
    sections = build_sections(scores, "a program", 1.0, 0)
    told = " ".join(sections[0].sentences)
    assert "nothing says what this Dice is worth" in told and "score higher" not in sections[1].sentences[0]
    # A patient more in the synthetic set does not bring a row of zeros for the one.
    two = phantom_set("synthetic", 2)
    rows = score_sets(real, two, Thresholds(), tmp_path, tolerance_mm=1.0, seed=1).of("mean_mask", 1)
    assert [s.patient for s in rows] == [two.cases[1].patient]


def test_what_an_answer_must_be_read_against_stands_in_its_first_sentence():
    scores = adherence.Scores((1,), {1: "liver"})
    for i in range(12):
        for row in (adherence.REAL, adherence.SYNTHETIC, "mean_mask"):
            figures = {"dice": 0.5 + 0.01 * i, "surface_dice": 0.5, "hd95_mm": 2.0, "state": "both"}
            scores.all.append(adherence.Score(row, f"c{i}", f"p{i}", 1, figures))
    answer = build_sections(scores, "a program", 1.0, 2)[0].sentences[0]
    assert answer.startswith("Caution: 2 patients of the segmenter's training") and "Dice 0.56" in answer
    assert "too weak to judge by" in answer and "a high Dice is no sign of a good image here" in answer
    two = adherence.Scores((1, 2), {1: "liver", 2: "spleen"}, all=[*scores.all])
    two.all += [adherence.Score(s.row, s.case, s.patient, 2, s.figures) for s in scores.all]
    answer = build_sections(two, "a program", 1.0, 0)[0].sentences[0]
    assert "too weak on real images to judge by (Dice below 0.6): liver and spleen" in answer


# Cartoons.


def test_class_means_leave_the_own_patient_out():
    shape = (4, 4, 4)
    labels = np.zeros(shape, np.uint16)
    labels[:2] = 1
    cases = [case(f"p{i}", labels, np.where(labels == 1, 100.0 * i, -50.0).astype(np.float32)) for i in range(3)]
    known = cartoons.real_knowledge(as_set("real", cases), [1])
    assert known.without("p0", 1) == pytest.approx((150.0, 50.0))
    assert known.without("p2", 1) == pytest.approx((50.0, 50.0))
    assert known.without("stranger", 1)[0] == pytest.approx(100.0)
    assert known.without("p0", 0) == pytest.approx((-50.0, 0.0))
    assert known.without("p0", 7) == known.without("p0", 0)  # a class that no real image has looks like background
    painted = cartoons.blobs(cases[0], known, (-1000.0, 1000.0))
    assert painted[0, 0, 0] > 130 and painted[3, 3, 3] < -30 and 20 < painted[1, 1, 1] < 130
    noisy = cartoons.class_means(cases[0], known, (-1000.0, 1000.0), 1)
    assert noisy[labels == 1].std() > 20 and noisy[labels == 0].std() == 0


def test_only_measured_classes_are_painted_into_a_real_image():
    # The trap: a mask that fills the volume would leave nothing of the image, and make this row the cartoon.
    labels = np.full((12, 12, 12), 2, np.uint16)
    labels[4:8, 4:8, 4:8] = 1
    cases = [case(f"p{i}", labels, np.where(labels == 1, 100.0, -50.0).astype(np.float32)) for i in range(2)]
    known = cartoons.real_knowledge(as_set("real", cases), [1, 2])
    other = np.random.default_rng(1).normal(0, 30, (14, 10, 12)).astype(np.float32)
    made = cartoons.painted_real(cases[0], other, [1], known, (-1000.0, 1000.0))
    assert np.array_equal(made[2, 1:11, :2], np.rint(other[3, :, :2])) and made[0, 0, 0] == -1000
    assert 70 < made[5:7, 5:7, 5:7].mean() < 100


def test_mean_mask_is_of_others_and_aligned_at_the_middle():
    small, large = np.zeros((6, 6, 6), np.uint16), np.zeros((10, 10, 10), np.uint16)
    small[2:4, 2:4, 2:4] = 1
    large[4:6, 4:6, 4:6] = 1  # the same place, seen from the middle
    odd = np.zeros((6, 6, 6), np.uint16)
    odd[0, 0, 0] = 1
    cases = [case(n, m, m.astype(np.float32)) for n, m in (("a", small), ("b", large), ("c", large), ("own", odd))]
    mean = cartoons.MeanMasks(as_set("real", cases), 1)
    assert np.array_equal(mean(cases[3]), small == 1)
    assert np.array_equal(mean(cases[1]), large == 1)
    assert cartoons.MeanMasks(as_set("real", cases), 9)(cases[0]) is None
    assert cartoons.MeanMasks(as_set("real", cases[:1]), 1)(cases[0]) is None


def test_masks_with_nothing_in_common_still_give_a_mean_mask():
    cases = []
    for i in range(4):
        labels = np.zeros((8, 8, 8), np.uint16)
        labels[2 * i, :3] = 1
        cases.append(case(f"p{i}", labels, labels.astype(np.float32)))
    assert cartoons.MeanMasks(as_set("real", cases), 1)(cases[0]).sum() == 24


def test_others_are_dealt_evenly_and_never_the_own_patient():
    real = phantom_set("real", 5)
    given = cartoons.dealt([*real.cases, *real.cases], real, 1)
    assert all(real.cases[n].patient != c.patient for n, c in zip(given, [*real.cases, *real.cases]))
    assert max(np.bincount(given)) <= 3
    assert cartoons.dealt(real.cases[:1], as_set("real", list(real.cases[:1])), 1) == [None]


# Scores.


@pytest.fixture
def scored(tmp_path):
    def score(real, synthetic, segmenter=None, **options):
        options = {"tolerance_mm": 2.0, "seed": 1} | options
        return score_sets(real, synthetic, segmenter or Thresholds(), tmp_path / "cache", **options)

    return score


def row_of(section, table: int, **wanted):
    return next(r for r in section.tables[table].rows if all(r[k] == v for k, v in wanted.items()))


def test_a_cartoon_that_scores_as_high_as_the_model_is_said_plainly(scored):
    # The segmenter goes by brightness alone, so that a blurred picture of the mask is as good as a real image.
    real, synthetic = phantom_set("real", 12), phantom_set("synthetic", 12, seed=2, prefix="q")
    sections = {s.id: s for s in build_sections(scored(real, synthetic), "thresholds", 2.0, 0)}
    main_text = " ".join(sections["adherence"].sentences)
    assert "liver: Dice 1.00 on synthetic images (12 patients), 1.00 on real ones (12 patients)" in main_text
    assert "two samples of different patients" in main_text
    assert "liver: not clearly higher than what needs no model" in main_text
    assert "A cartoon painted on the mask is among them" in " ".join(sections["no-skill"].sentences)
    verdict = row_of(sections["no-skill"], 0, **{"class": "liver", "row": cartoons.LABELS["means_noise"]})["verdict"]
    assert verdict == "cannot be told apart, or higher"
    blind = row_of(sections["no-skill"], 0, **{"class": "spleen", "row": cartoons.LABELS["mean_mask"]})
    assert blind["verdict"] == "lower" and 0 < blind["dice"] < 1


def test_images_that_follow_no_mask_are_seen(scored):
    real = phantom_set("real", 12)
    order = np.roll(np.arange(12), 1)
    wrong = [replace(c, image=real.cases[n].image) for c, n in zip(real.cases, order)]
    scores = scored(real, as_set("synthetic", wrong))
    ratio = ratio_of(*(scores.by_patient(row, 2, "dice") for row in ("synthetic", "real")))
    assert ratio.design == "paired" and ratio.estimate.high < 0.9
    text = " ".join(build_sections(scores, "thresholds", 2.0, 0)[0].sentences)
    assert "spleen is found worse in the synthetic images than in real ones" in text


def test_missing_classes_empty_masks_and_failures_are_counted(scored):
    real, cases = phantom_set("real", 12), list(phantom_set("synthetic", 12, seed=2, prefix="q").cases)
    cases[0] = replace(cases[0], labels=np.where(cases[0].labels == 2, 0, cases[0].labels))  # in the image all the same
    cases[1] = replace(cases[1], labels=np.zeros_like(cases[1].labels))
    cases[2] = replace(cases[2], image=np.where(cases[2].labels == 2, 100.0, cases[2].image).astype(np.float32))
    fails = frozenset({float(cases[3].image.flat[0])})
    scores = scored(real, as_set("synthetic", cases), Thresholds(fails))
    sections = {s.id: s for s in build_sections(scores, "thresholds", 2.0, 0)}
    text = " ".join(sections["left-out"].sentences)
    assert "1 mask of synthetic volumes has none of the classes, and no figure: q01" in text
    assert "failed on 1 volume, which are left out: q03 (synthetic images)" in text
    absent = row_of(sections["left-out"], 0, **{"class": "spleen"})
    assert (absent["absent"], absent["found"]) == (2, 2) and absent["ml"] > 0
    figures = row_of(sections["adherence"], 1, **{"class": "spleen", "row": "synthetic images"})
    assert (figures["volumes"], figures["missed"]) == (9, 1)
    # The missed one counts with 0: of nine patients, eight are at 1.
    assert figures["dice"] == pytest.approx(8 / 9, abs=0.01)
    assert sections["left-out"].tables[1].rows[0]["reason"] == "it does not like this volume"


def test_samples_of_one_mask_are_one_patient(scored):
    real = phantom_set("real", 12)
    cases = [replace(c, name=f"{c.name}_{i}") for c in phantom_set("s", 6, seed=2, prefix="q").cases for i in range(3)]
    scores = scored(real, as_set("synthetic", cases))
    assert len(scores.of("synthetic", 1)) == 18 and len(scores.by_patient("synthetic", 1, "dice")) == 6
    assert len(scores.of("blobs", 1)) == 6  # a cartoon for a mask, not for a sample
    text = " ".join(build_sections(scores, "thresholds", 2.0, 0)[0].sentences)
    assert "fewer than 10 patients: no interval" in text


def test_classes_that_nobody_has_or_finds(scored):
    real, synthetic = phantom_set("real", 3), phantom_set("synthetic", 3, seed=2)
    with pytest.raises(BadInput, match="No mask has any"):
        scored(real, synthetic, only=[9])
    blind = Thresholds()
    blind.values = (9,)
    with pytest.raises(BadInput, match="finds none of the classes"):
        scored(real, synthetic, blind)
    partly = Thresholds()
    partly.values = (1,)
    scores = scored(real, synthetic, partly)
    assert scores.values == (1,) and scores.not_findable == (2,)
    assert "does not know them: spleen" in " ".join(build_sections(scores, "x", 2.0, 0)[0].sentences)
    none = [replace(c, labels=np.zeros_like(c.labels)) for c in synthetic.cases]
    with pytest.raises(BadInput, match="No mask of the synthetic volumes"):
        scored(real, as_set("synthetic", none))


# The segmenter that is trained here.


def training_set(count: int = 6, prefix: str = "t"):
    cases = []
    for i in range(count):
        rng = np.random.default_rng([9, i])
        labels = boxes(rng)
        cases.append(case(f"{prefix}{i}", labels, image_of(labels, rng)))
    return as_set("training", cases)


def test_training_learns_and_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr(trained_segmenter, "CHECKPOINT_EVERY", 5)
    training = training_set()
    recipe = trained_segmenter.recipe_for(training, 30, seed=1)
    assert all(n % trained_segmenter.DIVISOR == 0 for n in recipe.patch)
    whole = trained_segmenter.TrainedSegmenter(training, [1, 2], recipe, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(event):
        if event["step"] == 20:
            raise Stop

    with pytest.raises(Stop):
        trained_segmenter.TrainedSegmenter(training, [1, 2], recipe, tmp_path / "parts", stop)
    steps = []
    parts = trained_segmenter.TrainedSegmenter(
        training, [1, 2], recipe, tmp_path / "parts", lambda event: steps.append(event["step"])
    )
    assert steps and steps[0] == 30 and len(steps) == 1
    one = phantom_set("real", 1, seed=5).cases[0]
    volume = volume_of(one.image, one.affine, FRAME)
    (a,), (b,) = whole(volume, print), parts(volume, print)
    assert np.array_equal(a, b) and a.shape == one.image.shape
    assert (a[one.labels == 1] == 1).mean() > 0.8
    assert parts.identity == whole.identity and "6 patients" in whole.name


def test_training_patients_must_be_others():
    training, real = training_set(), phantom_set("real", 3)
    assert trained_segmenter.check_training(training, [real], may_share=False) == 0
    same = as_set("real", [replace(real.cases[0], patient="t3")])
    with pytest.raises(BadInput, match="in the training and in the real set, first 't3'"):
        trained_segmenter.check_training(training, [real, same], may_share=False)
    assert trained_segmenter.check_training(training, [real, same], may_share=True) == 1
    spelled = as_set("real", [replace(real.cases[0], patient="T3")])
    with pytest.raises(BadInput, match=r"first 't3' \('T3' in the real set\)"):
        trained_segmenter.check_training(training, [spelled], may_share=False)
    assert trained_segmenter.check_training(training, [same, spelled], may_share=True) == 1
    events: list[dict] = []
    spelled = as_set("real", [replace(real.cases[0], patient="t_03")])
    assert trained_segmenter.check_training(training, [spelled], False, events.append) == 0
    assert "Perhaps the same patient under another name: 't_03' ('t3' in the training set)" in events[0]["message"]
    with pytest.raises(BadInput, match="too few"):
        trained_segmenter.check_training(training_set(3), [real], may_share=False)
    with pytest.raises(BadInput, match="out of range"):
        trained_segmenter.recipe_for(training, 0, 1)


def test_crops_hold_small_classes_as_often_as_large_ones():
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[:20] = 1
    labels[35, 35, 35] = 2
    rng = np.random.default_rng(1)
    held = [2 in trained_segmenter.crop(labels * 0.5, labels, (16, 16, 16), rng)[1] for _ in range(300)]
    assert np.mean(held) > 0.35
    assert SetCase.spacing.fget(phantom_set("a", 1).cases[0]) == (2.0, 2.0, 3.0) and adherence.FEWEST_PATIENTS == 10


# The command.


@pytest.fixture
def folders(tmp_path):
    real, real_labels = write_set(tmp_path / "real", phantom_set("real", 3))
    made, masks = write_set(tmp_path / "made", phantom_set("synthetic", 3, seed=2, prefix="q"), "_some-model_seed7")
    script = tmp_path / "thresholds.py"
    script.write_text(HEAD + "save(labels)", encoding="utf-8")
    names = ",".join(f"{v}={n}" for v, n in CLASSES.items())
    return {
        "--real": real, "--real-labels": real_labels, "--synthetic": made, "--synthetic-labels": masks,
        "--segmenter": f'command:"{sys.executable}" "{script}" {{input}} {{output}}', "--classes": names,
        "--modality": "CT", "--out": tmp_path / "out",
    }  # fmt: skip


def arguments(kind: str, options: dict) -> list[str]:
    return ["evaluate", kind, *(str(word) for pair in options.items() for word in pair if word is not None)]


def test_the_command_writes_a_report(folders, capsys):
    assert main(arguments("adherence", folders)) == 0
    printed = capsys.readouterr().out
    assert "liver: Dice 1.00 on synthetic images (3 patients)" in printed
    result = json.loads((folders["--out"] / "adherence.json").read_text())
    assert [s["role"] for s in result["sets"]] == ["real", "synthetic"]
    assert result["settings"]["surface_dice_tolerance_mm"] == pytest.approx(np.sqrt(4 + 4 + 9))
    assert {"Dice", "HD95", "missed", "interval", *cartoons.LABELS.values()} <= set(result["definitions"])
    assert str(folders["--real"].parent) not in json.dumps(result)
    page = (folders["--out"] / "adherence.html").read_text()
    assert page.count("<svg") == 2 and "data:image/png" in page
    rows = (folders["--out"] / "adherence-tables" / "per_volume.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 3 * 7
    volumes = {k: v for k, v in folders.items() if k not in ("--real-labels", "--synthetic-labels")}
    assert main(arguments("volumes", volumes)) == 0  # what was found is in the cache of the same folder
    printed = capsys.readouterr().out
    assert "3 real patients and 3 synthetic ones" in printed and "found in the images by the program" in printed


def test_a_package_needs_no_masks_to_find_regions(folders, capsys):
    options = {k: v for k, v in folders.items() if k not in ("--real-labels", "--synthetic-labels", "--classes")}
    options |= {"--segmenter": "package:lung-nodule-ct", "--of": "body"}
    code = main(arguments("volumes", options))
    told = capsys.readouterr()  # it finds no nodule in these boxes, or one somewhere: both are answers
    assert (code == 0 and "nodule" in told.out) or (code == 2 and "No volume has any of the regions" in told.err)


def test_values_that_are_not_mapped_are_left_out(folders, capsys):
    options = folders | {"--segmenter-values": "2=2"}
    assert main(arguments("adherence", options)) == 0
    out = capsys.readouterr().out
    assert "spleen: Dice 1.00" in out and "does not know them: liver" in out


def test_patients_of_a_packages_training_are_refused(folders, capsys, monkeypatch):
    from SynthDiffusionLib.models import load_package

    seen = load_package("lung-nodule-ct").spec.training.split["train"][0]
    first = sorted(folders["--real"].iterdir())[0]
    first.rename(first.with_name(f"{seen}.nii.gz"))
    (folders["--real-labels"] / first.name).rename(folders["--real-labels"] / f"{seen}.nii.gz")
    options = folders | {"--segmenter": "package:lung-nodule-ct", "--classes": "1=nodule,2=other"}
    assert main(arguments("adherence", options)) == 2
    assert f"first '{seen}' (real)" in capsys.readouterr().err
    assert main([*arguments("adherence", options), "--training-may-share"]) == 0
    assert "Caution: 1 patient of the segmenter's training" in capsys.readouterr().out


@pytest.mark.parametrize(
    "kind, change, message",
    [
        ("adherence", {"--segmenter": None}, "--segmenter must be given"),
        ("adherence", {"--real-labels": None}, "--real-labels must be given"),
        ("adherence", {"--segmenter": "magic"}, "'magic' is no segmenter"),
        ("adherence", {"--segmenter": "train"}, "needs real cases"),
        ("adherence", {"--segmenter": "package:hippocampus-mr"}, "is for MR, the volumes are CT"),
        ("adherence", {"--segmenter-steps": 5}, "go with --segmenter train alone"),
        ("adherence", {"--tolerance": -1}, "no tolerance"),
        ("adherence", {"--only": "kidney"}, "'kidney' is no class of the label maps"),
        ("adherence", {"--real-part": "test"}, "not the images folder of a prepared data set"),
        ("adherence", {"--segmenter-values": "a=b"}, "maps no label values"),
        ("volumes", {"--segmenter": None, "--synthetic-labels": None}, "--synthetic-labels must be given, or --segm"),
        ("volumes", {"--of": "heart"}, "--of: 'heart' is no class"),
        ("volumes", {"--body-above": "5"}, "goes with --of body alone"),
        ("volumes", {"--of": "body", "--body-above": "5000"}, "outside the intensity range"),
        ("volumes", {"--of": "body", "--classes": "1=liver,2=body"}, "a class has that name too"),
        ("volumes", {"--permutations": 3}, "out of range"),
        ("volumes", {"--real": None}, "--real must be given"),
    ],
)
def test_bad_input(folders, capsys, kind, change, message):
    options = {k: v for k, v in (folders | change).items() if v is not None}
    assert main(arguments(kind, options)) == 2
    assert message in capsys.readouterr().err


def test_sets_of_different_spacing_are_refused_and_a_corrupt_file_is_named(folders, capsys):
    first = sorted(folders["--synthetic"].iterdir())[0]
    first.write_bytes(first.read_bytes()[:200])
    options = {k: v for k, v in folders.items() if k != "--segmenter"}
    assert main(arguments("volumes", options)) == 0
    assert f"left out: {first.name}" in capsys.readouterr().out
    from tiny_label_sets import AFFINE

    from SynthDiffusionLib.volumes import Volume, read_volume, write_volume

    for folder in ("--synthetic", "--synthetic-labels"):
        for path in list(folders[folder].iterdir())[1:]:
            if path != first:
                unit = "label" if folder.endswith("labels") else "HU"
                write_volume(Volume(read_volume(path, unit).array, AFFINE * 1.5, unit), path)
    assert main(arguments("volumes", options)) == 2
    assert "different spacings" in capsys.readouterr().err
