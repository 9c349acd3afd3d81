"""A prepared data set for the utility experiments: lungs with nodules that a small network learns in seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from tiny_package import make_working_package
from tiny_training import write_pairs

from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.training.prepare import prepare

SPLIT = (6, 4, 5)


def prepared(folder: Path) -> Path:
    """Six training, four validation and five test patients."""
    images, labels = write_pairs(folder / "source", [f"p{i:02d}" for i in range(sum(SPLIT))])
    prepare(images, labels, folder / "prepared", load_scheme("lung-nodule-ct"), split=SPLIT, seed=1)
    return folder / "prepared"


def package_of(folder: Path, patients: list[str], validation: list[str] | None = None):
    """A working package that says that it was trained on these patients, and with which it was validated."""
    package = make_working_package(folder)
    training = package.spec.training
    split = {"train": patients} | ({"validation": validation} if validation else {})
    spec = dataclasses.replace(package.spec, training=dataclasses.replace(training, split=split))
    return dataclasses.replace(package, spec=spec)


def scored(arms, parts, patients=20, networks=2, gains=None, base=(0.4, 0.7)):
    """Networks as a store has them: each patient's Dice is drawn between two values, and `gains` are added by arm or
    part."""
    rng = np.random.default_rng(0)
    drawn = rng.uniform(*base, patients)

    def gain(arm: str, part: str) -> float:
        return (gains or {}).get(arm, (gains or {}).get(part, 0.0))

    return [
        {
            "arm": arm,
            "fold": 1,
            "seed": n,
            "training": [["a", "b"], ["c"]],
            "scores": {
                part: [
                    {"case": f"c{p}", "patient": f"p{p}", "dice": {"nodule": drawn[p] + gain(arm, part) + 0.001 * n}}
                    for p in range(patients)
                ]
                for part in parts
            },
        }
        for arm in arms
        for n in range(networks)
    ]  # fmt: skip
