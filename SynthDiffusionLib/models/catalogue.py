"""The catalogue: released checkpoints that can be downloaded (Resources/Catalogue), with their licences.

What an entry does not know is null: a revision, a checksum or a size is never guessed, but taken from the server's
answer when the files are downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.resources import resource_path

if TYPE_CHECKING:
    from SynthDiffusionLib.models.importers import Origin

FORMAT = "synthdiffusion-catalogue-1"


@dataclass(frozen=True)
class CatalogueFile:
    """One released file; None for what only the server knows.

    Args:
        role: "autoencoder", "denoiser" or "controlnet".
        repo: "owner/name" of a repository on Hugging Face.
        path: in it.
        revision: commit, or None for the newest.
        sha256: of the file.
        bytes: its size.
    """

    role: str
    repo: str
    path: str
    revision: str | None
    sha256: str | None
    bytes: int | None


@dataclass(frozen=True)
class CatalogueLicense:
    """Licence of released weights.

    Args:
        spdx: SPDX expression.
        name, url: what it is called, and where its text is.
        permitted_use: its terms in a sentence.
        attribution: whom to name.
        version: of its text, or None.
    """

    spdx: str
    name: str
    url: str
    permitted_use: str
    attribution: str
    version: str | None = None


@dataclass(frozen=True)
class CatalogueEntry:
    """A released model.

    Args:
        id, name, description, modality, modes, backend: as in a `model.json`.
        preset: which it is an instance of.
        gated: whether access to its files has to be asked for.
        files: of it.
        license: of its weights.
        package: entries of `model.json` that go before the preset's.
        training: as in a `model.json`.
        notes: what users should know.
    """

    id: str
    name: str
    description: str
    preset: str
    backend: str
    modality: str
    modes: tuple[str, ...]
    gated: bool
    files: tuple[CatalogueFile, ...]
    license: CatalogueLicense
    package: dict[str, Any]
    training: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def total_bytes(self) -> int | None:
        """Size of the download, None if the catalogue does not know it."""
        sizes = [f.bytes for f in self.files]
        return None if None in sizes else sum(sizes)

    @property
    def repositories(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(f.repo for f in self.files))


def catalogue_ids() -> tuple[str, ...]:
    """IDs of all entries, sorted."""
    return tuple(sorted(path.stem for path in resource_path("Catalogue").glob("*.json")))


def load_catalogue() -> tuple[CatalogueEntry, ...]:
    """All entries, by ID.

    Raises:
        ModelError: one is damaged.
    """
    return tuple(load_entry(entry_id) for entry_id in catalogue_ids())


def load_entry(entry_id: str) -> CatalogueEntry:
    """One entry.

    Raises:
        ModelError: there is none of this ID, or it is damaged.
    """
    from SynthDiffusionLib.models.presets import load_preset
    from SynthDiffusionLib.schemas import closest, first_problem, read_json

    known = catalogue_ids()
    if entry_id not in known:
        near = closest(entry_id, known)
        raise ModelError(
            f"There is no released model '{entry_id[:80]}'",
            (f"Did you mean '{near}'? " if near else "") + f"Known: {', '.join(known)}.",
        )
    path = resource_path("Catalogue", f"{entry_id}.json")
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"'{path}' cannot be read: {error}", "Install SynthDiffusion again.") from error
    problem = first_problem(data, "catalogue")
    if not problem and data["id"] != entry_id:
        problem = f"it calls itself '{data['id']}'"
    if problem:
        raise ModelError(f"'{path}' is no valid entry: {problem}", "Install SynthDiffusion again.")
    preset = load_preset(data["preset"])
    files = tuple(CatalogueFile(**f) for f in data["files"])
    controlled = any(f.role == "controlnet" for f in files)
    return CatalogueEntry(
        **{key: data[key] for key in ("id", "name", "description", "preset", "gated", "training")},
        backend=preset.backend,
        modality=preset.modality,
        modes=tuple(mode for mode in preset.modes if controlled or mode == "unconditional"),
        files=files,
        license=CatalogueLicense(**data["license"]),
        package=data.get("package", {}),
        notes=tuple(data.get("notes", ())),
    )


def origin_of(entry: CatalogueEntry, provenance: dict[str, Any]) -> Origin:
    """What an imported package says of itself: licence and attribution from the catalogue.

    Args:
        entry: the released model.
        provenance: how its files got here.
    """
    from SynthDiffusionLib.models.importers import Origin

    licence = entry.license
    description = {
        **entry.package,
        "name": entry.name,
        "description": entry.description,
        "license": {
            "spdx": licence.spdx,
            "attribution": licence.attribution,
            "permitted_use": f"{licence.permitted_use} {licence.name}: {licence.url}",
        },
        "training": entry.training,
    }
    card = "\n\n".join(
        [
            entry.description,
            f"Licence of the weights: {licence.name} ({licence.url}). {licence.permitted_use}",
            f"Attribution: {licence.attribution}",
            f"Trained on: {entry.training['dataset']} ({entry.training['license']}).",
            *entry.notes,
        ]
    )
    return Origin(description, {"catalogue": entry.id, **provenance}, card)


def origin_by_checksums(checksums: Sequence[str]) -> Origin | None:
    """The origin of files that the catalogue knows by their checksums, all of one entry; None if it does not."""
    for entry in load_catalogue():
        known = {f.sha256 for f in entry.files if f.sha256}
        if known and set(checksums) <= known:
            return origin_of(entry, {})
    return None
