"""What `configs/inference.json` of an exported package runs: the same way to a volume as `synthdiffusion generate`."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from SynthDiffusionLib.bundles.layout import METADATA
from SynthDiffusionLib.bundles.restore import is_own, read_own, write_package
from SynthDiffusionLib.bundles.source import open_bundle
from SynthDiffusionLib.errors import BadInput, ModelError, SynthDiffusionError
from SynthDiffusionLib.jobs.request import GenerateRequest
from SynthDiffusionLib.models.package import ModelPackage
from SynthDiffusionLib.models.spec import ModelSpec


def sample(
    bundle_root: str | Path,
    output_dir: str | Path | None = None,
    segmentation: str | Path | None = None,
    mode: str | None = None,
    image: str | Path | None = None,
    labels: str | Path | Mapping[str, str | None] | None = None,
    crop: bool = False,
    tumour: str | Mapping[str, Any] | None = None,
    size: str | Sequence[int] | None = None,
    spacing: float | Sequence[float] | None = None,
    seed: int | None = 0,
    samples: int = 1,
    sampler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    condition_scale: float | None = None,
    device: str = "auto",
    precision: str = "auto",
    format: str = "nii.gz",
) -> list[str]:
    """Draws volumes with the weights of an exported bundle, as `synthdiffusion generate` does.

    Args:
        bundle_root: folder of the bundle.
        output_dir: for the volumes and their records; None: `output` in the bundle.
        segmentation: file of the drawing; None for models that do without.
        mode: None: "whole" with a drawing, else what the model does without one.
        image: real volume to inpaint into.
        labels: a table of names or values and classes, or what `labels.label_map.read_label_map` takes.
        crop, seed, samples, sampler, steps, guidance, condition_scale, device, precision, format: see
            `jobs.request.GenerateRequest`.
        tumour: characteristics, as a table or as text ("volume_mm3=..,sphericity=..").
        size: voxels along the three axes, or "256x256x128".
        spacing: mm, one number or three.

    "null" as text stands for None everywhere.

    Returns:
        paths of the volumes.

    Raises:
        SynthDiffusionError: see `SynthDiffusionLib.errors`; its line is printed first.
    """
    settings = {name: _absent(value) for name, value in locals().items()}
    try:
        return _sample(settings.pop("bundle_root") or ".", settings)
    except SynthDiffusionError as error:  # MONAI prints the whole way to it, in which the reason is hard to find
        print(f"synthdiffusion: error: {error.one_line()}", file=sys.stderr, flush=True)
        raise


def _absent(value: Any) -> Any:
    """None for "null" as inference.json has it, which MONAI's command line hands over as text."""
    return None if value == "null" else value


def _sample(bundle_root: str | Path, settings: dict[str, Any]) -> list[str]:
    """Args: as `sample`."""
    from SynthDiffusionLib.jobs.request import SCHEMA
    from SynthDiffusionLib.jobs.runner import run
    from SynthDiffusionLib.jobs.tumour import parse_tumour

    root, drawing = Path(bundle_root), settings["segmentation"]
    given = {name: value for name, value in settings.items() if value is not None}
    out = given.pop("output_dir", root / "output")
    if "labels" in given:
        given["labels"] = _labels(given["labels"])
    if isinstance(given.get("tumour"), str):
        given["tumour"] = parse_tumour(given["tumour"])
    if "size" in given:
        given["size"] = _size(given["size"])
    if "spacing" in given:
        given["spacing_mm"] = _spacing(given.pop("spacing"))
    for name in ("segmentation", "image"):
        if name in given:
            given[name] = str(given[name])
    # Windows does not delete files that weights are still mapped from.
    with tempfile.TemporaryDirectory(prefix="synthdiffusion-", ignore_cleanup_errors=True) as temporary:
        spec = _unpacked(root, Path(temporary)).spec
        given.setdefault("mode", _mode(spec, drawing is not None))
        request = {"schema": SCHEMA, "segmentation": None, **given, "model": temporary, "out": str(out)}
        volumes = [str(output["volume"]) for output in run(_request(request)).outputs]
    print("\n".join(volumes))
    return volumes


def _request(content: dict[str, Any]) -> GenerateRequest:
    try:
        return GenerateRequest.from_json(content)
    except BadInput as error:
        if "of the request" not in error.message:
            raise
        message = error.message.replace("field", "setting").replace("of the request ", "")
        raise BadInput(message, "Give it as the first entries of configs/inference.json have it.") from error


def _labels(labels: str | Path | Mapping[Any, Any]) -> dict[str, str | None]:
    """The label map; MONAI's command line makes a table of its text."""
    from SynthDiffusionLib.labels.label_map import read_label_map

    if isinstance(labels, Mapping):
        labels = json.dumps({str(name): _absent(value) for name, value in labels.items()})
    return read_label_map(labels)


def _unpacked(root: Path, folder: Path) -> ModelPackage:
    """The bundle as a package in an empty folder."""
    with open_bundle(root) as source:
        metadata = source.json(METADATA)
        if not is_own(metadata):
            raise ModelError(
                f"'{root}' was not exported by SynthDiffusion", "Import it first: synthdiffusion models import."
            )
        return write_package(read_own(source, metadata), folder)


def _mode(spec: ModelSpec, drawn: bool) -> str:
    if drawn:
        return "whole"
    return "joint" if spec.modes == ("joint",) else "unconditional"


def _size(size: str | Sequence[int]) -> list[int] | str:
    """ "256x256x128" or three numbers."""
    if size == "nearest":
        return size
    try:
        parts = [int(n) for n in (size.split("x") if isinstance(size, str) else size)]
    except (TypeError, ValueError):
        parts = []
    if len(parts) != 3:
        raise BadInput(f"'{size}' is no size", "Give it as 256x256x128.")
    return parts


def _spacing(spacing: float | Sequence[float]) -> list[float]:
    parts = [spacing] * 3 if isinstance(spacing, int | float) else list(spacing)
    if len(parts) != 3 or not all(isinstance(mm, int | float) for mm in parts):
        raise BadInput(f"'{spacing}' is no spacing", "Give it as 1.5, or as [0.8, 0.8, 2.5] (mm).")
    return parts
