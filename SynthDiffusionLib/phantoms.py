"""Sample segmentations drawn from geometry: coarse pieces of a chest that belong to no patient.

The lung border is an ellipsoid, ribs are flattened tubes that run round it on a slant, a diaphragm or a heart is a
further ellipsoid that pushes into the lung, a nodule is an ellipsoid with lobes. All is given in millimetres in the
patient's frame, so a phantom can be drawn on any grid. The files in `Resources/Segmentations` are made by

    python -m SynthDiffusionLib.phantoms --out Resources/Segmentations

Distances to ellipsoids are the usual first-order estimate `k0 (k0 - 1) / k1` with `k0 = |p / r|`, `k1 = |p / r²|`,
exact on the surface and to first order beside it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.volumes.volume import Code, Segment, Segmentation

BODY, LUNG, BONE, NODULE = 1, 2, 3, 4
DEFAULT_SHAPE = (56, 56, 56)

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Ellipsoid:
    """An axis-aligned ellipsoid: center and radii in mm, LPS."""

    center: Vector
    radii: Vector


@dataclass(frozen=True)
class Ribs:
    """Ribs round a lung.

    Args:
        depth_mm: of their middle below the pleura.
        thickness_mm: radial size of a rib.
        height_mm: size of a rib across its course, along the wall.
        pitch_mm: distance from rib to rib along the patient's axis.
        slope: fall towards the front, in mm per mm of arc.
        offset_mm: height at which one of them crosses the most lateral line of the chest.
    """

    depth_mm: float = 6.2
    thickness_mm: float = 6.6
    height_mm: float = 11.5
    pitch_mm: float = 26.3
    slope: float = 0.55
    offset_mm: float = 0.0


@dataclass(frozen=True)
class Lobe:
    """A bulge of a nodule: where it points, its height as a share of the radius, and how narrow it is."""

    direction: Vector
    height: float
    sharpness: float = 5.0


@dataclass(frozen=True)
class Nodule:
    """A lobulated ellipsoid: center and radii in mm, LPS."""

    center: Vector
    radii: Vector
    lobes: tuple[Lobe, ...] = ()


@dataclass(frozen=True)
class Phantom:
    """A piece of a chest.

    Args:
        name: stem of its file.
        description: one line for people.
        origin: RAS position of the first voxel, in mm.
        lung: the lung's outer border.
        ribs: ribs outside of it.
        solids: organs that push into the lung (diaphragm, heart).
        nodules: drawn inside the lung only, so that one that reaches the wall is flattened by it.
    """

    name: str
    description: str
    origin: Vector
    lung: Ellipsoid
    ribs: Ribs
    nodules: tuple[Nodule, ...]
    solids: tuple[Ellipsoid, ...] = ()


PHANTOMS = (
    Phantom(
        name="solitary-nodule",
        description="Side of the right lung with slanting ribs and one lobulated nodule of about 11 mm, off centre",
        origin=(144.0, 17.0, -31.0),
        lung=Ellipsoid((-68.0, 4.0, -48.0), (66.0, 88.0, 138.0)),
        ribs=Ribs(offset_mm=2.4),
        nodules=(
            Nodule(
                (-105.6, 1.3, 3.4),
                (4.8, 4.3, 4.6),
                (
                    Lobe((0.8, 0.5, 0.3), 0.46, 7.0),
                    Lobe((-0.5, 0.7, -0.5), 0.38, 6.0),
                    Lobe((-0.2, -0.9, 0.4), 0.5, 8.0),
                    Lobe((0.3, 0.1, -0.9), 0.3, 6.0),
                ),
            ),
        ),
    ),
    Phantom(
        name="pleural-nodule",
        description="Back of the right lung base above the diaphragm, with a nodule of about 15 mm on the wall",
        origin=(104.0, -21.0, -92.0),
        lung=Ellipsoid((-64.0, -6.0, -40.0), (63.0, 74.0, 150.0)),
        ribs=Ribs(slope=0.38, offset_mm=-7.1, pitch_mm=25.2),
        solids=(Ellipsoid((-66.0, 9.0, -136.0), (60.0, 58.0, 66.0)),),
        nodules=(
            Nodule(
                (-86.6, 57.1, -54.4),
                (7.5, 6.5, 6.8),
                (
                    Lobe((0.6, -0.7, 0.4), 0.38, 7.0),
                    Lobe((-0.7, -0.5, 0.5), 0.3, 6.0),
                    Lobe((0.2, -0.5, -0.8), 0.42, 7.0),
                    Lobe((0.9, 0.1, -0.4), 0.27, 6.0),
                ),
            ),
        ),
    ),
    Phantom(
        name="two-nodules",
        description="Left lung between the heart and the front wall, with nodules of about 9 and 6 mm",
        origin=(-57.0, 69.0, -36.0),
        lung=Ellipsoid((62.0, 2.0, -46.0), (64.0, 70.0, 142.0)),
        ribs=Ribs(slope=0.72, offset_mm=9.3, pitch_mm=25.7),
        solids=(Ellipsoid((33.0, -19.0, -29.0), (40.0, 41.0, 48.0)),),
        nodules=(
            Nodule(
                (94.8, -29.7, -3.2),
                (4.4, 3.9, 3.7),
                (
                    Lobe((0.7, 0.6, 0.2), 0.44, 7.0),
                    Lobe((-0.8, 0.2, 0.5), 0.36, 6.0),
                    Lobe((0.1, -0.6, -0.7), 0.45, 7.0),
                ),
            ),
            Nodule((76.3, -41.6, 8.7), (2.9, 2.7, 2.8), (Lobe((0.4, -0.8, 0.3), 0.35, 5.0),)),
        ),
    ),
)


def _distance(points: Sequence[np.ndarray], shape: Ellipsoid) -> np.ndarray:
    """Signed distance in mm, negative inside; see the module's text."""
    local = [p - c for p, c in zip(points, shape.center)]
    k0 = np.sqrt(sum((p / r) ** 2 for p, r in zip(local, shape.radii)))
    k1 = np.sqrt(sum((p / (r * r)) ** 2 for p, r in zip(local, shape.radii)))
    return k0 * (k0 - 1.0) / np.maximum(k1, 1e-9)


def _smooth_max(a: np.ndarray, b: np.ndarray, width_mm: float) -> np.ndarray:
    """The larger of two distances with the crease between them rounded off (quadratic blend)."""
    blend = np.maximum(width_mm - np.abs(a - b), 0.0)
    return np.maximum(a, b) + blend * blend / (4.0 * width_mm)


def _inside_nodule(points: Sequence[np.ndarray], nodule: Nodule) -> np.ndarray:
    local = [(p - c) / r for p, c, r in zip(points, nodule.center, nodule.radii)]
    length = np.maximum(np.sqrt(sum(p * p for p in local)), 1e-9)
    reach = np.ones_like(length)
    for lobe in nodule.lobes:
        direction = np.array(lobe.direction) / np.linalg.norm(lobe.direction)
        along = sum(p * d for p, d in zip(local, direction)) / length
        reach = reach + lobe.height * np.exp(lobe.sharpness * (along - 1.0))
    return length < reach


def phantom_affine(phantom: Phantom, spacing_mm: float = 1.0) -> np.ndarray:
    """(4, 4) voxel indices to RAS: the axes run to the patient's left, back and head, as in most CT."""
    affine = np.diag([-spacing_mm, -spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = phantom.origin
    return affine


def draw_phantom(
    phantom: Phantom, shape: tuple[int, int, int] = DEFAULT_SHAPE, spacing_mm: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a phantom on a grid.

    Args:
        phantom: what to draw.
        shape: (I, J, K) of the grid, which begins at the phantom's origin.
        spacing_mm: isotropic spacing.

    Returns:
        Class map (I, J, K) uint8 in the label scheme `lung-nodule-ct` (1 body, 2 lung, 3 bone, 4 nodule; no voxel is 0,
        since the piece lies inside the body), and its affine (4, 4) to RAS mm.
    """
    affine = phantom_affine(phantom, spacing_mm)
    ras = np.einsum("rc,cijk->rijk", affine[:3, :3], np.indices(shape, dtype=np.float64))
    ras += affine[:3, 3][:, None, None, None]
    x, y, z = points = (-ras[0], -ras[1], ras[2])

    outside_lung = _distance(points, phantom.lung)
    ribs, (lung_x, lung_y, _), (radius_x, radius_y, _) = phantom.ribs, phantom.lung.center, phantom.lung.radii
    arc = np.arctan2(y - lung_y, np.abs(x - lung_x)) * (radius_x + radius_y) / 2.0
    # Height above the nearest rib, from -pitch/2 to pitch/2.
    level = z - ribs.offset_mm - ribs.slope * arc
    level = level - ribs.pitch_mm * np.rint(level / ribs.pitch_mm)
    across = level / np.sqrt(1.0 + ribs.slope**2)
    rib = ((outside_lung - ribs.depth_mm) / (ribs.thickness_mm / 2.0)) ** 2
    rib = rib + (across / (ribs.height_mm / 2.0)) ** 2 < 1.0

    # The lung bulges a little between the ribs.
    border = outside_lung + 0.4 * np.cos(2.0 * np.pi * level / ribs.pitch_mm)
    for solid in phantom.solids:
        border = _smooth_max(border, -_distance(points, solid), width_mm=4.0)

    classes = np.full(shape, BODY, np.uint8)
    classes[border < 0.0] = LUNG
    classes[rib & (border > 1.0)] = BONE
    for nodule in phantom.nodules:
        classes[_inside_nodule(points, nodule) & (border < 0.0)] = NODULE
    return classes, affine


def phantom_segmentation(phantom: Phantom, scheme: LabelScheme) -> Segmentation:
    """The phantom as a segmentation with names, colors and SNOMED CT terminology.

    Args:
        phantom: what to draw, on the default grid.
        scheme: the label scheme `lung-nodule-ct`.
    """
    classes, affine = draw_phantom(phantom)
    names = {"body": "Body", "lung": "Lung", "bone": "Ribs", "nodule": "Nodule"}
    if len(phantom.nodules) > 1:
        names["nodule"] = "Nodules"

    def segment(name: str) -> Segment:
        label = scheme[name]
        code = Code("SCT", "113197003", "Rib") if name == "bone" else label.codes[0]
        return Segment(names[name], label.value, 0, label.category, code, label.region, label.color)

    return Segmentation((classes,), affine, tuple(segment(name) for name in names))


def write_samples(folder: Path) -> list[Path]:
    """Writes every phantom as `NAME.seg.nrrd` and returns the paths."""
    from SynthDiffusionLib.resources import resource_path
    from SynthDiffusionLib.volumes import write_segmentation

    entries = json.loads(resource_path("LabelSchemes", "lung-nodule-ct.json").read_text(encoding="utf-8"))
    scheme = LabelScheme.from_json(entries)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for phantom in PHANTOMS:
        path = folder / f"{phantom.name}.seg.nrrd"
        write_segmentation(phantom_segmentation(phantom, scheme), path)
        paths.append(path)
    return paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this file."""
    parser = argparse.ArgumentParser(description="Draw the sample segmentations.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    for path in write_samples(parser.parse_args(arguments).out):
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
