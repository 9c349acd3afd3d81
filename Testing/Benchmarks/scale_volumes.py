"""What a volume costs beside the network: ways to store it, and every step of a worker, measured; see `scale_costs`.

Seconds are processor time, system calls included, since machines are shared: what a thread takes that has a core for
itself and does not wait for a disk.
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from SynthDiffusionLib.volumes import Volume, read_segmentation, read_volume, write_volume

ROOT = Path(__file__).resolve().parents[2]
_DATA = os.environ.get("SYNTHDIFFUSION_SHARED_DATA") or ROOT.parent / "shared" / "data"
INPUTS = Path(_DATA) / "inputs" / "abdomen"
CT, CT_DRAWING = "dicom_ct_20slices", "example_seg_dicom.nii.gz"
SAMPLE_MODEL, SAMPLE_DRAWING = "lung-nodule-ct", ROOT / "Resources" / "Segmentations" / "pleural-nodule.seg.nrrd"
CT_NAME, SAMPLE_NAME = "real CT", "synthetic CT"
FLOAT_CHOICES = ("not", ".nii.gz, gzip 3", ".nii.gz, gzip 6")
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Content:
    """A volume of the size in question.

    Args:
        name: in the tables.
        about: where its voxels come from.
        volume: CT, int16, in HU.
        drawing: (I, J, K) uint8 label values on the same grid.
        labels: from label values to classes, for each preset that can take the drawing.
    """

    name: str
    about: str
    volume: Volume
    drawing: np.ndarray
    labels: dict[str, dict[str, str | None]]


def contents(inputs: Path, size: Shape, steps: int | None, folder: Path) -> list[Content]:
    """What is compressed: a synthetic CT, and a real one if it is at hand.

    Args:
        inputs: folder with `CT` and `CT_DRAWING`.
        size: (I, J, K).
        steps: of the sample's denoising; None: the model's default.
        folder: for the sample.
    """
    found = [real_content(inputs, size)] if (inputs / CT).is_dir() else []
    return [*found, sample_content(size, steps, folder)]


def real_content(inputs: Path, size: Shape) -> Content:
    """Native slices of 512 x 512 with their own noise, one after the other, and again from the first."""
    from SynthDiffusionLib.labels.label_map import read_label_map

    image, drawing = read_volume(inputs / CT), read_segmentation(inputs / CT_DRAWING)
    arrays = (_repeated(image.array, size), _repeated(drawing.layers[0], size))
    labels = {
        "medlord-x4": {str(value): "lung" for value in np.unique(arrays[1]) if value},
        "maisi-rflow": read_label_map("totalsegmentator-v2-to-maisi"),
    }
    about = (
        f"{image.array.shape[2]} native slices of an abdominal CT, repeated along z; a period is longer than the reach "
        "of every packer here"
    )
    return Content(CT_NAME, about, Volume(arrays[0].astype(np.int16), image.affine, "HU"), arrays[1], labels)


def sample_content(size: Shape, steps: int | None, folder: Path) -> Content:
    """One sample of a shipped model, turned and mirrored in all 48 ways and shifted, so that no two rows repeat within
    the reach of deflate."""
    from SynthDiffusionLib.jobs.request import GenerateRequest
    from SynthDiffusionLib.jobs.runner import run

    request = GenerateRequest(SAMPLE_DRAWING, SAMPLE_MODEL, folder, device="cpu", seed=1, steps=steps)
    sample = read_volume(run(request).outputs[0]["volume"], unit="HU")
    side = min(sample.shape)
    cube = sample.array[:side, :side, :side]
    across = [math.ceil(n / side) for n in size]
    rows = (np.concatenate([_turned(cube, across[0] * j + i) for i in range(across[0])], 0) for j in range(across[1]))
    array = np.tile(np.concatenate(list(rows), 1), (1, 1, across[2]))[: size[0], : size[1], : size[2]]
    drawing = (array > -500).astype(np.uint8)
    about = f"a sample of `{SAMPLE_MODEL}` ({steps or 'default'} steps), turned and mirrored in 48 ways side by side"
    affine = np.diag([-0.9765625, -0.9765625, 2.0, 1.0])
    volume = Volume(np.ascontiguousarray(array), affine, "HU")
    return Content(SAMPLE_NAME, about, volume, drawing, {"medlord-x4": {"1": "lung"}})


def _repeated(array: np.ndarray, size: Shape) -> np.ndarray:
    first = [max(0, (m - n) // 2) for m, n in zip(array.shape, size)]
    cut = array[tuple(slice(f, f + n) for f, n in zip(first, size))]
    return np.ascontiguousarray(np.pad(cut, [(0, n - m) for n, m in zip(size, cut.shape)], mode="wrap"))


def _turned(cube: np.ndarray, number: int) -> np.ndarray:
    axes = list(itertools.permutations(range(3)))[number % 6]
    flips = [axis for axis in range(3) if number // 6 >> axis & 1]
    return np.roll(np.flip(cube.transpose(axes), flips), 5 * number, 2)


# ---- compression --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A way to store a volume.

    Args:
        name: in the tables.
        suffix: of the file.
        packed: gives a packing stream on an open file; None: `write_volume` does all.
        unpacked: gives an unpacking stream; None: `read_volume` does all.
        note: who reads it.
    """

    name: str
    suffix: str
    packed: Callable[[BinaryIO], Any] | None = None
    unpacked: Callable[[BinaryIO], Any] | None = None
    note: str = ""


def choices() -> Iterator[Choice]:
    """Ways to store; those of packages that are not installed are left out."""
    from SynthDiffusionLib.volumes.atomic import GREY_LEVEL, gzip_stream

    yield Choice("not compressed (.nii)", ".nii")
    for level in (1, 3, 6, 9):
        ours = " (ours)" if level == GREY_LEVEL else ""
        yield Choice(f".nii.gz, gzip {level}{ours}", ".nii.gz", lambda f, n=level: gzip_stream(f, n))
    yield Choice(f".nrrd, gzip {GREY_LEVEL} (ours)", ".nrrd")
    try:
        from isal import igzip

        for level in (1, 3):
            yield Choice(
                f".nii.gz, ISA-L {level}",
                ".nii.gz",
                lambda f, n=level: igzip.IGzipFile(fileobj=f, mode="wb", compresslevel=n, mtime=0),
            )
    except ImportError:
        pass
    try:
        from zlib_ng import gzip_ng

        for level in (2, 6):
            yield Choice(
                f".nii.gz, zlib-ng {level}",
                ".nii.gz",
                lambda f, n=level: gzip_ng.GzipNGFile(fileobj=f, mode="wb", compresslevel=n, mtime=0),
            )
    except ImportError:
        pass
    try:
        import zstandard

        for level in (1, 3):
            yield Choice(
                f".nii.zst, Zstandard {level}",
                ".nii.zst",
                lambda f, n=level: zstandard.ZstdCompressor(level=n).stream_writer(f, closefd=False),
                lambda f: zstandard.ZstdDecompressor().stream_reader(f),
                "no radiology program reads it",
            )
    except ImportError:
        pass


def compression(content: Content, folder: Path, repeats: int, floats: bool) -> list[dict[str, Any]]:
    """Every choice, several times, in turn, so that whatever else the machine does strikes all of them alike.

    Args:
        content: in int16, which our writer stores.
        folder: for the files.
        repeats: medians of so many.
        floats: also in float32, with fractions beside the whole HU, as a network gives them.

    Returns:
        a row for each choice and type: "content", "type", "choice", "write_s", "read_s", "bytes", "raw_bytes",
        "runs", "exact".
    """
    whole = content.volume
    kinds = {"int16": whole}
    if floats:
        fractions = np.random.default_rng(1).uniform(-0.5, 0.5, whole.shape).astype(np.float32)
        kinds["float32"] = whole.with_array(whole.array + fractions)
    rows = []
    for kind, volume in kinds.items():
        few = [c for c in choices() if kind == "int16" or c.name.startswith(FLOAT_CHOICES)]
        taken: dict[str, list[tuple[float, float]]] = {c.name: [] for c in few}
        sizes, exact = {}, {}
        for _ in range(repeats):
            for choice in few:
                path = folder / f"volume{choice.suffix}"
                began = time.process_time()
                _write(volume, path, choice)
                written = time.process_time() - began
                sizes[choice.name] = path.stat().st_size
                began = time.process_time()
                array = _read(path, choice, volume)
                taken[choice.name].append((written, time.process_time() - began))
                exact[choice.name] = bool(np.array_equal(array, volume.array))
                path.unlink()
        for choice in few:
            write_s, read_s = (statistics.median(column) for column in zip(*taken[choice.name]))
            rows.append(
                {
                    "content": content.name,
                    "type": kind,
                    "choice": choice.name,
                    "write_s": write_s,
                    "read_s": read_s,
                    "bytes": sizes[choice.name],
                    "raw_bytes": int(volume.array.nbytes),
                    "runs": repeats,
                    "exact": exact[choice.name],
                    "note": choice.note,
                }
            )
    return rows


def _write(volume: Volume, path: Path, choice: Choice) -> None:
    import nibabel as nib

    if choice.packed is None:
        write_volume(volume, path)
        return
    with path.open("wb") as file, choice.packed(file) as stream:
        image = nib.Nifti1Image(volume.array, volume.affine)
        if choice.suffix == ".nii.zst":  # its stream lacks what nibabel asks for
            stream.write(image.to_bytes())
        else:
            image.to_stream(stream)


def _read(path: Path, choice: Choice, like: Volume) -> np.ndarray:
    if choice.unpacked is None:
        return read_volume(path).array
    with path.open("rb") as file, choice.unpacked(file) as stream:
        voxels = stream.read(352 + like.array.nbytes)[352:]  # NIfTI-1's header and the four bytes behind it
    return np.frombuffer(voxels, like.array.dtype).reshape(like.shape, order="F")


# ---- the life of a volume -----------------------------------------------------------------------------------------


class _Network:
    """A backend that has the volume ready."""

    weight_bytes = 0

    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    def sample(self, condition: Any, *_: Any, **__: Any) -> np.ndarray:
        shape = condition.shape
        if self._values.shape == shape:
            return self._values
        return np.pad(self._values, [(0, max(0, n - m)) for n, m in zip(shape, self._values.shape)], mode="wrap")[
            tuple(slice(0, n) for n in shape)
        ]


def life(preset: str, content: Content, folder: Path, repeats: int) -> dict[str, Any]:
    """All that a batch's worker does for a volume, but for the network, by the code that workers use.

    Args:
        preset: whose labels, grid and intensities count.
        content: drawing, and what the network is taken to have given.
        folder: for the files.
        repeats: medians of so many.

    Returns:
        "preset", "content", "shape"; "seconds" by step; "mask_bytes", "volume_bytes", "other_bytes" (of record, contact
        sheet and item file), "files"; "calls": what was asked of the file system of the batch's folder, by kind.
    """
    from SynthDiffusionLib.models.presets import load_preset

    folder.mkdir()
    mask = folder / "mask.nii.gz"
    write_volume(Volume(content.drawing, content.volume.affine, "label"), mask)
    spec = load_preset(preset)
    runs, told = [], {}
    for number in range(repeats):
        taken, told = _one_life(spec, content, mask, folder / f"batch-{number}", number)
        runs.append(taken)
    seconds = {step: statistics.median(run[step] for run in runs) for step in runs[0]}
    return {"preset": preset, "content": content.name, "runs": repeats, "seconds": seconds} | told


def _one_life(spec: Any, content: Content, mask: Path, out: Path, seed: int) -> tuple[dict[str, float], dict[str, Any]]:
    from SynthDiffusionLib.batch.items import Item, key_of
    from SynthDiffusionLib.batch.store import Store
    from SynthDiffusionLib.contact_sheet import write_contact_sheet
    from SynthDiffusionLib.intensity import normalise
    from SynthDiffusionLib.jobs import provenance
    from SynthDiffusionLib.jobs.outputs import header_marks, limits_of
    from SynthDiffusionLib.jobs.preparation import prepare, resolve_settings, sample_paths
    from SynthDiffusionLib.jobs.request import GenerateRequest
    from SynthDiffusionLib.jobs.synthesis import whole
    from SynthDiffusionLib.jobs.writing import make_record
    from SynthDiffusionLib.memory.devices import budget_for
    from SynthDiffusionLib.memory.plan import planned
    from SynthDiffusionLib.memory.working_grids import padded
    from SynthDiffusionLib.volumes.digests import voxels_sha256

    network = _Network(normalise(content.volume.array, spec.intensity.range))
    seconds: dict[str, float] = {}

    @contextmanager
    def clock(step: str) -> Iterator[None]:
        began = time.process_time()
        yield
        seconds[step] = seconds.get(step, 0.0) + time.process_time() - began

    out.mkdir()
    store = Store(out)
    described = {"software": {}, "model": {"id": spec.id}, "settings": {}, "seed": seed, "same_seeds": False}
    store.begin(described, resume=False, shared=False)
    calls: Counter[str] = Counter()
    with _counting(out, calls):
        work = store.work_folder("t-1") / "item"
        work.mkdir()
        with clock("check the drawing's checksum"):
            checksum = provenance.sha256_of(mask)
        request = GenerateRequest(mask, spec.id, work, seed=seed, labels=content.labels[spec.id], case="case")
        resolved = resolve_settings(request, spec)
        with clock("read, map and resample the drawing"):
            inputs, prepared = prepare(request, spec, resolved, work)
        with clock("plan the memory"):
            budget = budget_for("cuda:0", None, 80 << 30, host_bytes=64 << 30)
            plan = planned(spec, padded(spec, prepared.grid), budget, "bf16", None)
        resolved = replace(resolved, plan=plan)
        with clock("bring the voxels to the drawing's grid, in whole HU"):
            result = whole(network, spec, prepared, resolved, lambda *_: None)
        record = make_record(request, resolved, spec, inputs, prepared.notes)
        volume = replace(result.volume, metadata=header_marks(record))
        paths = sample_paths(request, spec, resolved, inputs.case, work, 0)
        with clock("compress and write the volume"):
            write_volume(volume, paths["volume"])
        with clock("checksums of the volume"):
            record["output_sha256"] = provenance.sha256_of(paths["volume"])
            record["output_voxels_sha256"] = voxels_sha256(volume)
        with clock("record"):
            provenance.write_json(paths["provenance"], record)
        with clock("contact sheet"):
            write_contact_sheet(
                paths["contact_sheet"],
                volume,
                result.class_map,
                spec.label_scheme,
                spec.target_class,
                limits=limits_of(record["display"]),
            )
        key = key_of({"id": spec.id}, {}, inputs.checksums, seed)
        item = Item(key, "case", 0, seed, mask, None, {"segmentation_sha256": checksum})
        with clock("second checksum, and the final name"):
            store.publish(work, item, paths, {"seconds": 1.0})
    found = store.finished(item, checksums=True)
    assert found is not None
    volume_bytes = found.record["files"]["volume"]["bytes"]
    everything = [p.stat().st_size for p in found.folder.iterdir()]
    return seconds, {
        "shape": list(result.volume.shape),
        "mask_bytes": mask.stat().st_size,
        "volume_bytes": volume_bytes,
        "other_bytes": sum(everything) - volume_bytes,
        "files": len(everything),
        "calls": dict(sorted(calls.items())),
    }


_COUNTED = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.listdir", "os.scandir")
_counters: list[tuple[str, Counter[str]]] = []


@contextmanager
def _counting(folder: Path, counter: Counter[str]) -> Iterator[None]:
    """Counts what Python asks of the file system within a folder (its audit events; reading a file's size or times is
    not among them)."""
    if not any(name == "hook" for name, _ in _counters):
        _counters.append(("hook", Counter()))
        sys.addaudithook(_count)
    _counters.append((str(folder), counter))
    try:
        yield
    finally:
        _counters.pop()


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _COUNTED and _counters and arguments and isinstance(arguments[0], (str, Path)):
        name, counter = _counters[-1]
        if str(arguments[0]).startswith(name):
            counter[event.removeprefix("os.")] += 1
