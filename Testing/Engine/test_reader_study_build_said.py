"""What building a study says of its sources: what is cut off and why, values that no scanner gives, leftovers of builds
that were killed, tables of patients as spreadsheets save them."""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study import equalise, leftovers
from SynthDiffusionLib.reader_study.build import build_study
from SynthDiffusionLib.reader_study.design import design_from_folders
from SynthDiffusionLib.reader_study.patients import LARGEST_TABLE_BYTES, read_patients

COUNT = 4


def put(path: Path, array: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)


@pytest.fixture
def sources(tmp_path) -> Path:
    rng = np.random.default_rng(5)
    for name, suffix in (("real", ""), ("fake", "_g_seed1")):
        (tmp_path / name).mkdir()
        for i in range(COUNT):
            put(tmp_path / name / f"c{i}{suffix}.nii.gz", rng.integers(-1000, 400, (16, 16, 16)).astype(np.int16))
    return tmp_path


def design(sources: Path, **options):
    return design_from_folders(sources / "real", {"g": sources / "fake"}, readers=["A"], **options)


def build(sources: Path, name: str = "study", **options):
    return build_study(design(sources, **options), sources / name, permutations=9)


def surveys(*shapes: tuple[int, int, int]) -> list[equalise.Survey]:
    return [equalise.Survey(s, (1.0, 1.0, 1.0), -1000.0, 400.0, 0.0, f"v{i}") for i, s in enumerate(shapes)]


def notes(*shapes: tuple[int, int, int], **blinding) -> str:
    return " ".join(equalise.choose_target(surveys(*shapes), [0, 1] * (len(shapes) // 2), blinding).notes)


# What is cut off


def test_a_short_volume_that_cuts_all_others_is_named(sources):
    put(sources / "real" / "c2.nii.gz", np.random.default_rng(0).integers(-1000, 400, (16, 20, 9)).astype(np.int16))
    result = build(sources)
    said = " ".join(result.notes)
    assert "16x16x9 voxels along R, A and S" in said and "with 16x16x16, 44 % are not shown" in said
    assert "'real/c2.nii.gz' has 9 voxels along S" in said
    assert said in " ".join(json.loads((result.private / "leaks.json").read_text())["notes"])


def test_how_much_is_cut_off_is_said():
    """16 x 16 x 9 of 16^3 is 9/16; of 32^3, a size that was asked for leaves 1/64."""
    assert notes((16, 16, 16), (16, 16, 16)) == ""
    assert notes((1000, 16, 16), (999, 16, 16)) == ""
    assert notes((32, 32, 32), (32, 32, 40), size=[8, 8, 8]) == (
        "Volumes are cut to their middle, 8x8x8 voxels along R, A and S: of the largest, 'v1' with 32x32x40, 99 % are "
        "not shown."
    )
    assert "99.99 % are not shown" in notes((500, 500, 500), (500, 500, 500), size=[23, 23, 23])
    assert "because 'v1' has 9 voxels along S." in notes((16, 16, 16), (16, 20, 9))
    many = notes((16, 16, 16), (9, 16, 16), (9, 16, 16), (9, 16, 14), (9, 16, 16), (9, 16, 16))
    assert "because 'v1', 'v2', 'v3' and 2 more have 9 voxels along R; 'v3' has 14 voxels along S" in many


def test_a_volume_that_leaves_nothing_in_common_is_named():
    coarse = equalise.Survey((16, 16, 16), (20.0, 1.0, 1.0), -1000.0, 400.0, 0.0, "coarse")
    said = (
        "0x16x16 voxels in common: 'v0' has 0 voxels along R; the spacing is the coarsest: 'coarse' has 20 mm along R"
    )
    with pytest.raises(BadInput, match=said):
        equalise.choose_target([coarse, *surveys((16, 16, 16))], [0, 1], {})
    thick = equalise.Survey((16, 16, 16), (1.0, 1.0, 2.5), -1000.0, 400.0, 0.0, "thick")
    (note, _) = equalise.choose_target([thick, *surveys((16, 16, 16))], [0, 1], {}).notes
    assert "The spacing is the coarsest: 'thick' has 2.5 mm along S." in note
    with pytest.raises(BadInput, match="14x16x16 voxels is what all have.: 'v1' has 14 voxels along R"):
        notes((16, 16, 16), (14, 16, 16), size=[16, 16, 16])


# Values that no scanner gives


@pytest.mark.parametrize(
    ("scale", "kind"), [(1e17, np.float32), (1e34, np.float32), (1e300, np.float64), (-2e6, np.float32)]
)
def test_values_that_no_scanner_gives_are_refused_before_anything_is_written(sources, scale, kind):
    put(sources / "fake" / "c1_g_seed1.nii.gz", (np.arange(4096.0).reshape(16, 16, 16) * scale).astype(kind))
    events: list[dict] = []
    with warnings.catch_warnings(), pytest.raises(BadInput, match=r"'c1_g_seed1\.nii\.gz' holds the value .* no CT"):
        warnings.simplefilter("error")
        build_study(design(sources), sources / "study", events.append, permutations=9)
    assert {e["stage"] for e in events} == {"look at the volumes"} and not (sources / "study").exists()


def test_a_scaling_that_leaves_no_number_is_refused_in_one_line(sources):
    path = sources / "real" / "c0.nii.gz"
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[112:116] = struct.pack("<f", 3e38)  # scl_slope
    path.write_bytes(gzip.compress(bytes(raw)))
    with warnings.catch_warnings(), pytest.raises(BadInput, match="c0.nii.gz: .* voxels are not finite"):
        warnings.simplefilter("error")
        build(sources)


def test_large_values_within_the_bound_are_taken(sources):
    for path in [*(sources / "real").iterdir(), *(sources / "fake").iterdir()]:
        array = np.asanyarray(nib.load(path).dataobj).astype(np.float64)
        put(path, array * (equalise.LARGEST_VALUE / np.abs(array).max()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build(sources, blinding={"intensity": "percentiles"}).volumes == 2 * COUNT


# Leftovers of builds that were killed

KILLED = """
import os, sys
from pathlib import Path
from SynthDiffusionLib.reader_study import leftovers
part = leftovers.make_part(Path(sys.argv[1]))
(part / leftovers.CONTENT).mkdir()
(part / leftovers.CONTENT / "half").write_text("x")
print(part, flush=True)
os._exit(9)
"""


def killed(folder: Path) -> Path:
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    return Path(done.stdout.strip())


def remade(part: Path, **changes) -> None:
    marker = part / leftovers.MARKER
    marker.write_text(json.dumps(json.loads(marker.read_text()) | changes))


def test_what_a_killed_build_left_goes_with_the_next_one(sources):
    part = killed(sources)
    result = build(sources)
    assert not part.exists() and not list(sources.glob(".part-*"))
    assert any(f"'{part}' was removed" in note for note in result.notes)
    assert build(sources, "again").notes == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"host": "elsewhere"}, "on the computer elsewhere"),
        ({"boot": "before"}, "cannot be seen from here"),
        ({"processes": "pid:[1]"}, "cannot be seen from here"),
        ({"pid": "x"}, "it does not say of which process"),
        ({"pid": 0}, "it does not say of which process"),
        ({"format": "x"}, "it does not say of which process"),
        ({"pid": os.getpid(), "started": None}, ""),
    ],
)
def test_what_may_still_be_written_is_left_and_told(tmp_path, changes, said):
    part = killed(tmp_path)
    remade(part, **changes)
    found = leftovers.remove_leftovers(tmp_path)
    assert (part / leftovers.CONTENT / "half").read_text() == "x"
    assert len(found) == bool(said) and said in " ".join(found)


def test_the_folder_of_a_build_that_runs_is_left(tmp_path):
    part = leftovers.make_part(tmp_path)
    assert leftovers.remove_leftovers(tmp_path) == [] and part.is_dir()
    remade(part, started=1.0)
    if leftovers._started(os.getpid()) is not None:  # a later process has the number
        assert "was removed" in leftovers.remove_leftovers(tmp_path)[0] and not part.exists()


def test_folders_of_others_are_left(tmp_path):
    other = killed(tmp_path)
    (other / "mine.txt").write_text("x")
    (tmp_path / ".part-empty").mkdir()
    (tmp_path / ".part-job").mkdir()
    (tmp_path / ".part-job" / "volume.nii.gz").write_text("x")
    old = tmp_path / ".part-old"
    (old / leftovers.CONTENT).mkdir(parents=True)
    (tmp_path / ".part-file").write_text("x")
    before = sorted(p.name for p in tmp_path.iterdir())
    (note,) = leftovers.remove_leftovers(tmp_path)
    assert str(old) in note and "does not say of which process" in note
    assert sorted(p.name for p in tmp_path.iterdir()) == before


# Tables of patients

ROWS = [(f"c{i}{suffix}.nii.gz", f"p{i}") for i in range(COUNT) for suffix in ("", "_g_seed1")]


def text(separator: str = ",", head: str = "file{}patient", end: str = "\n", more: str = "") -> str:
    return head.format(separator) + end + "".join(f"{a}{separator}{b}{end}" for a, b in ROWS) + more


@pytest.mark.parametrize(
    "raw",
    [
        text().encode("utf-8-sig"),
        text(";", end="\r\n").encode("utf-8-sig"),
        text("\t").encode("utf-16"),
        "\ufeff".encode("utf-16-be") + text(";").encode("utf-16-be"),
        text(head=" File{}PATIENT ").encode(),
        text(";", head='"file"{0}"Patient"{0}sex').encode(),
        text(end="\r").encode(),
        text(more=",\n\n").encode(),
    ],
)
def test_tables_of_patients_as_spreadsheets_save_them(sources, raw):
    (sources / "p.csv").write_bytes(raw)
    made = design(sources, patients=sources / "p.csv")
    assert {(c.image.name, c.patient) for c in made.cases} == set(ROWS)
    assert made.notes == ()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (text().replace("p1", "p\xfc").encode("latin-1"), "is not UTF-8 text. In a spreadsheet program, save it as"),
        (text().encode("utf-16-le"), "the character NUL, as text that is not UTF-8 does. In a spreadsheet program"),
        (b"\xff\xfe" + text().encode("utf-16-le")[:-1], "is not UTF-8 text"),
        (text(head="name{}patient").encode(), "lacks the columns file and patient"),
        (b"", "lacks the columns file and patient"),
        (b"file,patient\n", "no line below its header"),
        (b"file,patient\nc0.nii.gz\n", "line 2: the file or the patient is missing"),
        (b"x" * 200_000 + b",file,patient\nc0,p0\n", "is no CSV"),
        (text(more="c0.nii.gz,zz\n").encode(), "belongs to 'p0' and to 'zz'"),
    ],
)
def test_a_table_of_patients_that_cannot_be_read_says_how_to_save_it(tmp_path, raw, said):
    assert len(raw) < LARGEST_TABLE_BYTES
    (tmp_path / "p.csv").write_bytes(raw)
    with pytest.raises(BadInput) as caught:
        read_patients(tmp_path / "p.csv")
    assert said in caught.value.one_line()


def test_lines_of_files_that_are_not_in_the_study_are_told(sources):
    (sources / "p.csv").write_text(text(more="c9.nii.gz,p9\n"))
    (note,) = design(sources, patients=sources / "p.csv").notes
    assert note == "In 'p.csv', one line names a file that is not in the study: 'c9.nii.gz'."
    (sources / "p.csv").write_text(text(more="".join(f"x{i},p9\n" for i in range(5))))
    (note,) = design(sources, patients=sources / "p.csv").notes
    assert note == "In 'p.csv', 5 lines name files that are not in the study: 'x0', 'x1', 'x2' and 2 more."
