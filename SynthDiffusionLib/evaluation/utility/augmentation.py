"""Real, synthetic, both, and synthetic aimed at the worst cases: the experiment of Khadra and Türkbey.

Their paper (arXiv:2410.12542) says: a benchmark network trained on real CT, one on synthetic CT alone, and one on real
CT and synthetic CT made for the validation cases that the benchmark does worst on; all tested on the same real test
set. It gives no numbers of cases, steps or repeats; those are ours, and so are four more arms, without which a gain
could not be read:

* as many synthetic volumes for other validation cases: does the aim matter?
* cartoons (class means and noise) of the same worst cases: does the model matter?
* cartoons alone, beside synthetic volumes alone;
* the worst cases' own real images: what knowing them would be worth.

The masks that are aimed at are validation patients': arms with synthetic images of worst or other masks learn their
class maps, and images that the generator, which has not been trained on these patients, made for them. Test patients
are in nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from SynthDiffusionLib.evaluation.utility.generators import check_subset, own_generator
from SynthDiffusionLib.evaluation.utility.pairs import Data, Pair, cartoons
from SynthDiffusionLib.evaluation.utility.parts import draw_patients
from SynthDiffusionLib.evaluation.utility.store import Store
from SynthDiffusionLib.evaluation.utility.synthesis import Sampling, make_for_masks

if TYPE_CHECKING:
    from SynthDiffusionLib.models import ModelPackage

REAL = "real"
ARMS = {
    REAL: "real images",
    "synthetic": "synthetic only, same masks",
    "real-synthetic": "real + synthetic, same masks",
    "real-targeted": "real + synthetic of worst masks",
    "real-untargeted": "real + synthetic of other masks",
    "real-cartoons": "real + cartoons of worst masks",
    "cartoons": "cartoons only, same masks",
    "real-worst": "real + real images of worst cases",
}
CONTROLS = {"synthetic": "cartoons", "real-targeted": "real-cartoons"}
FIRST_SEED = {"train": 10_000, "worst": 20_000, "others": 30_000}  # of synthetic volumes


@dataclass(frozen=True)
class Settings:
    """Numbers of the experiment.

    Args:
        seeds: networks per arm and fold; seed n is 1 + n.
        worst: validation cases that synthetic volumes are aimed at.
        per_case: synthetic volumes of each of them.
        patients: real training patients; all of them when None.
        folds: draws of these patients, each with a generator of its own.
        seed: of the draws, of the generators, and of the cartoons' noise.
    """

    seeds: int = 5
    worst: int = 5
    per_case: int = 4
    patients: int | None = None
    folds: int = 1
    seed: int = 2026


def run_augmentation(
    data: Data, generator: ModelPackage | Sequence[Path], store: Store, settings: Settings, sampling: Sampling
) -> dict[str, Any]:
    """Carries the experiment out, or on.

    Args:
        generator: a package, or the configurations of the stages of one that is trained on each fold's patients.

    Returns:
        {"networks": scores of all, and by fold "worst": names of the aimed-at cases, "others", "patients", "leak":
        numbers of patients; "examples": (name, examples by kind) of pictures}.

    Raises:
        BadInput: the generator knows patients that the arms do not have.
        Unfinished: the time of this call is over.
    """
    found: dict[str, Any] = {"networks": [], "worst": {}, "others": {}, "patients": {}, "leak": {}, "examples": []}
    for fold in range(1, settings.folds + 1):
        _run_fold(fold, data, generator, store, settings, sampling, found)
    return found


def _run_fold(
    fold: int,
    data: Data,
    generator: ModelPackage | Sequence[Path],
    store: Store,
    settings: Settings,
    sampling: Sampling,
    found: dict[str, Any],
) -> None:
    name = f"fold{fold}"
    number = settings.patients or len(data.patients("train"))
    patients = draw_patients(data.description, number, settings.seed, fold)
    cases = data.of_patients("train", patients)
    package = generator
    if isinstance(generator, Sequence):
        package = own_generator(generator, data, patients, store, name, settings.seed + fold)
    leak = check_subset(package, patients, data.patients("validation"), data.case_patients)
    tests = {"test": data.real(data.parts["test"]), "validation": data.real(data.parts["validation"])}
    real = data.real(cases)
    seeds = [1 + n for n in range(settings.seeds)]
    networks = [store.network(REAL, fold, seed, [real], tests) for seed in seeds]
    worst, others = choose_cases(networks, settings)

    def made(part: str, wanted: list[tuple[str, int]], group: str) -> list[Pair]:
        folder = store.out / "synthetic" / name / group
        return make_for_masks(package, data, wanted, part, folder, sampling, store.on_event, store.check_time)

    def several(names: list[str], first: int) -> list[tuple[str, int]]:
        each = range(settings.per_case)
        return [(case, first + n * settings.per_case + k) for n, case in enumerate(names) for k in each]

    first = {group: seed + 1_000_000 * (fold - 1) for group, seed in FIRST_SEED.items()}
    of_train = made("train", [(c.name, first["train"] + n) for n, c in enumerate(cases)], "train")
    of_worst = made("validation", several(worst, first["worst"]), "worst")
    of_others = made("validation", several(others, first["others"]), "others")
    by_name = {c.name: c for c in data.parts["validation"]}
    aimed_at = [by_name[n] for n in worst]
    painted = [pair for k in range(settings.per_case) for pair in cartoons(data, aimed_at, cases, settings.seed + k)]
    groups = {
        "synthetic": [of_train],
        "real-synthetic": [real, of_train],
        "real-targeted": [real, of_worst],
        "real-untargeted": [real, of_others],
        "real-cartoons": [real, painted],
        "cartoons": [cartoons(data, cases, cases, settings.seed)],
        "real-worst": [real, data.real(aimed_at)],
    }
    for seed in seeds:
        for arm, examples in groups.items():
            networks.append(store.network(arm, fold, seed, examples, tests))
    found["networks"] += networks
    found["worst"][name], found["others"][name] = worst, others
    found["patients"][name], found["leak"][name] = patients, leak
    if fold == 1:
        made_of = {
            "real images": real,
            "synthetic, same masks": of_train,
            "cartoons, same masks": groups["cartoons"][0],
        }
        aimed = {"worst validation cases": data.real(aimed_at), "synthetic, same masks": of_worst[:: settings.per_case]}
        found["examples"] = [("training", made_of), ("worst", aimed)]


def choose_cases(networks: list[dict[str, Any]], settings: Settings) -> tuple[list[str], list[str]]:
    """The validation cases that the networks of the arm "real" do worst on, by mean Dice over networks and targets,
    and as many of the others, drawn at random. No test case is looked at."""
    names = [s["case"] for s in networks[0]["scores"]["validation"]]
    mean = np.mean([[np.mean(list(s["dice"].values())) for s in n["scores"]["validation"]] for n in networks], axis=0)
    order = [names[i] for i in np.argsort(mean, kind="stable")]
    number = min(settings.worst, len(order) // 2)
    rest = order[number:]
    drawn = np.random.default_rng([settings.seed, 5]).permutation(len(rest))[:number]
    return order[:number], [rest[i] for i in sorted(drawn)]
