"""What `synthdiffusion evaluate memorisation` of folders found of a model, in its card and its `model.json`.

`Testing/Benchmarks/memorisation_cards.py` runs the measure on a model's samples and on its own training, validation and
test cases, and writes `memorisation_embedding.json`. `synthdiffusion evaluate card --measured` takes that in when it
lies among the other results; `with_section` puts the same lines into a card that is there already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.report import complete, markdown, number

if TYPE_CHECKING:
    from SynthDiffusionLib.models import ModelPackage

KIND = "memorisation_embedding"
TITLE = "### Memorisation, in a learned embedding"
BEFORE = "### Memorisation"  # the section that it follows
COMMAND_BEFORE = "synthdiffusion evaluate memorisation "
FENCE = "```"
SEARCHES = {"embedding": "embedding", "voxels": "registered voxels"}
SHOWN = ("real", "synthetic", "control", "no skill")  # kinds of rows
DEFINED = ("Limit", "Flag rate", "p of flags", "Far below the limit", "Probable copies", "Probable doubles")
DEFINED += ("Membership AUC", "Planted copies")


def card_result(
    result: Mapping[str, Any],
    package: ModelPackage,
    *,
    data: Mapping[str, Any] | None,
    samples: Mapping[str, Any] | None,
    command: str,
) -> dict[str, Any]:
    """The result as a card takes it; without the names of training cases, and without pictures.

    Args:
        result: of `sets.results.read_result`.
        data: `EvaluationData.summary`.
        samples: `samples.describe`; None if the volumes are not of `evaluate samples`.
        command: that makes it again.
    """
    tables = {t["id"]: t["rows"] for s in result["sections"] for t in s["tables"]}
    copies, membership = (
        next(s["detail"] for s in result["sections"] if s["id"] == name) for name in ("copies", "membership")
    )
    without_names = {copies["answer"]["named"]: copies["answer"]["unnamed"]}
    sentences = {
        s["id"]: [without_names.get(said, said) for said in s["sentences"]]
        for s in result["sections"]
        if s["id"] != "pairs"
    }
    measured = {
        "kind": KIND,
        "rows": [dict(r) for r in copies["rows"]],
        "membership": [dict(r) for r in membership["rows"]],
        "thresholds": tables["limits"],
        "sentences": sentences,
        "settings": dict(result["settings"]),
        "sets": [{k: s[k] for k in ("role", "volumes", "patients", "sha256")} for s in result["sets"]],
        "definitions": {k: v for k, v in result["definitions"].items() if k.startswith(("Distance", *DEFINED))},
    }
    return complete(measured, package, data=data, samples=samples, seconds=result["seconds"], command=command)


def table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Column titles and cells: fresh real and synthetic volumes, planted copies, volumes without detail."""
    titles = ["volumes", "search", "number", "patients", "nearest", "median", "flagged", "patients with any"]
    titles += ["flag rate", "expected", "p, corrected", "nearer than half the limit", "probable copies"]
    cells = []
    for r in result["rows"]:
        if r["kind"] in SHOWN and r["row"] != "training":
            rate = _percent(r["rate"])
            if r["low"] is not None:
                rate += f" [{_percent(r['low'])}, {_percent(r['high'])}]"
            cells.append(
                [r["label"], SEARCHES[r["space"]], str(r["volumes"]), str(r["patients"])]
                + [number(r["smallest"], 3), number(r["median"], 3), str(r["flagged"]), _count(r, "patients_flagged")]
                + [rate, _percent(r["expected"]), _p(r.get("p_holm")), str(r["far_below"])]
                + [_count(r, "copies")]
            )
    return titles, cells


def _p(value: float | None) -> str:
    return "<0.001" if value is not None and value < 0.001 else number(value, 3)


def _count(row: Mapping[str, Any], key: str) -> str:
    """Patients with a flagged volume, or probable copies; results of before, or of the other search, do not tell."""
    return "-" if row.get(key) is None else str(row[key])


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def membership_table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """AUC of telling training cases from fresh ones."""
    titles = ["search", "volumes of the own mask", "AUC", "95 % interval", "p, corrected", "of real volumes"]
    titles += ["smallest AUC found"]
    cells = [
        [SEARCHES[r["space"]], r["own_mask"], number(r["auc"]), f"{number(r['low'])} to {number(r['high'])}"]
        + [_p(r.get("p_holm")), number(r.get("floor")), number(r["smallest_found"])]
        for r in result["membership"]
    ]
    return titles, cells


def section_lines(result: Mapping[str, Any]) -> list[str]:
    """The section of the card, ending with an empty line."""
    said = [s for part in ("copies", "controls", "membership", "limits") for s in result["sentences"].get(part, ())]
    lines = [TITLE, "", *markdown(*table(result)), ""]
    if result["membership"]:
        lines += [*markdown(*membership_table(result)), ""]
    lines += [*(f"- {sentence}" for sentence in said), "", "Definitions:", ""]
    return [*lines, *(f"- *{name}*: {text}" for name, text in result["definitions"].items()), ""]


def with_section(card: str, result: Mapping[str, Any]) -> str:
    """A MODEL_CARD.md with the section, instead of an older one, and the command that makes it again.

    The text is what `card.render_card` writes when the result is among the others.

    Raises:
        BadInput: the card is not one that `synthdiffusion evaluate card` wrote.
    """
    lines = card.split("\n")
    lines = _without(lines)
    if BEFORE not in lines or not any(line.startswith(COMMAND_BEFORE) for line in lines):
        raise BadInput(
            f"The card has no section '{BEFORE.strip('# ')}' with its command",
            "Write the card with synthdiffusion evaluate card first.",
        )
    at = lines.index(BEFORE) + 1
    while not lines[at].startswith(("## ", "### ")):
        at += 1
    lines[at:at] = section_lines(result)
    command = max(n for n, line in enumerate(lines) if line.startswith(COMMAND_BEFORE))
    lines[command + 1 : command + 1] = [result["command"]]
    return "\n".join(lines)


def _without(lines: list[str]) -> list[str]:
    """The lines without section and command of an earlier result."""
    if TITLE in lines:
        start = end = lines.index(TITLE)
        end += 1
        while not lines[end].startswith(("## ", "### ")):
            end += 1
        lines = lines[:start] + lines[end:]
    return [line for line in lines if not (line.startswith("python ") and "memorisation_cards.py" in line)]


def quality(result: Mapping[str, Any]) -> dict[str, Any]:
    """What `model.json` says of it, under `measured.quality`."""

    def rounded(value: float | None) -> float | None:
        return None if value is None else round(float(value), 4)

    rows = {
        f"{r['row']}_{r['space']}": {
            "volumes": r["volumes"],
            "flagged": r["flagged"],
            "patients": r["patients"],
            "patients_flagged": r.get("patients_flagged"),
            "rate": rounded(r["rate"]),
            "rate_interval": [rounded(r["low"]), rounded(r["high"])],
            "expected": rounded(r["expected"]),
            "p": rounded(r.get("p_holm")),
            "nearer_than_half": r["far_below"],
            "probable_copies": r.get("copies"),
            "median_distance": rounded(r["median"]),
        }
        for r in result["rows"]
        if r["kind"] in SHOWN and r["row"] != "training"
    }
    tests = {
        f"membership_{r['space']}_own_mask_{r['own_mask'].replace(' ', '_')}": {
            "auc": rounded(r["auc"]),
            "auc_interval": [rounded(r["low"]), rounded(r["high"])],
            "p": rounded(r.get("p_holm")),
            "floor": rounded(r.get("floor")),
            "smallest_found": rounded(r["smallest_found"]),
        }
        for r in result["membership"]
    }
    return rows | tests
