"""What is particular to models that make image and mask together: requests, the samples' own masks, copied masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.cases import EvaluationData
from SynthDiffusionLib.evaluation.rows import Row, fitted
from SynthDiffusionLib.training.dataset import Case
from SynthDiffusionLib.volumes import Volume, read_segmentation, same_grid
from SynthDiffusionLib.volumes.grid import axis_codes

if TYPE_CHECKING:
    from SynthDiffusionLib.models import ModelPackage

SAME_SPACING = 1e-3  # relative
MASK_QUANTILE = 0.95
MASK_DEFINITIONS = {
    "nearest mask": "Dice with the training mask of the {target} that is most like it, both laid with their centroids "
    "on the middle of the grid, over the eight mirror images: a mask that is copied to another place counts as copied",
    "limit": "of the held-out real masks (validation and test), the one at the upper {quantile:.0%}; copying of masks "
    "is suspected when so many more of the samples' lie above it that the exact rank test has p below {level:.1%}",
}


def tumour_of(mask: np.ndarray, affine: np.ndarray) -> dict[str, float | tuple[float, float, float]]:
    """The nine characteristics of a mask as a request of the mode "joint" names them.

    Args:
        mask: (I, J, K) bool.
        affine: (4, 4).
    """
    from SynthDiffusionLib.labels.characteristics import measure

    return as_tumour(measure(mask, affine))


def as_tumour(values: Mapping[str, float]) -> dict[str, float | tuple[float, float, float]]:
    """Characteristics by `models.characteristics.NAMES` in the words of a request."""
    center, box = (tuple(float(values[f"{part}_{axis}_mm"]) for axis in "ras") for part in ("center", "box"))
    single = {name: float(values[name]) for name in ("volume_mm3", "surface_mm2", "sphericity")}
    return {**single, "center": center, "box": box}


def own_classes(path: Path, volume: Volume, data: EvaluationData) -> np.ndarray:
    """The class map that a sample came with: its segments by the names of the data set's classes.

    Raises:
        BadInput: it is not on the sample's grid, or has a segment of another name.
    """
    segmentation = read_segmentation(path, empty=True)
    if not same_grid(volume.shape, volume.affine, segmentation.layers[0].shape, segmentation.affine):
        raise BadInput(f"The mask '{path.name}' is not on the grid of its sample", "Make the samples again.")
    classes = np.zeros(volume.shape, np.uint8)
    for segment in segmentation.segments:
        if segment.name not in data.values:
            raise BadInput(
                f"The mask '{path.name}' has a segment '{segment.name}', which is none of {', '.join(data.values)}",
                "Make the samples again.",
            )
        classes[segmentation.layers[segment.layer] == segment.value] = data.values[segment.name]
    return classes


def same_frame(shape: Sequence[int], affine: np.ndarray, other_shape: Sequence[int], other_affine: np.ndarray) -> bool:
    """Whether two volumes have equally many voxels of one size and direction, wherever they lie."""
    near = SAME_SPACING * float(np.linalg.norm(affine[:3, :3], axis=0).max())
    return tuple(shape) == tuple(other_shape) and np.allclose(affine[:3, :3], other_affine[:3, :3], atol=near)


def check_frame(package: ModelPackage, data: EvaluationData) -> None:
    """Looks, before anything is made, whether a model's own grid is that of the cases that it is compared with.

    Raises:
        BadInput: another size, spacing or direction.
    """
    from SynthDiffusionLib.jobs.grids import unconditional_grid
    from SynthDiffusionLib.jobs.request import GenerateRequest

    request = GenerateRequest(segmentation=None, model=str(package.folder), out=data.folder, mode="joint")
    shape, affine = unconditional_grid(request, package.spec)
    for case in data.evaluated:
        if not same_frame(shape, affine, case.image.shape, case.image.affine):
            raise BadInput(
                f"The model '{package.id}' makes {_frame(shape, affine)}, and the data set's '{case.name}' has "
                f"{_frame(case.image.shape, case.image.affine)}",
                "Prepare the data set with the model's spacing and --size.",
            )


def _frame(shape: Sequence[int], affine: np.ndarray) -> str:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    code = "".join(axis_codes(affine))
    return f"{'x'.join(map(str, shape))} voxels of {'x'.join(f'{s:.4g}' for s in spacing)} mm along {code}"


def nearest_mask_dice(mask: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Dice of a mask with each of N others, over the eight mirror images.

    Args:
        mask: (I, J, K) bool, see `centred`.
        gallery: (N, I, J, K) bool, the same.

    Returns:
        (N,).
    """
    from itertools import product

    flat = gallery.reshape(len(gallery), -1).astype(np.float32)
    sizes = flat.sum(1)
    turned = [
        np.flip(mask, [a for a, flip in enumerate(flips) if flip]).ravel() for flips in product((False, True), repeat=3)
    ]
    both = flat @ np.stack(turned, axis=1).astype(np.float32)
    return 2.0 * both.max(1) / np.maximum(sizes + mask.sum(), 1.0)


def centred(mask: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A mask with its centroid in the middle of a grid of odd sides, to whole voxels; what does not fit is cut off."""
    shape = tuple(n + 1 - n % 2 for n in shape)
    if not mask.any():
        return np.zeros(shape, bool)
    middle = (np.array(shape) - 1) // 2
    # `fitted` lays middle on middle, with (n - m) // 2 voxels before; the shift does the rest.
    corner = (np.array(shape) - np.array(mask.shape)) // 2
    shift = middle - corner - np.rint(np.argwhere(mask).mean(0)).astype(int)
    return fitted(mask, shape, False, shift)


def measure_masks(
    data: EvaluationData,
    row: Row,
    rank_test: Callable[[int, int, int, int], float],
    suspicion: float,
) -> dict[str, Any]:
    """Are the masks that a model made nearer to training masks than those of unseen patients?

    Args:
        row: samples with their own class maps.
        rank_test: `memorisation.rank_test`.
        suspicion: level of its p.

    Returns:
        JSON: rows (held-out masks, copies that were moved and mirrored, the model's), settings, definitions.
    """
    target = data.target_value

    def masks(cases: Sequence[Case]) -> list[tuple[str, str, np.ndarray]]:
        found = [(c.name, c.patient, c.classes.array == target) for c in cases]
        return [entry for entry in found if entry[2].any()]

    training = masks(data.training)
    held_out = masks([*data.others, *data.evaluated])
    ours = [(i.case, i.patient, i.classes == target) for i in row.items if (i.classes == target).any()]
    shape = np.max([m.shape for *_, m in (*training, *held_out, *ours)], axis=0)
    gallery = np.stack([centred(m, shape) for *_, m in training])
    moved = []
    for number, (name, patient, mask) in enumerate(training[: len(data.evaluated)]):
        moved.append((name, patient, np.roll(np.flip(mask, number % 3), (1, -1, 1), (0, 1, 2))))
    groups = [
        ("reference", "held-out real masks", "real", held_out),
        ("copies", "moved, mirrored training masks (control)", "real", moved),
        (row.name, row.label, "ours", ours),
    ]
    per_volume, by_group = [], {}
    for name, _, _, entries in groups:
        values = []
        for case, patient, mask in entries:
            dice = nearest_mask_dice(centred(mask, shape), gallery)
            values.append((patient, float(dice.max())))
            per_volume.append(
                {"row": name, "case": case, "patient": patient, "dice": float(dice.max())}
                | {"nearest": training[int(dice.argmax())][0]}
            )
        by_group[name] = values
    reference = sorted(_first(by_group["reference"]), reverse=True)
    rank = max(1, int(np.ceil((1.0 - MASK_QUANTILE) * len(reference))))
    limit = reference[rank - 1]
    rows = []
    for name, label, kind, entries in groups:
        values = np.array([dice for _, dice in by_group[name]])
        independent = np.array(_first(by_group[name]))
        p = None
        if name != "reference" and len(independent):
            p = rank_test(int((independent >= limit).sum()), len(independent), rank, len(reference))
        rows.append(
            {
                "row": name,
                "label": label,
                "kind": kind,
                "masks": len(entries),
                "median": float(np.median(values)) if len(values) else None,
                "largest": float(values.max()) if len(values) else None,
                "above_limit": int((values >= limit).sum()),
                "p": p,
                "suspected": p is not None and p < suspicion,
            }
        )
    empty = len(row.items) - len(ours)
    words = {"target": data.target, "quantile": 1.0 - MASK_QUANTILE, "level": suspicion}
    return {
        "rows": rows,
        "settings": {"limit": limit, "quantile": MASK_QUANTILE, "training_masks": len(training), "empty_masks": empty},
        "definitions": {k: v.format(**words) for k, v in MASK_DEFINITIONS.items()},
        "per_volume": per_volume,
    }


def _first(values: Sequence[tuple[str, float]]) -> list[float]:
    """One value of each patient."""
    first: dict[str, float] = {}
    for patient, value in values:
        first.setdefault(patient, value)
    return list(first.values())
