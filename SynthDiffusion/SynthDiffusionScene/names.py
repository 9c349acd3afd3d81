"""Names of nodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_SUFFIXES = (".seg.nrrd", ".seg.nhdr", ".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm")


def nameOfFile(path: str | Path) -> str:
    """File name without folder and image suffix: "case.7.nii.gz" gives "case.7"."""
    name = Path(path).name
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def holdsRealPixels(provenance: Mapping) -> bool:
    """Whether a generated volume is in part the real patient's (inpainting)."""
    settings = provenance.get("settings") or {}
    mode = provenance.get("mode", settings.get("mode"))
    return mode == "inpaint" or bool(provenance.get("contains_real_patient_pixels"))


def modelId(provenance: Mapping) -> str:
    """ID of the model, which provenance holds as text or as the `id` of an object."""
    model = provenance.get("model", "")
    return str(model.get("id", "")) if isinstance(model, Mapping) else str(model or "")


def seedOf(provenance: Mapping) -> str:
    """Seed of the noise as text, "" if unknown. The engine keeps it among the settings."""
    settings = provenance.get("settings") or {}
    seed = provenance.get("seed", settings.get("seed"))
    return "" if seed is None else str(seed)


def syntheticName(case: str, provenance: Mapping) -> str:
    """Node name of a generated volume: "case7 synthetic (lung-nodule-ct, seed 3)", or "inpainted" if it is that."""
    word = "inpainted" if holdsRealPixels(provenance) else "synthetic"
    return f"{case} {word} ({modelId(provenance) or 'unknown model'}, seed {seedOf(provenance) or 'unknown'})"


def uniqueNodeName(scene, name: str) -> str:
    """The name, or "NAME (2)" and so on where a node of the scene has it already.

    Not vtkMRMLScene.GenerateUniqueName, which never gives a name a second time, even if its node is gone.
    """
    number, unique = 1, name
    while scene.GetFirstNodeByName(unique) is not None:
        number += 1
        unique = f"{name} ({number})"
    return unique
