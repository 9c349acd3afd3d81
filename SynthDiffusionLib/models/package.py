"""A model package: a folder with a checked `model.json`, weights as safetensors, and a model card."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.models.folders import find_folder
from SynthDiffusionLib.models.spec import FORMAT, SPEC_NAME, FileSpec, ModelSpec, read_spec
from SynthDiffusionLib.volumes.atomic import atomic_file

if TYPE_CHECKING:
    import torch

_REINSTALL = (
    "Install the package again: synthdiffusion models install FOLDER_OR_ZIP "
    "(a shipped model: install SynthDiffusion again)."
)


# Type of a float's bits, and its exponent's bits: all of them are set in NaN and infinity only (IEEE 754; bfloat16 is
# the upper half of a float32).
_EXPONENTS = {
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F32": ("<u4", 0x7F800000),
    "F64": ("<u8", 0x7FF0000000000000),
}


@dataclass(frozen=True)
class ModelPackage:
    """A package whose description has been checked, and, unless it was loaded without, its files too."""

    folder: Path
    spec: ModelSpec

    @property
    def id(self) -> str:
        return self.spec.id

    def has(self, role: str) -> bool:
        """Whether the package has a file of this role."""
        return any(f.role == role for f in self.spec.files)

    def file(self, role: str) -> Path:
        """Path of the file with this role ("denoiser", "segmenter", "card", ...).

        Raises:
            ModelError: the package has none.
        """
        for f in self.spec.files:
            if f.role == role:
                return self.folder / f.path
        raise ModelError(f"Model '{self.id}' has no {role}", f"It has: {', '.join(f.role for f in self.spec.files)}.")

    def load_tensors(self, role: str = "denoiser", device: str = "cpu") -> dict[str, torch.Tensor]:
        """The weights of a file, by name.

        Raises:
            ModelError: the package has no such file, or it is not valid safetensors.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.file(role)
        try:
            return load_file(path, device=device)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"Model '{self.id}': '{path.name}' cannot be read ({error})", _REINSTALL) from error


def load_package(id_or_path: str | os.PathLike[str], verify: bool = True) -> ModelPackage:
    """Loads a package by its ID, or from the folder it lies in.

    Args:
        id_or_path: ID of an installed package, or path of a folder with a `model.json`. An ID goes before a folder of
            the same name in the working directory.
        verify: compare the checksums of all files too, not just their sizes, and look at the weights.

    Raises:
        ModelError: unknown, damaged, or changed.
    """
    folder = _folder_of(id_or_path)
    package = ModelPackage(folder, read_spec(folder))
    if not looks_like_path(id_or_path) and package.id != id_or_path:
        raise ModelError(
            f"The folder of the model '{id_or_path}' holds the package '{package.id}'",
            f"Rename '{folder}', or install the package again.",
        )
    for f in package.spec.files:
        check_file(folder, f, package.id, checksum=verify)
    if verify:
        check_weights(folder, package.spec)
    return package


def looks_like_path(id_or_path: str | os.PathLike[str]) -> bool:
    """A path rather than an ID: a Path, or text with a separator, a suffix, or a leading dot or tilde."""
    if not isinstance(id_or_path, str):
        return True
    return any(c in id_or_path for c in "/\\:") or id_or_path.startswith((".", "~")) or id_or_path.endswith(".zip")


def path_of(id_or_path: str | os.PathLike[str]) -> Path:
    """The text as a path that may or may not exist.

    Raises:
        ModelError: no path of this system can be so: too long, a zero byte in it, or an unknown user's home.
    """
    try:
        path = Path(id_or_path).expanduser()
        (path / SPEC_NAME).stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return path
    except (OSError, ValueError, RuntimeError) as error:
        text = str(id_or_path)
        raise ModelError(
            f"There is no model '{text if len(text) <= 80 else text[:77] + '...'}'",
            "Give the ID of a model, or the folder of one: synthdiffusion models list.",
        ) from error
    return path


def _folder_of(id_or_path: str | os.PathLike[str]) -> Path:
    path = path_of(id_or_path)
    if looks_like_path(id_or_path):
        if not path.is_dir():
            raise ModelError(
                f"'{path}' is not a folder with a model package",
                "Give the folder that holds the model.json; a .zip file must be installed first."
                if path.is_file()
                else "Check the path, or give the ID of a model: synthdiffusion models list.",
            )
        return path
    try:
        return find_folder(str(id_or_path))[0]
    except ModelError:
        if (path / SPEC_NAME).is_file():
            return path
        raise


def check_file(folder: Path, file: FileSpec, model_id: str, checksum: bool = True) -> None:
    """Compares one file of a package with its description.

    Args:
        folder: of the package.
        file: what the file should be.
        model_id: for the error.
        checksum: False compares the size only.

    Raises:
        ModelError: missing, linked to outside the folder, or different.
    """
    path = folder / file.path
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"Model '{model_id}': '{file.path}' is a link that leaves the package's folder", _REINSTALL)
    if not path.is_file():
        raise ModelError(f"Model '{model_id}': '{file.path}' is missing", _REINSTALL)
    try:
        size = path.stat().st_size
        if size == file.bytes and not checksum:
            return
        found = sha256_of(path)
    except OSError as error:
        raise ModelError(f"Model '{model_id}': '{file.path}' cannot be read ({error.strerror})", _REINSTALL) from error
    if size != file.bytes or found != file.sha256:
        sizes = f", {size} bytes instead of {file.bytes}" if size != file.bytes else ""
        raise ModelError(
            f"Model '{model_id}': '{file.path}' has been changed or damaged "
            f"(sha256 {found[:12]}... instead of {file.sha256[:12]}...{sizes})",
            _REINSTALL,
        )


def check_weights(folder: Path, spec: ModelSpec) -> None:
    """All weights of a package are well-formed safetensors of finite numbers.

    Raises:
        ModelError: one is not.
    """
    for f in spec.files:
        if f.path.lower().endswith(".safetensors"):
            try:
                tensor_shapes(folder / f.path)
                bad = _not_finite(folder / f.path)
            except (OSError, ValueError) as error:
                raise ModelError(
                    f"Model '{spec.id}': '{f.path}' is not a valid safetensors file ({error})", "Get the package again."
                ) from error
            if bad:
                raise ModelError(
                    f"Model '{spec.id}': '{f.path}' holds numbers that are not finite, in the tensor '{bad}'",
                    "Get the package again.",
                )


def _not_finite(path: Path) -> str | None:
    """Name of a tensor with NaN or infinity in a safetensors file whose header is known to be right, or None.

    Format: 8 bytes of header length, JSON header, little-endian data (github.com/huggingface/safetensors, README).
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name, entry in header.items():
            if entry.get("dtype") in _EXPONENTS:
                bits, mask = _EXPONENTS[entry["dtype"]]
                start, stop = entry["data_offsets"]
                file.seek(8 + length + start)
                exponents = np.frombuffer(file.read(stop - start), bits) & np.dtype(bits).type(mask)
                if np.any(exponents == mask):
                    return name
    return None


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a safetensors file, from its header.

    Raises:
        ValueError: not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as error:
        raise ValueError(str(error)) from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal_package(folder: Path, description: Mapping[str, Any], roles: Mapping[str, str]) -> ModelPackage:
    """Writes the `model.json` of a folder whose files are complete: measures them, checks all, then writes.

    Args:
        folder: holds the files.
        description: `model.json` but for "format" and "files", which are filled in.
        roles: file name to role, in the order in which they are listed.

    Returns:
        the package.

    Raises:
        ModelError: the description is not valid, or a file is missing or no safetensors.
    """
    folder = Path(folder)
    files = []
    for name, role in roles.items():
        path = folder / name
        if not path.is_file():
            raise ModelError(f"'{path}' is missing", "Write all files of a package before its model.json.")
        files.append({"path": name, "sha256": sha256_of(path), "bytes": path.stat().st_size, "role": role})
    data = {"format": FORMAT, **description, "files": files}
    spec = ModelSpec.from_json(data, str(folder / SPEC_NAME))
    check_weights(folder, spec)
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_file(folder / SPEC_NAME) as file:
        file.write(text.encode("utf-8"))
    return ModelPackage(folder, spec)
