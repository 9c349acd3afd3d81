"""From a condition to voxels: whole volumes, regions of a real one, and volumes together with their segmentation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from SynthDiffusionLib.backends import Backend, OnPart
from SynthDiffusionLib.backends.controls import DEFAULT_CONTROLS, Controls
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.inpainting.crop import InpaintCrop, cut_crop, largest_region_mm, paste
from SynthDiffusionLib.inpainting.regions import Region, check_region_size, find_regions, rim_widths
from SynthDiffusionLib.intensity import denormalise, normalise
from SynthDiffusionLib.jobs.grids import choose_grid, unconditional_grid
from SynthDiffusionLib.jobs.inputs import Inputs
from SynthDiffusionLib.jobs.joint import TumourValues, check_asked, draw_tumour, range_notes
from SynthDiffusionLib.jobs.request import GenerateRequest
from SynthDiffusionLib.jobs.tumour import tumour_values
from SynthDiffusionLib.labels.class_maps import mask_of, values_of
from SynthDiffusionLib.labels.condition import Condition
from SynthDiffusionLib.memory.plan import Plan
from SynthDiffusionLib.models.spec import ModelSpec
from SynthDiffusionLib.volumes import (
    Volume,
    reorient,
    resample_to,
    shifted_affine,
    spacing_of,
    voxel_positions,
)

MISSED_FACTOR, MISSED_MM = 2.0, 20.0  # a joint mask is told to be off beyond this in volume, and in place

OnStep = Callable[[int, int], None]
OnEstimate = Callable[[Callable[[], Volume]], None]  # see `previews.Previews.__call__`


@dataclass(frozen=True)
class Resolved:
    """A request's settings with the model's defaults filled in, and where it is computed.

    Args:
        tumour: for the joint mode, of one sample.
    """

    sampler: str
    steps: int
    seed: int
    guidance: float
    margin_mm: float
    replacement: bool
    plan: Plan | None
    controls: Controls = DEFAULT_CONTROLS
    tumour: TumourValues | None = None


@dataclass(frozen=True)
class Prepared:
    """A checked input, ready for any number of samples.

    Args:
        class_map: on the grid of the output.
        grid: (I, J, K) of the largest condition.
        evaluations: conditions per sample.
        shapes: (I, J, K) of each condition.
        condition: for whole volumes.
        image: for inpainting: the real volume.
        regions: for inpainting.
        given: classes that count as drawn.
        tumours: for the joint mode, one a sample.
        notes: sentences for the user.
    """

    class_map: Volume
    grid: tuple[int, int, int]
    evaluations: int
    shapes: tuple[tuple[int, int, int], ...] = ()
    condition: Condition | None = None
    image: Volume | None = None
    regions: list[Region] = field(default_factory=list)
    given: tuple[str, ...] = ()
    margin_mm: float = 0.0
    tumours: tuple[TumourValues, ...] = ()
    notes: list[str] = field(default_factory=list)

    @property
    def has_drawing(self) -> bool:
        """Whether the networks that look at a drawing are needed."""
        return self.condition is None or bool(self.condition.given)


@dataclass(frozen=True)
class Result:
    """One sample.

    Args:
        volume: on the grid of the output.
        class_map: (I, J, K) on the same grid.
        changed: (I, J, K) bool, for inpainting: the voxels that may have changed.
        segmented: the class map was made with the volume.
    """

    volume: Volume
    class_map: np.ndarray
    changed: np.ndarray | None = None
    segmented: bool = False


def prepare_whole(request: GenerateRequest, spec: ModelSpec, inputs: Inputs) -> Prepared:
    """Brings the class map to the model's orientation and spacing.

    Raises:
        BadInput: a grid beyond the model, or only a region to remove.
    """
    mapping, notes = inputs.mapping, []
    if set(mapping.given) <= {c.name for c in mapping.scheme.classes if c.role == "remove"}:
        raise BadInput(
            "Only a region to remove is drawn, and there is no image to remove it from",
            "Give the image with --image and --mode inpaint.",
        )
    given = tuple(n for n in mapping.given if mapping.scheme[n].role == "condition")
    class_map = Volume(mapping.class_map, mapping.affine, "label")
    chosen = choose_grid(request, spec, reorient(class_map, spec.grid.orientation), given)
    aligned, shape, affine = chosen.part, chosen.shape, chosen.affine
    notes += chosen.notes
    if chosen.cropped:
        class_map = _same_part(class_map, aligned)
    on_grid = resample_to(aligned, shape, affine, fill=0)
    on_model, in_drawing = values_of(on_grid.array), values_of(aligned.array)
    present = [n for n in given if not on_model.isdisjoint(mapping.scheme.containing(n))]
    # Outside the crop a class is known to be absent; what is too small for the model's voxels is not known at all.
    in_box = [n for n in given if not in_drawing.isdisjoint(mapping.scheme.containing(n))]
    absent = [n for n in given if n not in in_box]
    lost = [n for n in in_box if n not in present]
    if absent:
        notes.append(f"Nothing of it lies in the crop, so the model is told there is none: {', '.join(absent)}")
    if lost:
        if not present:
            voxel = " x ".join(f"{s:.4g}" for s in spacing_of(affine))
            raise BadInput(f"The drawing is smaller than a voxel of the model ({voxel} mm)", "Draw a larger structure.")
        notes.append(f"Too small for the model's voxels, and ignored: {', '.join(lost)}")
    known = tuple(n for n in given if n not in lost)
    if spec.body_part == "chest" and spec.grid.spacing_range_mm is None:
        notes += _outside_body_note(on_grid.array, mapping.scheme, given)
    condition = Condition(on_grid.array, on_grid.affine, mapping.scheme, known)
    return Prepared(class_map, condition.shape, 1, (condition.shape,), condition=condition, given=known, notes=notes)


def prepare_unconditional(request: GenerateRequest, spec: ModelSpec, inputs: Inputs) -> Prepared:
    """A condition that says nothing, on the grid that is asked for.

    Raises:
        BadInput: the model does not bear that grid.
    """
    shape, affine = unconditional_grid(request, spec)
    nothing = np.zeros(shape, np.uint8)
    condition = Condition(nothing, affine, spec.label_scheme, ())
    return Prepared(Volume(nothing, affine, "label"), shape, 1, (shape,), condition=condition)


def whole(
    backend: Backend,
    spec: ModelSpec,
    prepared: Prepared,
    settings: Resolved,
    on_step: OnStep,
    on_estimate: OnEstimate | None = None,
    on_part: OnPart | None = None,
) -> Result:
    """One whole synthetic volume on the grid of the segmentation."""
    condition = prepared.condition

    def in_unit(values: np.ndarray) -> Volume:
        return Volume(denormalise(values, spec.intensity.range), condition.affine, spec.intensity.unit)

    made = in_unit(
        backend.sample(
            condition,
            settings.plan,
            sampler=settings.sampler,
            steps=settings.steps,
            seed=settings.seed,
            guidance=settings.guidance,
            controls=settings.controls,
            on_step=on_step,
            **_listeners(on_estimate, in_unit, on_part),
        )
    )
    target = prepared.class_map
    placed = resample_to(_with_rim(made), target.shape, target.affine)
    volume = Volume(np.rint(placed.array).astype(np.int16), target.affine, spec.intensity.unit)
    return Result(volume, target.array)


def prepare_joint(request: GenerateRequest, spec: ModelSpec, seed: int) -> Prepared:
    """The grid that is asked for, and the tumour of every sample.

    Args:
        seed: of the first sample; its tumour is drawn with the same.

    Raises:
        BadInput: the model does not bear the grid, or no tumour is like what is asked for.
    """
    shape, affine = unconditional_grid(request, spec)
    straight = np.abs(affine[:3, :3])  # one entry a column: the grid's axes are the patient's
    extent, voxel = straight @ np.array(shape), straight.sum(1)
    asked = tumour_values(request.tumour or {})
    check_asked(asked, extent, voxel)
    tumours = tuple(draw_tumour(asked, spec.characteristics, seed + n, extent, voxel) for n in range(request.samples))
    nothing = Volume(np.zeros(shape, np.uint8), affine, "label")
    notes = range_notes(asked, spec.characteristics)
    return Prepared(nothing, shape, 1, (shape,), tumours=tumours, notes=notes)


def joint(
    backend: Backend,
    spec: ModelSpec,
    prepared: Prepared,
    settings: Resolved,
    on_step: OnStep,
    on_estimate: OnEstimate | None = None,
    on_part: OnPart | None = None,
) -> Result:
    """One synthetic volume together with its segmentation, as the model gives it: not smoothed, all its pieces."""
    affine = prepared.class_map.affine

    def in_unit(values: np.ndarray) -> Volume:
        return Volume(denormalise(values, spec.intensity.range), affine, spec.intensity.unit)

    image, mask = backend.sample_joint(
        np.array(settings.tumour.used),
        settings.plan,
        shape=prepared.grid,
        sampler=settings.sampler,
        steps=settings.steps,
        seed=settings.seed,
        guidance=settings.guidance,
        on_step=on_step,
        **_listeners(on_estimate, in_unit, on_part),
    )
    made = in_unit(image)
    target = spec.label_scheme[spec.characteristics.target]
    class_map = np.where(mask, target.value, 0).astype(np.uint8)
    return Result(made.with_array(np.rint(made.array).astype(np.int16)), class_map, segmented=True)


def joint_findings(
    spec: ModelSpec, result: Result, used: Mapping[str, float]
) -> tuple[dict[str, float] | None, list[str]]:
    """What was made in the joint mode: the nine characteristics of its mask, None if it is empty, and notes on it.

    Args:
        used: the characteristics that the model was told, which a mask that is far from them is compared with.
    """
    from scipy.ndimage import label

    from SynthDiffusionLib.labels.characteristics import measure

    name = spec.characteristics.target
    mask = result.class_map == spec.label_scheme[name].value
    if not mask.any():
        return None, [f"The model made no voxel of {name}: try another seed, or other values of --tumour"]
    _, pieces = label(mask, np.ones((3, 3, 3)))
    notes = [f"The {name} that the model made is in {pieces} pieces, which are all kept"] if pieces > 1 else []
    if any(mask.take(end, axis).any() for axis in range(3) for end in (0, -1)):
        notes.append(f"The {name} reaches the end of the volume, where it is cut off")
    made = {key: float(f"{value:.6g}") for key, value in measure(mask, result.volume.affine).items()}
    return made, notes + _missed(name, made, used)


def _ml(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _missed(name: str, made: Mapping[str, float], used: Mapping[str, float]) -> list[str]:
    """Notes on a mask that is far from what the model was told."""
    notes = []
    ml, told = made["volume_mm3"] / 1000, used["volume_mm3"] / 1000
    factor = ml / told
    if not 1 / MISSED_FACTOR <= factor <= MISSED_FACTOR:
        notes.append(f"The {name} has {_ml(ml)} ml, {factor:.2g} times the {_ml(told)} ml that the model was told")
    apart = math.dist(*([values[f"center_{axis}_mm"] for axis in "ras"] for values in (made, used)))
    if apart > MISSED_MM:
        notes.append(f"The {name} lies {apart:.0f} mm from where the model was told")
    return notes


def prepare_inpaint(request: GenerateRequest, spec: ModelSpec, inputs: Inputs) -> Prepared:
    """Finds the regions to inpaint and checks that the model can do each.

    Raises:
        BadInput: nothing drawn that can be inpainted, or a region that is too large.
    """
    mapping, scheme = inputs.mapping, inputs.mapping.scheme
    margin = request.margin_mm if request.margin_mm is not None else spec.inpaint.margin_mm
    drawable = {c.name for c in scheme.classes if c.role == "remove"} | {spec.target_class}
    values = [c.value for c in scheme.classes if c.name in drawable]
    drawn = mask_of(mapping.class_map, values)
    if not drawn.any() and any(n in drawable for n in mapping.given):
        raise BadInput(
            f"What is drawn as {' or '.join(sorted(drawable & set(mapping.given)))} does not lie within --image",
            "Give the image that it was drawn on.",
        )
    if not drawn.any():
        raise BadInput(
            f"Nothing is drawn that can be inpainted: the drawing has {', '.join(mapping.given)}",
            f"Draw a region of the class {' or '.join(sorted(drawable))}.",
        )
    _check_number_type(inputs.image, spec)
    given = tuple(n for n in mapping.given if scheme[n].role == "condition")
    if spec.target_class not in given:
        given = (*given, spec.target_class)  # known to be absent: only regions to remove are drawn
    regions = find_regions(drawn, inputs.image.spacing, margin)
    rim = rim_widths(inputs.image.spacing, margin)
    limit = largest_region_mm(spec.grid.max_size, spec.grid.spacing_mm, rim.max(), spec.inpaint.max_region_mm)
    if limit <= 0:
        voxels = " x ".join(f"{s:.3g}" for s in inputs.image.spacing)
        raise BadInput(
            f"A rim of {rim.max():.3g} mm leaves no room for a region in the grid of '{spec.id}'",
            f"Give --margin a smaller number (its default is {spec.inpaint.margin_mm:g}), or an image with smaller "
            f"voxels than {voxels} mm.",
        )
    notes = []
    if rim.max() > margin + 1e-6:
        wide = " x ".join(f"{w:.3g}" for w in rim)
        notes.append(
            f"The image is coarse beside the margin of {margin:g} mm; the rim that changes with the drawing is "
            f"{wide} mm wide, one and a half voxels at least"
        )
    for region in regions:
        check_region_size(region, inputs.image.spacing, limit)
    class_map = Volume(mapping.class_map, mapping.affine, "label")
    prepared = Prepared(
        class_map,
        spec.grid.min_size,
        len(regions),
        image=inputs.image,
        regions=regions,
        given=given,
        margin_mm=margin,
        notes=notes,
    )
    crops = [_crop(prepared, region, inputs.image, spec) for region in regions]
    largest = tuple(max(crop.condition.shape[axis] for crop in crops) for axis in range(3))
    notes = [*notes, *_intensity_notes(crops, spec)]
    return replace(prepared, grid=largest, shapes=tuple(crop.condition.shape for crop in crops), notes=notes)


def inpaint(
    backend: Backend,
    spec: ModelSpec,
    prepared: Prepared,
    settings: Resolved,
    on_step: OnStep,
    on_estimate: OnEstimate | None = None,
    on_part: OnPart | None = None,
) -> Result:
    """The real volume with every drawn region synthesised, one after the other."""
    from SynthDiffusionLib.backends.patch_ddpm import KnownImage

    volume = prepared.image
    changed = np.zeros(volume.shape, bool)
    for index, region in enumerate(prepared.regions):
        pending = np.zeros(volume.shape, bool)
        for later in prepared.regions[index + 1 :]:
            pending[later.box] |= later.changed()
        crop = _crop(prepared, region, volume, spec, pending)
        plan = replace(settings.plan, grid=backend.working_grid(crop.condition.shape))
        known = KnownImage(normalise(crop.image.array, spec.intensity.range), crop.known, settings.replacement)

        def in_place(values: np.ndarray, crop: InpaintCrop = crop) -> Volume:
            array = np.where(crop.known, crop.image.array, denormalise(values, spec.intensity.range))
            return crop.image.with_array(array.astype(np.float32))

        values = backend.sample(
            crop.condition,
            plan,
            sampler=settings.sampler,
            steps=settings.steps,
            seed=settings.seed + 1_000_003 * index,
            guidance=settings.guidance,
            known=known,
            on_step=on_step,
            **_listeners(on_estimate, in_place, on_part),
        )
        volume = paste(volume, region, in_place(values), prepared.margin_mm)
        changed[region.box] |= region.blend_weights(prepared.margin_mm) > 0
    return Result(volume, prepared.class_map.array, changed)


def model_views(spec: ModelSpec, prepared: Prepared, result: Result) -> Iterator[tuple[Volume, np.ndarray, np.ndarray]]:
    """A finished sample as it is written, brought back to the model's grid: all of a whole volume, or a crop for each
    inpainted region.

    Yields:
        the volume; its class map, 0 beyond the sample; and bool voxels that say what is looked at in this view:
        everywhere, or what is drawn of this region, since a crop shows its neighbours too.
    """
    if result.segmented:
        yield result.volume, result.class_map, np.ones(result.class_map.shape, bool)
    if prepared.condition is not None:
        classes, affine = prepared.condition.class_map, prepared.condition.affine
        yield resample_to(_with_rim(result.volume), classes.shape, affine), classes, np.ones(classes.shape, bool)
    for region in prepared.regions:
        crop = _crop(prepared, region, result.volume, spec)
        yield crop.image, crop.condition.class_map * crop.inside, crop.drawn


def _with_rim(volume: Volume) -> Volume:
    """With one more voxel on every side, for another grid whose box ends up to half a voxel beyond the volume's."""
    return volume.with_array(np.pad(volume.array, 1, mode="edge"), affine=shifted_affine(volume.affine, (-1, -1, -1)))


def _listeners(
    on_estimate: OnEstimate | None, in_unit: Callable[[np.ndarray], Volume], on_part: OnPart | None
) -> dict[str, Callable]:
    """The backend's arguments for those who listen; none where nobody does. Estimates are turned into volumes."""
    listeners: dict[str, Callable] = {}
    if on_estimate is not None:
        listeners["on_estimate"] = lambda estimate: on_estimate(lambda: in_unit(estimate()))
    if on_part is not None:
        listeners["on_part"] = on_part
    return listeners


def _crop(
    prepared: Prepared, region: Region, volume: Volume, spec: ModelSpec, pending: np.ndarray | None = None
) -> InpaintCrop:
    return cut_crop(
        volume,
        prepared.class_map.array,
        region,
        spec.label_scheme,
        prepared.given,
        orientation=spec.grid.orientation,
        spacing_mm=spec.grid.spacing_mm,
        max_size=spec.grid.max_size,
        margin_mm=prepared.margin_mm,
        pending=pending,
    )


def _same_part(volume: Volume, part: Volume) -> Volume:
    """The voxels of a volume that a cut of it holds, in the volume's own orientation.

    Not by turning the cut back: between axes at 45 degrees, orientation codes do not lead back to where they came from.
    """
    corners = np.array([(0, 0, 0), np.array(part.shape) - 1])
    indices = np.rint(voxel_positions(np.linalg.solve(volume.affine, part.affine), corners)).astype(int)
    start, stop = indices.min(0), indices.max(0) + 1
    box = tuple(slice(a, b) for a, b in zip(start, stop))
    return volume.with_array(volume.array[box], affine=shifted_affine(volume.affine, start))


def _check_number_type(image: Volume, spec: ModelSpec) -> None:
    """Refuses an image whose numbers cannot hold what the model makes, such as HU + 1024 stored without a sign."""
    (low, high), unit = spec.intensity.range, spec.intensity.unit
    if np.issubdtype(image.array.dtype, np.integer):
        limits = np.iinfo(image.array.dtype)
        if limits.min > low or limits.max < high:
            raise BadInput(
                f"--image is stored as {image.array.dtype}, which cannot hold {low:g} to {high:g} {unit}",
                f"Give it in {unit}, as signed numbers of 16 bits.",
            )


def _intensity_notes(crops: list[InpaintCrop], spec: ModelSpec) -> list[str]:
    """A warning where the surroundings of a drawing do not look like CT in HU."""
    if spec.intensity.unit != "HU":
        return []
    low, high = spec.intensity.range
    known = np.concatenate([crop.image.array[crop.known] for crop in crops])
    if known.size == 0:
        return []
    least, most = np.percentile(known, [1, 99])
    if low - (high - low) <= least <= (low + high) / 2 and most <= high + 2 * (high - low):
        return []
    return [
        f"Around the drawing the image has values from {least:.4g} to {most:.4g}. The model expects chest CT in HU "
        "(air -1000, water 0): check that the image is in HU and that the drawing lies in or beside the lung"
    ]


def _outside_body_note(classes: np.ndarray, scheme, given: tuple[str, ...]) -> list[str]:
    if "body" not in given:
        return []
    outside = float((~mask_of(classes, scheme.containing("body"))).mean())
    if outside < 0.01:
        return []
    return [
        f"{outside:.0%} of the grid lies outside the body, which the training data of chest crops hardly ever shows: "
        "expect unrealistic values there"
    ]
