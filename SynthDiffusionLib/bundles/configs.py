"""`configs/inference.json` of an exported package: its networks by class and plain arguments, and the run.

No entry is an expression. What MONAI provides is named as MONAI's class, so that the weights can be loaded without
SynthDiffusion; the run needs it.
"""

from __future__ import annotations

from typing import Any

from SynthDiffusionLib.bundles.layout import TARGETS, definition_name
from SynthDiffusionLib.models.presets import networks
from SynthDiffusionLib.models.spec import ModelSpec, NetworkSpec

SAMPLE = "SynthDiffusionLib.bundles.inference.sample"
AT_STEP = "SynthDiffusionLib.networks.at_step.AtStep"

# What can be set on the command line of `monai.bundle run`, as `bundles.inference.sample` takes it; null is the model's
# own default.
SETTINGS: dict[str, Any] = {
    "bundle_root": ".",
    "output_dir": None,
    "segmentation": None,
    "mode": None,
    "image": None,
    "labels": None,
    "crop": False,
    "tumour": None,
    "size": None,
    "spacing": None,
    "seed": 0,
    "samples": 1,
    "sampler": None,
    "steps": None,
    "guidance": None,
    "condition_scale": None,
    "device": "auto",
    "precision": "auto",
    "format": "nii.gz",
}


def inference_config(spec: ModelSpec) -> dict[str, Any]:
    """The content of inference.json.

    Args:
        spec: of a package of a known backend.
    """
    config = dict(SETTINGS)
    for role, network in networks(spec):
        config[definition_name(role)] = {"_target_": TARGETS[network.name][0], **arguments_of(network, spec)}
    config["network_at_step"] = {"_target_": AT_STEP, "network": f"@{definition_name('denoiser')}", **_told(spec)}
    config["run"] = [{"_target_": SAMPLE, **{name: f"@{name}" for name in SETTINGS}}]
    return config


def arguments_of(network: NetworkSpec, spec: ModelSpec) -> dict[str, Any]:
    """The arguments of a network's constructor, those that the backend adds among them."""
    if network.name == "PatchUNet" and network is spec.network:
        return {"in_channels": patch_channels(spec), **network.parameters}
    return dict(network.parameters)


def patch_channels(spec: ModelSpec) -> int:
    """Input channels of a patch-wise DDPM: image, coordinates and a channel for each class."""
    from SynthDiffusionLib.backends.patch_ddpm import COORDINATE_CHANNELS, IMAGE_CHANNELS

    return IMAGE_CHANNELS + COORDINATE_CHANNELS + len(spec.label_scheme.condition_classes)


def _told(spec: ModelSpec) -> dict[str, Any]:
    """What the denoiser is told beside the noisy image when its shapes are verified: nothing drawn."""
    arguments = spec.network.parameters
    told: dict[str, Any] = {"timestep": spec.diffusion.train_steps // 2}
    if spec.network.name == "FactorisedUNet":
        told["empty_masks"] = [arguments.get("condition_channels", 3), arguments.get("mask_downsampling", 4)]
    if spec.network.name == "DiffusionModelUNetMaisi":
        from SynthDiffusionLib.backends.maisi import SCALE

        inputs: dict[str, Any] = {}
        if arguments.get("include_spacing_input"):
            inputs["spacing_tensor"] = [[mm * SCALE for mm in spec.grid.spacing_mm]]
        for end in ("top", "bottom"):
            if arguments.get(f"include_{end}_region_index_input"):
                inputs[f"{end}_region_index_tensor"] = [[0.0, SCALE, 0.0, 0.0]]
        if arguments.get("num_class_embeds"):
            inputs["class_labels"] = [next(iter(spec.controls.modalities.values()), 0)]
        told["inputs"] = inputs
    return told
