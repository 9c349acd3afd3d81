"""Draws nodules into real CT volumes and removes one, and shows what came of it.

    python Testing/Benchmarks/inpainting_examples.py --data SHARED_DATA --out DIR [--steps 20] [--seed 1]

SHARED_DATA holds `inputs/chest_ct_64` (a whole chest CT at 4 mm) and `lidc_nodules_51`. Three examples, each with
conditioned inpainting and with replacement sampling, every one through `jobs.run`:

* chest: a nodule of 16 mm drawn into the right lung of the whole chest CT;
* removed: the nodule of an LIDC test cube is taken out;
* moved: a lobulated nodule is drawn into the cube from which the own one was removed.

DIR/inpainting.png shows the plane through the middle of each drawing: real, drawing, conditioned, replacement. The
table gives, across the border of the changed region, the median step between neighbouring voxels in HU, in the result
and in the real volume: a visible seam would raise it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import ndimage

from SynthDiffusionLib.contact_sheet import LUNG_WINDOW, window
from SynthDiffusionLib.jobs import GenerateRequest, run
from SynthDiffusionLib.volumes import Volume, from_label_map, read_volume, reorient, write_segmentation

NODULE, REMOVE = 4, 5
LIDC_CASE = "30_nod3_ann0"


def lobulated(shape: tuple[int, ...], center: np.ndarray, radius: float, spacing: np.ndarray) -> np.ndarray:
    """A nodule-like shape: three overlapping balls of `radius` mm and less around `center` (voxels)."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    mask = np.zeros(shape, bool)
    for shift, part in (((0, 0, 0), 1.0), ((0.6, 0.3, 0.2), 0.7), ((-0.4, 0.6, -0.3), 0.65)):
        middle = center + np.array(shift) * radius / spacing
        mask |= np.linalg.norm((grid - middle) * spacing, axis=-1) <= part * radius
    return mask


def seam_step(image: np.ndarray, changed: np.ndarray) -> float:
    """Median absolute difference between neighbours across the border of `changed`, in HU."""
    steps = []
    for axis in range(3):
        differs = np.diff(changed.astype(np.int8), axis=axis) != 0
        steps.append(np.abs(np.diff(image.astype(float), axis=axis))[differs])
    return float(np.median(np.concatenate(steps)))


def inpaint(image: Path, labels: np.ndarray, affine: np.ndarray, name: str, method: str, args) -> dict:
    drawing = args.out / f"{name}.nii.gz"
    write_segmentation(from_label_map(labels, affine), drawing)
    request = GenerateRequest(
        drawing,
        args.model,
        args.out / method,
        mode="inpaint",
        image=image,
        seed=args.seed,
        steps=args.steps,
        labels={str(v): {NODULE: "nodule", REMOVE: "remove"}[v] for v in np.unique(labels) if v},
        inpaint_method=method,
    )
    output = run(request).outputs[0]
    return {
        "volume": read_volume(output["volume"], "HU"),
        "path": output["volume"],
        "changed": read_volume(output["region"], "label").array > 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="lung-nodule-ct")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    chest = args.data / "inputs" / "chest_ct_64" / "ct-64.nrrd"
    lung = read_volume(args.data / "inputs" / "chest_ct_64" / "wholeLung-64.nrrd", "label")
    depth = ndimage.distance_transform_edt(lung.array > 0, sampling=lung.spacing)
    center = np.array(np.unravel_index(np.argmax(depth), depth.shape))
    examples = [("chest", chest, np.where(lobulated(lung.shape, center, 8.0, lung.spacing), NODULE, 0))]

    cube = args.data / "lidc_nodules_51" / "images" / f"{LIDC_CASE}.nii.gz"
    own = read_volume(args.data / "lidc_nodules_51" / "labels" / f"{LIDC_CASE}.nii.gz", "label")
    grown = ndimage.binary_dilation(own.array > 0, iterations=2)
    examples.append(("removed", cube, np.where(grown, REMOVE, 0)))

    rows, table = [], {}
    removed = {}
    for name, image, labels in examples:
        rows.append(_row(name, image, labels.astype(np.uint8), args, table, removed))
    new = lobulated(own.shape, np.array([24, 30, 26]), 6.0, own.spacing)
    rows.append(_row("moved", removed["conditioned"], np.where(new, NODULE, 0).astype(np.uint8), args, table, removed))

    from PIL import Image

    sheet = np.concatenate(rows)
    Image.fromarray(sheet).save(args.out / "inpainting.png")
    (args.out / "inpainting.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(f"{'example':10s} {'method':12s} {'seam HU':>8s} {'real HU':>8s} {'mean HU drawn':>14s}")
    for name, methods in table.items():
        for method, values in methods.items():
            print(
                f"{name:10s} {method:12s} {values['seam']:8.0f} {values['seam_real']:8.0f} {values['mean_drawn']:14.0f}"
            )


def _row(name: str, image: Path, labels: np.ndarray, args, table: dict, removed: dict) -> np.ndarray:
    real = read_volume(image, "HU")
    panels, table[name] = [], {}
    for method in ("conditioned", "replacement"):
        result = inpaint(image, labels, real.affine, name, method, args)
        if name == "removed":
            removed[method] = result["path"]
        assert np.array_equal(result["volume"].array[~result["changed"]], real.array[~result["changed"]])
        table[name][method] = {
            "seam": seam_step(result["volume"].array, result["changed"]),
            "seam_real": seam_step(real.array, result["changed"]),
            "mean_drawn": float(result["volume"].array[labels > 0].mean()),
        }
        panels.append(result["volume"])
    middle = np.rint(np.argwhere(reorient(Volume(labels, real.affine, "label"), "LPS").array > 0).mean(0)).astype(int)
    shown = [_plane(v, middle) for v in (real, *panels)]
    outline = _plane(Volume(labels, real.affine, "label"), middle, raw=True) > 0
    drawing = shown[0].copy()
    drawing[outline & ~ndimage.binary_erosion(outline)] = (255, 60, 60)
    return np.concatenate([_fit(p) for p in (shown[0], drawing, *shown[1:])], axis=1)


def _plane(volume: Volume, middle: np.ndarray, raw: bool = False) -> np.ndarray:
    cut = reorient(volume, "LPS").array[:, :, middle[2]].T
    return cut if raw else np.repeat(window(cut, LUNG_WINDOW)[..., None], 3, -1)


def _fit(picture: np.ndarray, side: int = 320) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST))


if __name__ == "__main__":
    main()
