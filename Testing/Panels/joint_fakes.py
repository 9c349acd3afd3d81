"""A model that makes an image together with its segmentation, and results of it, without a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from job_fakes import outputs, provenance
from panel_harness import shipped_model

NAMES = ("volume_mm3", "surface_mm2", "sphericity", *(f"{f}_{axis}_mm" for f in ("center", "box") for axis in "ras"))
RANGE = ([2000, 800000], [900, 90000], [0.35, 0.9], [-30, 42], [-20, 25], [-60, 50], [20, 150], [18, 140], [25, 180])
MEDIAN = (95000, 14000, 0.62, 4, 0, -6, 64, 58, 80)
TUMOUR = {
    "asked": {"volume_mm3": 20000.0, "center_r_mm": 10.0, "center_a_mm": -5.0, "center_s_mm": 0.0},
    "drawn": ["surface_mm2", "sphericity", "box_r_mm", "box_a_mm", "box_s_mm"],
}
USED = dict(zip(NAMES, (20000.0, 5200.0, 0.6851, 10.0, -5.0, 0.0, 36.0, 30.0, 45.0)))
MEASURED = dict(zip(NAMES, (18340.0, 4900.0, 0.642, 12.5, -3.0, 1.25, 34.0, 30.0, 50.0)))


def joint_model(**changes):
    """96 x 96 x 40 voxels of 2 x 2 x 5 mm, as the engine lists such a model."""
    quantiles = [[low, median, high] for (low, high), median in zip(RANGE, MEDIAN)]
    description = {
        "id": "limb-joint",
        "name": "Limb joint",
        "modality": "MR",
        "body_part": "limb",
        "modes": ["joint"],
        "inpaint": None,
        "target_class": "tumour",
        "label_scheme": [{"name": "tumour", "value": 1, "optional": True, "color": [0.9, 0.2, 0.2]}],
        "grid": {
            "spacing_mm": [2.0, 2.0, 5.0],
            "orientation": "LPS",
            "min_size": [96, 96, 40],
            "max_size": [96, 96, 40],
            "divisor": 8,
            "default_size": [96, 96, 40],
        },
        "sampling": {"default_sampler": "ddim", "default_steps": 50, "samplers": ["ddpm", "ddim"]},
        "controls": {"guidance": False},
        "files": [],
        "measured": {"quality": {}, "performance": {}},
        "characteristics": {
            "target": "tumour",
            "names": list(NAMES),
            "scale": [1.0] * 9,
            "range": [list(pair) for pair in RANGE],
            "quantiles": quantiles,
            "correlation": np.eye(9).tolist(),
            "cases": 25,
        },
    }
    return shipped_model(**description | changes)


def joint_record(seed: int = 7, measured=MEASURED, **changes) -> dict:
    """The record of a volume of that model."""
    record = provenance(seed, "joint", case="joint", mapping={"segments": []}, given_classes=[], **changes)
    record |= {"model": {"id": "limb-joint", "version": joint_model().description["version"]}, "measured": measured}
    settings = record["settings"] | {"sampler": "ddim", "steps": 50, "guidance": 1.0, "crop": False, "margin_mm": None}
    record["settings"] = settings | {"tumour": TUMOUR | {"used": USED}}
    del record["adherence"]
    return record


def joint_outputs(folder: Path, *records: dict) -> list[dict]:
    """The outputs of a `done` event, with volumes and segmentations in files."""
    found = outputs(folder, *records)
    for number, (output, record) in enumerate(zip(found, records)):
        output["segmentation"] = str(write_mask(folder / f"made{number}.seg.nrrd", record["measured"] is not None))
    return found


def write_mask(path: Path, marked: bool = True) -> Path:
    """A segmentation on the grid of `job_fakes.write_volume`, as the engine writes it, or one in which nothing is."""
    from SynthDiffusionLib.volumes import Segment, Segmentation, write_segmentation

    layer = np.zeros((40, 40, 40), np.uint8)
    layer[10:20, 12:20, 14:20] = 1 if marked else 0
    segment = Segment("tumour", 1, color=(0.9, 0.2, 0.2))
    write_segmentation(Segmentation((layer,), np.diag([1.0, 1.0, 1.0, 1.0]), (segment,)), path)
    return path
