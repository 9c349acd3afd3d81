"""What `configs/inference.json` of an exported package runs: the same way to a volume as `synthdiffusion generate`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from SynthDiffusionLib.bundles.layout import METADATA
from SynthDiffusionLib.bundles.restore import is_own, read_own, write_package
from SynthDiffusionLib.bundles.source import open_bundle
from SynthDiffusionLib.errors import BadInput, ModelError
from SynthDiffusionLib.jobs.request import GenerateRequest
from SynthDiffusionLib.models.package import ModelPackage
from SynthDiffusionLib.models.spec import ModelSpec


def sample(
    bundle_root: str | Path,
    output_dir: str | Path | None = None,
    segmentation: str | Path | None = None,
    mode: str | None = None,
    image: str | Path | None = None,
    labels: str | None = None,
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
        labels: see `labels.label_map.read_label_map`.
        crop, seed, samples, sampler, steps, guidance, condition_scale, device, precision, format: see
            `jobs.request.GenerateRequest`.
        tumour: characteristics, as a table or as text ("volume_mm3=..,sphericity=..").
        size: voxels along the three axes, or "256x256x128".
        spacing: mm, one number or three.

    Returns:
        paths of the volumes.

    Raises:
        SynthDiffusionError: see `SynthDiffusionLib.errors`.
    """
    from SynthDiffusionLib.jobs.runner import run
    from SynthDiffusionLib.jobs.tumour import parse_tumour
    from SynthDiffusionLib.labels.label_map import read_label_map

    root = Path(bundle_root)
    # Windows does not delete files that weights are still mapped from.
    with tempfile.TemporaryDirectory(prefix="synthdiffusion-", ignore_cleanup_errors=True) as temporary:
        spec = _unpacked(root, Path(temporary)).spec
        request = GenerateRequest(
            segmentation=None if segmentation is None else Path(segmentation),
            model=temporary,
            out=root / "output" if output_dir is None else Path(output_dir),
            mode=mode or _mode(spec, segmentation is not None),
            image=None if image is None else Path(image),
            labels=None if labels is None else read_label_map(labels),
            crop=crop,
            tumour=parse_tumour(tumour) if isinstance(tumour, str) else tumour,
            size=_size(size),
            spacing_mm=None if spacing is None else _spacing(spacing),
            seed=seed,
            samples=samples,
            sampler=sampler,
            steps=steps,
            guidance=guidance,
            condition_scale=condition_scale,
            device=device,
            precision=precision,
            format=format,
        )
        volumes = [str(output["volume"]) for output in run(request).outputs]
    print("\n".join(volumes))
    return volumes


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


def _size(size: str | Sequence[int] | None) -> tuple[int, int, int] | str | None:
    """ "256x256x128" or three numbers."""
    if size is None or size == "nearest":
        return size
    try:
        parts = tuple(int(n) for n in (size.split("x") if isinstance(size, str) else size))
    except (TypeError, ValueError):
        parts = ()
    if len(parts) != 3:
        raise BadInput(f"'{size}' is no size", "Give it as 256x256x128.")
    return parts


def _spacing(spacing: float | Sequence[float]) -> tuple[float, float, float]:
    parts = (spacing,) * 3 if isinstance(spacing, int | float) else tuple(spacing)
    if len(parts) != 3 or not all(isinstance(mm, int | float) for mm in parts):
        raise BadInput(f"'{spacing}' is no spacing", "Give it as 1.5, or as [0.8, 0.8, 2.5] (mm).")
    return parts
