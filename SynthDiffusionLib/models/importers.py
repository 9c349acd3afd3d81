"""Makes a package of checkpoints that somebody else has trained. A checkpoint is read as data, never unpickled."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.errors import ModelError, RunFailed, escaped
from SynthDiffusionLib.models.checkpoints import read_content, shortened, state_dict
from SynthDiffusionLib.models.package import load_package, seal_package, sha256_of
from SynthDiffusionLib.models.registry import Installed, list_packages, put_package
from SynthDiffusionLib.models.spec import ModelSpec

if TYPE_CHECKING:
    import torch

    from SynthDiffusionLib.models.package import ModelPackage
    from SynthDiffusionLib.models.templates import Template

UNKNOWN_LICENSE = {
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


@dataclass(frozen=True)
class Origin:
    """What is known of checkpoints from elsewhere than the files themselves.

    Args:
        description: entries of `model.json` that go before the template's ("name", "license", "training", ...).
        provenance: entries of its provenance.
        card: text of the model card, under its title.
    """

    description: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    card: str = ""


def import_checkpoint(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    new_id: str,
    like: str | os.PathLike[str] | None = None,
    origin: Origin | None = None,
) -> Installed:
    """Reads the checkpoints of one model, converts them, and installs them as a package of its own.

    The new package has no measured figures, and a licence only where it is known where the files come from: what held
    for the template need not hold for it.

    Args:
        paths: .safetensors, or PyTorch checkpoints (.pt, .pth, .ckpt, .bin), which are read with `weights_only=True`.
            The files that MedLoRD and MAISI are released as are told by their tensors.
        new_id: ID of the new package.
        like: ID of an installed package or of a preset with the same network, or the path of one. Without it, the one
            that fits is taken.
        origin: where the files come from; without it, the catalogue is asked by their checksums.

    Raises:
        ModelError: unreadable, holds more than tensors, fits no model, or the ID is taken or not valid.
        RunFailed: the disk is full.
    """
    from SynthDiffusionLib.models.templates import find_template

    files = [Path(p).expanduser() for p in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
    if not files:
        raise ModelError("No checkpoint is given", "Name one file or more.")
    template = find_template(like) if like is not None else None
    check_new_id(new_id, from_user=origin is None)
    for path in files:
        _check_name(path)
    importer, converted = convert(files, template)
    return install_converted(files, new_id, importer, converted, origin)


def convert(files: list[Path], template: Template | None) -> tuple[str, Converted]:
    """What the files make: a model of MedLoRD or MAISI, or that of another importer; and the importer's name.

    Raises:
        ModelError: as `import_checkpoint`.
    """
    from SynthDiffusionLib.models.released import Part, assemble, recognise

    parts: list[Part] = []
    others: list[tuple[Path, Any]] = []
    for path in files:
        content = read_content(path)
        part = recognise(content, path)  # holds the network alone: a trainer's other states are let go of
        if part is not None:
            parts.append(part)
        else:
            others.append((path, content))
    if not parts:
        return _other([content for _, content in others], files, template)
    for path, content in others:
        names = [shortened(n) for n in sorted(map(str, content))[:3]] if isinstance(content, dict) else []
        raise ModelError(
            f"'{path}' is no network of MedLoRD or MAISI" + (f" (it begins with {', '.join(names)})" if names else ""),
            "Name the files of one model only.",
        )
    assembled = assemble(parts, template)
    return f"{parts[0].method}-released", Converted(assembled.description, assembled.tensors)


def _other(contents: list[Any], files: list[Path], template: Template | None) -> tuple[str, Converted]:
    """The model that one checkpoint of a known network makes."""
    if len(files) > 1:
        raise ModelError(
            f"'{files[0]}' and {len(files) - 1} more are no files of MedLoRD or MAISI, whose models come in several",
            "Import one checkpoint at a time.",
        )
    tensors = state_dict(contents[0], files[0])
    if template is not None and template.package is None:
        return "same-network", _fitted(tensors, template)
    for importer in IMPORTERS:
        converted = importer.convert(tensors, None if template is None else template.package)
        if converted is not None:
            return importer.name, converted
    names = ", ".join(map(shortened, sorted(tensors)[:3]))
    raise ModelError(
        f"'{files[0]}' fits no model that SynthDiffusion knows (its tensors: {names}...)",
        _fit_hint(template),
    )


def _same_network(tensors: Mapping[str, torch.Tensor], like: ModelPackage | None) -> Converted | None:
    """A checkpoint with exactly the tensors of an installed package's denoiser."""
    from SynthDiffusionLib.models.fitting import difference
    from SynthDiffusionLib.models.templates import Template

    if like is not None:
        return _fitted(tensors, Template(like.spec, like))
    fitting = []
    for entry in list_packages():
        if not entry.problem:
            package = load_package(entry.id, verify=False)
            if not difference(tensors, Template(package.spec, package).shapes("denoiser")):
                fitting.append(package)
    if len(fitting) > 1:
        raise ModelError(
            f"The checkpoint fits {len(fitting)} models: {', '.join(p.id for p in fitting)}", "Choose one by --like ID."
        )
    return _fitted(tensors, Template(fitting[0].spec, fitting[0])) if fitting else None


def _fitted(tensors: Mapping[str, torch.Tensor], template: Template) -> Converted:
    from SynthDiffusionLib.models.fitting import difference

    found = difference(tensors, template.shapes("denoiser"))
    if found:
        raise ModelError(
            f"The checkpoint does not fit the network of '{template.id}': {found.text}",
            "Choose the model that it was trained as by --like ID.",
        )
    return Converted(inherited(template.spec), {"denoiser": dict(tensors)})


def inherited(template: ModelSpec) -> dict[str, Any]:
    """What a model with the same network and label scheme takes over. The segmenter stays with the model that it came
    with, and so do the measured figures, the training data and the licence."""
    left = ("format", "id", "files", "segmenter", "license", "training", "measured", "provenance")
    description = {key: copy.deepcopy(value) for key, value in template.raw.items() if key not in left}
    description["provenance"] = {"template": f"{template.id} {template.version}"}
    return description


IMPORTERS: list[Importer] = [Importer("same-network", _same_network)]


def check_new_id(new_id: str, from_user: bool = True) -> None:
    """Refuses an ID that a new package cannot have.

    Args:
        new_id: of the package.
        from_user: False for what the catalogue names, whose own IDs are free then.

    Raises:
        ModelError: not valid, or taken.
    """
    from SynthDiffusionLib.models.catalogue import catalogue_ids
    from SynthDiffusionLib.models.folders import package_folders
    from SynthDiffusionLib.models.names import id_problem
    from SynthDiffusionLib.models.presets import is_preset

    problem = id_problem(new_id)
    if problem:
        raise ModelError(f"'{new_id}' cannot be the ID of a model: {problem}", "Choose one such as my-lung-ct.")
    if new_id in package_folders():
        raise ModelError(f"There is a model '{new_id}' already", "Choose another ID, or remove that one first.")
    if from_user and is_preset(new_id):
        raise ModelError(f"'{new_id}' is the ID of a preset", "Choose another ID.")
    if from_user and new_id in catalogue_ids():
        raise ModelError(
            f"'{new_id}' is the ID of a released model",
            f"Choose another ID, or install it from your files: models install {new_id} --from FOLDER.",
        )


def _check_name(path: Path) -> None:
    """Refuses a name that cannot be put into the package's description."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        readable = path.name.encode("ascii", "backslashreplace").decode("ascii")
        raise ModelError(f"The name or folder of '{readable}' is no valid text (UTF-8)", "Rename it.") from error


def _fit_hint(template: Template | None) -> str:
    known = [entry.id for entry in list_packages() if not entry.problem]
    if template is None and known:
        return f"Name the model that it was trained as by --like ID to see what differs. Installed: {', '.join(known)}."
    return "Only checkpoints of a known network can be imported."


def install_converted(
    files: list[Path], new_id: str, importer: str, converted: Converted, origin: Origin | None
) -> Installed:
    """Installs what `convert` has made of the files as a package of its own.

    Raises:
        ModelError: weights that are not finite, or a description that is not valid.
        RunFailed: the disk is full.
    """
    import torch

    for role, tensors in converted.tensors.items():
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ModelError(
                    f"{_named(files)}: the tensor '{shortened(name)}' of the {role} is not finite",
                    "Get the file again.",
                )
    checksums = [sha256_of(path) for path in files]
    if origin is None:
        from SynthDiffusionLib.models.catalogue import origin_by_checksums

        origin = origin_by_checksums(checksums) or Origin()
    imported: dict[str, Any] = {
        "imported_files": [{"file": escaped(p.name), "sha256": c} for p, c in zip(files, checksums)]
    }
    if len(files) == 1:
        imported = {"imported_file": escaped(files[0].name), "imported_sha256": checksums[0]}
    description = {
        **converted.description,
        "name": new_id,
        "version": "1.0.0",
        "description": f"Imported from {_named(files)}. Not measured; licence and training data unknown.",
        "license": UNKNOWN_LICENSE,
        "training": {"dataset": "unknown", "license": "unknown"},
        **origin.description,
        "id": new_id,
        "measured": {"quality": {}, "performance": {}},
        "provenance": {
            **converted.description.get("provenance", {}),
            "importer": importer,
            **imported,
            **origin.provenance,
        },
    }
    card = _card(description, list(zip(files, checksums)), origin)

    def fill(folder: Path) -> None:
        roles = {}
        for role, tensors in converted.tensors.items():
            save_weights(tensors, folder / f"{role}.safetensors")
            roles[f"{role}.safetensors"] = role
        (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")
        roles["MODEL_CARD.md"] = "card"
        seal_package(folder, description, roles)

    return put_package(new_id, fill)


def _named(files: list[Path]) -> str:
    return ", ".join(f"'{escaped(path.name)}'" for path in files)


def save_weights(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Writes tensors as safetensors.

    Raises:
        RunFailed: the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        # Clones: tensors that share memory, which safetensors refuses, become tensors of their own.
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path)
    except SafetensorError as error:  # also what the system refuses, as text
        raise RunFailed(
            f"The weights cannot be written to '{path.parent.parent}' ({error})", "See whether its disk is full."
        ) from error


def _card(description: Mapping[str, Any], files: list[tuple[Path, str]], origin: Origin) -> str:
    lines = [f"# {description['name']}", ""]
    lines += [f"Imported from `{escaped(path.name)}` (sha256 `{checksum}`).\n" for path, checksum in files]
    if origin.card:
        lines += [origin.card, "", "Nothing of it has been measured here. For research only, not for diagnosis."]
    else:
        lines += [
            "Licence, training data and quality are unknown. Nothing of it has been measured. "
            "For research only, not for diagnosis."
        ]
    notes = description["provenance"].get("notes", [])
    return "\n".join(lines + [f"\n{note}" for note in notes]) + "\n"
