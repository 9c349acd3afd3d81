"""What a study's own files tell of which volumes are synthetic to somebody without the key: orders, repeated use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from SynthDiffusionLib.reader_study.order import told_bits
from SynthDiffusionLib.reader_study.study import Unit

if TYPE_CHECKING:
    from SynthDiffusionLib.reader_study.design import Design
    from SynthDiffusionLib.reader_study.design_cases import StudyCase

MOST_TOLD = 0.5  # share of what there is to tell that all orders together may tell without a warning


def told_by_orders(design: Design) -> list[str]:
    """Warnings where somebody with all readers' orders could work out what is synthetic, by the rules alone."""
    found = []
    for task in design.tasks:
        if task.kind == "forced_choice":
            # Sides are balanced within one, and exchanged within pairs of readers.
            labels = ["left", "right"] * (sum(b.phase == "main" for _, b in design.task_pairs(task)) // 2)
            orders, there = (len(design.readers) + 1) // 2, float(len(labels))
            told = there - told_bits(labels, design.randomisation)[1]
        else:
            labels = [c.arm for c in design.task_cases(task) if c.phase == "main"]
            orders, told, there = len(design.readers), 0.0, told_bits(labels, design.randomisation)[1]
        told += told_bits(labels, design.randomisation)[0]
        if orders * told > MOST_TOLD * there > 0:
            set_rules = [name for name in ("block_size", "longest_run") if design.randomisation.get(name)]
            rules = f"Leave {' and '.join(set_rules)} out, or g" if set_rules else "G"
            found.append(
                f"The orders of all readers tell up to {min(orders * told, there):.0f} of {there:.0f} bits about "
                f"which volumes of the task '{task.id}' are synthetic: with all of them at hand it may be "
                f"worked out. {rules}ive every reader a copy of 'reading' with no other order in it."
            )
    return found


def told_by_units(design: Design, ids: Sequence[str], units: Sequence[tuple[Unit, StudyCase]]) -> list[str]:
    """A warning where volumes of one kind are in more units than those of the other, as with shared real ones."""
    masked = [
        {c.truth for c in design.task_cases(task)} for task in design.tasks if task.show_mask and task.kind == "single"
    ]
    masks = [
        "A task shows the masks of synthetic volumes only, or of real ones only: who looks into the folder, or "
        "remembers an image from there, knows which they are. Show masks of both kinds, or read this task last."
        for truths in masked
        if len(truths) == 1
    ][:1]
    uses = Counter(volume for unit, _ in units for volume in unit.volumes)
    shown = [[uses[name] for name, c in zip(ids, design.cases) if c.truth == t] for t in (0, 1)]
    if not all(shown) or sum(shown[0]) * len(shown[1]) == sum(shown[1]) * len(shown[0]):
        return masks
    kind, other = ("real", "synthetic") if sum(shown[0]) * len(shown[1]) > sum(shown[1]) * len(shown[0]) else (
        "synthetic", "real")  # fmt: skip
    return [
        *masks,
        f"{kind.capitalize()} volumes are shown more often than {other} ones: a reader who recognises an image, or "
        "reads study.json, can tell. Let one task show all generators one volume at a time, or give each generator "
        f"{kind} volumes of its own ('cases').",
    ]
