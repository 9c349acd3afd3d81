"""Makes a package of a checkpoint that somebody else has trained. A checkpoint is read as data, never unpickled."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.models.package import ModelPackage, load_package, seal_package, sha256_of, tensor_shapes
from SynthDiffusionLib.models.registry import Installed, list_packages, put_package
from SynthDiffusionLib.models.spec import ModelSpec

if TYPE_CHECKING:
    import torch

_TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
# Where trainers put the weights in a checkpoint; the averaged ones are the ones to sample with.
_STATE_KEYS = ("ema_state_dict", "ema", "state_dict", "model_state_dict", "unet_state_dict", "model", "unet", "network")
_WRAPPER_PREFIXES = ("module.", "_orig_mod.", "_forward_module.", "model.", "unet.", "network.")
_UNKNOWN_LICENSE = {
    "spdx": "NOASSERTION",
    "attribution": "unknown: imported by the user",
    "permitted_use": "Unknown. Ask whoever made the checkpoint before you use or pass it on.",
}


@dataclass(frozen=True)
class Converted:
    """What an importer makes of a checkpoint.

    Args:
        description: `model.json` but for "format", "id", "files", "license" and "measured".
        tensors: weights by role ("denoiser", ...).
    """

    description: dict[str, Any]
    tensors: dict[str, dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Importer:
    """One kind of foreign checkpoint.

    Args:
        name: plain name.
        convert: from the checkpoint's tensors and the template (`--like`, if given) to a model, or None if the
            checkpoint is of another kind.
    """

    name: str
    convert: Callable[[Mapping[str, torch.Tensor], ModelPackage | None], Converted | None]


def import_checkpoint(path: str | os.PathLike[str], new_id: str, like: str | None = None) -> Installed:
    """Reads a checkpoint, converts it, and installs it as a package of its own.

    The new package has no known licence and no measured figures: what held for the template need not hold for it.

    Args:
        path: .safetensors, or a PyTorch checkpoint (.pt, .pth, .ckpt, .bin), which is read with `weights_only=True`.
        new_id: ID of the new package.
        like: ID of an installed package with the same network. Without it, the one package whose network fits is taken.

    Raises:
        ModelError: unreadable, holds more than tensors, fits no model, or the ID is taken or not valid.
    """
    path = Path(path).expanduser()
    template = load_package(like) if like is not None else None
    _check_new_id(new_id)
    tensors = read_tensors(path)
    for importer in IMPORTERS:
        converted = importer.convert(tensors, template)
        if converted is not None:
            break
    else:
        raise ModelError(f"'{path}' fits no model that SynthDiffusion knows", _fit_hint(template))
    return _package(path, new_id, importer.name, converted)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a checkpoint, by tensor name, without the prefixes that wrappers add.

    Raises:
        ModelError: unreadable, or it holds anything but tensors and plain values.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not _is_regular(path):
        raise ModelError(f"There is no file '{str(path)[:200]}'", "Check the path.")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        try:
            return _checked(_unwrapped(load_file(path)), path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"'{path}' is not a valid safetensors file ({error})", "Get the file again.") from error
    if suffix not in _TORCH_SUFFIXES:
        raise ModelError(
            f"'{path}' is no checkpoint: its name must end in .safetensors, {', '.join(_TORCH_SUFFIXES)}",
            "A whole package (folder or .zip) goes in by synthdiffusion models install.",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch finds suspicious is refused, in one line
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nearly anything on a bad file; all of it means "not readable as data"
        raise ModelError(
            f"'{path}' cannot be read as tensors only: it is damaged, or it holds program code, which is never run",
            "Ask for the weights as .safetensors.",
        ) from error
    return _checked(_unwrapped(_state_dict(content, path)), path)


def _is_regular(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for the system
        return False


def _is_state_dict(found: Any) -> bool:
    import torch

    return (
        isinstance(found, dict)
        and bool(found)
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in found.items())
    )


def _checked(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    import torch

    for name, t in tensors.items():
        if t.is_meta or t.is_nested or t.is_quantized or t.is_complex() or t.layout != torch.strided:
            raise ModelError(
                f"'{path}': the tensor '{name}' is not a dense one of real numbers",
                "Save the weights as plain tensors.",
            )
    return tensors


def _state_dict(content: Any, path: Path) -> dict[str, torch.Tensor]:
    for key in (None, *_STATE_KEYS):
        found = content if key is None else content.get(key) if isinstance(content, dict) else None
        if _is_state_dict(found):
            return dict(found)
    raise ModelError(
        f"'{path}' has no state dict at its top level or under {', '.join(_STATE_KEYS)}", "Save the state dict alone."
    )


def _unwrapped(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    tensors = dict(tensors)
    stripped = True
    while stripped and tensors:
        stripped = False
        for prefix in _WRAPPER_PREFIXES:
            if all(name.startswith(prefix) and len(name) > len(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
                stripped = True
    return tensors


def _same_network(tensors: Mapping[str, torch.Tensor], like: ModelPackage | None) -> Converted | None:
    """A checkpoint with exactly the tensors of an installed package's denoiser."""
    if like is not None:
        difference = _difference(tensors, like)
        if difference:
            raise ModelError(
                f"The checkpoint does not fit the network of '{like.id}': {difference}",
                "Choose the model that it was trained as by --like ID.",
            )
        return Converted(_inherited(like.spec), {"denoiser": dict(tensors)})
    fitting = []
    for entry in list_packages():
        if not entry.problem:
            package = load_package(entry.id, verify=False)
            if not _difference(tensors, package):
                fitting.append(package)
    if len(fitting) > 1:
        raise ModelError(
            f"The checkpoint fits {len(fitting)} models: {', '.join(p.id for p in fitting)}", "Choose one by --like ID."
        )
    return Converted(_inherited(fitting[0].spec), {"denoiser": dict(tensors)}) if fitting else None


def _difference(tensors: Mapping[str, torch.Tensor], package: ModelPackage) -> str:
    """First difference in names and shapes between a checkpoint and a package's denoiser; empty if there is none."""
    try:
        wanted = tensor_shapes(package.file("denoiser"))
    except ValueError as error:
        raise ModelError(f"Model '{package.id}': its weights cannot be read ({error})", "Install it again.") from error
    for name, shape in wanted.items():
        if name not in tensors:
            return f"it lacks '{name}'"
        if tuple(tensors[name].shape) != shape:
            return f"'{name}' is {tuple(tensors[name].shape)}, not {shape}"
    extra = sorted(set(tensors) - set(wanted))
    return f"it has '{extra[0]}' too" if extra else ""


def _inherited(template: ModelSpec) -> dict[str, Any]:
    """What a model with the same network and label scheme takes over. The segmenter stays with the model that it came
    with, and so do the measured figures, the training data and the licence."""
    left = ("format", "id", "files", "segmenter", "license", "training", "measured", "provenance")
    description = {key: copy.deepcopy(value) for key, value in template.raw.items() if key not in left}
    description["provenance"] = {"template": f"{template.id} {template.version}"}
    return description


IMPORTERS: list[Importer] = [Importer("same-network", _same_network)]


def _check_new_id(new_id: str) -> None:
    from SynthDiffusionLib.models.folders import package_folders
    from SynthDiffusionLib.models.spec import id_problem

    problem = id_problem(new_id)
    if problem:
        raise ModelError(f"'{new_id}' cannot be the ID of a model: {problem}", "Choose one such as my-lung-ct.")
    if new_id in package_folders():
        raise ModelError(f"There is a model '{new_id}' already", "Choose another ID, or remove that one first.")


def _fit_hint(template: ModelPackage | None) -> str:
    known = [entry.id for entry in list_packages() if not entry.problem]
    if template is None and known:
        return f"Name the model that it was trained as by --like ID to see what differs. Installed: {', '.join(known)}."
    return "Only checkpoints of a known network can be imported."


def _package(path: Path, new_id: str, importer: str, converted: Converted) -> Installed:
    import torch
    from safetensors.torch import save_file

    for role, tensors in converted.tensors.items():
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ModelError(f"'{path}': the tensor '{name}' of the {role} is not finite", "Get the file again.")
    checksum = sha256_of(path)
    description = {
        **converted.description,
        "id": new_id,
        "name": new_id,
        "version": "1.0.0",
        "description": f"Imported from '{path.name}'. Not measured; licence and training data unknown.",
        "license": _UNKNOWN_LICENSE,
        "training": {"dataset": "unknown", "license": "unknown"},
        "measured": {"quality": {}, "performance": {}},
        "provenance": {
            **converted.description.get("provenance", {}),
            "importer": importer,
            "imported_file": path.name,
            "imported_sha256": checksum,
        },
    }

    def fill(folder: Path) -> None:
        roles = {}
        for role, tensors in converted.tensors.items():
            save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / f"{role}.safetensors")
            roles[f"{role}.safetensors"] = role
        (folder / "MODEL_CARD.md").write_text(_card(new_id, path.name, checksum), encoding="utf-8")
        roles["MODEL_CARD.md"] = "card"
        seal_package(folder, description, roles)

    return put_package(new_id, fill)


def _card(new_id: str, file_name: str, checksum: str) -> str:
    return (
        f"# {new_id}\n\nImported from `{file_name}` (sha256 `{checksum}`).\n\n"
        "Licence, training data and quality are unknown. Nothing of it has been measured. "
        "For research only, not for diagnosis.\n"
    )
