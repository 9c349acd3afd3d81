"""Building a study: what readers get is equal in all but the image, holds no truth, and is all there or not at all."""

from __future__ import annotations

import copy
import dataclasses
import gzip
import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from SynthDiffusionLib.errors import BadInput, Cancelled
from SynthDiffusionLib.reader_study import equalise
from SynthDiffusionLib.reader_study.build import NOTICE, add_reader, build_study
from SynthDiffusionLib.reader_study.design import design_from_folders, design_from_json
from SynthDiffusionLib.reader_study.study import Study
from SynthDiffusionLib.reader_study.study_checks import check_key, check_study
from SynthDiffusionLib.schemas import first_problem, read_json
from SynthDiffusionLib.volumes import Volume, read_segmentation, read_volume, write_volume

PAIRS = 6


def smooth(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    """A field without structure that two kinds of volumes share: HU-like numbers."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return np.clip(noise / noise.std() * 250 - 500, -1000, 400)


@pytest.fixture
def sources(tmp_path, oblique_affine) -> Path:
    """Real int16 volumes along L, P, S; larger, marked, oblique float synthetic ones; masks on the real grids."""
    for name in ("real", "fake", "masks"):
        (tmp_path / name).mkdir()
    real_affine = oblique_affine("LPS", (1.0, 1.0, 2.0), (0, 0, 0), (30.0, -20.0, 7.5))
    fake_affine = oblique_affine("RAS", (1.0, 1.0, 2.0), (2, 3, 1))
    for i in range(PAIRS):
        array = np.rint(smooth(i, (18, 16, 12))).astype(np.int16)
        write_volume(Volume(array, real_affine, "HU"), tmp_path / "real" / f"pat{i}_n.nii.gz")
        made = smooth(100 + i, (20, 20, 14)).astype(np.float32)
        marks = {"description": f"SYNTHETIC model-x 1.0.0 seed {i}, research only"}
        write_volume(Volume(made, fake_affine, "HU", marks), tmp_path / "fake" / f"pat{i}_n_model-x_seed{i}.nii.gz")
        mask = np.zeros((18, 16, 12), np.uint8)
        mask[6:12, 6:12, 4:8] = 1
        write_volume(Volume(mask, real_affine, "label"), tmp_path / "masks" / f"pat{i}_n.nii.gz")
    return tmp_path


def folders_design(sources: Path, **options):
    return design_from_folders(sources / "real", {"model-x": sources / "fake"}, readers=["R1", "R2"], **options)


def small(sources: Path, name: str = "study", **options):
    design = folders_design(sources, **options)
    # With twelve volumes, repeats cannot be ten places apart.
    rules = {**design.randomisation, "repeats": 0.25, "repeat_min_distance": 3}
    return build_study(dataclasses.replace(design, randomisation=rules), sources / name, permutations=19)


def test_the_folders_are_those_of_the_contract(sources):
    result = small(sources)
    reading, private = result.reading, result.private
    data = read_json(reading / "study.json")
    assert first_problem(data, "study") is None
    assert len(data["volumes"]) == 12 and len(data["units"]) == 12
    key = read_json(private / "key.json")
    assert hashlib.sha256((private / "key.json").read_bytes()).hexdigest() == data["key_sha256"]
    assert len(key["nonce"]) == 32 and key["study_id"] == data["id"] == result.study_id
    assert {v["truth"] for v in key["volumes"].values()} == {0, 1}
    for entry in key["volumes"].values():
        assert hashlib.sha256(Path(entry["source"]).read_bytes()).hexdigest() == entry["source_sha256"]
    for entry in data["volumes"]:
        assert hashlib.sha256((reading / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    study = Study.load(result.folder)
    assert study.sha256 == result.study_sha256 and study.readers() == ["R1", "R2"]
    order, _ = study.order("R1")
    assert len(order) == 15 and {p.unit for p in order} == set(study.units)
    for name in ("design.json", "leaks.json", "leaks.html", "coordinator.jsonl", "coordinator.head", "receipts"):
        assert (private / name).exists()
    assert first_problem(read_json(private / "design.json"), "study-design") is None
    assert NOTICE in (reading / "README.txt").read_text() and NOTICE in (result.folder / "README.txt").read_text()
    built = json.loads((private / "coordinator.jsonl").read_text().splitlines()[0])
    assert built["type"] == "built" and built["study_sha256"] == study.sha256


def test_what_readers_get_holds_no_truth(sources):
    result = small(sources)
    study_text = (result.reading / "study.json").read_text()
    volumes_part = json.dumps([read_json(result.reading / "study.json")[k] for k in ("units", "volumes")])
    for word in ("pat0", "real", "fake", "seed0", "truth", "model-x"):
        assert word not in volumes_part
    assert "pat0" not in study_text and '"truth"' not in study_text and "nonce" not in study_text
    for path in result.reading.rglob("*"):
        assert not any(word in path.name for word in ("pat", "real", "fake", "model", "seed"))
    for path in (result.reading / "volumes").iterdir():
        raw = gzip.decompress(path.read_bytes())[:352]
        assert b"SYNTH" not in raw.upper() and b"seed" not in raw
    orders = (result.reading / "orders" / "R1.json").read_text()
    assert "model-x" not in orders and "arm" not in orders


def test_all_files_are_equal_in_all_but_the_voxels(sources):
    result = small(sources)
    files = sorted((result.reading / "volumes").iterdir())
    assert len({f.stat().st_size for f in files}) == 1
    assert len({p.stat().st_mtime for p in result.reading.rglob("*")}) == 1
    assert len({f.read_bytes()[:10] for f in files}) == 1
    assert len({gzip.decompress(f.read_bytes())[:352] for f in files}) == 1
    image = nib.load(files[0])
    assert image.shape == (18, 16, 12)  # the largest that all have, along R, A, S
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.get_data_dtype() == np.int16
    assert np.allclose(image.affine @ [8.5, 7.5, 5.5, 1], [0, 0, 0, 1])  # its middle is the origin
    assert bytes(image.header["descrip"].item()) == b"" and int(image.header["intent_code"]) == 0
    assert int(image.header["qform_code"]) == int(image.header["sform_code"]) == 1
    report = read_json(result.private / "leaks.json")
    assert report["same"] == {"headers": True, "gzip_headers": True, "file_sizes": True, "file_times": True}
    assert report["before"]["header"]["auc"]["value"] == 1.0
    assert report["after"]["header"]["auc"]["value"] == 0.5 and report["after"]["header"]["p"] == 1.0
    assert report["after"]["words"] == [] and report["before"]["words"] != []


def test_voxels_are_those_of_the_source_where_nothing_had_to_change(sources):
    """nibabel and SimpleITK read the padded files, and both find the source's voxels turned to R, A, S."""
    result = small(sources, blinding={"intensity": [-1024, 3071]})
    key = read_json(result.private / "key.json")
    for name, entry in key["volumes"].items():
        path = result.reading / "volumes" / f"{name}.nii.gz"
        ours = np.asanyarray(nib.load(path).dataobj)
        itk = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose(2, 1, 0)
        assert np.array_equal(ours, itk) and np.array_equal(ours, read_volume(path).array)
        source = nib.as_closest_canonical(nib.load(entry["source"]))
        expected = np.asanyarray(source.dataobj)
        start = [(a - b) // 2 for a, b in zip(expected.shape, ours.shape)]
        expected = expected[tuple(slice(s, s + n) for s, n in zip(start, ours.shape))]
        assert np.array_equal(ours, np.rint(expected))


def test_another_spacing_is_resampled_to_the_coarsest_and_said(sources):
    for path in sorted((sources / "fake").iterdir()):
        image = nib.load(path)
        fine = Volume(np.asarray(image.dataobj).repeat(2, 2), image.affine @ np.diag([1, 1, 0.5, 1]), "HU")
        write_volume(fine, path)
    result = small(sources)
    assert nib.load(next((result.reading / "volumes").iterdir())).header.get_zooms() == (1.0, 1.0, 2.0)
    said = " ".join(result.notes)
    assert "0 of 6 real and 6 of 6 synthetic volumes" in said and "Smoothness may tell them apart" in said


def test_a_size_that_would_need_padding_is_refused(sources):
    with pytest.raises(BadInput, match=r"20x16x12 is larger than some volumes \(18x16x12") as caught:
        small(sources, blinding={"size": [20, 16, 12]})
    assert "never padded" in caught.value.hint
    assert not (sources / "study").exists()


def test_numbers_without_a_unit_are_scaled_by_percentiles(sources):
    for folder, gain in (("real", 0.001), ("fake", 3.0)):
        for path in sorted((sources / folder).iterdir()):
            volume = read_volume(path)
            write_volume(volume.with_array((volume.array * gain).astype(np.float32)), path)
    with pytest.raises(BadInput, match="fewer than 100 grey values"):
        small(sources)
    result = small(sources, blinding={"intensity": "percentiles"})
    arrays = [np.asanyarray(nib.load(p).dataobj) for p in (result.reading / "volumes").iterdir()]
    assert {int(a.min()) for a in arrays} == {0} and {int(a.max()) for a in arrays} == {1000}


def test_masks_come_along_where_they_are_shown(sources, oblique_affine):
    design = folders_design(sources, form="mask-adherence", masks=sources / "masks")
    for path in sorted((sources / "fake").iterdir()):  # so that one mask fits both volumes of a pair
        image = nib.load(path)
        write_volume(
            Volume(np.asarray(image.dataobj), oblique_affine("RAS", (1, 1, 2), (0, 0, 0), (8, -40, 3)), "HU"), path
        )
    result = build_study(design, sources / "m", permutations=19)
    masks = sorted((result.reading / "masks").iterdir())
    assert len(masks) == 12 and len({m.stat().st_size for m in masks}) == 1
    headers = [nrrd.read_header(str(m)) for m in masks]
    assert all(h["Segment0_Name"] == "Structure 1" for h in headers)
    key = read_json(result.private / "key.json")
    for name, entry in key["volumes"].items():
        mask = read_segmentation(result.reading / "masks" / f"{name}.seg.nrrd")
        volume = nib.load(result.reading / "volumes" / f"{name}.nii.gz")
        assert mask.shape == volume.shape and np.allclose(mask.affine, volume.affine)
        if entry["truth"] == 0:
            # On its own grid the mask is only turned: 6 x 6 x 4 voxels.
            assert int(mask.layers[0].sum()) == 144
        assert mask.layers[0].any()


def test_a_mask_outside_of_what_is_shown_is_refused(sources):
    mask = np.zeros((18, 16, 12), np.uint8)
    mask[0, 0, 0] = 1
    affine = nib.load(sources / "masks" / "pat0_n.nii.gz").affine
    write_volume(Volume(mask, affine, "label"), sources / "masks" / "pat0_n.nii.gz")
    design = folders_design(sources, form="mask-adherence", masks=sources / "masks", blinding={"size": [8, 8, 8]})
    with pytest.raises(BadInput, match="outside of the part of its volume"):
        build_study(design, sources / "m", permutations=19)


def test_training_cases_carry_feedback_and_no_other_does(sources):
    result = small(sources, training_cases=1, name="t")
    key, data = (read_json(p) for p in (result.private / "key.json", result.reading / "study.json"))
    for unit in data["units"]:
        if unit["phase"] == "training":
            word = "synthetic" if key["volumes"][unit["volumes"][0]]["truth"] else "real"
            assert unit["feedback"] == f"This volume is {word}."
        else:
            assert "feedback" not in unit


def test_feedback_of_a_pair_names_the_side_on_which_the_order_shows_it(sources):
    design = folders_design(sources, form="forced-choice", training_cases=2)
    result = build_study(design, sources / "p", permutations=19)
    key, study = read_json(result.private / "key.json"), Study.load(result.reading)
    for reader in study.readers():
        order, _ = study.order(reader)
        assert sum(p.phase == "training" for p in order) == 2
        for p in order:
            if p.phase == "training":
                side = "right" if key["volumes"][p.volumes[1]]["truth"] else "left"
                assert study.units[p.unit].feedback == f"The one on the {side} is synthetic."
    assert all(v["arm"] == "model-x" for v in key["units"].values())


def test_a_volume_of_which_nothing_is_left_to_see_is_refused(sources):
    path = next((sources / "real").glob("*"))
    blank = read_volume(path)
    write_volume(Volume(np.full_like(blank.array, 40_000, np.float32), blank.affine, "HU"), path)
    with pytest.raises(BadInput, match="nothing is to be seen"):
        small(sources, blinding={"intensity": [-1000, 400]})


@pytest.mark.parametrize("shear", [0.05, -0.4])
def test_a_volume_whose_axes_are_not_at_right_angles_is_refused(sources, shear):
    """A tilted gantry: k is not along the normal of the slices. The angle is that of the two columns."""
    path = sources / "real" / "pat2_n.nii.gz"
    image = read_volume(path)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[1, 2] = 2.0 * shear
    nib.save(nib.Nifti1Image(image.array, affine), path)
    angle = 90 - abs(np.degrees(np.arctan(shear)))
    with pytest.raises(BadInput, match=rf"pat2_n\.nii\.gz' is sheared: .* at {angle:.1f} degrees"):
        small(sources)


def test_a_spacing_that_would_fill_the_memory_is_refused():
    surveys = [equalise.Survey((512, 512, 300), (1.0, 1.0, 1.0), -1000.0, 400.0, 0.0)] * 2
    with pytest.raises(BadInput, match=r"51200x51200x30000 = 7.86e\+13 voxels, more than the 1,073,741,824"):
        equalise.choose_target(surveys, [0, 1], {"spacing_mm": [0.01, 0.01, 0.01]})
    assert equalise.choose_target(surveys, [0, 1], {}).size == (512, 512, 300)


WRONG = (None, True, -1, 0, 10**30, 2.5, "", "x", [], [[]], {}, {"a": 1})


def test_study_and_key_are_refused_where_a_value_is_of_another_type(sources):
    """With the hashes of the files computed anew, as by somebody who wants to do harm: each entry in turn, and whatever
    is taken has the type that it had."""
    result = small(sources, training_cases=1)
    study_file, key = result.reading / "study.json", read_json(result.private / "key.json")
    study = read_json(study_file)
    check_study(study)
    check_key(key)
    assert first_problem(study, "study") is None

    def places(data, path=()):
        entries = data.items() if isinstance(data, dict) else enumerate(data[:1]) if isinstance(data, list) else ()
        for name, value in entries:
            yield (*path, name)
            if path[:1] != ("tasks",) and name not in ("software",):  # the form has its own checks
                yield from places(value, (*path, name))

    def kind(value):
        return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)

    refused = 0
    for data, check in ((study, check_study), (key, check_key)):
        for path in places(data):
            before = data
            for name in path:
                before = before[name]
            for wrong in WRONG:
                changed = copy.deepcopy(data)
                inner = changed
                for name in path[:-1]:
                    inner = inner[name]
                inner[path[-1]] = wrong
                try:
                    check(changed)
                except BadInput as error:
                    assert error.hint and "damaged" in error.message
                    refused += 1
                else:
                    known = path[-1] not in ("software", "format", "notice") and wrong not in (before, "x")
                    assert not known or kind(wrong) is kind(before), (path, wrong)
    assert refused > 500
    for name, value in (("viewing", ["a"]), ("randomisation", "x"), ("primary", [[]])):
        study_file.write_text(json.dumps(study | {name: value}), encoding="utf-8")
        with pytest.raises(BadInput, match=f"study.json' is damaged: '{name}' must be an object"):
            Study.load(result.reading)


def test_shared_real_volumes_and_blocks_are_warned_of(sources):
    """Two generators whose pairs share real volumes: these are shown twice as often. And blocks that tell the arms."""
    shutil.copytree(sources / "fake", sources / "other")
    for path in (sources / "other").glob("*.nii.gz"):
        volume = read_volume(path)
        write_volume(Volume(volume.array[::-1].copy(), volume.affine, "HU"), path)
    arms = {"a": sources / "fake", "b": sources / "other"}
    both = design_from_folders(sources / "real", arms, form="forced-choice", readers=["R1"])
    warnings = build_study(both, sources / "shared", permutations=19).warnings
    assert any(w.startswith("Real volumes are shown more often than synthetic ones") for w in warnings)
    plain = small(sources, "plain").warnings
    assert not any("shown more often" in w or "bits" in w for w in plain)
    blocks = json.loads(json.dumps(folders_design(sources).raw)) | {"readers": [f"R{i}" for i in range(6)]}
    blocks["randomisation"] = {"block_size": 2, "longest_run": 2}
    told = build_study(design_from_json(blocks, sources), sources / "blocks", permutations=19).warnings
    assert any("bits about which volumes" in w for w in told)


def test_a_folder_that_is_not_empty_is_left_alone(sources):
    (sources / "study").mkdir()
    (sources / "study" / "mine.txt").write_text("x")
    with pytest.raises(BadInput, match="is there already"):
        small(sources)
    assert [p.name for p in (sources / "study").iterdir()] == ["mine.txt"]


def test_cancelling_leaves_nothing_behind(sources):
    before = sorted(p.name for p in sources.iterdir())
    for stop_after in (1, 8, 20, 30):
        calls = []
        with pytest.raises(Cancelled):
            build_study(
                folders_design(sources),
                sources / "study",
                should_cancel=lambda calls=calls, n=stop_after: calls.append(1) or len(calls) > n,
                permutations=19,
            )
        assert sorted(p.name for p in sources.iterdir()) == before


def test_progress_and_the_end_are_told(sources):
    events: list[dict] = []
    design = folders_design(sources)
    build_study(design, sources / "s", events.append, permutations=19)
    stages = {e["stage"] for e in events if e["event"] == "progress"}
    assert {"look at the volumes", "rewrite the volumes", "leak report"} <= stages
    assert events[-1]["event"] == "done" and json.dumps(events[-1])


def test_the_same_image_with_another_header_is_found(sources):
    image = read_volume(sources / "real" / "pat2_n.nii.gz")
    write_volume(image.with_array(image.array, metadata={"description": "x"}), sources / "fake" / "pat9_n.nii.gz")
    with pytest.raises(BadInput, match="are the same image") as caught:
        small(sources)
    assert "pat2_n.nii.gz" in caught.value.message and "pat9_n.nii.gz" in caught.value.message


def test_generated_arms_are_made_through_the_one_runner(sources):
    requests = []

    def run(request, on_event, should_cancel):
        requests.append(request)
        request.out.mkdir(parents=True, exist_ok=True)
        path = request.out / f"{request.case}_m_seed{request.seed}.nii.gz"
        made = smooth(request.seed, (18, 16, 12)).astype(np.float32)
        write_volume(Volume(made, np.diag([1.0, 1.0, 2.0, 1.0]), "HU", {"description": "SYNTHETIC"}), path)
        on_event({"event": "done"})
        return SimpleNamespace(outputs=[{"volume": path}])

    data = {
        "format": "synthdiffusion-study-design-1",
        "title": "T",
        "seed": 5,
        "readers": ["R1"],
        "arms": [
            {"id": "real", "truth": "real", "images": "real"},
            {
                "id": "gen",
                "truth": "synthetic",
                "generate": {
                    "model": "m",
                    "segmentations": "masks",
                    "steps": 4,
                    "seed": 50,
                    "labels": {"1": "a", "2": "b"},
                },
            },
        ],
        "tasks": [{"id": "t", "kind": "single", "form": "turing"}],
        "primary": {"measure": "auc"},
    }
    events: list[dict] = []
    result = build_study(design_from_json(data, sources), sources / "g", events.append, permutations=19, run=run)
    assert [r.seed for r in requests] == list(range(50, 56)) and {r.steps for r in requests} == {4}
    assert requests[0].labels == {"1": "a"}  # the mask has no 2
    assert sum(e["event"] == "done" for e in events) == 1
    key = read_json(result.private / "key.json")
    made = [v for v in key["volumes"].values() if v["truth"] == 1]
    assert len(made) == 6 and all(Path(v["source"]).is_file() for v in made)  # where they are now
    assert {"id": "gen", "truth": "synthetic", "model": "m"} in key["arms"]


def test_names_and_orders_cannot_be_worked_out_without_the_key(sources):
    one, two = small(sources, name="a"), small(sources, name="b")
    names = [{v["id"] for v in read_json(r.reading / "study.json")["volumes"]} for r in (one, two)]
    assert not names[0] & names[1]
    arms = []
    for r in (one, two):
        key = read_json(r.private / "key.json")
        order, _ = Study.load(r.reading).order("R1")
        arms.append([key["units"][p.unit]["arm"] for p in order])
    assert arms[0] != arms[1]  # one seed, another secret


def test_a_reader_can_join_later(sources):
    result = small(sources)
    path = add_reader(result.folder, "R3", "2 years")
    order, _ = Study.load(result.reading).order("R3")
    data = read_json(path)
    assert data["index"] == 2 and len(order) == 15
    last = json.loads((result.private / "coordinator.jsonl").read_text().splitlines()[-1])
    assert last["type"] == "reader_added" and last["reader"] == "R3"
    for name, said in (("r3", "is there already"), ("a b", "cannot be the name")):
        with pytest.raises(BadInput, match=said):
            add_reader(result.folder, name)
    for name in ("R2", "R3"):  # planned, and added: an order that was lost is made again, and logged once
        lost = result.reading / "orders" / f"{name}.json"
        before = lost.read_bytes()
        lost.unlink()
        assert add_reader(result.folder, name).read_bytes() == before
    assert (result.private / "coordinator.jsonl").read_text().count('"reader_added"') == 1
    key = (result.private / "key.json").read_text()
    (result.private / "key.json").write_text(key.replace('"truth": 1', '"truth": 0', 1))
    with pytest.raises(BadInput, match="not the one that the study was built with"):
        add_reader(result.folder, "R4")
    assert Study.load(result.reading).readers() == ["R1", "R2", "R3"]


# Parts


@pytest.mark.parametrize("size", [22, 23, 43, 44, 1000, 65557, 65558, 65578, 65579, 200_000])
def test_a_gzip_filling_has_the_size_and_unpacks_to_nothing(tmp_path, size):
    filling = equalise.gzip_filling(size)
    assert len(filling) == size and gzip.decompress(filling) == b""
    assert gzip.decompress(gzip.compress(b"voxels") + filling) == b"voxels"
    volume = Volume(np.arange(4000, dtype=np.int16).reshape(20, 20, 10), np.eye(4), "HU")
    path = tmp_path / "v.nii.gz"
    write_volume(volume, path)
    path.write_bytes(path.read_bytes() + filling)
    assert np.array_equal(np.asanyarray(nib.load(path).dataobj), volume.array)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose(2, 1, 0), volume.array)


def test_resampling_keeps_the_middle_in_the_middle():
    """A ball in the middle of a fine volume is in the middle of the coarse one, and as large."""
    shape, spacing = np.array((40, 36, 44)), np.array((0.5, 0.7, 0.9))
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1) - (shape - 1) / 2
    ball = (np.linalg.norm(grid * spacing, axis=-1) < 7).astype(np.float32) * 1000
    volume = Volume(ball, np.diag([*spacing, 1.0]), "arbitrary")
    target = equalise.Target((1.0, 1.0, 1.0), (18, 18, 18), 0, 1000)
    made = equalise.equalised(volume, target).array.astype(float)
    centre = [(made.sum(tuple(b for b in range(3) if b != a)) * np.arange(18)).sum() / made.sum() for a in range(3)]
    assert np.allclose(centre, 8.5, atol=0.02)
    assert abs(made.sum() / 1000 - 4 / 3 * np.pi * 7**3) < 0.02 * 4 / 3 * np.pi * 7**3
