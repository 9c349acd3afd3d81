"""Pages of the models, from their descriptions: what ships, what can be installed, full-size designs, and licences."""

from __future__ import annotations

import posixpath
from pathlib import Path

from command_reference import plain

from SynthDiffusionLib.models.catalogue import load_catalogue
from SynthDiffusionLib.models.package import load_package
from SynthDiffusionLib.models.presets import load_preset, preset_ids
from SynthDiffusionLib.models.spec import ModelSpec

FOLDER = "generated"


def pages(root: Path) -> dict[str, str]:
    """Markdown of every page by its path.

    Args:
        root: of the repository.

    Raises:
        ModelError: a description is damaged.
    """
    return {
        f"{FOLDER}/models.md": _models(root),
        f"{FOLDER}/catalogue.md": _catalogue(),
        f"{FOLDER}/presets.md": _presets(),
        f"{FOLDER}/licence.md": _licence(root),
    }


def _shipped(root: Path) -> list[tuple[str, ModelSpec]]:
    """Folder of each shipped package relative to the repository, and its description."""
    folders = sorted(p.parent for p in (root / "Resources" / "Models").glob("*/model.json"))
    return [(folder.relative_to(root).as_posix(), load_package(folder).spec) for folder in folders]


def _models(root: Path) -> str:
    parts = [
        "# Models that ship",
        "",
        "Each has a card with what was measured and what it cannot do. Read it before you use what the model makes.",
        "What others have released is on the page of [models to install](catalogue.md), full-size designs on that of",
        "[presets](presets.md).",
        "",
    ]
    for folder, spec in _shipped(root):
        here = posixpath.relpath(folder, FOLDER)
        picture = next(p.name for p in sorted((root / folder).glob("real_and_synthetic.*")))
        parts += [
            f"## {plain(spec.name)}",
            "",
            plain(spec.description),
            "",
            f"![{plain(spec.name)}: real and synthetic images of the same test masks]({here}/{picture})",
            "",
            f"[Model card of {plain(spec.name)}]({here}/MODEL_CARD.md)",
            "",
            "| | |",
            "|---|---|",
            *(f"| {label} | {text} |" for label, text in _facts(spec)),
            "",
        ]
    return "\n".join(parts)


def _facts(spec: ModelSpec) -> list[tuple[str, str]]:
    grid = spec.grid
    return [
        ("ID", f"`{spec.id}`, version {plain(spec.version)}"),
        ("Method", f"`{spec.backend}`"),
        ("Makes", f"{spec.modality}, {plain(spec.body_part)}; " + ", ".join(f"`{mode}`" for mode in spec.modes)),
        ("Classes", ", ".join(plain(entry.name) for entry in spec.label_scheme.classes)),
        ("Largest size", f"{_by(grid.max_size)} voxels"),
        ("Voxels", f"{_by(round(v, 2) for v in grid.spacing_mm)} mm"),
        ("Licence of the weights", plain(spec.license.spdx)),
        ("Trained on", plain(spec.training.dataset)),
    ]


def _catalogue() -> str:
    parts = [
        "# Models to install",
        "",
        "Released by others, and not part of this project: nothing is downloaded before you have accepted the licence.",
        "[How it is done](../Docs/MODELS.md), and what of it has not been tried.",
        "",
    ]
    for entry in load_catalogue():
        access = "its authors give access on request" if entry.gated else "open"
        parts += [
            f"## {plain(entry.name)}",
            "",
            plain(entry.description),
            "",
            "| | |",
            "|---|---|",
            f"| ID | `{entry.id}` |",
            f"| Makes | {entry.modality}; {', '.join(f'`{mode}`' for mode in entry.modes)} |",
            f"| Design | `{entry.preset}` |",
            "| From | "
            + ", ".join(f"[{plain(name)}](https://huggingface.co/{name})" for name in entry.repositories)
            + " |",
            f"| Access | {access} |",
            f"| Licence | [{plain(entry.license.name)}]({entry.license.url}). {plain(entry.license.permitted_use)} |",
            f"| By | {plain(entry.license.attribution)} |",
            "",
            *(f"- {plain(note)}" for note in entry.notes),
            "",
        ]
    return "\n".join(parts)


def _presets() -> str:
    parts = [
        "# Designs without weights",
        "",
        "Full-size designs of the methods, to plan with, to train, and to import weights into",
        "([what is published of them and what was chosen](../Docs/PRESETS.md)).",
        "",
    ]
    for name in preset_ids():
        spec = load_preset(name)
        parts += [
            f"## {spec.id}",
            "",
            plain(spec.description),
            "",
            "| | |",
            "|---|---|",
            f"| Largest size | {_by(spec.grid.max_size)} voxels |",
            f"| Voxels | {_by(round(v, 2) for v in spec.grid.spacing_mm)} mm |",
            f"| Modes | {', '.join(f'`{mode}`' for mode in spec.modes)} |",
            "",
        ]
    return "\n".join(parts)


def _licence(root: Path) -> str:
    import yaml

    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    parts = [
        "# Licence and citation",
        "",
        f"The code is under {citation['license']}; its text is [below](#text-of-the-licence).",
        "Each model has a licence of its own:",
        "",
        "| model | licence of the weights | what it permits |",
        "|---|---|---|",
        *(
            f"| `{spec.id}` | {plain(spec.license.spdx)} | {plain(spec.license.permitted_use)} |"
            for _, spec in _shipped(root)
        ),
        "",
        "Installed packages are listed on the page of [dependencies](../Docs/DEPENDENCIES.md).",
        "",
        "## How to cite",
        "",
        plain(citation["message"]),
        "",
        f"*{plain(citation['title'])}*, version {citation['version']} ([CITATION.cff](../CITATION.cff)).",
        "",
        *(_reference(entry) for entry in citation["references"]),
        "",
        "## Text of the licence",
        "",
        "```text",
        (root / "LICENSE").read_text(encoding="utf-8").rstrip(),
        "```",
        "",
    ]
    return "\n".join(parts)


def _reference(entry: dict) -> str:
    names = [a.get("family-names") or a.get("name") or "" for a in entry["authors"]]
    address = entry.get("url") or f"https://doi.org/{entry['doi']}"
    note = f" {plain(entry['notes'])}" if entry.get("notes") else ""
    return f"- {plain(', '.join(names))} ({entry['year']}). [{plain(entry['title'])}]({address}).{note}"


def _by(values) -> str:
    return " x ".join(f"{value:g}" for value in values)
