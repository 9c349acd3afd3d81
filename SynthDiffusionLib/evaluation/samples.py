"""`synthdiffusion evaluate samples`: one synthetic volume, or more, for every test mask, in each arm.

What the arms are: see `arms`. Volumes are made through `jobs.run`, as everybody's are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.arms import (
    ANATOMY,
    INPAINTING,
    JOINT,
    MOVED,
    arm_label,
    arms_of,
    move_of,
    moved_mask,
)
from SynthDiffusionLib.evaluation.cases import EvaluationData
from SynthDiffusionLib.evaluation.joint import check_frame, own_classes, same_frame, tumour_of
from SynthDiffusionLib.evaluation.rows import Item, Row, as_evaluated
from SynthDiffusionLib.jobs.request import GenerateRequest, check_choice
from SynthDiffusionLib.training.dataset import Case, description_sha256
from SynthDiffusionLib.volumes import Volume, read_volume, same_grid, write_volume

if TYPE_CHECKING:
    from SynthDiffusionLib.models import ModelPackage

FORMAT = "synthdiffusion-samples-1"
INDEX = "samples.json"


@dataclass(frozen=True)
class Settings:
    """How samples are made; a folder of samples holds one kind only.

    Args:
        arms: some of `arms_of` the model; all of them when None.
        seeds: volumes per mask and arm.
        steps: denoising steps; the model's default when None. The index has the number.
        sampler: plain name; the model's default when None.
        first_seed: case n uses first_seed + n * seeds and on. No two masks share their noise: samples would otherwise
            resemble each other for a reason that is not the model's.
        guidance: classifier-free guidance; the model's default when None.
        device: see `GenerateRequest`.
        precision: see `GenerateRequest`.
        condition_scale: weight of the segmentation, see `GenerateRequest`; the model's default when None.
    """

    arms: tuple[str, ...] | None = None
    seeds: int = 1
    steps: int | None = None
    sampler: str | None = None
    guidance: float | None = None
    first_seed: int = 1000
    device: str = "auto"
    precision: str = "auto"
    condition_scale: float | None = None

    def to_json(self) -> dict[str, Any]:
        """What the index says of how the samples are made."""
        # Older folders know nothing of a condition scale, and are gone on with where none is given.
        unsaid = ("arms", "device") if self.condition_scale is not None else ("arms", "device", "condition_scale")
        return {k: v for k, v in asdict(self).items() if k not in unsaid}


def make_samples(
    package: ModelPackage,
    data: EvaluationData,
    out: Path,
    settings: Settings = Settings(),
    *,
    run: Callable[..., Any] | None = None,
    on_event: Callable[[dict], None] = lambda event: None,
) -> Path:
    """Makes what is missing and writes `samples.json`. Can be interrupted and called again.

    Args:
        package: the model.
        data: cases that the model has not seen (`load_evaluation_data` checks it).
        out: folder of the samples.
        settings: see there.
        run: what carries a request out; `jobs.run` when None.
        on_event: called with progress events.

    Returns:
        Path of `samples.json`.

    Raises:
        BadInput: the folder holds samples of another model, data set or kind; settings that make no sense; a model that
            makes its own masks on another grid than the data set's.
    """
    if run is None:
        from SynthDiffusionLib.jobs import run
    possible = arms_of(package.spec, data.target)
    arms = possible if settings.arms is None else settings.arms
    unknown = [arm for arm in arms if arm not in possible]
    if unknown or not arms:
        raise BadInput(f"'{(unknown or [''])[0]}' is no arm", f"Choose from: {', '.join(possible)}.")
    if not 1 <= settings.seeds <= 1000:
        raise BadInput(f"{settings.seeds} seeds were asked for", "Give --seeds a number from 1 to 1000.")
    if settings.sampler is not None:
        check_choice(settings.sampler, package.spec.sampling.samplers, "sampler")
    if settings.condition_scale is not None and not package.spec.controls.condition_scale:
        raise BadInput(f"The model '{package.id}' has no condition scale", "Leave --condition-scale out.")
    if settings.steps is None:
        settings = replace(settings, steps=package.spec.sampling.default_steps)
    if JOINT in arms:
        check_frame(package, data)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    header = {
        "format": FORMAT,
        "model": generator_identity(package),
        "data": {"description_sha256": description_sha256(data.folder), "split": data.split},
        "settings": settings.to_json(),
        "leak_check": data.leak_check,
    }
    index = _resume(out, header)
    done = {(e["arm"], e["case"], e["seed"]): e for e in index["samples"]}
    wanted = [
        (arm, case, settings.first_seed + n * settings.seeds + s)
        for arm in arms
        for n, case in enumerate(data.evaluated)
        for s in range(settings.seeds)
    ]
    index["skipped"] = [e for e in index["skipped"] if e["arm"] not in arms]
    for number, (arm, case, seed) in enumerate(wanted):
        on_event(
            {
                "event": "progress",
                "stage": f"samples: {_arm_label(arm, data)}",
                "step": number,
                "total": len(wanted),
            }
        )
        entry = done.get((arm, case.name, seed))
        if entry and _intact(out, entry):
            continue
        why_not = _cannot(arm, case, data, package)
        if why_not:
            index["skipped"].append({"arm": arm, "case": case.name, "patient": case.patient, "reason": why_not})
            continue
        made = run(_request(arm, case, data, package, out, seed, settings)).outputs[0]
        volume = Path(made["volume"])
        new = {
            "arm": arm,
            "case": case.name,
            "patient": case.patient,
            "seed": int(made["seed"]),
            "file": volume.relative_to(out).as_posix(),
            "sha256": _sha256(volume),
        }
        if arm == JOINT:
            mask = Path(made["segmentation"])
            new["segmentation"] = mask.relative_to(out).as_posix()
            new["segmentation_sha256"] = _sha256(mask)
        if arm == MOVED:
            new["shift_voxels"] = [int(v) for v in move_of(case, data)]
        index["samples"] = [e for e in index["samples"] if e is not entry] + [new]
        _write(out, index, possible)
    _write(out, index, possible)
    return out / INDEX


def model_identity(package: ModelPackage) -> dict[str, Any]:
    """Which weights were measured, and with which segmenter."""
    spec = package.spec
    weights = {f.path: f.sha256 for f in spec.files if f.path.endswith(".safetensors")}
    return {"id": spec.id, "version": spec.version, "files": weights}


def generator_identity(package: ModelPackage) -> dict[str, Any]:
    """Which weights and defaults made the samples: a new segmenter leaves them as they are."""
    defaults = {
        "sampler": package.spec.sampling.default_sampler,
        "guidance": {mode: package.spec.default_guidance(mode) for mode in package.spec.modes},
    }
    segmenters = {f.path for f in package.spec.files if f.role == "segmenter"}
    identity = model_identity(package)
    files = {k: v for k, v in identity["files"].items() if k not in segmenters}
    return identity | {"files": files, "defaults": defaults}


def load_samples(
    folder: Path, package: ModelPackage, data: EvaluationData, *, same_model: bool = True
) -> tuple[dict[str, Row], dict[str, Any]]:
    """Reads the samples, each arm as a row, and checks that they are what the index says.

    Args:
        same_model: refuse samples of another model; False to compare two models on one data set.

    Returns:
        rows by arm, and the index.

    Raises:
        BadInput: no index, a missing or changed file, samples of another model or data set, an arm with fewer than
            `FEWEST_CASES` cases, volumes on another grid than their masks.
    """
    from SynthDiffusionLib.evaluation.cases import FEWEST_CASES

    folder = Path(folder)
    index = _read(folder)
    if same_model and not _same_generator(index["model"], generator_identity(package)):
        raise BadInput(
            f"The samples in '{folder}' were made by {index['model']['id']} {index['model']['version']} with other "
            "weights or defaults than this model's"
            if index["model"]["id"] == package.id
            else f"The samples in '{folder}' were made by the model '{index['model']['id']}'",
            "Make them again with: synthdiffusion evaluate samples.",
        )
    if index["data"] != {"description_sha256": description_sha256(data.folder), "split": data.split}:
        raise BadInput(
            f"The samples in '{folder}' belong to another data set or split", "Give the --data they were made with."
        )
    cases = {c.name: c for c in data.evaluated}
    possible = arms_of(package.spec, data.target)
    items: dict[str, list[Item]] = {}
    for entry in index["samples"]:
        case = cases.get(entry["case"])
        if case is None or entry["patient"] != case.patient or entry["arm"] not in possible:
            raise BadInput(
                f"'{entry['case']}' in '{folder / INDEX}' is no case of '{data.split}'", "Make the samples again."
            )
        if not _intact(folder, entry):
            raise BadInput(
                f"The sample '{entry['file']}' is missing or has been changed",
                "Run synthdiffusion evaluate samples again: it makes what is missing.",
            )
        volume = read_volume(_inside(folder, entry["file"]), unit=case.image.unit)
        affine = case.image.affine
        if entry["arm"] == JOINT:  # on the model's own grid, with a mask of its own
            classes, affine = own_classes(_inside(folder, entry["segmentation"]), volume, data), volume.affine
            if not same_frame(volume.shape, volume.affine, case.image.shape, case.image.affine):
                raise BadInput(
                    f"The sample '{entry['file']}' has {'x'.join(map(str, volume.shape))} voxels, the data set's "
                    f"'{case.name}' {'x'.join(map(str, case.image.shape))}, or another spacing",
                    "Prepare the data set with the model's spacing and --size.",
                )
        elif not same_grid(volume.shape, volume.affine, case.classes.shape, case.classes.affine):
            raise BadInput(f"The sample '{entry['file']}' is not on the grid of its mask", "Make the samples again.")
        else:
            classes = moved_mask(case, data) if entry["arm"] == MOVED else case.classes.array
        items.setdefault(entry["arm"], []).append(
            Item(
                case.name,
                case.patient,
                as_evaluated(volume.array, data.intensity_range),
                classes,
                affine,
                entry["seed"],
            )
        )
    rows = {arm: Row(arm, _arm_label(arm, data), "ours", tuple(items[arm])) for arm in possible if arm in items}
    for arm, row in rows.items():
        if len(set(row.patients)) < FEWEST_CASES:
            raise BadInput(
                f"The arm '{arm}' has samples of {len(set(row.patients))} patients; at least {FEWEST_CASES} are needed",
                "Let synthdiffusion evaluate samples finish.",
            )
    if not rows:
        raise BadInput(f"'{folder / INDEX}' lists no samples", "Run synthdiffusion evaluate samples.")
    return rows, index


def _arm_label(arm: str, data: EvaluationData) -> str:
    return arm_label(arm, data.target, data.all_targets, data.ground)


def _cannot(arm: str, case: Case, data: EvaluationData, package: ModelPackage) -> str | None:
    """Why a case has no sample in an arm: its region is larger than the model can inpaint, or it has no target."""
    if not (case.classes.array == data.target_value).any():
        return f"it has no {data.target}"
    if arm != INPAINTING:
        return None
    from SynthDiffusionLib.inpainting.crop import largest_region_mm

    spec = package.spec
    if spec.inpaint is None:
        return "the model cannot inpaint"
    limit = largest_region_mm(
        spec.grid.max_size, spec.grid.spacing_mm, spec.inpaint.margin_mm, spec.inpaint.max_region_mm
    )
    voxels = np.argwhere(case.classes.array == data.target_value)
    extent = float(((voxels.max(0) - voxels.min(0) + 1) * case.classes.spacing).max())
    return (
        f"its {data.target} of {extent:.0f} mm is larger than the {limit:.0f} mm that can be inpainted"
        if extent > limit
        else None
    )


def _request(
    arm: str, case: Case, data: EvaluationData, package: ModelPackage, out: Path, seed: int, settings: Settings
) -> GenerateRequest:
    if arm == JOINT:
        (out / arm).mkdir(parents=True, exist_ok=True)
        return GenerateRequest(
            segmentation=None,
            model=str(package.folder),
            out=out / arm,
            mode="joint",
            tumour=tumour_of(case.classes.array == data.target_value, case.classes.affine),
            **_sampling(settings, seed),
            case=case.name,
        )
    mask = data.folder / "classes" / f"{case.name}.nii.gz"
    drawn = {int(v) for v in np.unique(case.classes.array)} if arm != MOVED else {data.target_value}
    folder = out / arm
    folder.mkdir(parents=True, exist_ok=True)
    if arm == MOVED:
        (out / "moved_masks").mkdir(exist_ok=True)
        mask = out / "moved_masks" / f"{case.name}.nii.gz"
        write_volume(Volume(moved_mask(case, data), case.classes.affine, "label"), mask)
    scale = {} if settings.condition_scale is None else {"condition_scale": settings.condition_scale}
    return GenerateRequest(
        segmentation=mask,
        model=str(package.folder),
        out=folder,
        mode="inpaint" if arm == INPAINTING else "whole",
        image=data.folder / "images" / f"{case.name}.nii.gz" if arm == INPAINTING else None,
        labels={str(value): name for name, value in data.values.items() if value in drawn},
        classes=None if arm == ANATOMY else (data.target,),
        **_sampling(settings, seed),
        case=case.name,
        **scale,
    )


def _sampling(settings: Settings, seed: int) -> dict[str, Any]:
    return {
        "sampler": settings.sampler,
        "guidance": settings.guidance,
        "steps": settings.steps,
        "seed": seed,
        "device": settings.device,
        "precision": settings.precision,
    }


def _same_generator(made_by: dict[str, Any], generator: dict[str, Any]) -> bool:
    """Files that do not generate, such as a segmenter, may be listed too, and may differ."""
    files = {k: v for k, v in made_by.get("files", {}).items() if k in generator["files"]}
    return made_by | {"files": files} == generator


def _resume(out: Path, header: dict[str, Any]) -> dict[str, Any]:
    """The index to go on from: that of the folder, if it is of the same kind, or an empty one."""
    if not (out / INDEX).exists():
        return {**header, "samples": [], "skipped": []}
    index = _read(out)
    for key, value in header.items():
        same = _same_generator(index[key], value) if key == "model" else index.get(key) == value
        if not same:
            raise BadInput(
                f"'{out}' holds samples of another kind: their {key} was {json.dumps(index.get(key))[:120]}",
                "Give another --out, or remove that folder first."
                if key != "settings"
                else f"Give another --out, or what they were made with, such as --steps {_steps_of(index)}.",
            )
    return index


def _steps_of(index: dict[str, Any]) -> str:
    return str(index["settings"].get("steps", "N"))


def _read(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        raise BadInput(f"'{folder}' holds no samples", "Make them with: synthdiffusion evaluate samples.")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"'{path}' cannot be read", "Remove it and make the samples again.") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise BadInput(f"'{path}' is of an unknown format", "Make the samples again.")
    if not _well_formed(index):
        raise BadInput(f"'{path}' is damaged", "Remove it and make the samples again.")
    return index


def _well_formed(index: dict[str, Any]) -> bool:
    model, data, settings = (index.get(k) for k in ("model", "data", "settings"))
    if not all(isinstance(part, dict) for part in (model, data, settings)):
        return False
    if not all(isinstance(model.get(k), str) for k in ("id", "version")):
        return False
    lists = [index.get(k) for k in ("samples", "skipped")]
    if not all(isinstance(entries, list) and all(isinstance(e, dict) for e in entries) for entries in lists):
        return False
    texts = (("arm", "case", "patient", "file", "sha256"), ("arm", "case", "patient", "reason"))
    if not all(isinstance(e.get(k), str) for entries, keys in zip(lists, texts) for e in entries for k in keys):
        return False
    masks = ("segmentation", "segmentation_sha256")
    if not all(isinstance(e.get(k), str) for e in lists[0] if e["arm"] == JOINT for k in masks):
        return False
    return all(isinstance(e.get("seed"), int) and re.fullmatch("[0-9a-f]{64}", e["sha256"]) for e in lists[0])


def _inside(folder: Path, name: str) -> Path:
    """A file of the folder; a name that leads out of it is refused."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BadInput(f"'{folder / INDEX}' names a file outside its folder: '{name}'", "Make the samples again.")
    return path


def _intact(folder: Path, entry: dict[str, Any]) -> bool:
    files = {entry["file"]: entry["sha256"]}
    if "segmentation" in entry:
        files[entry["segmentation"]] = entry["segmentation_sha256"]
    paths = {_inside(folder, name): checksum for name, checksum in files.items()}
    return all(path.is_file() and _sha256(path) == checksum for path, checksum in paths.items())


def _sha256(path: Path) -> str:
    from SynthDiffusionLib.jobs.provenance import sha256_of

    return sha256_of(path)


def _write(out: Path, index: dict[str, Any], possible: Sequence[str]) -> None:
    from SynthDiffusionLib.jobs.provenance import write_json

    order = {arm: n for n, arm in enumerate(possible)}
    index["samples"].sort(key=lambda e: (order[e["arm"]], e["case"], e["seed"]))
    write_json(out / INDEX, index)


def describe(index: dict[str, Any], arms: Sequence[str], command: str = "") -> dict[str, Any]:
    """What the results say about the samples; `command` makes them."""
    return {
        "command": command,
        "settings": index["settings"],
        "volumes": {arm: sum(e["arm"] == arm for e in index["samples"]) for arm in arms},
        "skipped": {arm: [e["case"] for e in index["skipped"] if e["arm"] == arm] for arm in arms},
        "skipped_reasons": {e["case"]: e["reason"] for e in index["skipped"]},
    }
