"""A prepared data set for the utility experiments: lungs with nodules that a small network learns in seconds."""

from __future__ import annotations

from pathlib import Path

from tiny_training import write_pairs

from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.training.prepare import prepare

SPLIT = (6, 4, 5)


def prepared(folder: Path) -> Path:
    """Six training, four validation and five test patients."""
    images, labels = write_pairs(folder / "source", [f"p{i:02d}" for i in range(sum(SPLIT))])
    prepare(images, labels, folder / "prepared", load_scheme("lung-nodule-ct"), split=SPLIT, seed=1)
    return folder / "prepared"
