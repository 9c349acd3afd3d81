"""Reads checkpoints of other people as data: nothing in them is unpickled or run."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.models.spec import size_text

if TYPE_CHECKING:
    import torch

TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
# Where trainers put the weights in a checkpoint; the averaged ones are the ones to sample with.
STATE_KEYS = (
    "ema_state_dict",
    "ema",
    "state_dict",
    "model_state_dict",
    "unet_state_dict",
    "controlnet_state_dict",
    "model",
    "unet",
    "network",
)
_WRAPPER_PREFIXES = ("module.", "_orig_mod.", "_forward_module.", "model.", "unet.", "network.")
_REFUSED_CLASS = re.compile(r"GLOBAL ([\w.]+)")


def read_content(path: Path) -> Any:
    """All that is in a checkpoint, as plain values and tensors.

    Args:
        path: .safetensors, or a PyTorch checkpoint (.pt, .pth, .ckpt, .bin), which is read with `weights_only=True`.

    Raises:
        ModelError: unreadable, or it holds anything but tensors and plain values.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not _is_regular(path):
        raise ModelError(f"There is no file '{str(path)[:200]}'", "Check the path.")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"'{path}' is not a valid safetensors file ({shortened(str(error), 200)})", "Get the file again."
            ) from error
    if suffix not in TORCH_SUFFIXES:
        raise ModelError(
            f"'{path}' is no checkpoint: its name must end in .safetensors, {', '.join(TORCH_SUFFIXES)}",
            "A whole package (folder or .zip) goes in by synthdiffusion models install.",
        )
    return _read_torch(path)


def _read_torch(path: Path) -> Any:
    # MONAI registers its tensors with meta data as plain data when it is imported; MAISI's training may save its scale
    # factor as one.
    import monai.data.meta_tensor  # noqa: F401
    import torch

    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch finds suspicious is refused, in one line
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nearly anything on a bad file; all of it means "not readable as data"
        found = _REFUSED_CLASS.search(str(error))
        named = f" (it names {found.group(1)})" if found else ""
        raise ModelError(
            f"'{path}' cannot be read as tensors only: it is damaged, or it holds program code, which is never run"
            + named,
            "Ask for the weights as .safetensors.",
        ) from error
    return _plain(content)


def _check_archive(path: Path) -> None:
    """Looks at the zip archive that a checkpoint may be before torch does, which unpacks whatever size it claims, and
    does not compare its checksums.

    Raises:
        ModelError: TorchScript, compressed, larger inside than outside, or damaged.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            if file.read(4) != b"PK\x03\x04":  # as torch tells them
                return
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                if any(m.filename.split("/")[1:2] == ["code"] for m in members):
                    raise ModelError(
                        f"'{path}' is TorchScript, a program, which is never run", "Ask for the state dict alone."
                    )
                compressed = any(m.compress_type != zipfile.ZIP_STORED for m in members)
                if compressed or sum(m.file_size for m in members) > size:
                    raise ModelError(
                        f"'{path}' is compressed, or claims to hold more than its {size_text(size)}",
                        "PyTorch writes no such files. Get it again, or ask for the weights as .safetensors.",
                    )
                bad = archive.testzip()
    except (OSError, zipfile.BadZipFile, ValueError, EOFError, RuntimeError) as error:
        raise ModelError(f"'{path}' cannot be read: it is damaged ({error})", "Get the file again.") from error
    if bad is not None:
        raise ModelError(
            f"'{path}' is damaged: the checksum of '{shortened(bad)}' in it is wrong",
            "Get the file again, or as .safetensors.",
        )


def shortened(name: str, length: int = 80) -> str:
    """A name from a file, for a message."""
    return name if len(name) <= length else name[: length - 3] + "..."


def _plain(value: Any, depth: int = 0) -> Any:
    """The same with plain tensors in place of those of a subclass."""
    import torch

    if isinstance(value, torch.Tensor):
        return value if type(value) is torch.Tensor else value.detach().as_subclass(torch.Tensor)
    if isinstance(value, dict) and depth < 4:  # what lies deeper is a trainer's own, and is never used
        return {key: _plain(entry, depth + 1) for key, entry in value.items()}
    return value


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a checkpoint, by tensor name, without the prefixes that wrappers add.

    Raises:
        ModelError: as `read_content`, and no state dict is in it.
    """
    return state_dict(read_content(path), path)


def state_dict(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """The state dict in what `read_content` gave.

    Raises:
        ModelError: there is none, or it holds tensors that are no plain weights.
    """
    for key in (None, *STATE_KEYS):
        found = content if key is None else content.get(key) if isinstance(content, dict) else None
        if is_state_dict(found):
            return checked(unwrapped(found), path)
    raise ModelError(
        f"'{path}' has no state dict at its top level or under {', '.join(STATE_KEYS)}", "Save the state dict alone."
    )


def is_state_dict(found: Any) -> bool:
    """Whether this is a dict of tensors by name, and not an empty one."""
    import torch

    return (
        isinstance(found, dict)
        and bool(found)
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in found.items())
    )


def checked(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """The same tensors.

    Raises:
        ModelError: one is not a dense tensor of real numbers.
    """
    import torch

    for name, t in tensors.items():
        if t.is_meta or t.is_nested or t.is_quantized or t.is_complex() or t.layout != torch.strided:
            raise ModelError(
                f"'{path}': the tensor '{shortened(name)}' is not a dense one of real numbers",
                "Save the weights as plain tensors.",
            )
    return tensors


def unwrapped(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors by names without the prefixes that wrappers (DDP, torch.compile, Fabric) add."""
    tensors = dict(tensors)
    stripped = True
    while stripped and tensors:
        stripped = False
        for prefix in _WRAPPER_PREFIXES:
            if all(name.startswith(prefix) and len(name) > len(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
                stripped = True
    return tensors


def _is_regular(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for the system
        return False
