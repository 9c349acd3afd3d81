"""What a job is asked to do: the one request type of the command line, the Slicer worker, batches and tests."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.jobs.tumour import check_tumour
from SynthDiffusionLib.memory.execution import Execution

SCHEMA = "synthdiffusion-request-1"  # under the key "schema": "format" is that of the output
CHOICES = {
    "mode": ("whole", "inpaint", "unconditional", "joint"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "format": ("nii.gz", "nrrd"),
    "inpaint_method": ("conditioned", "replacement"),
}


@dataclass(frozen=True)
class GenerateRequest:
    """A request for synthetic volumes.

    Args:
        segmentation: file of the segmentation; None for "unconditional" and "joint".
        model: id or folder of a model package.
        out: folder for the outputs.
        mode: "whole" makes every voxel; "inpaint" changes drawn regions of `image`; "unconditional" makes every voxel
            without a drawing; "joint" makes the segmentation too, from the characteristics of a tumour.
        image: the real volume to inpaint into.
        labels: explicit map from segment names or label values to the model's classes.
        classes: use only these classes of the segmentation; the others count as not drawn.
        crop: cut a segmentation that is too large for the model to a box around the target.
        sampler: plain name; the model's default when None.
        steps: denoising steps; the model's default when None.
        seed: of the first sample; sample n uses seed + n. Drawn at random when None.
        samples: number of volumes.
        guidance: classifier-free guidance scale; 1 is off; the model's default when None.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "auto", "fp32", "bf16" or "fp16".
        vram_limit: largest use of device memory in bytes; None is the smaller of what is free and 24 GiB.
        format: "nii.gz" or "nrrd".
        scene: also write a Slicer scene (.mrb).
        inpaint_method: "conditioned" gives the surroundings to the network; "replacement" writes the noised
            surroundings over the sample after every step (for comparison).
        margin_mm: width of the rim around a drawn region that is synthesised with it; the model's default when None.
        case: stem of the output names; the segmentation's file name when None.
        adherence: run the package's segmenter on every sample and record its Dice with the drawn target class.
        size: (I, J, K) voxels of the volume along the model's axes, for models that bear several; "nearest" takes the
            allowed size nearest to the segmentation's; None its own, or without one the model's default.
        spacing_mm: of that volume; None the segmentation's own, or without one the model's default.
        condition_scale: strength of the drawing, see `Controls`; the model's (1) when None.
        region: body regions at the top and the bottom, see `Controls`; from the drawing when None.
        modality: kind of image, see `Controls`; the model's first when None.
        tumour: for "joint": characteristics of the tumour, by the names of `jobs.tumour.FIELDS`; what is left out is
            drawn from the training distribution, see `jobs.joint`.
        strategies: how stages are computed, see `memory.execution`; those that are not named, all at once.
    """

    segmentation: Path | None
    model: str
    out: Path
    mode: str = "whole"
    image: Path | None = None
    labels: Mapping[str, str | None] | None = None
    classes: tuple[str, ...] | None = None
    crop: bool = False
    sampler: str | None = None
    steps: int | None = None
    seed: int | None = None
    samples: int = 1
    guidance: float | None = None
    device: str = "auto"
    precision: str = "auto"
    vram_limit: int | None = None
    format: str = "nii.gz"
    scene: bool = False
    inpaint_method: str = "conditioned"
    margin_mm: float | None = None
    case: str | None = None
    adherence: bool = False
    size: tuple[int, int, int] | str | None = None
    spacing_mm: tuple[float, float, float] | None = None
    condition_scale: float | None = None
    region: tuple[str, str] | None = None
    modality: str | None = None
    tumour: Mapping[str, float | tuple[float, float, float]] | None = None
    strategies: Mapping[str, str | bool] | None = None

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            check_choice(getattr(self, name), allowed, name.replace("_", "-"))
        check_device(self.device)
        Execution.from_json(self.strategies)
        if self.samples < 1 or self.samples > 10_000:
            raise BadInput(f"{self.samples} samples were asked for", "Give --samples a number from 1 to 10000.")
        if self.steps is not None and not 1 <= self.steps <= 1000:
            raise BadInput(f"{self.steps} steps were asked for", "Give --steps a number from 1 to 1000.")
        if self.seed is not None and not 0 <= self.seed <= 2**31 - 1 - self.samples:
            raise BadInput(f"The seed {self.seed} is out of range", "Give --seed a number from 0 to 2147473647.")
        if self.guidance is not None and not 0.0 <= self.guidance <= 20.0:
            hint = "Give --guidance a number from 0 to 20; 1 is off."
            raise BadInput(f"A guidance of {self.guidance} was asked for", hint)
        if self.vram_limit is not None and self.vram_limit < 1:
            raise BadInput(
                f"A memory limit of {self.vram_limit} bytes was asked for", "Give --vram-limit more, or none."
            )
        if self.margin_mm is not None and not 0.0 <= self.margin_mm <= 20.0:
            hint = "Give --margin a number from 0 to 20 (mm)."
            raise BadInput(f"A margin of {self.margin_mm} mm was asked for", hint)
        if self.mode == "inpaint" and self.image is None:
            raise BadInput("Inpainting needs the real volume", "Give it with --image REAL_VOLUME.")
        if self.mode in ("unconditional", "joint"):
            self._check_without_drawing()
        elif self.segmentation is None:
            raise BadInput(
                f"The mode '{self.mode}' needs a segmentation",
                "Give its file, or --mode unconditional or joint with a model that can do without.",
            )
        if self.mode != "inpaint" and self.image is not None:
            raise BadInput(
                f"--image was given, but the mode is '{self.mode}'", "Add --mode inpaint to change regions of it."
            )
        if self.mode == "inpaint" and (self.size, self.spacing_mm) != (None, None):
            raise BadInput("An inpainted volume has the grid of its image", "Leave --size and --spacing out.")
        if self.tumour is not None:
            if self.mode != "joint":
                raise BadInput(f"--tumour was given, but the mode is '{self.mode}'", "It belongs to --mode joint.")
            check_tumour(self.tumour)
        _check_grid(self.size, self.spacing_mm)
        if self.condition_scale is not None and not 0.0 <= self.condition_scale <= 10.0:
            hint = "Give --condition-scale a number from 0 to 10; 1 is as trained."
            raise BadInput(f"A condition scale of {self.condition_scale} was asked for", hint)
        for option, given in (("margin", self.margin_mm), ("inpaint-method", self.inpaint_method != "conditioned")):
            if self.mode != "inpaint" and given not in (None, False):
                raise BadInput(f"--{option} was given, but the mode is '{self.mode}'", "It belongs to --mode inpaint.")

    def _check_without_drawing(self) -> None:
        joint = self.mode == "joint"
        given = {
            "a segmentation": self.segmentation,
            "--labels": self.labels,
            "--classes": self.classes,
            "--crop": self.crop or None,
            "--adherence": None if joint else self.adherence or None,
            "--condition-scale": self.condition_scale,
        }
        for name, value in given.items():
            if value is None:
                continue
            if joint:
                raise BadInput(
                    f"{name[0].upper()}{name[1:]} was given, but the mode 'joint' makes the segmentation itself",
                    "Leave it out, and say with --tumour what the tumour is to be like.",
                )
            raise BadInput(
                f"{name[0].upper()}{name[1:]} was given, but the mode 'unconditional' has no drawing",
                "Leave it out, or leave --mode out to make a volume from the segmentation.",
            )
        if self.size == "nearest":
            raise BadInput("There is no segmentation that a size could be nearest to", "Give --size as 256x256x128.")

    def to_json(self) -> dict[str, Any]:
        """The content of `request.json`."""
        fields = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}
        return {"schema": SCHEMA, **fields}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> GenerateRequest:
        """Reads the content of a `request.json`.

        Raises:
            BadInput: another format, unknown, missing or ill-typed fields.
        """
        content = dict(content)
        if content.pop("schema", None) != SCHEMA:
            raise BadInput("The request is of an unknown form", f'Its "schema" must be "{SCHEMA}".')
        names = {f.name for f in dataclasses.fields(GenerateRequest)}
        for key in content:
            if key not in names:
                raise BadInput(f"The request has an unknown field '{key}'", "Remove it.")
            _check_type(key, content[key])
        for key in ("segmentation", "out", "image"):
            if content.get(key) is not None:
                if not content[key]:
                    raise BadInput(f"The field '{key}' of the request is empty", "Give a path.")
                content[key] = Path(content[key])
        for key in ("classes", "size", "spacing_mm", "region"):
            if isinstance(content.get(key), list):
                content[key] = tuple(content[key])
        if isinstance(content.get("tumour"), dict):
            content["tumour"] = {k: tuple(v) if isinstance(v, list) else v for k, v in content["tumour"].items()}
        try:
            return GenerateRequest(**content)
        except TypeError as error:
            raise BadInput(f"The request is incomplete: {error}", "Give every required field.") from error

    def save(self, job_dir: Path) -> Path:
        """Writes `request.json` into a job folder."""
        path = Path(job_dir) / "request.json"
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")
        return path


def _check_type(name: str, value: Any) -> None:
    """Refuses a field of a `request.json` that is not of the type of the request's field."""
    hint = typing.get_type_hints(GenerateRequest)[name]
    kinds = [typing.get_origin(kind) or kind for kind in (typing.get_args(hint) or (hint,))]
    json_kinds = {Path: (str,), float: (int, float), tuple: (list, tuple), Mapping: (dict,)}
    allowed = [json_kind for kind in kinds for json_kind in json_kinds.get(kind, (kind,))]
    if not isinstance(value, tuple(allowed)) or (isinstance(value, bool) and bool not in allowed):
        raise BadInput(f"The field '{name}' of the request cannot be {json.dumps(value)[:60]}", "Write the job again.")
    parts = {
        "labels": lambda v: v is None or isinstance(v, str),
        "classes": lambda v: isinstance(v, str),
        "region": lambda v: isinstance(v, str),
        "size": lambda v: isinstance(v, int) and not isinstance(v, bool),
        "spacing_mm": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    }
    lengths = {"size": 3, "spacing_mm": 3, "region": 2}
    if isinstance(value, (list, tuple)) and len(value) != lengths.get(name, len(value)):
        raise BadInput(f"The field '{name}' of the request must have {lengths[name]} parts", "Write it anew.")
    if value is not None and name in parts and not isinstance(value, str):
        for part in value.values() if isinstance(value, dict) else value:
            if not parts[name](part):
                raise BadInput(
                    f"The field '{name}' of the request cannot hold {json.dumps(part)[:60]}", "Write it anew."
                )


def _check_grid(size: tuple[int, int, int] | str | None, spacing: tuple[float, float, float] | None) -> None:
    if isinstance(size, str):
        check_choice(size, ("nearest",), "size")
    elif size is not None and not all(1 <= n <= 4096 for n in size):
        raise BadInput(f"A size of {'x'.join(map(str, size))} was asked for", "Give --size as 256x256x128.")
    if spacing is not None and not all(0.01 <= s <= 100.0 for s in spacing):
        text = "x".join(f"{s:g}" for s in spacing)
        raise BadInput(f"A spacing of {text} mm was asked for", "Give --spacing as 1.5, or as 0.8x0.8x2.5 (mm).")


def check_device(name: str) -> None:
    """Refuses what is no name of a device; whether the device is there is seen when torch is loaded."""
    if re.fullmatch(r"cuda:\d+|mps(:\d+)?", name.lower()):
        return
    check_choice(name.lower(), ("auto", "cpu", "cuda", "cuda:N"), "device")


def check_choice(value: str, allowed: tuple[str, ...], what: str) -> None:
    """Refuses a value that is not allowed, naming the nearest one that is."""
    if value in allowed:
        return
    near = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.5)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    raise BadInput(f"Unknown {what} '{value}'", f"{hint}Choose one of: {', '.join(allowed)}.")
