"""On which grid a model makes a volume: of a fixed spacing, or of the segmentation's own within the model's rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.jobs.request import GenerateRequest
from SynthDiffusionLib.models.grid_rules import GridRules
from SynthDiffusionLib.models.spec import ModelSpec
from SynthDiffusionLib.volumes import Volume, grid_with_spacing, shifted_affine, voxel_positions

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class ChosenGrid:
    """Where a model works.

    Args:
        part: the segmentation, in the model's orientation, or what was cropped of it.
        cropped: whether it was.
        shape: (I, J, K) of the model's grid.
        affine: (4, 4) of it.
        notes: sentences for the user.
    """

    part: Volume
    cropped: bool
    shape: Shape
    affine: np.ndarray
    notes: list[str]


def choose_grid(request: GenerateRequest, spec: ModelSpec, aligned: Volume, given: tuple[str, ...]) -> ChosenGrid:
    """The grid for a segmentation.

    Args:
        aligned: its class map in the model's orientation.
        given: classes that are drawn.

    Raises:
        BadInput: the model does not bear that grid; the hint names the nearest that it bears, or how to crop.
    """
    if spec.grid.spacing_range_mm is None:
        if request.size is not None or request.spacing_mm is not None:
            raise BadInput(
                f"'{spec.id}' makes volumes of the segmentation's size, at {_by(spec.grid.spacing_mm)} mm",
                "Leave --size and --spacing out.",
            )
        size, spacing = None, np.array(spec.grid.spacing_mm)
    else:
        size, spacing = _size_and_spacing(request, spec, aligned)
    box = np.array(spec.grid.max_size if size is None else size) * spacing
    notes, cropped = [], False
    extent = np.array(aligned.shape) * aligned.spacing
    shape, affine = grid_with_spacing(aligned.shape, aligned.affine, spacing)
    # A given size may end half a voxel within the segmentation's box: its voxels lie in it all the same.
    too_large = (np.array(shape) > spec.grid.max_size) if size is None else (extent > box + 0.5 * aligned.spacing)
    if too_large.any():
        if not request.crop:
            raise BadInput(
                f"The segmentation covers {_mm(extent)} mm, but '{spec.id}' makes at most {_mm(box)} mm"
                + ("" if size is None else f" of {_by(size)} voxels"),
                "Add --crop to cut it to a box around the drawing"
                + (
                    ", or use --mode inpaint --image to draw into a real volume."
                    if "inpaint" in spec.modes
                    else ", or give the part that matters alone."
                ),
            )
        if (aligned.spacing > box).any():
            raise BadInput(
                f"One voxel of the segmentation ({' x '.join(f'{own:.4g}' for own in aligned.spacing)} mm) is larger "
                f"than all that '{spec.id}' makes ({_mm(box)} mm)",
                "Check its spacing, or give a finer segmentation.",
            )
        whole = aligned
        aligned, cropped = _crop_to_target(aligned, spec, given, box), True
        shape, affine = grid_with_spacing(aligned.shape, aligned.affine, spacing)
        shape = tuple(min(n, m) for n, m in zip(shape, spec.grid.max_size))
        notes.append(
            f"The segmentation of {_mm(extent)} mm was cropped to {_mm(np.array(aligned.shape) * aligned.spacing)} mm "
            "around the drawing"
        )
        notes += _cut_off(whole, aligned, spec, given)
    if size is not None:
        notes += GridRules.from_grid(spec.grid).advice(size, spacing, head_only=_head_only(request))
        shape, affine = size, centred_affine(aligned, size, spacing)
        if tuple(size) != aligned.shape or not np.allclose(spacing, aligned.spacing, rtol=1e-3):
            notes.append(
                f"The model works on {_by(size)} voxels of {_by(spacing)} mm, and the result is brought back to the "
                f"segmentation's {_by(aligned.shape)} voxels of {_by(aligned.spacing)} mm"
            )
    return ChosenGrid(aligned, cropped, tuple(int(n) for n in shape), affine, notes)


def unconditional_grid(request: GenerateRequest, spec: ModelSpec) -> tuple[Shape, np.ndarray]:
    """Size and affine of a volume without a segmentation, in the middle of the world.

    Raises:
        BadInput: the model does not bear it.
    """
    grid = spec.grid
    if grid.spacing_range_mm is None and request.spacing_mm is not None:
        raise BadInput(f"'{spec.id}' makes volumes at {_by(grid.spacing_mm)} mm only", "Leave --spacing out.")
    size = tuple(request.size or grid.default_size)
    spacing = np.array(request.spacing_mm or grid.spacing_mm)
    problems = _problems(spec, size, spacing, request)
    if problems:
        raise BadInput(
            f"'{spec.id}' cannot make {_by(size)} voxels of {_by(spacing)} mm: {'; '.join(problems)}",
            f"Its default is --size {'x'.join(map(str, grid.default_size))} --spacing "
            f"{'x'.join(f'{s:g}' for s in grid.spacing_mm)}.",
        )
    signs = [1.0 if letter in "RAS" else -1.0 for letter in grid.orientation]
    axes = [{"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[letter] for letter in grid.orientation]
    affine = np.zeros((4, 4))
    affine[3, 3] = 1.0
    for column, (axis, sign) in enumerate(zip(axes, signs)):
        affine[axis, column] = sign * spacing[column]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(size) - 1) / 2)
    return tuple(int(n) for n in size), affine


def centred_affine(volume: Volume, size: Sequence[int], spacing: Sequence[float]) -> np.ndarray:
    """Affine of a grid with the axes and the box centre of a volume, to half a voxel where the spacing is the same."""
    affine = np.array(volume.affine, float)
    affine[:3, :3] = affine[:3, :3] / volume.spacing * np.asarray(spacing, float)
    centre = (np.array(volume.shape) - 1) / 2
    start = centre - (np.array(size) - 1) / 2 * np.asarray(spacing, float) / volume.spacing
    # With the same spacing, voxels lie on voxels: half a voxel beside them, every value would be averaged.
    same = np.isclose(np.asarray(spacing, float), volume.spacing, rtol=1e-4, atol=0.0)
    affine[:3, 3] = voxel_positions(volume.affine, np.where(same, np.floor(start + 0.5), start))
    return affine


def _size_and_spacing(request: GenerateRequest, spec: ModelSpec, aligned: Volume) -> tuple[Shape | None, np.ndarray]:
    """The size that is asked for, or the segmentation's own, if the model bears it; None where any size up to the
    largest is allowed and none is asked for."""
    rules = GridRules.from_grid(spec.grid)
    nearest = rules.nearest(aligned.shape, aligned.spacing, head_only=_head_only(request))
    any_size = not rules.in_plane and not rules.sizes and not isinstance(request.size, tuple)
    if request.size == "nearest":
        return (None if any_size else tuple(nearest.size)), np.array(nearest.spacing_mm)
    spacing = np.array(aligned.spacing if request.spacing_mm is None else request.spacing_mm, float)
    size = request.size or grid_with_spacing(aligned.shape, aligned.affine, spacing)[0]
    problems = _problems(spec, spec.grid.max_size if any_size else size, spacing, request)
    if problems:
        raise BadInput(
            f"'{spec.id}' cannot make {_by(size)} voxels of {_by(spacing)} mm: {'; '.join(problems)}",
            f"Add --size nearest to work on the nearest grid that it can make, {_by(nearest.size)} voxels of "
            f"{_by(nearest.spacing_mm)} mm; the result is then brought back to the segmentation's grid.",
        )
    return (None if any_size else tuple(size)), spacing


def _problems(spec: ModelSpec, size: Sequence[int], spacing: np.ndarray, request: GenerateRequest) -> list[str]:
    limits = list(zip(size, spec.grid.min_size, spec.grid.max_size))
    found = [f"{n} voxels along an axis, at most {high} are possible" for n, _, high in limits if n > high]
    found += [f"{n} voxels along an axis, at least {low} are needed" for n, low, _ in limits if n < low]
    if spec.grid.spacing_range_mm is not None:
        found += GridRules.from_grid(spec.grid).problems(tuple(size), tuple(spacing), head_only=_head_only(request))
    return found


def _head_only(request: GenerateRequest) -> bool:
    return request.region is not None and set(request.region) == {"head"}


def _crop_to_target(aligned: Volume, spec: ModelSpec, given: tuple[str, ...], box_mm: np.ndarray) -> Volume:
    """The largest box that the model can do, around the target class or, without it, around all that is drawn; moved so
    that along each axis it holds all that is drawn or, where that is longer, nothing beyond it."""
    wanted = spec.label_scheme.containing(spec.target_class) if spec.target_class in given else None
    mask = np.isin(aligned.array, wanted) if wanted else aligned.array > 0
    size = [
        max(1, int(min(n, np.floor(extent / own + 1e-6))))
        for n, extent, own in zip(aligned.shape, box_mm, aligned.spacing)
    ]
    start = []
    for side, whole, (a, b), (first, last) in zip(size, aligned.shape, _extent(mask), _extent(aligned.array > 0)):
        ends = sorted((first, last - side + 1))
        start.append(int(np.clip(np.clip((a + b) // 2 - side // 2, *ends), 0, whole - side)))
    box = tuple(slice(a, a + d) for a, d in zip(start, size))
    return Volume(aligned.array[box], shifted_affine(aligned.affine, start), "label")


def _extent(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of what is set, along each axis. Of a whole CT, positions would take gigabytes."""
    found = []
    for axis in range(mask.ndim):
        where = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        found.append((int(where[0]), int(where[-1])))
    return found


def _cut_off(whole: Volume, cropped: Volume, spec: ModelSpec, given: tuple[str, ...]) -> list[str]:
    """A note on each structure of the target's kind that the box does not hold whole; anatomy round it may be cut."""
    notes = []
    alike = spec.label_scheme.like(spec.target_class) if spec.target_class is not None else ()
    for name in (c.name for c in alike if c.name in given):
        wanted = spec.label_scheme.containing(name)
        before, after = (int(np.isin(v.array, wanted).sum()) for v in (whole, cropped))
        if after < before:
            notes.append(
                f"{100 * (before - after) / before:.0f} % of the {name} lies outside of that box and is cut off"
            )
    return notes


def _by(values: Sequence[float]) -> str:
    return " x ".join(f"{float(v):.4g}" for v in values)


def _mm(values: Sequence[float]) -> str:
    return "x".join(f"{float(v):.0f}" for v in values)
