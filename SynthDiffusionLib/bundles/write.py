"""Writes an installed package as a MONAI bundle."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib.backends import BACKENDS
from SynthDiffusionLib.bundles import layout
from SynthDiffusionLib.bundles.configs import inference_config
from SynthDiffusionLib.bundles.metadata import licence_text, metadata, readme
from SynthDiffusionLib.errors import BadInput, ModelError
from SynthDiffusionLib.models.package import ModelPackage, load_package
from SynthDiffusionLib.models.presets import is_preset, networks
from SynthDiffusionLib.models.spec import SPEC_NAME
from SynthDiffusionLib.output_folders import move_into, staging_folder
from SynthDiffusionLib.volumes.atomic import writing_error


@dataclass(frozen=True)
class ExportedBundle:
    """What was written.

    Args:
        folder: the bundle.
        weights: files of weights by role.
        notes: what the user should know.
    """

    folder: Path
    weights: dict[str, Path]
    notes: tuple[str, ...]


def export_bundle(model: str | os.PathLike[str], out: Path) -> ExportedBundle:
    """Writes a package as the bundle `OUT/ID`.

    Args:
        model: ID of an installed package, or a package folder.
        out: folder for the bundle; made if missing.

    Raises:
        ModelError: no such package, damaged, or of a backend that this version does not have.
        BadInput: the bundle's folder is there already, or cannot be written to.
        RunFailed: the disk is full.
    """
    if isinstance(model, str) and is_preset(model):
        raise ModelError(f"'{model}' is a preset, a design without weights", "Export a model that is installed.")
    package = load_package(model)
    spec = package.spec
    unknown = [network.name for _, network in networks(spec) if network.name not in layout.TARGETS]
    if spec.backend not in BACKENDS or unknown:
        what = f"the network '{unknown[0]}'" if unknown else f"the backend '{spec.backend}'"
        raise ModelError(
            f"The model '{spec.id}' needs {what}, which this version does not have and cannot export",
            "Install a newer version of SynthDiffusion.",
        )
    with staging_folder(out) as staging:
        folder = staging.parent / spec.id
        _refuse_existing(folder)
        try:
            weights = _write(package, staging / "new")
            _refuse_existing(folder)
            move_into(staging / "new", folder)
        except OSError as error:
            raise writing_error(error, folder) from error
    notes = []
    if spec.license.spdx == "NOASSERTION":
        notes.append("the licence of this model is not known: ask whoever made it before you pass the bundle on")
    return ExportedBundle(folder, {role: folder / name for role, name in weights.items()}, tuple(notes))


def _refuse_existing(folder: Path) -> None:
    if os.path.lexists(folder):
        raise BadInput(f"'{folder}' is there already", "Remove it, or choose another --out.")


def _write(package: ModelPackage, folder: Path) -> dict[str, str]:
    """Fills the new folder. Returns the files of weights by role, relative to it."""
    from SynthDiffusionLib.training.files import save_state

    spec = package.spec
    for name in ("configs", "docs", layout.MODELS):
        (folder / name).mkdir(parents=True)
    weights: dict[str, dict[str, str]] = {}
    files: dict[str, str] = {}
    card = ""
    for f in spec.files:
        if f.path.lower().endswith(".safetensors"):
            tensors = package.load_tensors(f.role)
            save_state(folder / layout.weight_file(f.role), tensors)
            weights[f.role] = {"file": layout.weight_file(f.role), "tensors_sha256": layout.tensors_digest(tensors)}
        else:
            files[f.path] = f"docs/{f.path}"
            shutil.copyfile(package.folder / f.path, folder / "docs" / f.path)
            if f.role == "card":
                card = (package.folder / f.path).read_text(encoding="utf-8", errors="replace")
    if not (folder / layout.README).exists():  # a card of that name is the readme
        (folder / layout.README).write_text(readme(spec, card), encoding="utf-8")
    (folder / layout.LICENSE).write_text(licence_text(spec), encoding="utf-8")
    shutil.copyfile(package.folder / SPEC_NAME, folder / layout.DESCRIPTION)
    own = {
        "format": layout.FORMAT,
        "model": layout.DESCRIPTION,
        "model_sha256": layout.description_digests(spec.raw),
        "weights": weights,
        "files": files,
    }
    _write_json(folder / layout.METADATA, metadata(spec) | {layout.OWN: own})
    _write_json(folder / layout.CONFIGS[0], inference_config(spec))
    return {role: entry["file"] for role, entry in weights.items()}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """In ASCII: MONAI opens configs in the encoding of the system."""
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="ascii")
