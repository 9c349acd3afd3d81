"""Few real patients, with and without pairs of image and mask from a generator that has seen those few alone.

After Kebaili et al. (arXiv:2406.05421), whose text does not say on how many patients; the numbers are ours. Each number
of patients has a generator of its own, trained from nothing on these patients. Two more arms stand beside: pairs alone,
and cartoons (class means and noise) of the few patients' own masks in the pairs' place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib.evaluation.utility.generators import check_subset, own_generator
from SynthDiffusionLib.evaluation.utility.pairs import Data, cartoons
from SynthDiffusionLib.evaluation.utility.parts import draw_patients
from SynthDiffusionLib.evaluation.utility.store import Store
from SynthDiffusionLib.evaluation.utility.synthesis import Sampling, make_jointly

REAL = "real"
ARMS = {
    REAL: "real images",
    "real-synthetic": "real + synthetic pairs",
    "real-cartoons": "real + cartoons, same masks",
    "synthetic": "synthetic pairs only",
}
FIRST_SEED = 40_000


@dataclass(frozen=True)
class Settings:
    """Numbers of the experiment.

    Args:
        patients: real patients of each arm.
        pairs: synthetic pairs, the same number for all.
        share: of the crops that are synthetic in mixed arms, whatever the numbers of cases are.
        seeds: networks per arm and fold.
        folds: draws of the patients, each with generators of its own.
        seed: of the draws, the generators and the cartoons.
    """

    patients: tuple[int, ...] = (5, 10, 20, 25)
    pairs: int = 50
    share: float = 0.5
    seeds: int = 3
    folds: int = 1
    seed: int = 2026


def arm_name(arm: str, number: int) -> str:
    """An arm with its number of patients, as files and tables have it."""
    return f"{arm}-n{number:02d}"


def run_scarcity(
    data: Data, configs: Sequence[Path], store: Store, settings: Settings, sampling: Sampling
) -> dict[str, Any]:
    """Carries the experiment out, or on.

    Args:
        configs: of the generator's stages, see `train_generator`.

    Returns:
        {"networks": scores of all, "leak": per arm and fold, "empty": masks that were made in vain, "examples":
        (name, examples by kind) of pictures}.
    """
    tests = {"test": data.real(data.parts["test"])}
    networks, leak, empty, drawn = [], {}, {}, {}
    shown = {
        "real images": data.real(
            data.of_patients("train", draw_patients(data.description, settings.patients[0], settings.seed, 1))
        )
    }
    for fold in range(1, settings.folds + 1):
        for number in settings.patients:
            name = f"fold{fold}-n{number:02d}"
            patients = draw_patients(data.description, number, settings.seed, fold)
            drawn[name] = patients
            cases = data.of_patients("train", patients)
            real = data.real(cases)
            package = own_generator(configs, data, patients, store, name, settings.seed + fold)
            # The validation patients are only logged while the generator trains: no weight or step hangs on them.
            leak[name] = check_subset(package, patients, data.patients("validation"), data.case_patients)
            made, empty[name] = make_jointly(
                package,
                data,
                settings.pairs,
                FIRST_SEED + 1000 * fold,
                store.out / "synthetic" / name,
                sampling,
                store.on_event,
                store.check_time,
            )
            if fold == 1:
                shown[f"pairs, from {number} patients"] = made
            painted = [
                pair
                for k in range(-(-settings.pairs // len(cases)))
                for pair in cartoons(data, cases, cases, settings.seed + k)
            ][: settings.pairs]
            mixed = [1.0 - settings.share, settings.share]
            arms = {
                REAL: ([real], None),
                "real-synthetic": ([real, made], mixed),
                "real-cartoons": ([real, painted], mixed),
                "synthetic": ([made], None),
            }
            for seed in range(1, settings.seeds + 1):
                for arm, (groups, shares) in arms.items():
                    networks.append(store.network(arm_name(arm, number), fold, seed, groups, tests, shares))
    return {"networks": networks, "leak": leak, "empty": empty, "patients": drawn, "examples": [("pairs", shown)]}
