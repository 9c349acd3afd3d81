"""Writing: whole files or none, the same bytes each time, types and metadata kept, any path."""

from __future__ import annotations

import errno
import gzip
import os
import sys
import time
import zlib
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk

from SynthDiffusionLib.errors import BadInput, RunFailed
from SynthDiffusionLib.volumes import Segment, Segmentation, Volume, read_volume, write_segmentation, write_volume
from SynthDiffusionLib.volumes.atomic import GREY_LEVEL, LABEL_LEVEL

SUFFIXES = [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"]
DTYPES = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64]


def _volume(dtype=np.int16, **changes) -> Volume:
    array = (np.arange(6 * 7 * 8).reshape(6, 7, 8) % 100).astype(dtype)
    return Volume(array, np.diag([0.7, 0.8, 1.5, 1.0]), **changes)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_types_are_kept(tmp_path, suffix, dtype):
    volume = _volume(dtype)
    path = tmp_path / f"a{suffix}"
    write_volume(volume, path)
    array = read_volume(path).array
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, volume.array)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T, volume.array)


@pytest.mark.parametrize(
    "dtype, stored", [(bool, np.uint8), (np.float16, np.float32), (np.int64, np.int16), (">i2", np.int16)]
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_types_without_a_place_in_files_are_stored_in_the_next(tmp_path, suffix, dtype, stored):
    volume = _volume(dtype)
    write_volume(volume, tmp_path / f"a{suffix}")
    array = read_volume(tmp_path / f"a{suffix}").array
    assert array.dtype == stored
    np.testing.assert_array_equal(array, volume.array)


def test_a_value_beyond_32_bits_is_refused(tmp_path):
    volume = Volume(np.full((3, 3, 3), 2**40), np.eye(4))
    with pytest.raises(BadInput, match="32 bits"):
        write_volume(volume, tmp_path / "a.nrrd")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".seg.nrrd"])
def test_the_same_voxels_give_the_same_bytes(tmp_path, monkeypatch, suffix):
    """Whatever the time, the file's name and the memory layout of the array."""
    volume = _volume(metadata={"description": "Synthetic", "b": "2"})
    other = volume.with_array(np.asfortranarray(volume.array))
    paths = [tmp_path / f"one{suffix}", tmp_path / f"b{suffix}"]
    if suffix == ".mhd":  # its header names the data file
        paths = [tmp_path / "1" / "a.mhd", tmp_path / "2" / "a.mhd"]
        for path in paths:
            path.parent.mkdir()
    for path, item in zip(paths, (volume, other), strict=True):
        if suffix == ".seg.nrrd":
            write_segmentation(Segmentation((item.array.astype(np.uint8),), item.affine, (Segment("a", 1),)), path)
        else:
            write_volume(item, path)
        monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    if suffix == ".mhd":
        assert paths[0].with_suffix(".zraw").read_bytes() == paths[1].with_suffix(".zraw").read_bytes()


def test_the_gzip_header_names_no_time_and_no_file(tmp_path):
    write_volume(_volume(), tmp_path / "secret name.nii.gz")
    head = (tmp_path / "secret name.nii.gz").read_bytes()[:10]
    assert head[3] == 0 and head[4:8] == bytes(4)  # RFC 1952: FLG, MTIME


def test_nrrd_metadata_round_trip(tmp_path):
    metadata = {
        "description": "SYNTHETIC volume, not a patient",
        "SynthDiffusion.model": "lung-nodule-ct",
        "note": "line one\nline two \\ backslash, \\n, equals :=, colon: ä ☃",
        "empty": "",
    }
    write_volume(_volume(metadata=metadata), tmp_path / "a.nrrd")
    assert read_volume(tmp_path / "a.nrrd").metadata == metadata
    plain = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    assert plain.GetMetaData("SynthDiffusion.model") == "lung-nodule-ct"
    assert nrrd.read_header(str(tmp_path / "a.nrrd"))["description"] == metadata["description"]


@pytest.mark.parametrize("key", ["", " a", "a:b", "#a", "a\nb"])
def test_metadata_keys_that_would_break_a_header(tmp_path, key):
    with pytest.raises(BadInput, match="metadata key"):
        write_volume(_volume(metadata={key: "x"}), tmp_path / "a.nrrd")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_grey_values_and_labels_are_packed_by_the_level_that_suits_them(tmp_path, suffix):
    """What is packed alike by zlib has been packed by that level."""
    array = np.random.default_rng(3).normal(40, 12, (64, 48, 20)).astype(np.int16)
    for unit, level in (("HU", GREY_LEVEL), ("label", LABEL_LEVEL)):
        labels = (array > 40).astype(np.uint8)
        path = tmp_path / f"{unit}{suffix}"
        write_volume(Volume(labels if unit == "label" else array, np.eye(4), unit), path)
        packed = path.read_bytes()
        packed = packed[packed.index(b"\x1f\x8b") :]
        sizes = {n: len(zlib.compress(gzip.decompress(packed), n, wbits=31)) for n in (1, 3, 6, 9)}
        assert min(sizes, key=lambda n: abs(sizes[n] - len(packed))) == level
        assert len(set(sizes.values())) == 4


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
def test_description(tmp_path, suffix):
    write_volume(_volume(metadata={"description": "Synthetic: SynthDiffusion"}), tmp_path / f"a{suffix}")
    assert read_volume(tmp_path / f"a{suffix}").metadata["description"] == "Synthetic: SynthDiffusion"


def test_nifti_description_is_cut_at_79_bytes_and_at_a_whole_letter(tmp_path):
    write_volume(_volume(metadata={"description": "x" * 78 + "äöü"}), tmp_path / "a.nii")
    header = nib.load(tmp_path / "a.nii").header
    assert bytes(header["descrip"].item()) == b"x" * 78
    assert header.get_xyzt_units()[0] == "mm"
    write_volume(_volume(metadata={"description": "y" * 200}), tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").metadata == {"description": "y" * 79}


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".NII.GZ", ".Nrrd", ".MHA"])
def test_blanks_umlauts_and_long_paths(tmp_path, suffix):
    folder = tmp_path / "Ordner mit Leerzeichen ü ☃"
    folder = folder / ("long " * 40)[: max(8, 200 - len(str(folder)))].strip()
    folder.mkdir(parents=True)
    path = folder / f"Fäll 1.5mm{suffix}"
    assert len(str(path)) > 200
    volume = _volume()
    write_volume(volume, path)
    np.testing.assert_array_equal(read_volume(path).array, volume.array)
    if suffix in (".mhd", ".mha"):
        assert sitk.GetArrayFromImage(sitk.ReadImage(str(path))).shape == (8, 7, 6)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows counts the whole path")
def test_the_name_may_be_as_long_as_the_system_allows(tmp_path):
    path = tmp_path / ("n" * 240 + ".nii.gz")
    write_volume(_volume(), path)
    assert read_volume(path).shape == (6, 7, 8)
    with pytest.raises(BadInput, match="too long|does not exist"):
        write_volume(_volume(), tmp_path / ("n" * 300 + ".nii.gz"))


def test_wrong_suffix_lies_are_seen_through(tmp_path):
    """Packed without .gz, plain with it: other programs write both."""
    write_volume(_volume(), tmp_path / "a.nii.gz")
    (tmp_path / "b.nii").write_bytes((tmp_path / "a.nii.gz").read_bytes())
    (tmp_path / "c.nii.gz").write_bytes(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    for name in ("b.nii", "c.nii.gz"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, _volume().array)


@pytest.mark.parametrize("name", ["a.png", "a", "a.nii.bz2", "a.nhdr"])
def test_unknown_output_format(tmp_path, name):
    with pytest.raises(BadInput, match="cannot be written in this format"):
        write_volume(_volume(), tmp_path / name)


def test_missing_output_folder(tmp_path):
    with pytest.raises(BadInput, match="does not exist") as caught:
        write_volume(_volume(), tmp_path / "no" / "a.nrrd")
    assert str(tmp_path / "no") in caught.value.message


def test_output_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("this user, or this system, may write there all the same")
    try:
        with pytest.raises(BadInput, match="no permission"):
            write_volume(_volume(), tmp_path / "a.nrrd")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "code, kind, match",
    [(errno.ENOSPC, RunFailed, "No space left"), (errno.EACCES, BadInput, "no permission"),
     (errno.EROFS, BadInput, "no permission"), (errno.EIO, RunFailed, "cannot be written")],
)  # fmt: skip
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, suffix, code, kind, match):
    path = tmp_path / f"a{suffix}"
    write_volume(_volume(), path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real_open = open

    class Full:
        """A file on a disk that fills up after 100 bytes."""

        def __init__(self, file):
            self.file, self.written = file, 0

        def write(self, data):
            self.written += len(data)
            if self.written > 100:
                raise OSError(code, os.strerror(code))
            return self.file.write(data)

        def read(self, *size):  # nibabel looks for it on the class
            return self.file.read(*size)

        def writelines(self, parts):
            for part in parts:
                self.write(part)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            self.file.close()

    monkeypatch.setattr("SynthDiffusionLib.volumes.atomic.open", lambda *a: Full(real_open(*a)), raising=False)
    rng = np.random.default_rng(0)
    with pytest.raises(kind, match=match) as caught:
        write_volume(_volume().with_array(rng.integers(0, 999, (6, 7, 8)).astype(np.int16)), path)
    assert caught.value.hint and "\n" not in caught.value.one_line()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_the_real_error_of_a_full_disk(tmp_path):
    from SynthDiffusionLib.volumes.atomic import writing_error

    with pytest.raises(OSError) as caught, open("/dev/full", "wb") as file:
        file.write(bytes(100_000))
    assert isinstance(writing_error(caught.value, tmp_path / "a.nrrd"), RunFailed)


def test_replace_is_tried_again_while_windows_holds_the_file(tmp_path, monkeypatch):
    from SynthDiffusionLib.volumes import atomic

    calls = []
    real = os.replace

    def held(source, target):
        calls.append(target)
        if len(calls) < 3:
            raise PermissionError(errno.EACCES, "held by a scanner")
        real(source, target)

    monkeypatch.setattr(atomic, "_RETRIES_PERMISSION", True)
    monkeypatch.setattr(atomic.os, "replace", held)
    write_volume(_volume(), tmp_path / "a.nrrd")
    assert len(calls) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["a.nrrd"]


def test_an_interrupt_leaves_nothing(tmp_path):
    from SynthDiffusionLib.volumes.atomic import atomic_path

    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a.png") as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_metadata_of_a_segmentation(tmp_path):
    segmentation = Segmentation((np.ones((3, 4, 5), np.uint8),), np.eye(4), (Segment("a", 1),))
    for suffix in (".seg.nrrd", ".nii.gz"):
        write_segmentation(segmentation, tmp_path / f"a{suffix}", {"description": "SYNTHETIC"})
        assert read_volume(tmp_path / f"a{suffix}").metadata["description"] == "SYNTHETIC"


def test_several_layers_do_not_fit_into_a_label_map(tmp_path):
    layer = np.ones((3, 4, 5), np.uint8)
    segmentation = Segmentation((layer, layer), np.eye(4), (Segment("a", 1), Segment("b", 1, 1)))
    with pytest.raises(BadInput, match="overlapping"):
        write_segmentation(segmentation, tmp_path / "a.nii.gz")
