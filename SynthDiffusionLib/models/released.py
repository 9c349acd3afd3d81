"""The checkpoints that the authors of MedLoRD and MAISI have released: which network a file holds, told by its tensors
and never by its name, and what model the files make together.

Layouts: MedLoRD, github.com/Cardio-AI/medlord; MAISI, github.com/NVIDIA-Medtech/NV-Generate-CTMR.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.models.checkpoints import STATE_KEYS, checked, is_state_dict, unwrapped
from SynthDiffusionLib.models.fitting import Misfit, fit
from SynthDiffusionLib.models.spec import ModelSpec
from SynthDiffusionLib.models.templates import Template

if TYPE_CHECKING:
    import torch

METHODS = {"medlord": "MedLoRD", "maisi": "MAISI"}
ROLES = {"autoencoder": "autoencoder", "denoiser": "diffusion network", "controlnet": "control network"}

# The U-Nets in MedLoRD's public settings. The number of channels per head cannot be read off the weights; it goes with
# the widths.
_MEDLORD_UNETS: tuple[dict[str, Any], ...] = (
    {
        "channels": [64, 128, 256, 512],
        "num_res_blocks": [2, 2, 2, 2],
        "attention_levels": [False, False, True, True],
        "num_head_channels": [0, 0, 32, 32],
    },
    {
        "channels": [128, 256, 512],
        "num_res_blocks": [3, 3, 3],
        "attention_levels": [False, False, True],
        "num_head_channels": [0, 0, 64],
    },
    {
        "channels": [128, 256, 512, 512],
        "num_res_blocks": [3, 3, 3, 3],
        "attention_levels": [False, False, True, True],
        "num_head_channels": [0, 0, 64, 64],
    },
)
_MEDLORD_SCALES = "1.11 and 1.141876"
_NO_MASKS = "Leave it out: segmentations are drawn here, not generated."


class MaskGenerator(ModelError):
    """A network that generates segmentations, which are drawn here."""


@dataclass(frozen=True)
class Part:
    """One recognised checkpoint.

    Args:
        path: of the file.
        role: "autoencoder", "denoiser" or "controlnet".
        method: the backend, "medlord" or "maisi".
        tensors: by name, as in the file.
        scale_factor: of the latents, where the file holds it.
        train_steps: steps of the noise schedule, where the file holds them.
        averaged: whether these are the averaged weights (EMA).
    """

    path: Path
    role: str
    method: str
    tensors: dict[str, torch.Tensor]
    scale_factor: float | None = None
    train_steps: int | None = None
    averaged: bool = False

    @property
    def text(self) -> str:
        """What it is, for people."""
        return f"{METHODS[self.method]}'s {ROLES[self.role]}"


@dataclass(frozen=True)
class Assembled:
    """The model that released files make together.

    Args:
        description: `model.json` but for what the package adds (see `importers.Converted`).
        tensors: weights in fp32, by role.
        notes: what a user should know of the conversion.
    """

    description: dict[str, Any]
    tensors: dict[str, dict[str, torch.Tensor]]
    notes: tuple[str, ...]


def recognise(content: Any, path: Path) -> Part | None:
    """What a checkpoint holds, or None if it is not of MedLoRD or MAISI.

    Args:
        content: as `checkpoints.read_content` gives it.
        path: for the errors.

    Raises:
        ModelError: it is of them, but cannot be used.
    """
    tensors, averaged = _weights(content, path)
    if tensors is None:
        return None
    kind = _kind(tensors, path)
    if kind is None:
        return None
    role, method = kind
    checked(tensors, path)
    scale, steps = None, None
    if role == "denoiser" and isinstance(content, dict):
        scale = _number(content.get("scale_factor"), "scale_factor", path)
        steps = _number(content.get("num_train_timesteps"), "num_train_timesteps", path)
    return Part(path, role, method, tensors, scale, None if steps is None else int(steps), averaged)


def _weights(content: Any, path: Path) -> tuple[dict[str, torch.Tensor] | None, bool]:
    """The state dict to take, the averaged one where there is one, and whether it is that."""
    if is_state_dict(content):
        return unwrapped(content), False
    if not isinstance(content, dict):
        return None, False
    average = content.get("ema")
    if isinstance(average, dict) and average:
        if is_state_dict(average.get("shadow")):
            return unwrapped(average["shadow"]), True
        if not is_state_dict(average):
            raise ModelError(
                f"'{path}': its averaged weights ('ema') are no plain tensors by name",
                "Save them as ema = {'shadow': {name: tensor}}, or leave them out to take 'model'.",
            )
    for key in STATE_KEYS:
        if is_state_dict(content.get(key)):
            return unwrapped(content[key]), key in ("ema", "ema_state_dict")
    return None, False


def _kind(tensors: dict[str, torch.Tensor], path: Path) -> tuple[str, str] | None:
    def some(*prefixes: str) -> bool:
        return all(any(name.startswith(prefix) for name in tensors) for prefix in prefixes)

    if "quantizer.quantizer.embedding.weight" in tensors:
        return "autoencoder", "medlord"
    if some("post_quant_conv.", "encoder.blocks."):
        if "encoder.blocks.0.conv.conv.weight" not in tensors:
            raise ModelError(
                f"'{path}' is an autoencoder of MONAI (AutoencoderKL), not MAISI's",
                "Their decoders compute differently: only MAISI's own can be used.",
            )
        if tensors["encoder.blocks.0.conv.conv.weight"].shape[1] != 1:
            raise MaskGenerator(f"'{path}' is MAISI's autoencoder of masks, not of images", _NO_MASKS)
        return "autoencoder", "maisi"
    if some("controlnet_"):
        return "controlnet", "maisi"
    if some("embedding.", "time_embedding.", "stem.", "middle_block."):
        return "controlnet", "medlord"
    if some("down_blocks.", "up_blocks.", "conv_in."):
        if any(".transformer_blocks." in name for name in tensors):
            raise MaskGenerator(
                f"'{path}' is a diffusion network with cross-attention, as MAISI's for masks", _NO_MASKS
            )
        return "denoiser", "maisi" if some("spacing_layer.") else "medlord"
    return None


def _number(value: Any, name: str, path: Path) -> float | None:
    import torch

    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        value = value.item() if value.numel() == 1 else math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise ModelError(f"'{path}': its {name} is no positive number", "Get the file again.")
    return float(value)


def assemble(parts: Sequence[Part], template: Template | None) -> Assembled:
    """The model that some recognised files make, on the description that they fit.

    Args:
        parts: one per role; the diffusion network and its autoencoder at least.
        template: to fit; without it, the one preset that all files fit is taken.

    Raises:
        ModelError: files that do not belong together, a part is missing, or they fit no description.
    """
    by_role = _one_each(parts)
    method = parts[0].method
    if template is not None and template.spec.backend != method:
        wanted = METHODS.get(template.spec.backend, template.spec.backend)
        raise ModelError(
            f"'{parts[0].path.name}' is {parts[0].text}, but '{template.id}' is a model of {wanted}",
            f"Leave --like out, or name a model of {METHODS[method]}.",
        )
    for role in ("denoiser", "autoencoder"):
        if role not in by_role:
            raise ModelError(
                f"The {ROLES[role]} is missing: '{parts[0].path.name}' is {parts[0].text} alone",
                "Name all files of the model: synthdiffusion models import FILE FILE ... --as ID.",
            )
    chosen, tensors = _fitting(by_role, template)
    return _assembled(chosen, by_role, tensors)


def _one_each(parts: Sequence[Part]) -> dict[str, Part]:
    by_role: dict[str, Part] = {}
    for part in parts:
        if part.method != parts[0].method:
            raise ModelError(
                f"'{parts[0].path.name}' is {parts[0].text}, '{part.path.name}' is {part.text}",
                "They do not belong together; import the files of one model.",
            )
        if part.role in by_role:
            raise ModelError(
                f"'{by_role[part.role].path.name}' and '{part.path.name}' both are {part.text}", "Name one of them."
            )
        by_role[part.role] = part
    return by_role


def _candidates(method: str, with_controlnet: bool, template: Template | None) -> list[Template]:
    from SynthDiffusionLib.models.presets import load_preset, preset_ids

    found = [template] if template is not None else []
    if template is None:
        found = [Template(spec) for spec in map(load_preset, preset_ids()) if spec.backend == method]
    if method == "medlord" and not with_controlnet:
        found += [_with_unet(t, unet) for t in found if t.package is None for unet in _MEDLORD_UNETS]
    return found


def _with_unet(template: Template, unet: dict[str, Any]) -> Template:
    """The same design with another of the published U-Nets, which has no control network here."""
    raw = {key: value for key, value in template.spec.raw.items() if key != "controlnet"}
    raw["network"] = {**raw["network"], **unet}
    raw["provenance"] = {**raw.get("provenance", {}), "published_unet": True}
    raw["grid"] = {**raw["grid"], "divisor": raw["latent"]["downsampling"] * 2 ** (len(unet["channels"]) - 1)}
    return Template(ModelSpec.from_json(raw, template.id, preset=True))


def _fitting(
    by_role: dict[str, Part], template: Template | None
) -> tuple[Template, dict[str, dict[str, torch.Tensor]]]:
    """The first description that all parts fit, and their tensors by its names; a later one of another preset that
    they fit as well makes the choice the user's."""
    misfits: list[tuple[Misfit, Part, Template]] = []
    fitting: list[Template] = []
    for candidate in _candidates(next(iter(by_role.values())).method, "controlnet" in by_role, template):
        found = [(misfit, part) for part in by_role.values() if (misfit := _misfit(part, candidate, by_role))]
        if not found:
            fitting.append(candidate)
        else:
            worst, part = max(found, key=lambda entry: entry[0].count)
            misfits.append((replace(worst, count=sum(misfit.count for misfit, _ in found)), part, candidate))
    ids = list(dict.fromkeys(t.id for t in fitting))
    if len(ids) > 1:
        raise ModelError(f"The files fit {len(ids)} presets: {', '.join(ids)}", "Choose one by --like ID.")
    if not fitting:
        misfit, part, nearest = min(misfits, key=lambda entry: entry[0].count)
        what = f"does not fit '{nearest.id}'" if template is not None else f"fits no preset; nearest is '{nearest.id}'"
        raise ModelError(
            f"'{part.path.name}', {part.text}, {what}: {misfit.text}",
            "Name the model or the preset that it was trained as by --like.",
        )
    chosen = fitting[0]
    return chosen, {role: fit(part.role, part.tensors, chosen, _denoiser(by_role)) for role, part in by_role.items()}


def _denoiser(by_role: dict[str, Part]) -> dict[str, torch.Tensor]:
    return by_role["denoiser"].tensors


def _misfit(part: Part, candidate: Template, by_role: dict[str, Part]) -> Misfit | None:
    from SynthDiffusionLib.models.fitting import misfit

    if part.role not in candidate.roles():
        return Misfit(len(part.tensors), f"it has no {ROLES[part.role]}")
    steps, expected = part.train_steps, candidate.spec.diffusion.train_steps
    if steps is not None and steps != expected:
        return Misfit(1, f"it was trained with {steps} steps of noise, not {expected}")
    return misfit(part.role, part.tensors, candidate, _denoiser(by_role))


def _assembled(chosen: Template, by_role: dict[str, Part], tensors: dict[str, dict[str, torch.Tensor]]) -> Assembled:
    from SynthDiffusionLib.models.importers import inherited

    spec, denoiser = chosen.spec, by_role["denoiser"]
    description = inherited(spec)
    notes: list[str] = []
    latent = description["latent"]
    if denoiser.scale_factor is not None:
        latent["scale_factor"] = denoiser.scale_factor
        source = f"'{denoiser.path.name}'"
    else:
        source = f"{chosen.id} {spec.version}"
        others = f" (its authors' settings have {_MEDLORD_SCALES})" if denoiser.method == "medlord" else ""
        notes.append(
            f"The scale factor of the latents is not in the files: {latent['scale_factor']:g} is that of "
            f"{chosen.id}{others}; it should be computed anew, as 1 / standard deviation of the latents of real "
            "images, when some are at hand."
        )
    if denoiser.method == "medlord" and spec.provenance.get("published_unet"):
        notes.append(
            f"The diffusion network is another of the published ones, {spec.raw['network']['channels']}; channels per "
            f"head and T = {spec.diffusion.train_steps} cannot be read off its weights and are those of its settings."
        )
    if "controlnet" not in by_role:
        notes += _without_controlnet(description, spec.id)
    description["provenance"] |= {
        "scale_factor": {"value": latent["scale_factor"], "from": source},
        "averaged_weights": denoiser.averaged,
        "notes": notes,
    }
    return Assembled(description, tensors, tuple(notes))


def _without_controlnet(description: dict[str, Any], template_id: str) -> list[str]:
    """Takes out of a description what needs a control network. Returns what to say of it."""
    had = description.pop("controlnet", None) is not None
    if "unconditional" not in description["modes"]:
        raise ModelError(
            f"'{template_id}' makes nothing without a control network, and no file of one is given",
            "Name the control network's file too.",
        )
    description["modes"] = ["unconditional"]
    description["label_scheme"], description["target_class"] = [], None
    if "controls" in description:
        description["controls"] = {k: v for k, v in description["controls"].items() if k != "condition_scale"}
    return ["Without a control network: makes volumes without a segmentation only."] if had else []
