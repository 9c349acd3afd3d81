"""Whether the tensors of a checkpoint are those of a network, and their conversion to its names."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.models.checkpoints import shortened
from SynthDiffusionLib.models.templates import Shapes, Template

if TYPE_CHECKING:
    import torch

_NAMED = 3  # of each kind of difference
_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Misfit:
    """How a checkpoint differs from a network: number of tensors, and words that name the first few."""

    count: int
    text: str


def difference(tensors: Mapping[str, torch.Tensor], wanted: Shapes) -> Misfit | None:
    """Differences in names, shapes and types, or None. All networks here have floating-point tensors only."""
    lacking = [name for name in wanted if name not in tensors]
    extra = sorted(set(tensors) - set(wanted))
    other = [
        f"'{shortened(name)}' is {tuple(tensors[name].shape)}, not {shape}"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    other += [
        f"'{shortened(name)}' is of type {kind}, not float32"
        for name in wanted
        if name in tensors and (kind := str(tensors[name].dtype).removeprefix("torch.")) not in _FLOATS
    ]
    texts = []
    if lacking:
        texts.append(f"it lacks {_few([repr(shortened(name)) for name in lacking])}")
    if other:
        texts.append(_few(other))
    if extra:
        texts.append(f"it has {_few([repr(shortened(name)) for name in extra])} too")
    return Misfit(len(lacking) + len(other) + len(extra), "; ".join(texts)) if texts else None


def _few(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def misfit(
    role: str, tensors: Mapping[str, torch.Tensor], template: Template, denoiser: Mapping[str, torch.Tensor]
) -> Misfit | None:
    """How a network's tensors, by any of the names that `fit` converts, differ from a template's; None if not."""
    return difference(_renamed(role, tensors, template, denoiser), template.shapes(role))


def fit(
    role: str, tensors: Mapping[str, torch.Tensor], template: Template, denoiser: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The tensors of a network that `misfit` has found nothing wrong with, by the template's names, floats as fp32.

    Args:
        role: "autoencoder", "denoiser" or "controlnet".
        tensors: as they are in the checkpoint.
        template: what they are fitted to.
        denoiser: tensors of the diffusion network, which a partial MAISI control network takes the rest from.

    Raises:
        ModelError: MONAI cannot convert them.
    """
    renamed = _renamed(role, tensors, template, denoiser)
    network = template.network(role)
    if network.name == "DiffusionModelUNet" and set(renamed) != set(tensors):
        renamed = _converted_by_monai(tensors, template)
    wanted = template.shapes(role)
    return {name: renamed[name].detach().float() for name in wanted}


def _renamed(
    role: str, tensors: Mapping[str, torch.Tensor], template: Template, denoiser: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    wanted = template.shapes(role)
    found = dict(tensors)
    name_of_class = template.network(role).name
    if name_of_class == "DiffusionModelUNet":
        for name in wanted:
            if name not in found and (old := _older_name(name)) in found and old not in wanted:
                found[name] = found.pop(old)
    elif name_of_class in ("DiffusionModelUNetMaisi", "ControlNetMaisi"):
        # MAISI's own scripts load with strict=False. Of what that passes over, only the output projection of attention
        # that some versions of MONAI made and never used is passed over here.
        found = {k: v for k, v in found.items() if k in wanted or ".attn.out_proj." not in k}
    if name_of_class == "ControlNetMaisi":
        # Its weights are loaded over a copy of the diffusion network's.
        for name, shape in wanted.items():
            if name not in found and name in denoiser and tuple(denoiser[name].shape) == shape:
                found[name] = denoiser[name]
    return found


def _older_name(name: str) -> str:
    """What MONAI Generative called a tensor of a `DiffusionModelUNet`."""
    for new, old in (
        (".attn.out_proj.", ".proj_attn."),
        (".attn.to_q.", ".to_q."),
        (".attn.to_k.", ".to_k."),
        (".attn.to_v.", ".to_v."),
        (".postconv.", ".conv."),
    ):
        name = name.replace(new, old)
    return name


def _converted_by_monai(tensors: Mapping[str, torch.Tensor], template: Template) -> dict[str, torch.Tensor]:
    """MONAI's own conversion of the names of MONAI Generative, which must use every tensor."""
    from SynthDiffusionLib.networks.build import build_network

    network = build_network(template.network("denoiser"))
    left = dict(tensors)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            network.load_old_state_dict(left)
    except (KeyError, RuntimeError) as error:
        raise ModelError(
            "The diffusion network's tensors cannot be converted from their older names "
            f"({shortened(str(error), 200)})",
            "Get the file again.",
        ) from error
    if left:
        names = _few([shortened(name) for name in sorted(left)])
        raise ModelError(
            f"The diffusion network has tensors that the conversion does not use: {names}",
            "Get the file again.",
        )
    return dict(network.state_dict())
