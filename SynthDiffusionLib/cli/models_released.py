"""`synthdiffusion models` for what is not installed: released models that can be downloaded, and presets."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.errors import BadInput, ModelError

if TYPE_CHECKING:
    from SynthDiffusionLib.models.catalogue import CatalogueEntry
    from SynthDiffusionLib.models.registry import Installed

Rows = list[tuple[str, str]]


def add_install_options(parser: argparse.ArgumentParser) -> None:
    """Options of `models install` that only released models have."""
    parser.add_argument(
        "--accept-licence",
        "--accept-license",
        dest="accept_licence",
        action="store_true",
        help="accept the licence of a released model, which is shown without it",
    )
    parser.add_argument(
        "--from", dest="source", metavar="FOLDER", type=Path, help="take the released files from here: no network"
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        type=Path,
        help="file with an access token for models that must be asked for (default: HF_TOKEN)",
    )
    parser.add_argument("--events", action="store_true", help="print progress as JSON lines before the last line")


def is_released(model: str) -> bool:
    """Whether the text is the ID of a released model and not of a path."""
    from SynthDiffusionLib.models.catalogue import catalogue_ids
    from SynthDiffusionLib.models.package import looks_like_path

    return not looks_like_path(model) and model in catalogue_ids()


def install(args: argparse.Namespace) -> Installed:
    """Installs a released model, after its licence has been accepted.

    Raises:
        BadInput: it has not been.
    """
    from SynthDiffusionLib.jobs.events import json_lines
    from SynthDiffusionLib.models.acquire import already_installed, install_released
    from SynthDiffusionLib.models.catalogue import load_entry

    entry = load_entry(args.model)
    if installed := already_installed(entry):
        return installed
    acceptance = _acceptance(entry, args.accept_licence)
    line = None if args.events else _Line(quiet=args.json)
    try:
        return install_released(
            entry,
            acceptance,
            source=args.source,
            token_file=args.token_file,
            on_event=json_lines(sys.stdout) if line is None else line,
        )
    finally:
        if line is not None:
            line.close()


def refuse_install_options(args: argparse.Namespace) -> None:
    """Raises:
    BadInput: an option of released models was given for something else.
    """
    for name, value in (("--from", args.source), ("--token-file", args.token_file)):
        if value is not None:
            raise BadInput(
                f"{name} is for released models, and '{args.model}' is none",
                "See which there are: synthdiffusion models list --available.",
            )


def refuse_unknown(model: str) -> None:
    """Raises:
    ModelError: the text is neither a path nor installed, but a preset, or near the ID of a released model.
    """
    from SynthDiffusionLib.models.catalogue import catalogue_ids, load_catalogue
    from SynthDiffusionLib.models.folders import package_folders
    from SynthDiffusionLib.models.package import looks_like_path, path_of
    from SynthDiffusionLib.models.presets import is_preset
    from SynthDiffusionLib.schemas import closest

    if looks_like_path(model) or model in package_folders() or path_of(model).exists():
        return
    if is_preset(model):
        made = [e.id for e in load_catalogue() if e.preset == model]
        raise ModelError(
            f"'{model}' is a preset: a design without weights",
            (f"Released weights of it: {', '.join(made)}. " if made else "")
            + "Others are imported (models import --like) or trained.",
        )
    near = closest(model, [*catalogue_ids(), *package_folders()])
    if near in catalogue_ids():
        raise ModelError(
            f"There is no model '{model[:80]}'",
            f"Did you mean '{near}'? Others: synthdiffusion models list --available.",
        )


def _acceptance(entry: CatalogueEntry, accepted: bool) -> Any:
    from SynthDiffusionLib.models.acquire import Acceptance, not_accepted

    if accepted:
        return Acceptance.now("option")
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        raise not_accepted(entry)
    licence = entry.license
    print(
        f"{entry.name} comes under the {licence.name}:\n  {licence.url}\n{licence.permitted_use}\n"
        "Have you read it, and do you accept it? Type yes: ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    if sys.stdin.readline().strip().casefold() not in ("y", "yes"):
        raise not_accepted(entry)
    return Acceptance.now("terminal")


class _Line:
    """Progress of a download on one line of standard error, or a line now and then where that is no terminal."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._terminal = quiet, sys.stderr.isatty()
        self._open, self._last = False, 0.0

    def __call__(self, event: dict[str, Any]) -> None:
        now = time.monotonic()
        done = event["step"] == event["total"]
        if self._quiet or (not self._terminal and now - self._last < 10 and not done and event["stage"] == "download"):
            return
        self._last = now
        text = _progress_text(event)
        if self._terminal:
            sys.stderr.write(f"\r{text:<100}")
            sys.stderr.flush()
            self._open = True
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the line."""
        if self._open:
            sys.stderr.write("\n")
            self._open = False


def _progress_text(event: dict[str, Any]) -> str:
    from SynthDiffusionLib.models.spec import size_text

    if event["stage"] != "download":
        return f"converting {event['message']}"
    left = "" if event["eta_s"] is None else f", about {event['eta_s']:.0f} s left"
    return f"{event['message']}: {size_text(event['step'])} of {size_text(event['total'])}{left}"


def available() -> list[dict[str, Any]]:
    """The released models, for `models list --json`."""
    from SynthDiffusionLib.models.catalogue import load_catalogue
    from SynthDiffusionLib.models.folders import package_folders

    known = package_folders()
    return [
        {
            "id": e.id,
            "name": e.name,
            "description": e.description,
            "modality": e.modality,
            "backend": e.backend,
            "modes": list(e.modes),
            "license": {
                key: getattr(e.license, key) for key in ("spdx", "name", "url", "permitted_use", "attribution")
            },
            "gated": e.gated,
            "bytes": e.total_bytes,
            "installed": e.id in known,
        }
        for e in load_catalogue()
    ]


def available_lines() -> list[str]:
    """Released models and presets, for `models list --available`."""
    from SynthDiffusionLib.models.presets import load_preset, preset_ids

    lines = ["", "Released models, which synthdiffusion models install ID downloads:"]
    for e in available():
        marks = " (installed)" * e["installed"] + " (access must be asked for)" * e["gated"]
        lines.append(f"  {e['id']}  {e['name']}, {e['license']['name']}{marks}")
    lines += ["", "Presets, designs without weights:"]
    return lines + [f"  {preset}  {load_preset(preset).name}" for preset in preset_ids()]


def show_released(entry_id: str) -> tuple[list[str], dict[str, Any]]:
    """A released model that is not installed: text, and JSON."""
    from SynthDiffusionLib.models.catalogue import load_entry

    e = load_entry(entry_id)
    licence = e.license
    rows: Rows = [
        ("ID", f"{e.id}: a released model, not installed"),
        ("Makes", f"{e.modality}; modes: {', '.join(e.modes)}"),
        ("Method", f"{e.backend}, preset {e.preset}"),
        ("Licence", f"{licence.name}, {licence.url}"),
        ("May be used", licence.permitted_use),
        ("Attribution", licence.attribution),
        ("Trained on", f"{e.training['dataset']} ({e.training['license']})"),
    ]
    for i, f in enumerate(e.files):
        known = ([f"revision {f.revision}"] if f.revision else []) + ([_size(f.bytes)] if f.bytes else [])
        rows.append(("Files" if i == 0 else "", ", ".join([f"{f.repo}/{f.path} ({f.role})", *known])))
    if None in [value for f in e.files for value in (f.revision, f.sha256, f.bytes)]:
        rows.append(("", "revision, size and checksum as far as not given: the server says, and they are recorded"))
    if e.gated:
        pages = ", ".join(f"https://huggingface.co/{repo}" for repo in e.repositories)
        rows.append(("Access", f"must be asked for: {pages}; then --token-file FILE, or HF_TOKEN"))
    rows += [("Notes" if i == 0 else "", note) for i, note in enumerate(e.notes)]
    rows.append(("Install", f"synthdiffusion models install {e.id} --accept-licence"))
    rows.append(("", f"without a network: synthdiffusion models install {e.id} --accept-licence --from FOLDER"))
    result = {"available": next(entry for entry in available() if entry["id"] == entry_id), "preset": e.preset}
    return [e.name, e.description, "", *_table(rows)], result


def show_preset(preset_id: str) -> tuple[list[str], dict[str, Any]]:
    """A design without weights: text, and JSON."""
    from SynthDiffusionLib.models.presets import describe, load_preset, parameter_counts

    s = load_preset(preset_id)
    low, high = s.intensity.range
    rows: Rows = [
        ("ID", f"{s.id}, version {s.version}: a preset, not trained, no weights"),
        ("Makes", f"{s.modality} of the {s.body_part}, {low:g} to {high:g} {s.intensity.unit}"),
        ("Modes", ", ".join(s.modes)),
        ("Grid", f"{_by(s.grid.spacing_mm)} mm, {_by(s.grid.min_size)} to {_by(s.grid.max_size)} voxels"),
        ("Classes", f"{len(s.label_scheme.classes)}"),
        ("Method", f"{s.backend}, {s.network.name}, T = {s.diffusion.train_steps}, predicts {s.diffusion.prediction}"),
        ("Samplers", f"{', '.join(s.sampling.samplers)}; default {s.sampling.default_sampler}"),
        *describe(s),
    ]
    result = {"preset": s.raw, "trained": False, "parameters": parameter_counts(s)}
    return [s.name, s.description, "", *_table(rows)], result


def _table(rows: Rows) -> list[str]:
    width = max(len(label) for label, _ in rows)
    return [f"{label.ljust(width)}  {text}" for label, text in rows]


def _by(values: tuple[float, ...]) -> str:
    return " x ".join(f"{v:g}" for v in values)


def _size(n: float) -> str:
    from SynthDiffusionLib.models.spec import size_text

    return size_text(n)
