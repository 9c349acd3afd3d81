"""Builds a study: the folder that readers get, without the truth, and the coordinator's part with the key.

Every volume is rewritten (`equalise`) under an opaque name. That takes the mark away which every synthetic volume of
this project carries otherwise: readers must not find it. The mark moves to where it does not tell single volumes apart:
`study.json` ("notice") and the README of both folders say that the folder holds synthetic volumes and is not for
diagnosis, and the key says which they are.

Names come from a secret number in the key: they cannot be worked out from the study file, nor can the orders.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from SynthDiffusionLib import __version__
from SynthDiffusionLib.errors import BadInput, Cancelled
from SynthDiffusionLib.output_folders import move_into, output_folder
from SynthDiffusionLib.reader_study import leaks
from SynthDiffusionLib.reader_study.design import Design
from SynthDiffusionLib.reader_study.design_cases import StudyCase
from SynthDiffusionLib.reader_study.equalise import (
    Survey,
    Target,
    choose_target,
    equalised,
    equalised_mask,
    read_turned,
    segment_table,
    survey,
    write_equal_files,
    write_equal_masks,
)
from SynthDiffusionLib.reader_study.generated import with_generated
from SynthDiffusionLib.reader_study.leftovers import CONTENT, make_part, remove_leftovers
from SynthDiffusionLib.reader_study.order import ALGORITHM
from SynthDiffusionLib.reader_study.order_files import add_reader, json_bytes, order_content, write_bytes
from SynthDiffusionLib.reader_study.study import (
    FORMAT,
    KEY_FORMAT,
    PRIVATE,
    READING,
    Study,
    Unit,
    utc_now,
)
from SynthDiffusionLib.reader_study.told import told_by_orders, told_by_units
from SynthDiffusionLib.volumes.atomic import writing_error

NOTICE = (
    "This folder contains synthetic volumes beside real ones. They are not marked one by one, because the study is "
    "blinded; the key of the study says which they are. For research only, not for diagnosis."
)
__all__ = ["NOTICE", "BuildResult", "add_reader", "build_study"]
OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class BuildResult:
    """A study that was built.

    Args:
        folder, reading, private: its folders.
        study_id: 8 hex digits.
        study_sha256: of study.json.
        units, volumes: how many.
        readers: those with an order.
        notes: sentences for the coordinator.
        leaks: what the leak report found, in sentences.
        warnings: those of them that should be mended before anybody reads.
    """

    folder: Path
    reading: Path
    private: Path
    study_id: str
    study_sha256: str
    units: int
    volumes: int
    readers: tuple[str, ...]
    notes: tuple[str, ...]
    leaks: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()
        }


def build_study(
    design: Design,
    out: str | Path,
    on_event: OnEvent | None = None,
    should_cancel: Callable[[], bool] = lambda: False,
    *,
    permutations: int = leaks.PERMUTATIONS,
    run: Callable[..., Any] | None = None,
    nonce: str | None = None,
) -> BuildResult:
    """Builds a study into a new folder; it appears when it is complete.

    Args:
        design: of `load_design`.
        out: folder; must not exist, or be empty. What killed builds have left beside it goes (`leftovers`).
        on_event: receives progress, warnings and "done".
        should_cancel: asked before each volume.
        permutations: relabellings behind the P values of the leak report.
        run: what carries out requests of arms that are generated; `jobs.run` when None.
        nonce: 32 hex digits that take the place of the key's random number, to build the same study again.

    Raises:
        BadInput: the folder is not empty; volumes that cannot be made alike.
        RunFailed: the disk is full.
        Cancelled: it was asked for; nothing is left behind.
    """
    on_event = on_event or (lambda event: None)
    out = Path(out).expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"'{out}' is there already", "Choose a new folder: a study is never written over another.")
    with output_folder(out.parent) as parent:
        left = remove_leftovers(parent)
        try:
            staging = make_part(parent)
            try:
                # A folder within, because the hidden one can be opened by this user only.
                root = staging / CONTENT
                builder = _Builder(design, root, out, on_event, should_cancel, permutations, nonce)
                result = builder.build(run)
                _set_times(root / READING, builder.began)
                move_into(root, out)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        except OSError as error:
            raise writing_error(error, out) from error
    result = replace(result, notes=(*result.notes, *left))
    on_event({"event": "done", **result.to_json()})
    return result


class _Builder:
    """The steps of one build, which share much; `build` goes through them."""

    def __init__(
        self,
        design: Design,
        root: Path,
        out: Path,
        on_event: OnEvent,
        should_cancel: Callable[[], bool],
        permutations: int,
        nonce: str | None,
    ) -> None:
        self.design, self.root, self.out = design, root, out
        self.on_event, self.should_cancel, self.permutations = on_event, should_cancel, permutations
        self.nonce = nonce or secrets.token_hex(16)
        self.began = time.time()
        self.reading, self.private = root / READING, root / PRIVATE
        self.ids: list[str] = []
        self.report: dict[str, Any] = {"format": leaks.FORMAT}

    def build(self, run: Callable[..., Any] | None) -> BuildResult:
        for folder in (
            self.reading / "volumes",
            self.reading / "orders",
            self.reading / "records",
            self.private / "receipts",
        ):
            folder.mkdir(parents=True)
        self.design = with_generated(
            self.design,
            self.private / "generated",
            on_event=self.on_event,
            should_cancel=self.should_cancel,
            run=run,
        )
        before, surveys = self._survey()
        cases = self.design.cases
        truths = [c.truth for c in cases]
        target = choose_target(surveys, truths, self.design.blinding, self.design.viewing)
        self.ids = [self._id("v", f"volume|{n}|{c.arm}|{c.pair}") for n, c in enumerate(cases)]
        files = self._write_volumes(target)
        masks = self._write_masks(target)
        self._refuse_doubles(files)
        _set_times(self.reading, self.began)
        self._leak_report(before, files, target)
        key, units = self._key(), self._units()
        study = self._write_study(key, units, files, masks)
        self._write_private(study)
        warnings = leaks.leaking(self.report["after"]) if "after" in self.report else []
        warnings += [*told_by_orders(self.design), *told_by_units(self.design, self.ids, units)]
        for warning in warnings:
            self.on_event({"event": "warning", "message": warning})
        final = self.out
        return BuildResult(
            final,
            final / READING,
            final / PRIVATE,
            study.id,
            study.sha256,
            len(study.units),
            len(files),
            tuple(r["id"] for r in self.design.readers),
            (*self.design.notes, *target.notes),
            tuple(leaks.summary({k: v for k, v in self.report.items() if k != "notes"})),
            tuple(warnings),
        )

    def _progress(self, stage: str, step: int, total: int) -> None:
        if self.should_cancel():
            raise Cancelled()
        self.on_event({"event": "progress", "stage": stage, "step": step, "total": total})

    def _id(self, kind: str, what: str) -> str:
        return kind + hmac.new(self.nonce.encode(), what.encode("utf-8"), hashlib.sha256).hexdigest()[:10]

    def _survey(self) -> tuple[list[leaks.MeasuredVolume], list[Survey]]:
        before, surveys = [], []
        for n, case in enumerate(self.design.cases):
            self._progress("look at the volumes", n, len(self.design.cases))
            volume = read_turned(_image(case))
            surveys.append(survey(volume, f"{_image(case).parent.name}/{_image(case).name}"))
            before.append(leaks.measure_volume(_image(case), volume.array, volume.spacing))
        return before, surveys

    def _write_volumes(self, target: Target) -> list[Path]:
        """In the order of the names, so that the order in the folder's directory tells nothing; files in the order of
        the cases."""
        cases = self.design.cases
        if len(set(self.ids)) < len(self.ids):
            raise BadInput("Two volumes got the same name, which happens once in a million studies", "Build it again.")
        by_name = sorted(range(len(cases)), key=lambda i: self.ids[i])
        paths = [self.reading / "volumes" / f"{name}.nii.gz" for name in self.ids]
        self._progress("rewrite the volumes", 0, len(cases))
        write_equal_files(
            {
                paths[i]: lambda i=i: equalised(read_turned(_image(cases[i])), target, _image(cases[i]).name)
                for i in by_name
            },
            lambda done: self._progress("rewrite the volumes", done, len(cases)),
        )
        return paths

    def _write_masks(self, target: Target) -> dict[str, Path]:
        """Only of volumes whose mask a task shows."""
        design = self.design
        shown: set[int] = set()
        for task in design.tasks:
            if task.show_mask:
                pairs = design.task_pairs(task) if task.kind == "forced_choice" else []
                used = [c for pair in pairs for c in pair] or design.task_cases(task)
                shown |= {id(c) for c in used}
        wanted = sorted((self.ids[i], c) for i, c in enumerate(design.cases) if id(c) in shown)
        if not wanted:
            return {}
        (self.reading / "masks").mkdir()
        table = segment_table([_mask(c) for _, c in wanted])
        paths = {name: self.reading / "masks" / f"{name}.seg.nrrd" for name, _ in wanted}
        self._progress("rewrite the masks", 0, len(wanted))
        write_equal_masks(
            {
                paths[name]: lambda c=c: equalised_mask(_mask(c), read_turned(_image(c)), target, table)
                for name, c in wanted
            }
        )
        return paths

    def _refuse_doubles(self, files: list[Path]) -> None:
        """The same image in two files, whose headers differed before."""
        seen: dict[str, int] = {}
        for i, path in enumerate(files):
            first = seen.setdefault(_sha256(path), i)
            if first != i:
                a, b = self.design.cases[first], self.design.cases[i]
                raise BadInput(
                    f"'{_image(a)}' (arm '{a.arm}') and '{_image(b)}' (arm '{b.arm}') are the same image",
                    "Each volume can be there once.",
                )

    def _leak_report(self, before: list[leaks.MeasuredVolume], files: list[Path], target: Target) -> None:
        from SynthDiffusionLib.volumes import read_volume

        cases = self.design.cases
        truths = [c.truth for c in cases]
        self.report |= {"target": target.to_json(), "notes": [*self.design.notes, *target.notes]}
        if len(set(truths)) < 2:
            self.report["notes"].append("All volumes are of one kind: there is nothing to tell apart.")
            return
        patients = [c.patient for c in cases]
        words = {a.id for a in self.design.arms} | {a.model for a in self.design.arms if a.model}
        names = {c.patient for c in cases} | {c.pair for c in cases}
        after = []
        for path in files:
            volume = read_volume(path)
            after.append(leaks.measure_volume(path, volume.array, volume.spacing))
        for number, (name, volumes) in enumerate((("before", before), ("after", after))):
            self.report[name] = leaks.leak_stage(
                volumes,
                truths,
                patients,
                words,
                names,
                permutations=self.permutations,
                on_step=lambda done, total, n=number: (
                    self._progress("leak report", n * total + done, 2 * total) if done % 10 == 0 else None
                ),
            )
        self.report["same"] = leaks.shared_bytes(after, files)

    def _units(self) -> list[tuple[Unit, StudyCase]]:
        """Units, sorted by their opaque ids, with the case that their arm and truth are of."""
        design, name = self.design, {id(c): v for c, v in zip(self.design.cases, self.ids)}
        units = []
        for task in design.tasks:
            if task.kind == "forced_choice":
                for real, synthetic in design.task_pairs(task):
                    volumes = tuple(sorted((name[id(real)], name[id(synthetic)])))
                    side = "left" if volumes[0] == name[id(synthetic)] else "right"
                    feedback = f"The one on the {side} is synthetic."
                    units.append((self._unit(task.id, synthetic.phase, volumes, feedback), synthetic))
            else:
                for case in design.task_cases(task):
                    feedback = "This volume is synthetic." if case.truth else "This volume is real."
                    units.append((self._unit(task.id, case.phase, (name[id(case)],), feedback), case))
        return sorted(units, key=lambda entry: entry[0].id)

    def _unit(self, task: str, phase: str, volumes: tuple[str, ...], feedback: str) -> Unit:
        unit_id = self._id("u", f"unit|{task}|{'|'.join(volumes)}")
        return Unit(unit_id, task, phase, volumes, feedback if phase == "training" else "")

    def _key(self) -> dict[str, Any]:
        design = self.design
        volumes = {
            name: {
                "arm": c.arm,
                "truth": c.truth,
                "pair": c.pair,
                "patient": c.patient,
                "source": str(self._final(_image(c))),
                "source_sha256": _sha256(_image(c)),
                "phase": c.phase,
            }
            for name, c in sorted(zip(self.ids, design.cases), key=lambda entry: entry[0])
        }
        units = {u.id: {"arm": c.arm, "truth": c.truth, "pair": c.pair, "patient": c.patient} for u, c in self._units()}
        arms = [{"id": a.id, "truth": a.truth, **({"model": a.model} if a.model else {})} for a in design.arms]
        study_id = self._id("", "study")[:8]
        return {
            "format": KEY_FORMAT,
            "study_id": study_id,
            "nonce": self.nonce,
            "notice": NOTICE,
            "arms": arms,
            "volumes": volumes,
            "units": units,
        }

    def _final(self, path: Path) -> Path:
        """Where a file of the staging folder will be."""
        return self.out / path.relative_to(self.root) if path.is_relative_to(self.root) else path

    def _write_study(
        self, key: dict[str, Any], units: list[tuple[Unit, StudyCase]], files: list[Path], masks: dict[str, Path]
    ) -> Study:
        design = self.design
        key_bytes = json_bytes(key)
        write_bytes(self.private / "key.json", key_bytes)
        volumes = []
        for name, path in sorted(zip(self.ids, files)):
            entry = {"id": name, "file": f"volumes/{path.name}", "sha256": _sha256(path)}
            if name in masks:
                entry |= {"mask": f"masks/{masks[name].name}", "mask_sha256": _sha256(masks[name])}
            volumes.append(entry)
        data = {
            "format": FORMAT,
            "id": key["study_id"],
            "title": design.title,
            "description": design.description,
            "created_utc": utc_now(),
            "notice": NOTICE,
            "seed": design.seed,
            "software": {"name": "SynthDiffusion", "version": __version__},
            "key_sha256": hashlib.sha256(key_bytes).hexdigest(),
            "readers_planned": list(design.readers),
            "tasks": [
                {"id": t.id, "kind": t.kind, "form": dict(t.form.raw), "show_mask": t.show_mask} for t in design.tasks
            ],
            "sessions": list(design.sessions),
            "randomisation": {"algorithm": ALGORITHM, **design.randomisation},
            "viewing": dict(design.viewing),
            "primary": dict(design.primary),
            "secondary": "exploratory",
            "units": [
                {
                    "id": u.id,
                    "task": u.task,
                    "phase": u.phase,
                    "volumes": list(u.volumes),
                    **({"feedback": u.feedback} if u.feedback else {}),
                }
                for u, _ in units
            ],
            "volumes": volumes,
        }
        write_bytes(self.reading / "study.json", json_bytes(data))
        write_bytes(self.reading / "README.txt", (NOTICE + "\n").encode())
        study = Study.load(self.reading)
        for index, reader in enumerate(design.readers):
            write_bytes(
                self.reading / "orders" / f"{reader['id']}.json", order_content(study, reader["id"], index, key)
            )
        return study

    def _write_private(self, study: Study) -> None:
        from SynthDiffusionLib.reader_study.records import RecordFile

        title = self.design.title
        write_bytes(self.private / "design.json", json_bytes(dict(self.design.raw)))
        write_bytes(self.private / "leaks.json", json_bytes(self.report))
        write_bytes(self.private / "leaks.html", leaks.leaks_html(self.report, title).encode("utf-8"))
        text = (
            f"Reader study: {title}\n\n{NOTICE}\n\n"
            f"{READING}/  give this folder to readers, whole. It holds no truth.\n"
            f"{PRIVATE}/  the coordinator's: the key, the leak report, what readers hand in. Readers must not see it.\n"
        )
        write_bytes(self.root / "README.txt", text.encode("utf-8"))
        orders = {
            name: hashlib.sha256((self.reading / "orders" / f"{name}.json").read_bytes()).hexdigest()
            for name in study.readers()
        }
        with RecordFile.open(self.private / "coordinator.jsonl") as record:
            record.append(
                "built",
                study_id=study.id,
                study_sha256=study.sha256,
                key_sha256=study.data["key_sha256"],
                orders=orders,
                software=study.data["software"],
            )


def _image(case: StudyCase) -> Path:
    return cast(Path, case.image)  # what was to be generated has been


def _mask(case: StudyCase) -> Path:
    return cast(Path, case.mask)  # checked with the design


def _sha256(path: Path) -> str:
    from SynthDiffusionLib.jobs.provenance import sha256_of

    return sha256_of(path)


def _set_times(folder: Path, moment: float) -> None:
    """One time for all files and folders: that of a file would tell which volumes were written together."""
    whole = int(moment)
    for path in sorted(folder.rglob("*"), reverse=True):
        os.utime(path, (whole, whole))
    os.utime(folder, (whole, whole))
