"""Sample segmentations drawn from geometry: coarse pieces of a chest and a hippocampus that belong to no patient.

The lung border is an ellipsoid, ribs are flattened tubes that run round it on a slant, a diaphragm or a heart is a
further ellipsoid that pushes into the lung, a nodule is an ellipsoid with lobes; the hippocampus is an ellipse that is
swept along a curve. All is given in millimetres in the patient's frame, so a phantom can be drawn on any grid. The
files in `Resources/Segmentations` are made by

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
ANTERIOR, POSTERIOR = 1, 2
DEFAULT_SHAPE = (56, 56, 56)
HIPPOCAMPUS_SHAPE = (40, 56, 40)

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


@dataclass(frozen=True)
class Section:
    """A coronal section of a hippocampus, an ellipse: all in mm.

    Args:
        front: how far before the middle.
        lateral, up: place of the ellipse's center.
        radii: half of its breadth and of its height.
    """

    front: float
    lateral: float
    up: float
    radii: tuple[float, float]


@dataclass(frozen=True)
class Hippocampus:
    """A right hippocampus: its sections from the tail to the head, with straight lines between them.

    Args:
        name: stem of its file.
        description: one line for people.
        origin: RAS position of the first voxel, in mm.
        middle: RAS position that the sections are counted from.
        sections: in the order of `front`.
        head: the anterior part begins this far before the middle.
    """

    name: str
    description: str
    origin: Vector
    middle: Vector
    sections: tuple[Section, ...]
    head: float


HIPPOCAMPUS = Hippocampus(
    name="hippocampus",
    description="A right hippocampus of about 3.5 ml, its head and its body with the tail",
    origin=(47.0, 5.0, -34.0),
    middle=(27.5, -21.0, -14.0),
    sections=(
        Section(-22.0, -3.0, 10.0, (1.5, 1.5)),
        Section(-19.0, -1.5, 9.5, (5.2, 3.6)),
        Section(-15.0, 0.3, 7.2, (7.0, 4.0)),
        Section(-10.0, 2.0, 3.6, (7.0, 3.4)),
        Section(-3.0, 2.8, 0.6, (7.0, 3.4)),
        Section(1.5, 1.6, -1.1, (7.8, 4.0)),
        Section(7.0, -0.6, -2.9, (9.4, 4.8)),
        Section(11.5, -2.0, -4.6, (9.0, 4.7)),
        Section(15.0, -3.8, -5.8, (7.2, 3.8)),
        Section(18.0, -5.2, -6.3, (3.0, 2.2)),
        Section(19.0, -5.4, -6.3, (0.5, 0.5)),
    ),
    head=2.5,
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


def phantom_affine(phantom: Phantom | Hippocampus, spacing_mm: float = 1.0) -> np.ndarray:
    """(4, 4) voxel indices to RAS: the axes run to the patient's left, back and head."""
    affine = np.diag([-spacing_mm, -spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = phantom.origin
    return affine


def _positions(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """(3, I, J, K) RAS positions of the voxels, in mm."""
    ras = np.einsum("rc,cijk->rijk", affine[:3, :3], np.indices(shape, dtype=np.float64))
    return ras + affine[:3, 3][:, None, None, None]


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
    ras = _positions(affine, shape)
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


def draw_hippocampus(
    phantom: Hippocampus, shape: tuple[int, int, int] = HIPPOCAMPUS_SHAPE, spacing_mm: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a hippocampus on a grid.

    Args:
        phantom: what to draw.
        shape: (I, J, K) of the grid, which begins at the phantom's origin.
        spacing_mm: isotropic spacing.

    Returns:
        Class map (I, J, K) uint8 in the label scheme `hippocampus-mr` (0 elsewhere, 1 anterior, 2 posterior), and its
        affine (4, 4) to RAS mm.
    """
    affine = phantom_affine(phantom, spacing_mm)
    lateral, front, up = _positions(affine, shape) - np.array(phantom.middle)[:, None, None, None]
    fronts = [section.front for section in phantom.sections]

    def along(values: Sequence[float]) -> np.ndarray:
        return np.interp(front, fronts, values)

    right = (lateral - along([s.lateral for s in phantom.sections])) / along([s.radii[0] for s in phantom.sections])
    above = (up - along([s.up for s in phantom.sections])) / along([s.radii[1] for s in phantom.sections])
    inside = (right**2 + above**2 < 1.0) & (front >= fronts[0]) & (front <= fronts[-1])
    return np.where(inside, np.where(front >= phantom.head, ANTERIOR, POSTERIOR), 0).astype(np.uint8), affine


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


def hippocampus_segmentation(phantom: Hippocampus, scheme: LabelScheme) -> Segmentation:
    """The hippocampus as a segmentation with names, colors and SNOMED CT terminology.

    Args:
        phantom: what to draw, on the default grid.
        scheme: the label scheme `hippocampus-mr`.
    """
    classes, affine = draw_hippocampus(phantom)
    segments = (
        Segment(c.name.capitalize(), c.value, 0, c.category, c.codes[0], c.region, c.color) for c in scheme.classes
    )
    return Segmentation((classes,), affine, tuple(segments))


def _scheme(name: str) -> LabelScheme:
    from SynthDiffusionLib.resources import resource_path

    return LabelScheme.from_json(json.loads(resource_path("LabelSchemes", f"{name}.json").read_text(encoding="utf-8")))


def write_samples(folder: Path) -> list[Path]:
    """Writes every phantom as `NAME.seg.nrrd` and returns the paths."""
    from SynthDiffusionLib.volumes import write_segmentation

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    chest = _scheme("lung-nodule-ct")
    drawn = {phantom.name: phantom_segmentation(phantom, chest) for phantom in PHANTOMS}
    drawn[HIPPOCAMPUS.name] = hippocampus_segmentation(HIPPOCAMPUS, _scheme("hippocampus-mr"))
    for name, segmentation in drawn.items():
        write_segmentation(segmentation, folder / f"{name}.seg.nrrd")
    return [folder / f"{name}.seg.nrrd" for name in drawn]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this file."""
    parser = argparse.ArgumentParser(description="Draw the sample segmentations.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    for path in write_samples(parser.parse_args(arguments).out):
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
