"""What a batch has made: a manifest with checksums, a summary for programs, and a page for people."""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib.batch.items import Item
from SynthDiffusionLib.batch.schedule import Tally
from SynthDiffusionLib.batch.store import Finished, Store
from SynthDiffusionLib.reports.cells import cell
from SynthDiffusionLib.reports.page import render_page, text_of, write_page
from SynthDiffusionLib.reports.sections import Section, Table, columns
from SynthDiffusionLib.volumes.atomic import atomic_file

MANIFEST_COLUMNS = (
    "status",
    "case",
    "number",
    "seed",
    "key",
    "volume",
    "sha256",
    "bytes",
    "provenance",
    "provenance_sha256",
    "segmentation",
    "segmentation_sha256",
    "image",
    "image_sha256",
    "model",
    "model_version",
    "weights_sha256",
    "host",
    "seconds",
    "utc",
    "reason",
)


@dataclass(frozen=True)
class BatchResult:
    """What is there at the end of a run.

    Args:
        out: the batch's folder.
        summary: content of `report.json`.
        paths: of "manifest", "summary" and "report".
    """

    out: Path
    summary: Mapping[str, Any]
    paths: Mapping[str, Path]

    @property
    def complete(self) -> bool:
        """Whether every volume of the list is there."""
        return self.summary["there"] == self.summary["total"]


def write_report(store: Store, items: Sequence[Item], tally: Tally, notes: Sequence[str], part: str) -> BatchResult:
    """Looks at what is there of the items, and writes manifest, summary and page.

    Args:
        store: folder of the batch.
        items: of the list, or of the shard.
        tally: of this run.
        notes: sentences for the page.
        part: of the names of the files: "" or "-1-of-3".

    Raises:
        BadInput, RunFailed: a file cannot be written.
    """
    finished = {item.key: store.finished(item) for item in items}
    made = [found for found in finished.values() if found is not None]
    failures = {item.key: store.failure(item.key) for item in items if finished[item.key] is None}
    for item, kind, message, hint in tally.failed:  # told here too, where the disk was too full for their files
        if finished[item.key] is None and failures[item.key] is None:
            told = {"kind": kind, "message": message, "hint": hint}
            failures[item.key] = {"case": item.case, "number": item.number, "seed": item.seed, **told}
    batch = store.description()
    paths = {"manifest": store.out / f"manifest{part}.csv"}
    with atomic_file(paths["manifest"]) as stream:
        stream.write(_manifest(store, items, finished, failures, batch).encode("utf-8", "backslashreplace"))
    summary = _summary(items, made, failures, tally, notes, batch)
    sections = [section.to_json() for section in _sections(summary)]
    name = f"report{part}"
    heading = f"<h1>Batch of synthetic volumes</h1><p class='meta'>{text_of(_model_text(batch))}</p>"
    footer = f"Made by SynthDiffusion {text_of(batch['software']['version'])}. Research only, not for diagnosis."
    page = render_page("Batch of synthetic volumes", heading, sections, footer, f"{name}-tables")
    written = write_page(page, summary | {"sections": sections}, sections, store.out, name, f"{name}-tables")
    return BatchResult(store.out, summary, paths | {"summary": written["json"], "report": written["html"]})


def _manifest(
    store: Store,
    items: Sequence[Item],
    finished: Mapping[str, Finished | None],
    failures: Mapping[str, Mapping[str, Any] | None],
    batch: Mapping[str, Any],
) -> str:
    """A line for each item; file names are relative to the batch's folder."""
    weights = "; ".join(f"{name} {checksum}" for name, checksum in batch["model"]["files"].items())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(MANIFEST_COLUMNS)
    for item in items:
        row: dict[str, Any] = {
            "status": "left",
            "case": item.case,
            "number": item.number,
            "seed": item.seed,
            "key": item.key,
            "segmentation": None if item.segmentation is None else item.segmentation.name,
            "image": None if item.image is None else item.image.name,
            "model": batch["model"]["id"],
            "model_version": batch["model"]["version"],
            "weights_sha256": weights,
            **item.checksums,
        }
        found, failure = finished[item.key], failures.get(item.key)
        if found is not None:
            volume, provenance = (found.record["files"][what] for what in ("volume", "provenance"))
            row |= {
                "status": "done",
                "case": found.record["case"],
                "volume": (found.folder / volume["name"]).relative_to(store.out).as_posix(),
                "sha256": volume["sha256"],
                "bytes": volume["bytes"],
                "provenance": (found.folder / provenance["name"]).relative_to(store.out).as_posix(),
                "provenance_sha256": provenance["sha256"],
                **{name: found.record["made"].get(name) for name in ("host", "seconds", "utc")},
            }
        elif failure is not None:
            row |= {"status": "failed", "reason": failure.get("message")}
        writer.writerow([cell(row.get(name)) for name in MANIFEST_COLUMNS])
    return text.getvalue()


def _summary(
    items: Sequence[Item],
    made: Sequence[Finished],
    failures: Mapping[str, Mapping[str, Any] | None],
    tally: Tally,
    notes: Sequence[str],
    batch: Mapping[str, Any],
) -> dict[str, Any]:
    failed = [failure for failure in failures.values() if failure is not None]
    seconds = [found.record["made"]["seconds"] for found in made]
    return {
        "format": "synthdiffusion-batch-summary-1",
        "model": batch["model"],
        "settings": batch["settings"],
        "software": batch["software"],
        "total": len(items),
        "cases": len({item.case for item in items}),
        "there": len(made),
        "failed": len(failed),
        "left": len(items) - len(made) - len(failed),
        "bytes": sum(found.bytes for found in made),
        "seconds_each": {"median": statistics.median(seconds), "most": max(seconds)} if seconds else None,
        "hosts": dict(Counter(found.record["made"]["host"] for found in made)),
        "failures": [
            {
                name: _text(failure.get(name))
                for name in ("case", "number", "seed", "kind", "message", "hint", "attempts")
            }
            for failure in failed
        ],
        "notes": [*notes, *_common_notes(made)],
        "this_run": {
            "made": tally.done,
            "there_before": tally.there,
            "workers": tally.workers,
            "wall_s": round(tally.wall_s, 3),
            "per_hour": round(3600 * tally.done / tally.wall_s, 1) if tally.wall_s else None,
            "workers_lost": tally.lost,
            "given_out_again": tally.repeats,
            "workers_put_aside": [{"worker": worker, "reason": reason} for worker, reason in tally.aside],
            "made_by": dict(tally.by_worker),
            "resident_bytes": tally.resident_bytes,
        },
    }


def _text(value: Any) -> Any:
    """A value whose text can be written: what is none, as in some file names, is spelled \\udc80."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value


def _common_notes(made: Sequence[Finished]) -> list[str]:
    """What the runs have told, each with the number of volumes that it was told of."""
    counted = Counter(note for found in made for note in found.record["made"].get("notes", ()))
    return [f"{_text(note)} ({number} volumes)" for note, number in counted.most_common(20)]


def _sections(summary: Mapping[str, Any]) -> list[Section]:
    run = summary["this_run"]
    sentences = [
        f"{summary['there']} of {summary['total']} volumes are there, of {summary['cases']} "
        f"{'case' if summary['cases'] == 1 else 'cases'}: {summary['bytes'] / 1e6:,.1f} MB."
    ]
    if summary["failed"]:
        sentences.append(f"{summary['failed']} could not be made: the table says why. --resume tries them again.")
    if summary["left"]:
        sentences.append(f"{summary['left']} were not tried to the end. --resume goes on with them.")
    if run["made"]:
        sentences.append(
            f"This run made {run['made']} of them in {run['wall_s']:,.0f} s with {run['workers']} "
            f"{'worker' if run['workers'] == 1 else 'workers'}, {run['per_hour']:,.0f} an hour."
        )
    if run["workers_lost"]:
        sentences.append(
            f"Workers ended {run['workers_lost']} times with work in hand; {run['given_out_again']} volumes were given "
            "out again."
        )
    tables = [
        Table(
            "failures",
            "What could not be made, and why",
            columns("case|Case", "seed|Seed|int", "message|Reason", "hint|What to do", "attempts|Attempts|int"),
            tuple(summary["failures"]),
        ),
        Table(
            "put-aside",
            "Workers that were put aside",
            columns("worker|Worker", "reason|Reason"),
            tuple(run["workers_put_aside"]),
        ),
        Table(
            "hosts",
            "Who made them",
            columns("host|Computer", "volumes|Volumes|int"),
            tuple({"host": host, "volumes": number} for host, number in sorted(summary["hosts"].items())),
        ),
        Table("notes", "Notes of the runs", columns("text|Note"), tuple({"text": note} for note in summary["notes"])),
    ]
    return [Section("batch", "What was made", "data", tuple(sentences), tuple(tables))]


def _model_text(batch: Mapping[str, Any]) -> str:
    model, settings = batch["model"], batch["settings"]
    set_by_hand = ", ".join(
        f"{name.replace('_', '-')} {value}"
        for name, value in settings.items()
        if name in ("mode", "sampler", "steps", "guidance", "precision") and value is not None
    )
    return f"{model['id']} {model['version']}; {set_by_hand}; seeds from {batch['seed']}"
