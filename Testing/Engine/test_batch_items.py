"""The list of a batch: which segmentations it finds, and what its items are named by."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from SynthDiffusionLib.batch import items
from SynthDiffusionLib.batch.items import Item, check_numbers, first_seed, list_items, shard_of
from SynthDiffusionLib.batch.sources import Source, find_sources
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.jobs.request import GenerateRequest
from SynthDiffusionLib.models import load_package
from SynthDiffusionLib.volumes.detached import detached_data

MODEL = "lung-nodule-ct"


@pytest.fixture
def masks(tmp_path) -> Path:
    """Five files of different content; what is in them is not read by a list."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for number in range(5):
        (folder / f"case {number}.nii.gz").write_bytes(bytes([number]) * 100)
    (folder / ".hidden.nii.gz").write_bytes(b"x")
    (folder / "readme.txt").write_bytes(b"x")
    (folder / "inner").mkdir()
    return folder


@pytest.fixture(scope="module")
def spec():
    return load_package(MODEL, verify=False).spec


def template(**changes) -> GenerateRequest:
    return GenerateRequest(Path("any.nii.gz"), MODEL, Path("out"), **changes)


def items_of(masks, spec, samples=3, seed=1, **changes) -> list[Item]:
    return list_items(find_sources([masks]), template(**changes), spec, samples, seed)[0]


def test_a_folder_gives_its_segmentations_and_nothing_else(masks):
    assert [s.case for s in find_sources([masks])] == [f"case {n}" for n in range(5)]
    assert all(s.segmentation.is_absolute() for s in find_sources([masks]))


def test_a_list_gives_segmentation_image_and_case_by_paths_from_the_list(masks):
    text = "segmentation,image,case\ncase 1.nii.gz,case 2.nii.gz,first\ncase 3.nii.gz,,\n"
    (masks / "list.csv").write_text(text, encoding="utf-8-sig")
    first, second = sorted(find_sources([masks / "list.csv"]), key=lambda s: s.case != "first")
    assert first == Source("first", masks / "case 1.nii.gz", masks / "case 2.nii.gz")
    assert second == Source("case 3", masks / "case 3.nii.gz", None)


@pytest.mark.parametrize(
    ("paths", "text"),
    [
        (["nowhere.nii.gz"], "does not exist"),
        (["masks/inner"], "holds no segmentation"),
        (["empty.csv"], "no line below"),
        (["odd.csv"], "has no column segmentation, but mask"),
        (["semi.csv"], "has no column segmentation, but segmentation;case"),
        (["short.csv"], "Line 3 of .* names no segmentation"),
        (["masks", "other/case 1.nii.gz"], "both named 'case 1'"),
        (["masks", "other/CASE 2.nrrd"], "both named 'CASE 2'"),  # one file on Windows and macOS
    ],
)
def test_what_is_no_list_is_refused_with_the_reason(masks, tmp_path, monkeypatch, paths, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    for name in ("case 1.nii.gz", "CASE 2.nrrd"):
        (tmp_path / "other" / name).write_bytes(b"other")
    (tmp_path / "empty.csv").write_text("segmentation\n")
    (tmp_path / "odd.csv").write_text("mask\na.nii.gz\n")
    (tmp_path / "semi.csv").write_text("segmentation;case\na.nii.gz;a\n")
    (tmp_path / "short.csv").write_text("segmentation,case\na.nii.gz,a\n,b\n,\n")
    with pytest.raises(BadInput, match=text):
        find_sources([Path(p) for p in paths])


def test_keys_follow_from_content_model_settings_and_seed_alone(masks, spec, tmp_path):
    keys = {item.key for item in items_of(masks, spec)}
    assert len(keys) == 15
    for path in masks.glob("case*"):  # other names, other places
        path.rename(masks / f"renamed {path.name}")
    masks.rename(tmp_path / "moved")
    masks = tmp_path / "moved"
    assert {item.key for item in items_of(masks, spec)} == keys
    assert {item.key for item in items_of(masks, spec, device="cpu", vram_limit=2**33)} == keys
    assert not keys & {item.key for item in items_of(masks, spec, steps=7)}
    assert not keys & {item.key for item in items_of(masks, spec, seed=2)}
    assert not keys & {item.key for item in items_of(masks, replace(spec, version="99.0.0"))}
    (masks / "renamed case 0.nii.gz").write_bytes(b"mended")
    assert len(keys & {item.key for item in items_of(masks, spec)}) == 12


def test_more_samples_or_segmentations_keep_the_items_that_were_there(masks, spec):
    before = {item.key for item in items_of(masks, spec, samples=2)}
    (masks / "another.nii.gz").write_bytes(b"another")
    assert before < {item.key for item in items_of(masks, spec, samples=5)}


def test_no_two_segmentations_share_noise_unless_it_is_asked_for(masks, spec):
    assert len({item.seed for item in items_of(masks, spec, samples=20)}) == 100
    same, _ = list_items(find_sources([masks]), template(), spec, 3, 40, same_seeds=True)
    assert sorted({item.seed for item in same}) == [40, 41, 42]
    assert len({item.key for item in same}) == 15


def test_seeds_stay_in_range(masks):
    for base in range(200):
        assert 0 <= first_seed(base, {"a": "b"}) <= 2**31 - 2 - 1_000_000


def test_a_drawing_under_two_names_is_made_once_and_told(masks, spec):
    (masks / "copy.nii.gz").write_bytes((masks / "case 4.nii.gz").read_bytes())
    made, notes = list_items(find_sources([masks]), template(), spec, 2, 1)
    assert len(made) == 10
    assert notes == ["'copy' has the content of 'case 4': its volumes are made once, as of that"]


def test_a_file_that_cannot_be_read_is_one_item_that_says_so(masks, spec):
    sources = [*find_sources([masks]), Source("gone", masks / "gone.nii.gz")]
    made, _ = list_items(sources, template(), spec, 1, 1)
    assert [item.case for item in made if item.problem] == ["gone"]
    assert "gone.nii.gz' cannot be read" in made[-1].problem and made[-1].checksums == {}


@pytest.mark.skipif(shutil.which("mkfifo") is None, reason="no pipes here")
def test_what_is_no_file_is_one_item_that_says_so(masks, spec):
    subprocess.run(["mkfifo", str(masks / "pipe.nii.gz")], check=True)
    (masks / "loop.nii.gz").symlink_to(masks / "loop.nii.gz")
    made = items_of(masks, spec, samples=1)
    problems = {item.case: item.problem for item in made if item.problem}
    assert set(problems) == {"pipe", "loop"} and "it is no file" in problems["pipe"] and len(made) == 7


@pytest.mark.parametrize(("samples", "seed"), [(0, 1), (-1, 1), (2_000_000, 1), (1, -1), (1, 2**31)])
def test_numbers_out_of_range_are_refused(samples, seed):
    with pytest.raises(BadInput):
        check_numbers(samples, seed)


def test_seeds_that_two_segmentations_share_by_chance_are_counted(masks, spec, monkeypatch):
    monkeypatch.setattr(items, "_SEEDS", 3)
    made, notes = list_items(find_sources([masks]), template(), spec, 4, 1)
    shared = len(made) - len({item.seed for item in made})
    assert shared > 0
    assert f"{shared} of 20 volumes have by chance the seed of another segmentation's" in notes[0]


def test_more_samples_than_ever_keep_the_seeds(masks, spec):
    first = [items_of(masks, spec, samples=n)[0].seed for n in (1, 10_000, 10_001)]
    assert len(set(first)) == 1


def test_voxels_in_a_file_of_their_own_are_part_of_the_key(tmp_path, spec):
    for name, voxel in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        header = "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = seg.raw\n"
        (tmp_path / name / f"{name}.mhd").write_text(header)
        (tmp_path / name / "seg.raw").write_bytes(bytes([voxel]) * 8)
    sources = find_sources([tmp_path / "a", tmp_path / "b"])
    made, notes = list_items(sources, template(), spec, 1, 1)
    assert len(made) == 2 and not notes
    (tmp_path / "a" / "seg.raw").write_bytes(bytes([7]) * 8)
    assert list_items(sources, template(), spec, 1, 1)[0][0].key != made[0].key


@pytest.mark.parametrize(
    ("name", "header", "data"),
    [
        ("a.mhd", "NDims = 3\nElementDataFile = a.raw\n", "a.raw"),
        ("a.mha", "NDims = 3\nElementDataFile = LOCAL\nElementDataFile = a.raw\n", None),
        ("a.nhdr", "NRRD0004\ntype: uchar\ndata file: ./a.raw\nencoding: raw\n", "a.raw"),
        ("a.nrrd", "NRRD0004\ndatafile: a.raw\n\n", "a.raw"),
        ("a.nrrd", "NRRD0004\ntype: uchar\n\ndata file: a.raw\n", None),  # those are voxels
        ("a.mhd", "NDims = 3\nElementDataFile = ../a.raw\n", None),
        ("a.mhd", "NDims = 3\nElementDataFile = absent.raw\n", None),
        ("a.nii", "data file: a.raw\n", None),
    ],
)
def test_the_file_of_the_voxels_is_found(tmp_path, name, header, data):
    (tmp_path / "a.raw").write_bytes(b"1")
    (tmp_path / name).write_bytes(header.encode())
    assert detached_data(tmp_path / name) == (None if data is None else (tmp_path / data).resolve())


def test_shards_part_the_list_whatever_its_order(masks, spec):
    made = items_of(masks, spec, samples=40)
    shards = [shard_of(list(reversed(made)), number, 7) for number in range(1, 8)]
    assert sorted(item.key for shard in shards for item in shard) == sorted(item.key for item in made)
    assert all(10 < len(shard) < 50 for shard in shards)


def test_an_item_goes_through_json(masks, spec):
    item = items_of(masks, spec)[4]
    assert Item.from_json(item.to_json()) == item
    request = item.request(template(steps=3), Path("there"))
    assert (request.segmentation, request.seed, request.case) == (item.segmentation, item.seed, "case 1")
    assert (request.out, request.samples, request.steps) == (Path("there"), 1, 3)
