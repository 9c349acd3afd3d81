"""Folders of real and synthetic volumes as `export nnunet`, `decathlon` and `bids` take them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from dicom_examples import generated

from SynthDiffusionLib import cli
from SynthDiffusionLib.jobs.provenance import sha256_of
from SynthDiffusionLib.volumes import Segment, Segmentation, Volume, write_segmentation, write_volume

SHAPE = (14, 13, 12)
CLASSES = "1=liver,2=tumour"


def affine() -> np.ndarray:
    matrix = np.diag([-1.5, -1.5, 2.0, 1.0])
    matrix[:3, 3] = 10, 20, 30
    return matrix


def ct(seed: int, shape=SHAPE) -> np.ndarray:
    """int16 HU: noise in air, so that every slice is like no other."""
    array = np.random.default_rng(seed).normal(40, 30, shape).astype(np.int16)
    array[:3] -= 1000
    return array


def labels(seed: int, shape=SHAPE) -> np.ndarray:
    """uint8 with the values 1 and 2, of a shape like no other seed's."""
    rng = np.random.default_rng([seed, 1])
    array = np.zeros(shape, np.uint8)
    array[2:10, 2:10, 2:9] = rng.random((8, 8, 7)) < 0.7
    array[4:6, 4:6, 3:5] = 2
    return array


@dataclass(frozen=True)
class Folders:
    """Folders of one example; `real` has the patients p0, p1, ..."""

    real: Path
    real_labels: Path
    synthetic: Path
    drawings: Path

    def arguments(self, *more: Any) -> list[str]:
        options = {
            "--real": self.real,
            "--real-labels": self.real_labels,
            "--synthetic": self.synthetic,
            "--synthetic-labels": self.drawings,
        }
        given = [str(part) for option, folder in options.items() if any_file(folder) for part in (option, folder)]
        return [*given, *map(str, more)]


def any_file(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def real_set(folder: Path, n: int, names: str = "p{}", first: int = 0) -> Folders:
    """Real volumes with label maps, as .nii.gz, and empty folders for the synthetic ones."""
    found = Folders(*(folder / name for name in ("real", "real_labels", "synthetic", "drawings")))
    for path in (found.real, found.real_labels, found.synthetic, found.drawings):
        path.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + n):
        write_volume(Volume(ct(i), affine()), found.real / f"{names.format(i)}.nii.gz")
        write_volume(Volume(labels(i), affine(), "label"), found.real_labels / f"{names.format(i)}.nii.gz")
    return found


def synthetic(
    folders: Folders,
    case: str,
    drawing: np.ndarray,
    *,
    seed: int = 1,
    image: np.ndarray | None = None,
    source: Path | None = None,
    **changes: Any,
) -> Path:
    """A volume of `generate` made from a drawing, which is written unless it is there.

    Args:
        drawing: (I, J, K) label map.
        image: voxels; None: noise like no other volume's.
        source: of an inpainted one, the real volume.
    """
    path = folders.drawings / f"{case}.nii.gz"
    if not path.exists():
        write_volume(Volume(drawing, affine(), "label"), path)
    inputs = {"segmentation_sha256": sha256_of(path)}
    if source is not None:
        inputs["image_sha256"] = sha256_of(source)
    array = image if image is not None else ct(1000 + 97 * seed + sum(case.encode()), drawing.shape)
    mode = "whole" if source is None else "inpaint"
    return generated(folders.synthetic, array, affine(), mode=mode, case=case, seed=seed, inputs=inputs, **changes)


def joint(folders: Folders, seed: int, drawing: np.ndarray) -> Path:
    """A volume of a joint model, with its own segmentation beside it."""
    volume = generated(folders.synthetic, ct(5000 + seed), affine(), case="joint", seed=seed, inputs={})
    record = json.loads((folders.synthetic / f"joint_m_seed{seed}.json").read_text(encoding="utf-8"))
    names = ("volume_mm3", "surface_mm2", "sphericity", "center_r_mm", "center_a_mm", "center_s_mm", "box_r_mm",
             "box_a_mm", "box_s_mm")  # fmt: skip
    tumour = {"asked": {}, "drawn": list(names), "used": dict.fromkeys(names, 1.0)}
    record["settings"] |= {"mode": "joint", "tumour": tumour}
    (folders.synthetic / f"joint_m_seed{seed}.json").write_text(json.dumps(record), encoding="utf-8")
    mask = (drawing > 0).astype(np.uint8)
    tumour_only = Segmentation((mask,), affine(), (Segment("Tumour", 1),))
    write_segmentation(tumour_only, folders.synthetic / f"joint_m_seed{seed}.seg.nrrd")
    return volume


def export(form: str, folders: Folders, out: Path, *more: Any) -> Path:
    """Exports, and returns the new folder."""
    assert cli.main(["export", form, *folders.arguments("--out", out, *more)]) == 0
    (folder,) = out.iterdir()
    return folder


def volumes_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Rows of the manifest by case."""
    return {row["case"]: row for row in read(folder / "manifest.json")["volumes"]}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
