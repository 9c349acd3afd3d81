"""A merged study as files for other programs: one call for all kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.analysis import analyse
from SynthDiffusionLib.reader_study.codebook import codebook_csv
from SynthDiffusionLib.reader_study.exported import Exported
from SynthDiffusionLib.reader_study.exports import imrmc, long_csv, mrmcaov_csv, wide_csv, write_json
from SynthDiffusionLib.reader_study.exports_fhir import fhir_questionnaire, fhir_responses
from SynthDiffusionLib.reader_study.grras import write_grras
from SynthDiffusionLib.reader_study.merge import Merged


def write_exports(merged: Merged, out: Path, kinds: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Writes the kinds that are asked for. Files that an earlier export of another study wrote to the folder go.

    Args:
        merged: of `merge.merge`.
        out: a folder that is there.
        kinds: of long, wide, imrmc, mrmcaov, fhir, codebook and grras.

    Returns:
        the files, the list of them (`exported`) last; a sentence for each kind that this study has nothing for, and
        for each file of an earlier export that stays.

    Raises:
        BadInput: the folder cannot be written to.
        MissingExtra: grras is asked for, and what the analysis needs is not installed.
    """
    writers: dict[str, Callable[[Merged, Path], list[Path]]] = {
        "long": lambda m, o: [long_csv(m, o / "ratings_long.csv")],
        "wide": lambda m, o: [wide_csv(m, o / "ratings_wide.csv")],
        "imrmc": lambda m, o: [imrmc(m, o / "ratings.imrmc"), o / "ratings.cases.csv"],
        "mrmcaov": lambda m, o: [mrmcaov_csv(m, o / "ratings_mrmcaov.csv"), o / "ratings_mrmcaov.cases.csv"],
        "fhir": _fhir,
        "codebook": lambda m, o: [codebook_csv(m, o / "codebook.csv")],
        "grras": lambda m, o: [write_grras(m, o / "grras.md", analyse(m))],
    }
    files: list[Path] = []
    notes: list[str] = []
    exported = Exported(out, merged.study)
    for kind in kinds:
        try:
            written = writers[kind](merged, out)
            exported.add(kind, written)
            files += written
        except BadInput as error:
            if kind not in ("imrmc", "mrmcaov"):
                raise
            notes.append(f"{kind}: not written. {error.one_line()}")
    notes += exported.remove_stale(kinds, files)
    return [*files, exported.path], notes


def _fhir(merged: Merged, out: Path) -> list[Path]:
    tasks = merged.study.tasks.values()
    files = [
        write_json(out / f"Questionnaire-{task.id}.json", fhir_questionnaire(task.form, merged.study.id))
        for task in tasks
    ]
    return [*files, write_json(out / "QuestionnaireResponses.json", fhir_responses(merged))]
