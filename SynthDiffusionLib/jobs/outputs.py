"""What a job's files are called, and how a synthetic volume is marked in its header."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.jobs.records import edits_of
from SynthDiffusionLib.jobs.request import CHOICES
from SynthDiffusionLib.models.spec import ModelSpec
from SynthDiffusionLib.volumes.marks import EDITED


def safe_stem(name: str) -> str:
    """A name of a case without what file systems refuse, for the stem of file names."""
    name = name.encode("utf-8", "replace").decode("utf-8")  # bytes that are no text
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", name).strip(" .")[:80] or "case"


def output_paths(
    out: Path,
    case: str,
    model: str,
    seed: int,
    *,
    inpainted: bool,
    volume_format: str,
    scene: bool = False,
    segmentation: bool = False,
) -> dict[str, Path]:
    """The files of one sample, by what they hold.

    Args:
        out: their folder.
        case: see `safe_stem`.
        model: id of the model.
        inpainted: whether the volume is partly real.
        volume_format: "nii.gz" or "nrrd".
        scene: whether there is a scene too.
        segmentation: whether the model makes the segmentation too.

    Returns:
        paths under "volume", "provenance", "contact_sheet" and, where they apply, "region", "segmentation" and "scene".
    """
    stem = f"{case}_{model}_seed{seed}" + ("_inpainted" if inpainted else "")
    names = {"volume": f"{stem}.{volume_format}", "provenance": f"{stem}.json", "contact_sheet": f"{stem}.png"}
    if inpainted:
        names["region"] = f"{stem}_region.seg.nrrd"
    if segmentation:
        names["segmentation"] = f"{stem}.seg.nrrd"
    if scene:
        names["scene"] = f"{stem}.mrb"
    return {what: out / name for what, name in names.items()}


def check_names(paths: Mapping[str, Path], volume_format: str) -> None:
    """Refuses names that are taken by folders, before the work; files of these names are replaced.

    Args:
        paths: of one sample, see `output_paths`.
        volume_format: of its volume.

    Raises:
        BadInput: a folder has one of the names, or a volume of the other format has the same provenance file.
    """
    for path in paths.values():
        if path.is_dir():
            raise BadInput(f"'{path}' is to be written, but is a folder", "Remove it, or choose another --out.")
    for other in set(CHOICES["format"]) - {volume_format}:
        volume = paths["volume"].with_name(paths["volume"].name.removesuffix(volume_format) + other)
        if volume.exists():
            raise BadInput(
                f"'{volume}' lies there, and the new volume's provenance would take the place of its own",
                "Choose another --out, or remove it.",
            )


def header_marks(record: Mapping[str, Any]) -> dict[str, str]:
    """The attributes that mark a volume as synthetic in its file's header.

    Args:
        record: its provenance, of which "contains_real_patient_pixels", "notice", "model", the seed and whether it
            or an image that it was inpainted into was edited are read.
    """
    model, seed = record["model"], record["settings"]["seed"]
    edited = edits_of(record) == "yes"
    what = f"{kind_of(record)} {model['id']} {model['version']} seed {seed}"
    return {
        "description": f"{what}, {'EDITED, ' if edited else ''}research only",
        "SynthDiffusion.Synthetic": "YES",
        "SynthDiffusion.Model": f"{model['id']} {model['version']}",
        "SynthDiffusion.Seed": str(seed),
        "SynthDiffusion.Notice": record["notice"],
    } | ({EDITED: "YES"} if edited else {})


def display_of(spec: ModelSpec) -> dict[str, int]:
    """Window and level that a model's volumes are shown with: of the lung for the chest, else of soft tissue; nothing
    for MR, whose numbers have no unit."""
    if spec.modality != "CT":
        return {}
    return {"window": 1400, "level": -500} if "chest" in spec.body_part else {"window": 500, "level": 50}


def limits_of(display: Mapping[str, float]) -> tuple[float, float] | None:
    """The values that are black and white with a window and a level, see `display_of`; None where there are none."""
    if not display:
        return None
    return display["level"] - display["window"] / 2, display["level"] + display["window"] / 2


def kind_of(record: Mapping[str, Any]) -> str:
    """ "SYNTHETIC", or for a volume with real voxels in it "PARTLY SYNTHETIC (inpainted)"."""
    return "PARTLY SYNTHETIC (inpainted)" if record["contains_real_patient_pixels"] else "SYNTHETIC"
