"""An exported bundle as the package that it was: where weights and description are those that were exported, all that
was known of them holds.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.bundles import layout
from SynthDiffusionLib.bundles.source import BundleSource
from SynthDiffusionLib.errors import ModelError, shortened
from SynthDiffusionLib.models.checkpoints import checked, is_state_dict, read_content
from SynthDiffusionLib.models.importers import UNKNOWN_LICENSE, inherited, save_weights
from SynthDiffusionLib.models.package import ModelPackage, seal_package, sha256_of
from SynthDiffusionLib.models.presets import networks
from SynthDiffusionLib.models.spec import ModelSpec

if TYPE_CHECKING:
    import torch

_AGAIN = "Export the bundle again."


@dataclass(frozen=True)
class OwnBundle:
    """An exported package.

    Args:
        spec: its description.
        tensors: weights by role.
        files: card and figures by the names that they have in the package.
        changed: roles whose weights are not those that were exported, as after further training.
        rewritten: sections of the description that are not those that were exported.
        notes: what a user should know of it.
    """

    spec: ModelSpec
    tensors: dict[str, dict[str, torch.Tensor]]
    files: dict[str, Path]
    changed: tuple[str, ...] = ()
    rewritten: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def unchanged(self) -> bool:
        """Weights and description are those that were exported."""
        return not self.changed and not self.rewritten


def is_own(metadata: Mapping[str, Any]) -> bool:
    """Whether a bundle is an exported package."""
    return layout.OWN in metadata


def read_own(source: BundleSource, metadata: Mapping[str, Any]) -> OwnBundle:
    """Reads an exported package. Nothing of its inference.json is looked at.

    Raises:
        ModelError: not of the known form, files are missing or unreadable, or weights are not those of its networks.
    """
    own = metadata[layout.OWN]
    if not _well_formed(own):
        raise ModelError(
            f"'{source.path}': the entry '{layout.OWN}' of its {layout.METADATA} is not of the form {layout.FORMAT}",
            "Install a newer SynthDiffusion, or export the bundle again.",
        )
    spec = ModelSpec.from_json(source.json(layout.DESCRIPTION), f"{source.path}/{layout.DESCRIPTION}")
    roles = {f.role: f for f in spec.files if f.path.lower().endswith(".safetensors")}
    if set(own["weights"]) != set(roles):
        raise ModelError(
            f"'{source.path}': its weights are of {', '.join(sorted(own['weights'])) or 'nothing'}, but its model.json "
            f"has {', '.join(sorted(roles))}",
            _AGAIN,
        )
    said = layout.description_digests(spec.raw)
    names = [*spec.raw, *(name for name in own["model_sha256"] if name not in spec.raw)]
    rewritten = tuple(name for name in names if said.get(name) != own["model_sha256"].get(name))
    tensors, changed = {}, []
    for role in roles:
        entry = own["weights"][role]
        tensors[role] = _weights(source.file(entry["file"]), entry["file"])
        _check_fit(spec, role, tensors[role], entry["file"])
        if layout.tensors_digest(tensors[role]) != entry["tensors_sha256"]:
            changed.append(role)
    files, notes = {}, []
    for f in spec.files:
        if f.role in roles:
            continue
        path = source.file(own["files"].get(f.path, f"docs/{f.path}"))
        if sha256_of(path) == f.sha256:
            files[f.path] = path
        else:
            notes.append(f"'{path.name}' was changed since the bundle was exported, and is left out.")
    return OwnBundle(spec, tensors, files, tuple(changed), rewritten, tuple(notes))


def _well_formed(own: Any) -> bool:
    if not isinstance(own, dict) or own.get("format") != layout.FORMAT:
        return False
    weights, files, sums = own.get("weights"), own.get("files"), own.get("model_sha256")
    return (
        isinstance(weights, dict)
        and all(
            isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("file", "tensors_sha256"))
            for entry in weights.values()
        )
        and all(isinstance(table, dict) and all(isinstance(v, str) for v in table.values()) for table in (files, sums))
    )


def _weights(path: Path, name: str) -> dict[str, torch.Tensor]:
    tensors = read_content(path)
    if not is_state_dict(tensors):
        raise ModelError(f"The weights '{name}' of the bundle are no state dict", _AGAIN)
    return checked(tensors, path)


def _check_fit(spec: ModelSpec, role: str, tensors: Mapping[str, torch.Tensor], name: str) -> None:
    """Refuses weights that the network of their role, made without memory of its own, does not load."""
    import torch

    from SynthDiffusionLib.networks.build import build_network

    with torch.device("meta"):
        network = build_network(dict(networks(spec))[role], spec.label_scheme if role == "denoiser" else None)
    try:
        network.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        reason = shortened(" ".join(str(error).split()), 200)
        raise ModelError(
            f"The weights '{name}' are not the {role} of the bundle's model.json: {reason}", _AGAIN
        ) from error


def description_of(own: OwnBundle) -> dict[str, Any]:
    """`model.json` but for "format" and "files": all that was exported, or what still holds of it after changes."""
    if own.unchanged:
        kept = ("format", "files")
        return {key: copy.deepcopy(value) for key, value in own.spec.raw.items() if key not in kept}
    notes, parts = [], []
    if own.changed:
        changed = ", ".join(own.changed)
        parts.append(f"other weights ({changed})")
        notes.append(
            f"The weights ({changed}) were changed since the bundle was exported: measured figures, training data, "
            "licence and segmenter of the exported model do not hold for them."
        )
    if own.rewritten:
        sections = shortened(", ".join(own.rewritten))
        parts.append(f"another description ({sections})")
        notes.append(
            f"The description was changed since the bundle was exported ({sections}): measured figures, training data, "
            "licence and segmenter are left out. Its settings are taken as they are."
        )
    return {
        **inherited(own.spec),
        "id": own.spec.id,
        "version": f"{own.spec.version}+changed",
        "description": f"{own.spec.name} with {' and '.join(parts)}. Not measured; licence and training data unknown.",
        "license": UNKNOWN_LICENSE,
        "training": {"dataset": "unknown", "license": "unknown"},
        "measured": {"quality": {}, "performance": {}},
        "provenance": {
            "template": f"{own.spec.id} {own.spec.version}",
            "notes": notes,
        },
    }


def write_package(own: OwnBundle, folder: Path, changes: Mapping[str, Any] | None = None) -> ModelPackage:
    """Writes an exported bundle as a package into an empty folder.

    Args:
        own: what was read.
        folder: to write to.
        changes: entries of its `model.json` to replace.

    Raises:
        ModelError: weights that are not finite.
        RunFailed: the disk is full.
    """
    description = description_of(own) | dict(changes or {})
    roles: dict[str, str] = {}
    for f in own.spec.files:
        if f.role in own.tensors and (f.role != "segmenter" or own.unchanged):
            save_weights(own.tensors[f.role], folder / f.path)
        elif f.path in own.files and own.unchanged:
            shutil.copyfile(own.files[f.path], folder / f.path)
        else:
            continue
        roles[f.path] = f.role
    if not own.unchanged:
        (folder / "MODEL_CARD.md").write_text(_changed_card(description), encoding="utf-8")
        roles["MODEL_CARD.md"] = "card"
    return seal_package(folder, description, roles)


def _changed_card(description: Mapping[str, Any]) -> str:
    notes = description["provenance"]["notes"]
    lines = [f"# {description['name']}", description["description"], *notes, "For research only, not for diagnosis."]
    return "\n\n".join(lines) + "\n"
