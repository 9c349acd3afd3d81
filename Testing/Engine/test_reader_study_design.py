"""Designs: what is read from folders, what is filled in, and what is refused and how."""

from __future__ import annotations

import copy
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.design import design_from_folders, load_design
from SynthDiffusionLib.reader_study.design_cases import pair_name
from SynthDiffusionLib.reader_study.forms import shipped_forms
from SynthDiffusionLib.schemas import first_problem
from SynthDiffusionLib.volumes import Volume, write_volume

make_pipe = getattr(os, "mkfifo", None)  # Windows has none


def write_image(path: Path, seed: int, metadata: dict | None = None) -> None:
    array = np.random.default_rng(seed).integers(-1000, 400, (6, 6, 6)).astype(np.int16)
    write_volume(Volume(array, np.eye(4), "HU", metadata or {}), path)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Eight patients: a real volume, a synthetic one and a mask of each."""
    for name in ("real", "fake", "masks"):
        (tmp_path / name).mkdir()
    for i in range(8):
        write_image(tmp_path / "real" / f"p{i}_n1.nii.gz", i)
        write_image(tmp_path / "fake" / f"p{i}_n1_model-x_seed{i}.nii.gz", 100 + i, {"description": "SYNTHETIC"})
        mask = np.zeros((6, 6, 6), np.uint8)
        mask[2:4, 2:4, 2:4] = 1
        write_volume(Volume(mask, np.eye(4), "label"), tmp_path / "masks" / f"p{i}_n1.nii.gz")
    return tmp_path


DESIGN = {
    "format": "synthdiffusion-study-design-1",
    "title": "Real or synthetic?",
    "seed": 7,
    "readers": ["R1", {"id": "R2", "experience": "9 years of chest CT"}],
    "arms": [
        {"id": "real", "truth": "real", "images": "real"},
        {"id": "model-x", "truth": "synthetic", "images": "fake", "suffix": "_model-x_seed*"},
    ],
    "tasks": [{"id": "turing", "kind": "single", "form": "turing"}],
    "primary": {"measure": "accuracy"},
}


def changed(**changes) -> dict:
    return {**copy.deepcopy(DESIGN), **changes}


def load(folder: Path, data: dict):
    path = folder / "design.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return load_design(path)


def refusal(folder: Path, data: dict) -> str:
    with pytest.raises(BadInput) as caught:
        load(folder, data)
    assert caught.value.hint
    return caught.value.one_line()


@pytest.mark.parametrize(
    ("stem", "suffix", "pair"),
    [
        ("7_nod1_lung-nodule-ct_seed4", "_lung-nodule-ct_seed*", "7_nod1"),
        ("7_nod1_lung-nodule-ct_seed4", "_*_seed*", "7_nod1"),
        ("7_nod1_lung_seed4_inpainted", "_lung_seed*", "7_nod1"),
        ("7_nod1", "_*_seed*", "7_nod1"),
        ("a[1]_x", "_x", "a[1]"),
        ("_x", "_x", "_x"),
    ],
)
def test_pair_names(stem, suffix, pair):
    assert pair_name(stem, suffix) == pair


def test_folders_become_cases_with_pairs_and_patients(folder):
    design = load(folder, DESIGN)
    assert len(design.cases) == 16
    assert {c.pair for c in design.cases if c.truth == 0} == {c.pair for c in design.cases if c.truth == 1}
    assert {c.patient for c in design.cases} == {f"p{i}_n1" for i in range(8)}
    assert design.primary["item"] == "score" and design.primary["arm"] == "model-x" and design.primary["null"] == 0.5
    assert design.readers[0] == {"id": "R1"}
    # What is kept of the design can be read from elsewhere.
    assert first_problem(dict(design.raw), "study-design") is None
    assert Path(design.raw["arms"][0]["images"]).is_absolute()


def test_patients_of_a_table_are_found_by_file_or_pair(folder):
    lines = ["file,patient", *(f"p{i}_n1.nii.gz,person {i // 2}" for i in range(8))]
    (folder / "who.csv").write_text("\n".join(lines), encoding="utf-8")
    design = load(folder, changed(patients="who.csv"))
    assert {c.patient for c in design.cases if c.truth == 1} == {f"person {i}" for i in range(4)}
    (folder / "who.csv").write_text("\n".join(lines[:-1]), encoding="utf-8")
    assert "does not say which patient 'p7_n1.nii.gz' is of" in refusal(folder, changed(patients="who.csv"))
    (folder / "who.csv").write_text("name,patient\na,b", encoding="utf-8")
    assert "lacks the columns file and patient" in refusal(folder, changed(patients="who.csv"))


def test_patients_who_train_readers_are_not_read(folder):
    lines = ["file,patient", *(f"p{i}_n1,person {i // 2}" for i in range(8))]
    (folder / "who.csv").write_text("\n".join(lines), encoding="utf-8")
    design = load(folder, changed(patients="who.csv", training_cases=1))
    training = [c for c in design.cases if c.phase == "training"]
    main = [c for c in design.cases if c.phase == "main"]
    assert sorted(c.truth for c in training) == [0, 1]
    assert not {c.patient for c in training} & {c.patient for c in main}
    # Both are of one patient, so that only one patient is lost: two cases each of four patients, less one patient's.
    assert len(main) == 12
    assert any("2 cases of patients" in note for note in design.notes)
    assert design.cases == load(folder, changed(patients="who.csv", training_cases=1)).cases
    other = load(folder, changed(patients="who.csv", training_cases=1, seed=8))
    several = {tuple(c.patient for c in other.cases if c.phase == "training")}
    several |= {
        tuple(
            c.patient
            for c in load(folder, changed(patients="who.csv", training_cases=1, seed=s)).cases
            if c.phase == "training"
        )
        for s in range(9, 15)
    }
    assert len(several) > 1  # the seed decides


def test_cases_can_be_listed_one_by_one(folder):
    cases = [
        {"image": f"real/p{i}_n1.nii.gz", "arm": "real", "pair": f"q{i}", "patient": f"x{i}", "phase": phase}
        for i, phase in enumerate(("training", "main", "main"))
    ]
    cases += [{"image": f"fake/p{i}_n1_model-x_seed{i}.nii.gz", "arm": "model-x", "pair": f"q{i}"} for i in range(3)]
    arms = [{k: v for k, v in a.items() if k != "images"} for a in DESIGN["arms"]]
    design = load(folder, changed(arms=arms, cases=cases))
    assert [c.pair for c in design.cases if c.truth == 0] == ["q0", "q1", "q2"]
    cases[1]["patient"] = "x0"
    assert "'x0' has cases in the training and in the main phase" in refusal(folder, changed(arms=arms, cases=cases))


def test_pairs_of_a_forced_choice_and_who_has_none(folder):
    (folder / "real" / "p7_n1.nii.gz").unlink()
    tasks = [{"id": "2afc", "kind": "forced_choice", "form": "forced-choice"}]
    design = load(folder, changed(tasks=tasks, primary={"measure": "forced_choice"}))
    assert len(design.task_pairs(design.tasks[0])) == 7
    assert design.primary["item"] == "choice"
    assert any("1 cases have no partner" in note and "p7_n1_model-x_seed7" in note for note in design.notes)
    arms = copy.deepcopy(DESIGN["arms"])
    del arms[1]["suffix"]
    said = refusal(folder, changed(tasks=tasks, primary={"measure": "forced_choice"}, arms=arms))
    assert "no real and synthetic volume have one name" in said and "suffix" in said


def test_a_synthetic_volume_among_the_real_ones_is_refused(folder):
    write_image(folder / "real" / "odd.nii.gz", 50, {"description": "SYNTHETIC lung-nodule-ct 1.0.0 seed 3"})
    said = refusal(folder, DESIGN)
    assert "odd.nii.gz" in said and "is synthetic" in said and "SYNTHETIC lung-nodule-ct" in said
    (folder / "real" / "odd.nii.gz").unlink()
    write_image(folder / "real" / "odd.nrrd", 50, {"SynthDiffusion.Synthetic": "YES"})
    assert "odd.nrrd" in refusal(folder, DESIGN)
    (folder / "real" / "odd.nrrd").unlink()
    write_image(folder / "real" / "odd.nii.gz", 51)
    assert load(folder, DESIGN)
    (folder / "real" / "odd.json").write_text('{"format": "synthdiffusion-provenance-1"}', encoding="utf-8")
    assert "provenance 'odd.json'" in refusal(folder, DESIGN)


def test_the_same_file_in_two_arms_is_refused(folder):
    copied = (folder / "real" / "p3_n1.nii.gz").read_bytes()
    (folder / "fake" / "p9.nii.gz").write_bytes(copied)
    said = refusal(folder, DESIGN)
    assert "the same image, in the arms 'real' and 'model-x'" in said


def test_masks_are_found_by_the_name_of_the_pair(folder):
    arms = [{**a, "masks": "masks"} for a in DESIGN["arms"]]
    tasks = [{"id": "m", "kind": "single", "form": "mask-adherence", "show_mask": True}]
    data = changed(arms=arms, tasks=tasks, primary={"measure": "likert_difference", "task": "m", "item": "outside"})
    assert "needs a question of the type scale" in refusal(folder, data)
    data["tasks"] = [{"id": "q", "kind": "single", "form": "image-quality", "show_mask": True}]
    data["primary"] = {"measure": "likert_difference", "item": "noise"}
    design = load(folder, data)
    assert all(c.mask is not None for c in design.cases) and design.primary["arm2"] == "real"
    (folder / "masks" / "p2_n1.nii.gz").unlink()
    assert "'p2_n1.nii.gz' in the arm 'real' has none (2 cases)" in refusal(folder, data)


def test_generated_arms_are_cases_before_they_exist(folder):
    arms = [
        DESIGN["arms"][0],
        {"id": "gen", "truth": "synthetic", "generate": {"model": "m", "segmentations": "masks"}},
    ]
    design = load(folder, changed(arms=arms))
    planned = [c for c in design.cases if c.arm == "gen"]
    assert len(planned) == 8 and all(c.image is None and c.segmentation is not None for c in planned)
    arms[1]["truth"] = "real"
    assert "generated, but called real" in refusal(folder, changed(arms=arms))


PRIMARY = "primary endpoint"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "x"}, "'format' must be"),
        ({"sed": 1}, "unknown entry 'sed' (did you mean 'seed'?)"),
        ({"readers": ["R1", "r1"]}, "twice among the readers"),
        ({"readers": ["../R1"]}, "cannot be a name among the readers"),
        ({"readers": ["Con"]}, "cannot be a name"),
        ({"arms": [{"id": "real", "truth": "real", "images": "nowhere"}, DESIGN["arms"][1]]}, "does not exist"),
        ({"arms": [DESIGN["arms"][0], {"id": "s", "truth": "synthetic", "images": "."}]}, "'s' has no cases"),
        ({"arms": [DESIGN["arms"][0]]}, "does not say which arm"),
        ({"cases": [{"image": "real/x.nii.gz", "arm": "real"}]}, "x.nii.gz' does not exist"),
        ({"cases": [{"image": "real/p0_n1.nii.gz", "arm": "reel"}]}, "names the arm 'reel'"),
        ({"training_cases": 8}, "no cases left"),
        ({"training_cases": 9}, "too few cases for 9 training cases"),
        ({"tasks": [{"id": "t", "kind": "single", "form": "turin"}]}, "Did you mean 'turing'?"),
        ({"tasks": [{"id": "t", "kind": "single", "form": {"id": "x", "title": "X", "items": []}}]}, "no 'items'"),
        ({"tasks": [{"id": "t", "kind": "single", "form": "forced-choice"}]}, "no task, and 0 tasks fit"),
        (
            {"tasks": [{"id": "t", "kind": "single", "form": "turing", "show_mask": True}]},
            "shows masks, and 'p0_n1.nii.gz' in the arm 'real' has none (16 cases)",
        ),
        (
            {"tasks": [{"id": "t", "kind": "single", "form": "turing", "arms": ["model-x"]}]},
            "all of its volumes are of",
        ),
        ({"sessions": [{"id": "s", "tasks": ["turin"]}]}, "names the task 'turin'"),
        ({"sessions": [{"id": "s", "tasks": ["turing"], "repeats_only": True}]}, "repeats only"),
        ({"randomisation": {"repeats": 1.0, "repeat_min_distance": 40}}, "fewer repeats"),
        ({"randomisation": {"repeats": 0.2, "repeats_in": "later_session"}}, "are to be repeated, but only 0"),
        ({"viewing": {"start_slice": "mask"}}, "gives the place of the finding away"),
        ({"primary": {"measure": "accuracy", "task": "x"}}, f"{PRIMARY} names the task 'x'"),
        ({"primary": {"measure": "accuracy", "item": "x"}}, f"{PRIMARY} names the question 'x'"),
        ({"primary": {"measure": "accuracy", "item": "clue_text"}}, "needs a question of the type confidence"),
        ({"primary": {"measure": "accuracy", "arm": "x"}}, f"{PRIMARY} names the arm 'x'"),
        ({"primary": {"measure": "accuracy", "arm": "real"}}, "is about the arm 'real', which is real"),
        ({"primary": {"measure": "accuracy", "test": "equivalence"}}, "equivalence without a margin"),
        ({"primary": {"measure": "accuracy", "margin": 0.1}}, "has a margin, but tests for a difference"),
        ({"primary": {"measure": "accuracy", "test": "equivalence", "margin": 0.5}}, "leaves the range from 0 to 1"),
        ({"primary": {"measure": "accuracy", "null": 1.0}}, "compares 'accuracy' with 1"),
        ({"primary": {"measure": "mrmc_auc_difference"}}, "compares two arms"),
        ({"primary": {"measure": "mrmc_auc_difference", "arm2": "real"}}, "'arm2' is real"),
        ({"primary": {"measure": "forced_choice", "task": "turing", "item": "score"}}, "needs a task of the kind"),
        ({"title": "a\0b"}, "'title' holds the character NUL"),
        ({"description": "\ud800"}, "'description' holds half a character"),
        ({"primary": {"measure": "accuracy", "null": 10**400}}, "holds a number of 401 digits"),
        ({"primary": {"measure": "accuracy", "null": float("nan")}}, "NaN is not a JSON number"),
        ({"patients": "p" * 5000}, "cannot be used"),
        ({"cases": [{"image": "x" * 300, "arm": "real"}]}, "cannot be used"),
        ({"tasks": [{"id": "t", "kind": "single", "form": "f" * 300}]}, "cannot be used"),
        ({"arms": [{**DESIGN["arms"][0], "images": "~nobody-of-that-name/x"}, DESIGN["arms"][1]]}, "cannot be used"),
        ({"viewing": {"min_view_s": 1e308}}, "'viewing.min_view_s' must be at most 3600"),
        ({"viewing": {"idle_cap_s": 1e9}}, "must be at most 86400"),
        ({"blinding": {"spacing_mm": [1, 1, 1e-4]}}, "'blinding.spacing_mm"),
        ({"sessions": [{"id": "s", "tasks": ["turing"], "min_days_after_previous": 10**9}]}, "at most 3650"),
        ({"tasks": [{"id": "t", "kind": "forced_choice", "form": "turing"}]}, "0 tasks fit"),
        (
            {"tasks": [DESIGN["tasks"][0], {"id": "t", "kind": "forced_choice", "form": "turing"}]},
            "its form does not ask to choose between them",
        ),
        ({"viewing": {"layout": "side_by_side"}}, "no task shows pairs"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(folder, changes, said):
    assert said in refusal(folder, changed(**changes))


def test_an_unreadable_design_is_named(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        load_design(tmp_path / "none.json")
    (tmp_path / "d.json").write_text("{", encoding="utf-8")
    with pytest.raises(BadInput, match="is damaged: line 1"):
        load_design(tmp_path / "d.json")


def test_two_folders_are_enough(folder):
    design = design_from_folders(folder / "real", folder / "fake", readers=["A", "B"], equivalence_margin=0.1)
    assert len(design.cases) == 16
    assert (design.primary["test"], design.primary["measure"]) == ("equivalence", "auc")
    pairs = design_from_folders(folder / "real", {"model-x": folder / "fake"}, form="forced-choice")
    assert len(pairs.task_pairs(pairs.tasks[0])) == 8 and pairs.primary["measure"] == "forced_choice"
    # The form's questions decide, not its name.
    for form, measure in (("turing", "accuracy"), ("forced-choice", "forced_choice")):
        copied = folder / f"my-{form}.json"
        copied.write_bytes(shipped_forms()[form].read_bytes())
        own = design_from_folders(folder / "real", {"model-x": folder / "fake"}, form=str(copied))
        assert own.primary["measure"] == measure
    with pytest.raises(BadInput, match="any two kinds of volumes would be equivalent"):
        design_from_folders(folder / "real", folder / "fake", form="image-quality", equivalence_margin=10)
    for form in ("image-quality", "volume-appearance-3d"):
        rated = design_from_folders(folder / "real", folder / "fake", form=form)
        assert rated.primary["measure"] == "likert_difference" and rated.primary["arm2"] == "real"
    # The design that it stands for is one that the schema knows.
    assert first_problem(dict(design.raw), "study-design") is None


def test_numbers_that_are_none_are_refused_where_no_file_is_read(folder):
    with pytest.raises(BadInput, match="'randomisation.repeats' must be a finite number"):
        design_from_folders(folder / "real", folder / "fake", repeats=float("nan"))


def test_a_layout_that_a_task_is_not_shown_in_is_told(folder):
    both = [DESIGN["tasks"][0], {"id": "2afc", "kind": "forced_choice", "form": "forced-choice"}]
    for layout, task in (("axial", "2afc"), ("three_planes", "2afc"), ("side_by_side", "turing")):
        notes = load(folder, changed(tasks=both, viewing={"layout": layout})).notes
        assert [n for n in notes if f"The layout '{layout}'" in n and f"'{task}'" in n]
    assert not any("layout" in n for n in load(folder, changed(tasks=both)).notes)
    assert not any("layout" in n for n in load(folder, changed(viewing={"layout": "axial"})).notes)


def test_what_is_named_like_an_image_and_is_none_is_not_left_out_silently(folder):
    odd = folder / "real" / "odd.nii.gz"
    odd.mkdir()
    assert "odd.nii.gz' is named like an image, and is a folder without DICOM files" in refusal(folder, DESIGN)
    odd.rmdir()
    try:
        odd.symlink_to("nowhere.nii.gz")
    except OSError:
        pytest.skip("links cannot be made here")
    assert "odd.nii.gz' is a link to nothing" in refusal(folder, DESIGN)
    odd.unlink()
    odd.symlink_to(odd.name)
    assert "odd.nii.gz' is a link to nothing" in refusal(folder, DESIGN)
    odd.unlink()
    write_image(folder / "elsewhere.nii.gz", 60)
    odd.symlink_to(folder / "elsewhere.nii.gz")
    assert len(load(folder, DESIGN).cases) == 17


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are UTF-8")
def test_a_file_name_that_is_not_utf8_is_refused(folder):
    (folder / "real" / os.fsdecode(b"odd\xff.nii.gz")).write_bytes((folder / "real" / "p0_n1.nii.gz").read_bytes())
    said = refusal(folder, DESIGN)
    assert "odd\\udcff.nii.gz' is not UTF-8" in said and said.encode("utf-8")


@pytest.mark.skipif(make_pipe is None, reason="no pipes in the file system")
def test_a_table_of_patients_that_never_ends_is_refused(folder):
    make_pipe(folder / "who.csv")
    assert "is not a regular file" in refusal(folder, changed(patients="who.csv"))
    if Path("/dev/zero").exists():
        assert "is not a regular file" in refusal(folder, changed(patients="/dev/zero"))


def test_a_patient_given_with_a_case_counts_also_where_it_is_the_name_of_its_pair(folder):
    (folder / "who.csv").write_text("\n".join(["file,patient", *(f"p{i}_n1,person {i}" for i in range(8))]))
    write_image(folder / "x.nii.gz", 70)
    extra = {"image": "x.nii.gz", "arm": "real", "pair": "p3_n1", "patient": "p3_n1"}
    design = load(folder, changed(patients="who.csv", cases=[extra]))
    assert next(c.patient for c in design.cases if c.name == "x.nii.gz") == "p3_n1"
    del extra["patient"]
    design = load(folder, changed(patients="who.csv", cases=[extra]))
    assert next(c.patient for c in design.cases if c.name == "x.nii.gz") == "person 3"
    design = load(folder, changed(cases=[extra]))
    assert next(c.patient for c in design.cases if c.name == "x.nii.gz") == "p3_n1"


@pytest.mark.parametrize("value", ["x" * 10**5, "\u202e\x1b[2J", "9" * 5000])
def test_refusals_show_what_was_given_short_and_escaped(folder, value):
    designs = [
        changed(patients=value),
        changed(tasks=[{"id": "t", "kind": "single", "form": value}]),
        changed(cases=[{"image": value, "arm": "real"}]),
        changed(primary={"measure": "accuracy", "task": value}),
        changed(readers=[value]),
        changed(**{value: 1}),
    ]
    for data in designs:
        said = refusal(folder, data)
        assert len(said) < 600 and said.isprintable(), said
