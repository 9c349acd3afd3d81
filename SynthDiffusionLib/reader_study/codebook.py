"""The codebook: what every column and every value of the exported tables means, as one CSV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from SynthDiffusionLib.reader_study.forms import Item
from SynthDiffusionLib.reader_study.merge import Merged
from SynthDiffusionLib.reader_study.study import Study
from SynthDiffusionLib.reader_study.tables import COLUMNS, write_csv

HEADER = ("table", "task", "column", "item", "type", "unit", "value", "label", "explanation", "required", "min", "max",
          "shown_if", "code")  # fmt: skip
# column: (type, unit, explanation)
_COLUMNS: dict[str, tuple[str, str, str]] = {
    "reader": ("text", "", "Reader's name in the study"),
    "session": ("text", "", "Planned part of the study"),
    "sitting": ("whole number", "", "1, 2, ...: from one log-in of the reader to its close; 0: not known"),
    "position": ("whole number", "", "0-based place in the reader's own order; -1: a question asked once in the study"),
    "task": ("text", "", "Way of reading"),
    "kind": ("text", "", "single: one volume; forced_choice: two side by side"),
    "unit": ("text", "", "What was shown, the same ID for all readers"),
    "presentation": ("whole number", "", "1: first reading; 2: hidden repeat"),
    "phase": ("text", "", "training: with feedback, not analysed; main: analysed"),
    "arm": ("text", "", "Arm of the volume; in a forced choice, of the synthetic one (from the key)"),
    "truth": ("whole number", "", "0: real; 1: synthetic. Forced choice: side of the synthetic one, 0: left, 1: right"),
    "pair": ("text", "", "Name that the volumes of one mask share (from the key)"),
    "patient": ("text", "", "Whom the mask is from (from the key)"),
    "volume_left": ("text", "", "Opaque ID of the volume, or of the left one"),
    "volume_right": ("text", "", "Opaque ID of the right one; empty: a single volume"),
    "item": ("text", "", "Question"),
    "item_type": ("text", "", "Type of the question"),
    "value": ("depends on the question", "", "Last answer; lists as JSON; an apostrophe before =, +, -, @ is no part"),
    "answered_utc": ("UTC", "", "When the answer was first committed"),
    "active_s": ("number", "s", "Time worked on the reading; pauses and time beyond the idle cap do not count"),
    "changed": ("whole number", "", "How often the answer was changed afterwards"),
    "old_value": ("depends on the question", "", "First answer, if it was changed"),
    "reason": ("text", "", "The reader's reasons for changes"),
    "first_touch_s": ("number", "s", "From showing to the reader's first input"),
    "committed_s": ("number", "s", "From showing to the commit"),
}  # fmt: skip


def codebook_csv(merged: Merged, path: Path) -> Path:
    """Writes the codebook of a study: columns of the long and wide tables, then every question with its options."""
    return write_csv(path, HEADER, codebook_rows(merged.study, merged))


def codebook_rows(study: Study, merged: Merged | None = None) -> Iterator[list[Any]]:
    """Rows under `HEADER`; with `merged`, the arms and readers too."""

    def row(**cells: Any) -> list[Any]:
        return [cells.get(name, "") for name in HEADER]

    for column in COLUMNS:
        kind, unit, explanation = _COLUMNS[column]
        yield row(table="long, wide", column=column, type=kind, unit=unit, explanation=explanation)
    if merged is not None:
        for arm in merged.arms:
            text = str(arm["truth"]) + (f", model {arm['model']}" if arm.get("model") else "")
            yield row(table="long, wide", column="arm", value=arm["id"], explanation=text)
        for reader in merged.readers:
            yield row(table="long, wide", column="reader", value=reader.reader, explanation=reader.experience)
    for task in study.tasks.values():
        for item in task.form.items:
            if item.type == "info":
                continue
            yield row(
                table="wide", task=task.id, column=item.id, item=item.id, type=item.type, explanation=_explained(item),
                required="yes" if item.required else "no", min=item.min, max=item.max, shown_if=_condition(item),
                code=_code(item.code),
            )  # fmt: skip
            for option in item.options:
                yield row(
                    table="wide", task=task.id, column=item.id, item=item.id, type=item.type, value=option.value,
                    label=option.label, code=_code(option.code),
                )  # fmt: skip
            if item.type == "forced_choice":
                for side in ("left", "right"):
                    yield row(table="wide", task=task.id, column=item.id, item=item.id, type=item.type, value=side,
                              label=f"The volume on the {side} is named")  # fmt: skip
    for column, explanation in (
        ("reader", "As in the long table"),
        ("treatment", "Generator; a real volume's one reading is written once per generator"),
        ("case", "Number of the volume; <name>.cases.csv says which volume"),
        ("truth", "0: real; 1: synthetic"),
        ("rating", "Answer; rises with the belief that the volume is synthetic"),
    ):
        yield row(table="MRMCaov, RJafroc, iMRMC", column=column, explanation=explanation)


def _explained(item: Item) -> str:
    text = f"{item.text} ({item.help})" if item.help else item.text
    if item.type == "confidence":
        text += " [negative: called real; positive: called synthetic; size: how sure]"
    if item.type == "forced_choice":
        text += " [the side named is taken as the one that the reader holds for synthetic]"
    return text if item.per == "case" else f"{text} [asked once per {item.per}]"


def _condition(item: Item) -> str:
    if item.show_if is None:
        return ""
    rule = dict(item.show_if)
    other = rule.pop("item")
    return f"{other} {' '.join(f'{k} {v}' for k, v in rule.items())}"


def _code(code: Any) -> str:
    return f"{code.get('system', '')}|{code.get('code', '')}" if code else ""
