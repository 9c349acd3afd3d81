"""`synthdiffusion models`: list, show, verify, install, import and remove model packages."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.cli import models_released
from SynthDiffusionLib.errors import ModelError, escaped

if TYPE_CHECKING:
    from SynthDiffusionLib.models import Installed, ModelSpec

MOST_FIGURES = 14  # of a kind in `models show`


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Adds `models` and its own subcommands; `run` carries them out."""
    parser = subparsers.add_parser(
        "models", help="list, show, verify, install, import and remove models", description=__doc__
    )
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="models_action", metavar="ACTION", required=True)

    def action(name: str, help_text: str) -> argparse.ArgumentParser:
        p = actions.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
        p.add_argument("--json", action="store_true", help="print one JSON object on the last line")
        return p

    action("list", "list the models that ship with SynthDiffusion and those that you have installed").add_argument(
        "--available", action="store_true", help="list released models that can be downloaded, and presets, too"
    )
    action("show", "show what a model is, what it was trained on, its licence, speed and memory").add_argument(
        "model", metavar="ID", help="ID of a model, a released model or a preset, or a package folder"
    )
    action("verify", "compare a model's files with their checksums").add_argument(
        "model", metavar="ID", help="ID of a model, or a package folder"
    )
    installer = action("install", "put a model package, or a released model, into your model folder, checked")
    installer.add_argument(
        "model",
        metavar="ID_OR_PATH",
        help="a package folder or a .zip file of one, or the ID of a released model, which is downloaded",
    )
    models_released.add_install_options(installer)
    importer = action(
        "import", "make a model package of checkpoints (.safetensors, .pt, .pth, .ckpt, .bin) or of a MONAI bundle"
    )
    importer.add_argument(
        "file",
        metavar="FILE",
        nargs="+",
        help="a checkpoint, or those that make one model (autoencoder, diffusion, control network, in any order); "
        "or the folder or .zip of a MONAI bundle; they are read as data, nothing in them is run",
    )
    importer.add_argument("--as", dest="new_id", metavar="ID", required=True, help="ID of the new model")
    importer.add_argument(
        "--like",
        metavar="ID",
        help="installed model or preset with the same networks, or the path of one (default: the one that fits)",
    )
    action("remove", "delete a model that you have installed").add_argument("model", metavar="ID", help="its ID")
    return parser


def run(args: argparse.Namespace) -> int:
    """Carries out what `add_parser` has parsed.

    Returns:
        the exit code, 0; what fails is raised as a SynthDiffusionError.
    """
    actions = {
        "list": _list,
        "show": _show,
        "verify": _verify,
        "install": _install,
        "import": _import,
        "remove": _remove,
    }
    lines, result = actions[args.models_action](args)
    if args.json:
        text = json.dumps(result, ensure_ascii=False, allow_nan=False)
        print(text if text.isprintable() and _printable(text) == text else json.dumps(result, allow_nan=False))
    else:  # what a package says of itself, or what its folder is called, does not drive the terminal
        print(_printable("\n".join(map(escaped, lines))))
    return 0


def _printable(text: str) -> str:
    """The text with escapes for what the terminal's encoding (ASCII, say) does not have."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


_Outcome = tuple[list[str], dict[str, Any]]


def _list(args: argparse.Namespace) -> _Outcome:
    from SynthDiffusionLib import models
    from SynthDiffusionLib.models.methods import best_for, load_methods
    from SynthDiffusionLib.models.presets import preset_ids

    entries = models.list_packages()
    methods = load_methods()
    rows = [("ID", "VERSION", "MODALITY", "SIZE", "ORIGIN", "BEST FOR", "NAME")]
    for e in entries:
        if e.spec is None:
            rows.append((e.id, "-", "-", "-", e.origin, "-", "damaged"))
        else:
            name = e.spec.name if not e.problem else f"{e.spec.name} (damaged)"
            suits = methods[e.spec.backend].in_short if e.spec.backend in methods else "-"
            rows.append((e.id, e.spec.version, e.spec.modality, _size(e.spec.total_bytes), e.origin, suits, name))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
    if not entries:
        lines = ["No model is installed. Install one: synthdiffusion models install FOLDER_OR_ZIP"]
    lines += [f"{e.id}: {e.problem}" for e in entries if e.problem]
    result = {
        "models": [
            {
                "id": e.id,
                "origin": e.origin,
                "folder": str(e.folder),
                "ok": not e.problem,
                "problem": e.problem or None,
                "name": e.spec.name if e.spec else None,
                "version": e.spec.version if e.spec else None,
                "modality": e.spec.modality if e.spec else None,
                "body_part": e.spec.body_part if e.spec else None,
                "backend": e.spec.backend if e.spec else None,
                "best_for": (best_for(e.spec.backend) or None) if e.spec else None,
                "license": e.spec.license.spdx if e.spec else None,
                "bytes": e.spec.total_bytes if e.spec else None,
                "model": _without_split(e.spec.raw) if e.spec else None,
            }
            for e in entries
        ],
        "user_folder": str(models.user_folder()),
        "available": models_released.available(),
        "presets": list(preset_ids()),
    }
    if args.available:
        lines += models_released.available_lines()
    elif not args.json:
        print("More: synthdiffusion models list --available", file=sys.stderr)
    return lines, result


def _without_split(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The description with the number of cases of each part in place of the list of them."""
    training = {key: value for key, value in raw["training"].items() if key != "split"}
    training["split_sizes"] = {part: len(cases) for part, cases in raw["training"].get("split", {}).items()}
    return {**raw, "training": training}


def _show(args: argparse.Namespace) -> _Outcome:
    from SynthDiffusionLib import models
    from SynthDiffusionLib.models.characteristics import NAMES
    from SynthDiffusionLib.models.methods import best_for
    from SynthDiffusionLib.models.presets import is_preset

    if args.model not in models.package_folders():
        if models_released.is_released(args.model):
            return models_released.show_released(args.model)
        if is_preset(args.model):
            return models_released.show_preset(args.model)
    package = models.load_package(args.model, verify=False)
    s = package.spec
    low, high = s.intensity.range
    rows = [
        ("ID", f"{s.id}, version {s.version}"),
        ("Makes", f"{s.modality} of the {s.body_part}, {low:g} to {high:g} {s.intensity.unit}"),
        ("Modes", ", ".join(s.modes)),
        ("Grid", f"{_by(s.grid.spacing_mm)} mm, {_by(s.grid.min_size)} to {_by(s.grid.max_size)} voxels"),
        ("Classes", _classes(s)),
        ("Target", s.target_class or "none"),
        ("Method", f"{s.backend}, {s.network.name}, T = {s.diffusion.train_steps}, predicts {s.diffusion.prediction}"),
        ("Samplers", f"{', '.join(s.sampling.samplers)}; default {s.sampling.default_sampler}"),
        ("Steps", str(s.sampling.default_steps)),
        ("Guidance", s.default_guidance_text),
        ("Licence", "unknown (NOASSERTION)" if s.license.spdx == "NOASSERTION" else s.license.spdx),
        ("May be used", s.license.permitted_use),
        ("Attribution", s.license.attribution),
        ("Trained on", f"{s.training.dataset} ({s.training.license})"),
    ]
    if suits := best_for(s.backend):
        rows.append(("Best for", suits))
    if s.inpaint:
        rows.append(("Inpainting", f"regions up to {s.inpaint.max_region_mm:g} mm, margin {s.inpaint.margin_mm:g} mm"))
    if s.training.split:
        rows.append(("Split", ", ".join(f"{len(cases)} {part}" for part, cases in s.training.split.items())))
    if accepted := s.provenance.get("licence_accepted"):
        rows.append(("Accepted", f"{accepted['name']}, {accepted['at']}"))
    rows += [("Notes" if i == 0 else "", note) for i, note in enumerate(s.provenance.get("notes", ()))]
    if s.training.citation:
        rows.append(("Cite", s.training.citation))
    rows.append(("Files", f"{_size(s.total_bytes)} in {package.folder}"))
    rows += [("", f"{f.path} ({f.role}, {_size(f.bytes)})") for f in s.files]
    if s.characteristics is not None:
        ranges = zip(NAMES, s.characteristics.range)
        rows += [
            ("Can be asked" if i == 0 else "", f"{name}: {_short(low)} to {_short(high)} in training")
            for i, (name, (low, high)) in enumerate(ranges)
        ]
    arms = "|".join(map(re.escape, (s.target_class or "", "anatomy", "inpainting", "moved", "joint")))
    own = re.compile(rf"adherence, ({arms}), ratio|control, (volume mm3|sphericity|center . mm), slope")
    for title, measured in (("Quality", s.quality), ("Time and memory", s.performance)):
        figures = [f"{name}: {value}" for name, value in _figures(measured)] or ["not measured"]
        figures.sort(key=lambda figure: not own.match(figure))  # stable: what users ask for first, then the rest
        if len(figures) > MOST_FIGURES:
            more = f"and {len(figures) - MOST_FIGURES} more, with their definitions: MODEL_CARD.md"
            figures = [*figures[:MOST_FIGURES], more]
        rows += [(title if i == 0 else "", figure) for i, figure in enumerate(figures)]
    width = max(len(label) for label, _ in rows)
    lines = [s.name, s.description, "", *(f"{label.ljust(width)}  {text}" for label, text in rows)]
    return lines, {"folder": str(package.folder), "bytes": s.total_bytes, "model": s.raw}


def _short(value: float) -> str:
    """Three digits at least, never an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _classes(spec: ModelSpec) -> str:
    return ", ".join(f"{c.name} ({c.value})" for c in spec.label_scheme.classes) or "none: it takes no segmentation"


def _verify(args: argparse.Namespace) -> _Outcome:
    from SynthDiffusionLib import models

    found = models.verify(args.model)
    if not found.ok:
        bad = sum(bool(c.problem) for c in found.files)
        raise ModelError(
            found.problem + (f"; {bad} of {len(found.files)} files are wrong" if bad > 1 else ""),
            f"Install the package in '{found.folder}' again.",
        )
    lines = [f"ok  {c.sha256[:12]}  {_size(c.bytes).rjust(9)}  {c.path}" for c in found.files]
    lines += [f"--  not part of the package, never read: {name}" for name in found.extra]
    lines.append(f"{found.id}: all {len(found.files)} files are as described")
    result = {
        "id": found.id,
        "ok": True,
        "folder": str(found.folder),
        "files": [{"path": c.path, "role": c.role, "bytes": c.bytes, "sha256": c.sha256} for c in found.files],
        "extra": list(found.extra),
    }
    return lines, result


def _install(args: argparse.Namespace) -> _Outcome:
    from SynthDiffusionLib import models

    if models_released.is_released(args.model):
        outcome = models_released.install(args)
        lines, result = _installed(outcome, "Installed")
        notes = outcome.package.spec.provenance.get("notes", [])
        lines[1:1] = [f"Note: {note}" for note in notes]
        return lines, result | {"notes": notes}
    models_released.refuse_install_options(args)
    models_released.refuse_unknown(args.model)
    return _installed(models.install(args.model), "Installed")


def _import(args: argparse.Namespace) -> _Outcome:
    from SynthDiffusionLib import models
    from SynthDiffusionLib.bundles.importer import import_bundle, is_bundle_path

    bundles = [file for file in args.file if is_bundle_path(file)]
    if bundles and len(args.file) > 1:
        raise ModelError(f"'{bundles[0]}' is a bundle, which is a model of its own", "Import one bundle at a time.")
    if bundles:
        outcome = import_bundle(bundles[0], args.new_id, args.like)
    else:
        outcome = models.import_checkpoint(args.file, args.new_id, args.like)
    lines, result = _installed(outcome, "Imported")
    template = outcome.package.spec.provenance.get("template", "the importer")
    spec = outcome.package.spec
    unknown = "licence, training data and quality are" if spec.license.spdx == "NOASSERTION" else "quality is"
    exported = spec.provenance.get("imported_bundle", {"unchanged": False})
    if exported["unchanged"]:
        template = exported["model"]
        lines.insert(1, f"Weights and description are those that were exported together, as {template}.")
    elif exported.get("description_changed"):
        template = "the bundle's changed description"
        lines.insert(1, f"Its {unknown} unknown; its settings are those of {template}.")
    else:
        lines.insert(1, f"Its {unknown} unknown; its settings are those of {template}.")
    notes = spec.provenance.get("notes", [])
    lines[2:2] = [f"Note: {note}" for note in notes]
    return lines, result | {"template": template, "notes": notes}


def _installed(outcome: Installed, verb: str) -> _Outcome:
    spec, folder = outcome.package.spec, outcome.package.folder
    if outcome.already_there:
        first = f"'{spec.id}' {spec.version} is installed already, in {folder}"
    else:
        first = f"{verb} '{spec.id}' {spec.version} ({_size(spec.total_bytes)}) in {folder}"
    result = {
        "id": spec.id,
        "version": spec.version,
        "folder": str(folder),
        "bytes": spec.total_bytes,
        "already_installed": outcome.already_there,
    }
    return [first, f"Next: synthdiffusion models show {spec.id}"], result


def _remove(args: argparse.Namespace) -> _Outcome:
    from SynthDiffusionLib import models

    folder = models.remove(args.model)
    return [f"Removed '{args.model}' from {folder.parent}"], {"id": args.model, "removed": str(folder)}


def _figures(measured: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested figures as flat names with readable values; the units are in the names ("seconds", "peak_bytes")."""
    for key, value in measured.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _figures(value, f"{name}, ")
        elif isinstance(value, list):
            yield name, " to ".join(_figure(key, v) for v in value) if len(value) == 2 else str(value)
        else:
            yield name, _figure(key, value)


def _figure(key: str, value: Any) -> str:
    if value is None:
        return "not measured"
    if isinstance(value, str):
        return value
    if key.endswith("bytes"):
        return _size(value)
    if key.endswith(("seconds", "_s")):
        return f"{value:.3g} s" if value < 120 else f"{value / 60:.1f} min"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _size(n: float) -> str:
    from SynthDiffusionLib.models.spec import size_text

    return size_text(n)


def _by(values: tuple[float, ...]) -> str:
    return " x ".join(f"{v:g}" for v in values)
