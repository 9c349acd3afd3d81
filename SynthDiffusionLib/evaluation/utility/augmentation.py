"""Real, synthetic, both, and synthetic aimed at the worst cases: the experiment of Khadra and Türkbey.

Their paper (arXiv:2410.12542) says: a benchmark network trained on real CT, one on synthetic CT alone, and one on real
CT and synthetic CT made for the validation cases that the benchmark does worst on; all tested on the same real test
set. It gives no numbers of cases, steps or repeats; those are ours, and so are four more arms, without which a gain
could not be read:

* as many synthetic volumes for other validation cases: does the aim matter?
* cartoons (class means and noise) of the same worst cases: does the model matter?
* cartoons alone, beside synthetic volumes alone;
* the worst cases' own real images: what knowing them would be worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from SynthDiffusionLib.evaluation.utility.generators import check_subset
from SynthDiffusionLib.evaluation.utility.pairs import Data, Pair, cartoons
from SynthDiffusionLib.evaluation.utility.store import Store
from SynthDiffusionLib.evaluation.utility.synthesis import Sampling, make_for_masks

if TYPE_CHECKING:
    from SynthDiffusionLib.models import ModelPackage

REAL = "real"
ARMS = {
    REAL: "real images",
    "synthetic": "synthetic images of the same masks, no real ones",
    "real-synthetic": "real images and those synthetic ones",
    "real-targeted": "real images and synthetic ones of the worst validation masks",
    "real-untargeted": "real images and as many synthetic ones of other validation masks",
    "real-cartoons": "real images and as many cartoons of the worst validation masks",
    "cartoons": "cartoons of the training masks, no real images",
    "real-worst": "real images and the real ones of the worst validation cases",
}
CONTROLS = {"synthetic": "cartoons", "real-targeted": "real-cartoons"}
FIRST_SEED = {"train": 10_000, "worst": 20_000, "others": 30_000}  # of synthetic volumes


@dataclass(frozen=True)
class Settings:
    """Numbers of the experiment.

    Args:
        seeds: networks per arm; seed n is 1 + n.
        worst: validation cases that synthetic volumes are aimed at.
        per_case: synthetic volumes of each of them.
        seed: of the draw of other cases, and of the cartoons' noise.
    """

    seeds: int = 5
    worst: int = 5
    per_case: int = 4
    seed: int = 2026


def run_augmentation(
    data: Data, package: ModelPackage, store: Store, settings: Settings, sampling: Sampling
) -> dict[str, Any]:
    """Carries the experiment out, or on.

    Returns:
        {"networks": scores of all, "worst": names of the aimed-at cases, "leak": numbers of patients, "examples":
        (name, examples by kind) of pictures}.

    Raises:
        BadInput: the generator knows patients that the arms do not have.
        Unfinished: the time of this call is over.
    """
    leak = check_subset(package, data.patients("train") + data.patients("validation"), data.case_patients)
    tests = {"test": data.real(data.parts["test"]), "validation": data.real(data.parts["validation"])}
    real = data.real(data.parts["train"])
    seeds = [1 + n for n in range(settings.seeds)]
    networks = [store.network(REAL, 1, seed, [real], tests) for seed in seeds]

    worst, others = choose_cases(networks, settings)

    def made(part: str, wanted: list[tuple[str, int]], name: str) -> list[Pair]:
        folder = store.out / "synthetic" / name
        return make_for_masks(package, data, wanted, part, folder, sampling, store.on_event, store.check_time)

    def several(names: list[str], first: int) -> list[tuple[str, int]]:
        return [
            (name, first + n * settings.per_case + k) for n, name in enumerate(names) for k in range(settings.per_case)
        ]

    of_train = made("train", [(c.name, FIRST_SEED["train"] + n) for n, c in enumerate(data.parts["train"])], "train")
    of_worst = made("validation", several(worst, FIRST_SEED["worst"]), "worst")
    of_others = made("validation", several(others, FIRST_SEED["others"]), "others")
    by_name = {c.name: c for c in data.parts["validation"]}
    painted = [
        pair
        for k in range(settings.per_case)
        for pair in cartoons(data, [by_name[n] for n in worst], data.parts["train"], settings.seed + k)
    ]
    groups = {
        "synthetic": [of_train],
        "real-synthetic": [real, of_train],
        "real-targeted": [real, of_worst],
        "real-untargeted": [real, of_others],
        "real-cartoons": [real, painted],
        "cartoons": [cartoons(data, data.parts["train"], data.parts["train"], settings.seed)],
        "real-worst": [real, data.real([by_name[n] for n in worst])],
    }
    for seed in seeds:
        for arm, examples in groups.items():
            networks.append(store.network(arm, 1, seed, examples, tests))
    shown = dict(
        zip(("real images", "synthetic, same masks", "cartoons, same masks"), (real, of_train, groups["cartoons"][0]))
    )
    aimed = {
        "worst validation cases": data.real([by_name[n] for n in worst]),
        "synthetic, same masks": of_worst[:: settings.per_case],
    }
    examples = [("training", shown), ("worst", aimed)]
    return {"networks": networks, "worst": worst, "others": others, "leak": leak, "examples": examples}


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
