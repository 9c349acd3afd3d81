"""`configs/metadata.json` and the texts of an exported package. Nothing is said that the package does not say."""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import Any

from SynthDiffusionLib import __version__
from SynthDiffusionLib.bundles.configs import patch_channels
from SynthDiffusionLib.models.spec import ModelSpec

SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"
NEEDED = ("diffusers", "einops", "jsonschema", "nibabel", "pillow", "pynrrd", "safetensors", "scipy")
RESEARCH_ONLY = "Makes synthetic images, for research only: not for diagnosis or any other clinical use."


def metadata(spec: ModelSpec) -> dict[str, Any]:
    """The content of metadata.json, but for what tells an exported package.

    Args:
        spec: of a package of a known backend.
    """
    licence = spec.license
    return {
        "schema": SCHEMA,
        "version": spec.version,
        "changelog": {spec.version: f"Exported from the SynthDiffusion package {spec.id} {spec.version}, unchanged"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"SynthDiffusion": __version__, **{name: version(name) for name in NEEDED}},
        "name": spec.name,
        "task": f"Synthesis of {spec.modality} volumes of the {spec.body_part} (modes: {', '.join(spec.modes)})",
        "description": spec.description,
        "authors": licence.attribution,
        "copyright": f"Licence {licence.spdx}: {licence.attribution}",
        "data_source": f"{spec.training.dataset} (licence {spec.training.license})",
        "data_type": "nibabel",
        "image_classes": f"synthetic {spec.modality}, {_range(spec)} {spec.intensity.unit}",
        "label_classes": ", ".join(f"{c.name} ({c.value})" for c in spec.label_scheme.classes) or "none",
        "pred_classes": f"synthetic {spec.modality}, {_range(spec)} {spec.intensity.unit}",
        "eval_metrics": spec.quality,
        "intended_use": f"{licence.permitted_use} {RESEARCH_ONLY}",
        "references": [spec.training.citation] if spec.training.citation else [],
        "network_data_format": _network_format(spec),
        "synthesis_data_format": _synthesis_format(spec),
    }


def _range(spec: ModelSpec) -> str:
    low, high = spec.intensity.range
    return f"{low:g} to {high:g}"


def _network_format(spec: ModelSpec) -> dict[str, Any]:
    """Of the denoiser at one time step (`network_at_step`). Its values are noisy, and have no bounds."""
    shape = network_shape(spec)
    if spec.latent is None:
        channels, out = patch_channels(spec), spec.network.parameters.get("out_channels", 1)
        classes = [f"class {c.name}" for c in spec.label_scheme.condition_classes]
        names = ["noisy image", "coordinate i", "coordinate j", "coordinate k", *classes, "known image", "known mask"]
    else:
        channels = out = spec.latent.channels
        names = [f"noisy latent {n}" for n in range(channels)]
    predicted = [f"{spec.diffusion.prediction} {n}" for n in range(out)]
    return {
        "inputs": {"image": _tensor("feature", "raw", channels, shape, [], names)},
        "outputs": {"pred": _tensor("feature", "raw", out, shape, [], predicted)},
    }


def network_shape(spec: ModelSpec) -> list[int | str]:
    """Sides of what the denoiser works on, as MONAI writes them: a number, "8 * n" or "*" (any)."""
    from SynthDiffusionLib.memory.working_grids import latent_divisor

    if spec.latent is None:
        levels = len(spec.network.parameters.get("channels", (32, 64, 96, 128)))
        return [f"{2 ** (levels - 1)} * n"] * 3
    if spec.grid.min_size == spec.grid.max_size:
        return [n // factor for n, factor in zip(spec.grid.max_size, spec.latent.factors)]
    sides = [divisor // factor for divisor, factor in zip(latent_divisor(spec), spec.latent.factors)]
    return [f"{side} * n" if side > 1 else "*" for side in sides]


def _synthesis_format(spec: ModelSpec) -> dict[str, Any]:
    """Of the run: a segmentation, where the model takes one, to a volume on its grid."""
    kind = "hounsfield" if spec.intensity.unit == "HU" else "magnitude"
    shape: list[int | str] = ["*"] * 3
    low, high = spec.intensity.range
    classes = {"0": "background"} | {str(c.value): c.name for c in spec.label_scheme.classes}
    drawing = _tensor("image", "labels", 1, shape, [0, max((c.value for c in spec.label_scheme.classes), default=0)])
    drawing["channel_def"] = classes
    image = _tensor("image", kind, 1, shape, [low, high], [f"synthetic {spec.modality}"])
    drawn = bool({"whole", "inpaint"} & set(spec.modes))
    return {
        "inputs": {"segmentation": drawing} if drawn else {},
        "outputs": {"pred": image} | ({"segmentation": drawing} if "joint" in spec.modes else {}),
    }


def _tensor(
    kind: str, form: str, channels: int, shape: list[int | str], values: list[float], names: list[str] | None = None
) -> dict[str, Any]:
    return {
        "type": kind,
        "format": form,
        "modality": "n/a",
        "num_channels": channels,
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": values,
        "is_patch_data": False,
        "channel_def": {str(n): name for n, name in enumerate(names or ["image"])},
    }


def licence_text(spec: ModelSpec) -> str:
    """The file LICENSE: what the package says of its licence."""
    licence = spec.license
    if licence.spdx == "NOASSERTION":
        about = "The licence of these weights is not known."
    else:
        about = f"SPDX-License-Identifier: {licence.spdx}"
        if re.fullmatch(r"(?!LicenseRef-)[A-Za-z0-9.-]+", licence.spdx):
            about += f"\nText of the licence: https://spdx.org/licenses/{licence.spdx}.html"
    lines = [
        f"{spec.name} {spec.version}",
        "",
        about,
        f"Attribution: {licence.attribution}",
        f"Permitted use: {licence.permitted_use}",
        f"Training data: {spec.training.dataset} (licence {spec.training.license})",
        "",
        RESEARCH_ONLY,
    ]
    return "\n".join(lines) + "\n"


def readme(spec: ModelSpec, card: str) -> str:
    """docs/README.md: how to run the bundle, then the model card.

    Args:
        spec: of the package.
        card: text of its model card.
    """
    drawing = " --segmentation /path/to/segmentation.nii.gz" if {"whole", "inpaint"} & set(spec.modes) else ""
    return f"""# {spec.name} as a MONAI bundle

{RESEARCH_ONLY} Licence: {spec.license.spdx}, see LICENSE.

The SynthDiffusion package `{spec.id}` {spec.version}. To make a volume, with SynthDiffusion {__version__} and its
extra `bundle` installed, in the folder of the bundle:

    python -m monai.bundle run --config_file configs/inference.json{drawing} --seed 1

Volumes go to `output/`, or where `--output_dir` says, marked as synthetic and with their record. They are those of
`synthdiffusion generate` with the same settings. Other settings: the first entries of `configs/inference.json`.

`network_def` and the other definitions are the networks, `models/*.pt` their weights (tensors only). Where a definition
names a class of MONAI, MONAI alone loads it. To make a package of the bundle again:

    synthdiffusion models import BUNDLE --as ID

{card}"""
