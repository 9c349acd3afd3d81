"""What cannot be used is refused with one line that names the file and the mend, before memory is spent."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.volumes import Volume, checks, from_label_map, read_segmentation, read_volume, write_volume

VOXELS = (np.arange(9 * 10 * 11).reshape(9, 10, 11) % 200).astype(np.int16)
SUFFIXES = [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"]


def _nifti(path, array, affine=None, **header):
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
    raw = image.header
    for key, value in header.items():
        raw[key] = value
    nib.save(image, path)
    return path


def _patch_nifti(path, offset, values, code):
    """Overwrite header fields in place (nibabel would mend or refuse them itself)."""
    data = bytearray(path.read_bytes())
    packed = np.array(values, dtype=code).tobytes()
    data[offset : offset + len(packed)] = packed
    path.write_bytes(data)
    return path


def _refused(read, path, match):
    with pytest.raises(BadInput, match=match) as caught:
        read(path)
    line = caught.value.one_line()
    assert "\n" not in line and caught.value.hint, "one line with a hint"
    assert path.name in line
    assert caught.value.exit_code == 2
    return caught.value


@pytest.mark.parametrize("read", [read_volume, read_segmentation])
@pytest.mark.parametrize("name", ["nothing here.nii.gz", "ü.nrrd", "no folder/a.mha", "x" * 300 + ".nii"])
def test_missing_file(tmp_path, read, name):
    _refused(read, tmp_path / name, "does not exist")


def test_folder_without_dicom(tmp_path):
    pytest.importorskip("pydicom")
    folder = tmp_path / "empty folder"
    folder.mkdir()
    _refused(read_volume, folder, "no DICOM images")
    (folder / "note.txt").write_text("hello")
    _refused(read_volume, folder, "no DICOM images")
    _refused(read_segmentation, folder, "is a folder")


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".seg.nrrd", ".txt", ".png", "", ".dcm", ".NII.GZ"])
@pytest.mark.parametrize("content", [b"", b"Not an image.\nIt is text: a line = 1\n" * 40, bytes(range(256)) * 8])
@pytest.mark.parametrize("read", [read_volume, read_segmentation])
def test_not_an_image(tmp_path, read, suffix, content):
    path = tmp_path / f"text{suffix}"
    path.write_bytes(content)
    _refused(read, path, "not|empty|truncated|cannot be read")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.6, 0.97])
def test_truncated(tmp_path, capfd, suffix, keep):
    path = tmp_path / f"cut{suffix}"
    rng = np.random.default_rng(0)
    write_volume(Volume(rng.integers(0, 99, (20, 21, 22)).astype(np.int16), np.eye(4)), path)
    target = path.with_suffix(".zraw") if suffix == ".mhd" else path
    data = target.read_bytes()
    target.write_bytes(data[: int(len(data) * keep)])
    _refused(read_volume, path, "truncated|too short|ends after|not a NIfTI|not a MetaImage|lacks|cannot be read")
    assert capfd.readouterr().err == "", "libraries print nothing of their own"


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_truncated_raw_data(tmp_path, suffix):
    path = tmp_path / f"raw{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(path), False)
    np.testing.assert_array_equal(read_volume(path).array, VOXELS.transpose(2, 1, 0))
    path.write_bytes(path.read_bytes()[:-100])
    _refused(read_volume, path, "too short")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_damaged_in_the_middle(tmp_path, suffix):
    path = tmp_path / f"bad{suffix}"
    rng = np.random.default_rng(0)
    write_volume(Volume(rng.integers(0, 9999, (20, 21, 22)).astype(np.int16), np.eye(4)), path)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8] = bytes(255 - b for b in data[middle : middle + 8])
    path.write_bytes(data)
    _refused(read_volume, path, "damaged|cannot be read")


def test_data_file_of_a_header_is_missing_or_elsewhere(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / "a.mhd"
    write_volume(Volume(VOXELS, np.eye(4)), path)
    (folder / "a.zraw").rename(tmp_path / "a.zraw")
    _refused(read_volume, path, "missing")
    path.write_text(path.read_text().replace("a.zraw", "../a.zraw"))
    _refused(read_volume, path, "outside its folder")
    nrrd.write(str(folder / "b.nhdr"), VOXELS, {"encoding": "raw"})
    (folder / "b.raw").unlink()
    _refused(read_volume, folder / "b.nhdr", "missing")


@pytest.mark.parametrize("read", [read_volume, read_segmentation])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".seg.nrrd", ".mha"])
def test_time_series_color_and_vectors(tmp_path, read, suffix):
    path = tmp_path / f"many{suffix}"
    if suffix == ".nii.gz":
        _nifti(path, np.ones((5, 6, 7, 3), np.int16))
        _refused(read, path, "4-D")
        rgb = np.zeros((5, 6, 7), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
        _refused(read, _nifti(tmp_path / "rgb.nii.gz", rgb), "color")
        _refused(read, _nifti(tmp_path / "complex.nii", np.zeros((5, 6, 7), np.complex64)), "complex")
        return
    image = sitk.GetImageFromArray(np.ones((5, 6, 7, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(path), True)
    _refused(read, path, "several values|vectors")
    series = sitk.GetImageFromArray(np.ones((4, 5, 6, 7), np.uint8), isVector=False)
    sitk.WriteImage(series, str(path), True)
    _refused(read, path, "4-D|spatial axes|scalar 3D")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_voxels_that_are_no_labels(tmp_path, suffix):
    labels = np.zeros((5, 6, 7), np.float32)
    labels[2, 2, 2] = 3
    path = tmp_path / f"labels{suffix}"
    write_volume(Volume(labels, np.eye(4)), path)
    segmentation = read_segmentation(path)  # whole numbers in floats are labels
    assert segmentation.layers[0].dtype == np.uint8 and [s.value for s in segmentation.segments] == [3]
    for wrong, match in ((np.nan, "not finite"), (np.inf, "not finite"), (-1, "negative"), (0.5, "fractions")):
        labels[0, 0, 0] = wrong
        write_volume(Volume(labels, np.eye(4)), path)
        _refused(read_segmentation, path, match)
    labels[0, 0, 0] = np.nan
    write_volume(Volume(labels, np.eye(4)), path)
    _refused(read_volume, path, "not finite")
    _refused(lambda p: read_volume(p, "label"), path, "not finite")


def test_an_image_instead_of_a_segmentation(tmp_path):
    path = tmp_path / "mr.nii.gz"
    write_volume(Volume(np.arange(3000, dtype=np.uint16).reshape(10, 15, 20), np.eye(4)), path)
    _refused(read_segmentation, path, "more than 1024 different values")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".seg.nrrd", ".mha"])
def test_empty_segmentation(tmp_path, suffix):
    path = tmp_path / f"empty{suffix}"
    write_volume(Volume(np.zeros((5, 6, 7), np.uint8), np.eye(4), "label"), path)
    _refused(read_segmentation, path, "empty")


@pytest.mark.parametrize("pixdim", [(0, 1, 1), (1, -2, 1), (1, 1, np.nan), (np.inf, 1, 1)])
@pytest.mark.parametrize("read", [read_volume, read_segmentation])
def test_nifti_spacing(tmp_path, read, pixdim):
    path = _patch_nifti(_nifti(tmp_path / "a.nii", VOXELS), 80, pixdim, "<f4")
    _refused(read, path, "spacing")


@pytest.mark.parametrize(
    "rows, match",
    [([(0, 0, 0, 5), (0, 1, 0, 0), (0, 0, 1, 0)], "spacing"), ([(1, 1, 0, 0), (0, 0, 0, 0), (0, 0, 1, 0)], "singular"),
     ([(np.nan, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0)], "not finite")],
)  # fmt: skip
def test_nifti_affine(tmp_path, rows, match):
    path = _patch_nifti(_nifti(tmp_path / "a.nii", VOXELS), 280, rows, "<f4")  # srow_x, srow_y, srow_z
    _refused(read_volume, path, match)


@pytest.mark.parametrize(
    "directions, match",
    [("(1,0,0) (0,0,0) (0,0,1)", "spacing"), ("(1,0,0) (1,0,0) (0,0,1)", "singular"),
     ("(1,0,0) (0,inf,0) (0,0,1)", "not finite"), ("(1,0,0) none (0,0,1)", "spatial axes"),
     ("(1,0,0) (0,1) (0,0,1)", "cannot be read|spatial axes")],
)  # fmt: skip
def test_nrrd_directions(tmp_path, directions, match):
    path = tmp_path / "a.nrrd"
    write_volume(Volume(VOXELS, np.eye(4)), path)
    head, data = path.read_bytes().split(b"\n\n", 1)
    lines = [
        f"space directions: {directions}".encode() if line.startswith(b"space directions") else line
        for line in head.split(b"\n")
    ]
    path.write_bytes(b"\n".join(lines) + b"\n\n" + data)
    _refused(read_volume, path, match)


@pytest.mark.parametrize("spacing", ["1 0 1", "1 -1 1", "nan 1 1"])
def test_metaimage_spacing(tmp_path, spacing):
    path = tmp_path / "a.mha"
    write_volume(Volume(VOXELS, np.eye(4)), path)
    path.write_bytes(path.read_bytes().replace(b"ElementSpacing = 1 1 1", f"ElementSpacing = {spacing}".encode()))
    _refused(read_volume, path, "spacing")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("shape, match", [((1, 1, 1), "single voxel"), ((9, 8, 1), "slice"), ((1, 8, 9), "slice")])
@pytest.mark.parametrize("read", [read_volume, read_segmentation])
def test_too_thin(tmp_path, read, suffix, shape, match):
    path = tmp_path / f"thin{suffix}"
    write_volume(Volume(np.ones(shape, np.uint8), np.eye(4)), path)
    _refused(read, path, match)


def test_two_dimensions(tmp_path):
    _refused(read_volume, _nifti(tmp_path / "a.nii", np.ones((8, 9), np.int16)), "2-D")
    for name in ("a.nrrd", "a.mha"):
        sitk.WriteImage(sitk.GetImageFromArray(np.ones((8, 9), np.int16)), str(tmp_path / name))
        _refused(read_volume, tmp_path / name, "2-D|2 spatial axes")


def _bomb(path, side):
    """A file of a few kilobytes whose header declares side^3 voxels of 16 bits."""
    if path.name.endswith(".nrrd"):
        head = f"NRRD0004\ntype: short\ndimension: 3\nsizes: {side} {side} {side}\nendian: little\nencoding: gzip\n\n"
        path.write_bytes(head.encode() + gzip.compress(bytes(100_000)))
    elif path.name.endswith(".mha"):
        head = (f"ObjectType = Image\nNDims = 3\nCompressedData = True\nDimSize = {side} {side} {side}\n"
                "ElementType = MET_SHORT\nElementDataFile = LOCAL\n")  # fmt: skip
        path.write_bytes(head.encode() + zlib.compress(bytes(100_000)))
    else:
        header = nib.Nifti1Header()
        header.set_data_dtype(np.int16)
        header.set_data_shape((side, side, side))
        header["vox_offset"] = 352
        header["magic"] = b"n+1"
        data = header.binaryblock + bytes(4 + 100_000)
        path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("side, match", [(2000, "2000 x 2000 x 2000"), (1000, "too short")])
@pytest.mark.parametrize("read", [read_volume, read_segmentation])
def test_a_header_that_declares_too_much_costs_nothing(tmp_path, read, suffix, side, match):
    path = _bomb(tmp_path / f"bomb{suffix}", side)
    small = tmp_path / f"small{suffix}"
    write_volume(Volume(VOXELS, np.eye(4)), small)
    read(small)  # imports are not what is measured
    tracemalloc.start()
    try:
        _refused(read, path, match)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii.gz"])
def test_data_that_unpacks_to_more_than_declared_is_not_unpacked(tmp_path, suffix):
    """64 MB of zeros behind a header of 5 x 6 x 7 voxels: at most a few chunks are ever held."""
    path = tmp_path / f"long{suffix}"
    write_volume(Volume(np.ones((5, 6, 7), np.int16), np.eye(4)), path)
    if suffix == ".nii.gz":
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(64 << 20), 1))
    else:
        end = b"\n\n" if suffix == ".nrrd" else b"LOCAL\n"
        head, _ = path.read_bytes().split(end, 1)
        pack = gzip.compress if suffix == ".nrrd" else zlib.compress
        path.write_bytes(head + end + pack(np.ones(210, "<i2").tobytes() + bytes(64 << 20), 1))
    tracemalloc.start()
    try:
        volume = read_volume(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert volume.array.sum() == 210
    assert peak < 32 << 20


def test_a_single_dicom_file_is_no_volume(tmp_path):
    path = tmp_path / "slice.dcm"
    path.write_bytes(bytes(128) + b"DICM" + bytes(200))
    _refused(read_volume, path, "one file of a DICOM series")
    pytest.importorskip("highdicom")
    _refused(read_segmentation, path, "cannot be read|not a segmentation")


def test_size_of_more_than_the_free_memory(tmp_path, monkeypatch):
    from SynthDiffusionLib.volumes import checks

    path = tmp_path / "a.nii.gz"
    write_volume(Volume(VOXELS, np.eye(4)), path)
    monkeypatch.setattr(checks, "_free_memory", lambda: 1000)
    _refused(read_volume, path, "GiB of memory")


def _raw_nrrd(path, data=None, **fields):
    """A valid 4 x 4 x 4 file, but for the fields given (None leaves one out)."""
    lines = {
        "type": "uint8",
        "dimension": 3,
        "space": "left-posterior-superior",
        "sizes": "4 4 4",
        "space directions": "(1,0,0) (0,1,0) (0,0,1)",
        "encoding": "raw",
    } | {name.replace("_", " "): value for name, value in fields.items()}
    text = "NRRD0004\n" + "".join(f"{k}: {v}\n" for k, v in lines.items() if v is not None) + "\n"
    path.write_bytes(text.encode() + (bytes(range(64)) if data is None else data))
    return path


ZIPPED = gzip.compress(bytes(64), mtime=0)  # with the time in it, test processes would name their tests differently


@pytest.mark.parametrize(
    "fields, data, match",
    [
        ({"encoding": "ascii"}, b"1 2 3", "too short"),
        ({"encoding": "ascii"}, b"1 " * 65, "cannot be read as NRRD"),
        ({"encoding": "ascii"}, b"1 2 x " * 64, "cannot be read as NRRD"),
        ({"encoding": "ascii", "line skip": 10**9}, b"1 " * 64, "lines that its header says to skip"),
        ({"line skip": 10**9}, None, "lines that its header says to skip"),
        ({"line skip": -1}, None, "negative number of lines"),
        ({"byte skip": -5}, None, "negative number of lines or bytes"),
        ({"byte skip": 10**30, "encoding": "gzip"}, ZIPPED, "bytes that its header says to skip"),
        ({"space origin": "(0,0)"}, None, "three numbers"),
        ({"space directions": None, "space": None, "spacings": "1 1"}, None, "2 spacings for 3 axes"),
        ({"sizes": "4.5 4 4"}, None, 'the size "4.5"'),
        ({"sizes": "1" + "0" * 5000 + " 4 4"}, None, 'the size "1000'),
        ({"dimension": 9}, None, "9 axes and the sizes of 3"),
        ({"space directions": "(nan,0,0) (0,1,0) (0,0,1)"}, None, "not finite"),
    ],
)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("read", [read_volume, read_segmentation])
def test_damaged_nrrd_headers(tmp_path, read, fields, data, match):
    _refused(read, _raw_nrrd(tmp_path / "a.nrrd", data, **fields), match)


@pytest.mark.parametrize(
    "fields, data",
    [
        ({}, None),
        ({"encoding": "ascii"}, " ".join(map(str, range(64))).encode()),
        ({"line skip": 2, "byte skip": 3}, b"a\nb\nccc" + bytes(range(64))),
        ({"line skip": 1, "byte skip": 2, "encoding": "ascii"}, b"a\ncc" + " ".join(map(str, range(64))).encode()),
        ({"byte skip": -1}, b"anything" + bytes(range(64))),
    ],
)
def test_the_same_nrrd_undamaged_is_read(tmp_path, fields, data):
    array = read_volume(_raw_nrrd(tmp_path / "a.nrrd", data, **fields)).array
    assert np.array_equal(array.ravel(order="F"), np.arange(64))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("spacing", [1e-5, 1e5])
def test_voxels_of_an_impossible_size(tmp_path, suffix, spacing):
    path = tmp_path / f"a{suffix}"
    write_volume(Volume(VOXELS, np.diag([spacing, 1, 1, 1.0]), "HU"), path)
    _refused(read_volume, path, "implausible .*metres or microns")
    write_volume(Volume(VOXELS, np.diag([0.001, 1000, 1, 1.0]), "HU"), path)
    assert read_volume(path).shape == VOXELS.shape


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_an_image_is_known_by_its_first_slices(monkeypatch, dtype):
    counted = []
    monkeypatch.setattr(checks, "_values_in", lambda part: counted.append(1) or np.unique(part))
    with pytest.raises(BadInput, match="more than 1024 different values"):
        from_label_map(np.arange(40**3, dtype=dtype).reshape(40, 40, 40, order="F"), np.eye(4), "a.nii")
    assert len(counted) == 1
    monkeypatch.undo()
    labels = np.zeros((3, 3, 3), dtype)
    labels[1, 1, 1:] = [7, np.iinfo(dtype).max]  # one slice is counted in a table, one is sorted
    assert checks.label_values(labels, "a.nii") == [7, np.iinfo(dtype).max]
