"""Results of measures of sets, as a measure would return them, for the tests of reports and of the panel."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from SynthDiffusionLib.evaluation.sets import results
from SynthDiffusionLib.reports.sections import Section, Table, columns

# The smallest picture: one grey pixel.
PNG = base64.b64encode(
    base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg==")
).decode()

FRAME = {
    "modality": "CT", "unit": "HU", "spacing_mm": None, "intensity_range": [-1000.0, 1000.0],
    "normalised_by_percentiles": False, "orientation": "LPS",
}  # fmt: skip


def set_summary(role: str, sha: str, volumes: int = 40, skipped: tuple = ()) -> dict[str, Any]:
    """As `ImageSet.summary`."""
    return {
        "role": role, "volumes": volumes, "patients": volumes - 2, "skipped": list(skipped), "same_files": 0,
        "spacing_mm": [1.0, 1.0, 2.5], "sha256": sha * 64,
    }  # fmt: skip


def sections(kind: str) -> list[Section]:
    """What there is, and an answer with headlines, a table, plots."""
    return [
        Section("seen", "What was compared?", "data", ("Forty volumes were read.",)),
        Section(
            "answer",
            "Are they alike?",
            "measured",
            (f"The {kind} of the synthetic set is 0.812.", "A second sentence."),
            tables=(
                Table("scores", "Scores", columns("what|What", "value|Value|number"), ({"what": "a", "value": 0.81},)),
            ),
            plots=(
                {
                    "id": "scores", "kind": "intervals", "title": "Scores", "label": "Score",
                    "rows": [{"label": "synthetic", "value": 0.8125, "low": 0.7, "high": 0.9}],
                },
                {"id": "pair", "kind": "picture", "title": "A pair", "png": PNG},
            ),
            headlines=(
                {
                    "measure": "Dice", "row": "liver", "value": 0.8125, "low": 0.75, "high": 0.8625, "reference": 0.9,
                    "reference_name": "same segmenter on real images", "cartoon": 0.25, "cartoon_name": "flat classes",
                    "n": 38,
                },
                {"measure": "HD95", "row": "liver", "value": None, "better": "lower", "unit": "mm", "sentence": "No."},
                {"measure": "Share", "row": "liver", "value": 0.0213, "better": "near 1", "kind": "percent"},
            ),
        ),
    ]  # fmt: skip


def result(kind: str, *, real: str = "a", synthetic: str = "b", frame: dict | None = None, **changes) -> dict[str, Any]:
    """A result of a kind on two sets, named by a letter each; of utility on the parts of a data set."""
    skipped = ({"file": "p05.nii.gz", "reason": "damaged <b>"},) if kind == "adherence" else ()
    sets = [set_summary("real", real), set_summary("synthetic", synthetic, 60, skipped)]
    if kind == "utility":
        sets = [set_summary(role, sha) for role, sha in (("training", "d"), ("validation", "e"), ("test", "f"))]
    made = results.assemble(
        kind,
        sections(kind),
        sets=sets,
        settings={"frame": FRAME | (frame or {})},
        definitions={"Dice": "2 |A and B| / (|A| + |B|), ours"},
        command=f"synthdiffusion evaluate {kind} --real real --synthetic synthetic --out out",
        seconds=1.25,
    )
    return made | changes


def write(folder: Path, kind: str, **options) -> Path:
    """Writes a result with its page and tables; returns its JSON file."""
    return results.write_result(result(kind, **options), folder)["json"]


def write_json(folder: Path, kind: str, **options) -> Path:
    """Writes the JSON file of a result alone, which takes no drawing; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind}.json"
    path.write_text(json.dumps(result(kind, **options)), encoding="utf-8")
    return path
