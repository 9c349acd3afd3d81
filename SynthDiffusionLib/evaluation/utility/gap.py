"""A network trained on real images, tested on synthetic ones of the test masks: how far off are they for it?

After Med-LSDM (arXiv:2507.00206), whose README gives a Dice of 0.602 on synthetic images and whose abstract 0.710,
beside 0.715 on real ones. That a network finds what was drawn says that it is there, not that the image is realistic:
cartoons of the same masks, and real images of other patients under them, are measured too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.evaluation import noskill
from SynthDiffusionLib.evaluation.rows import Item
from SynthDiffusionLib.evaluation.utility.generators import check_subset
from SynthDiffusionLib.evaluation.utility.pairs import Data, Pair, cartoons
from SynthDiffusionLib.evaluation.utility.store import Store
from SynthDiffusionLib.evaluation.utility.synthesis import Sampling, make_for_masks
from SynthDiffusionLib.intensity import normalise

if TYPE_CHECKING:
    from SynthDiffusionLib.models import ModelPackage

REAL = "real"
SETS = {
    REAL: "real test images",
    "synthetic": "synthetic images of the same masks",
    "cartoons": "cartoons of the same masks",
    "unrelated": "real images of other patients, same masks",
}
FIRST_SEED = 50_000


@dataclass(frozen=True)
class Settings:
    """Numbers of the experiment.

    Args:
        seeds: networks.
        seed: of the cartoons' noise and of the draw of other patients.
    """

    seeds: int = 5
    seed: int = 2026


def run_gap(data: Data, package: ModelPackage, store: Store, settings: Settings, sampling: Sampling) -> dict[str, Any]:
    """Carries the experiment out, or on.

    Returns:
        {"networks": scores of all on the four sets, "leak": numbers of patients, "examples": (name, examples by kind)
        of pictures}.
    """
    leak = check_subset(package, data.patients("train"), data.patients("validation"), data.case_patients)
    test = data.parts["test"]
    made = make_for_masks(
        package,
        data,
        [(c.name, FIRST_SEED + n) for n, c in enumerate(test)],
        "test",
        store.out / "synthetic" / "test",
        sampling,
        store.on_event,
        store.check_time,
    )
    items = [Item(c.name, c.patient, c.image.array, c.classes.array, c.image.affine) for c in test]
    others = noskill.unrelated_real(items, data.parts["validation"], data.intensity_range, settings.seed).items
    sets = {
        REAL: data.real(test),
        "synthetic": [Pair(c.name, c.patient, p.image, p.target) for c, p in zip(test, made)],
        "cartoons": [
            Pair(c.name, c.patient, p.image, p.target)
            for c, p in zip(test, cartoons(data, test, data.parts["train"], settings.seed))
        ],
        "unrelated": [
            Pair(i.case, i.patient, normalise(i.hu, data.intensity_range), data.target_of(i.classes)) for i in others
        ],
    }
    real = data.real(data.parts["train"])
    networks = [store.network(REAL, 1, seed, [real], sets) for seed in range(1, settings.seeds + 1)]
    shown = {SETS[name]: pairs for name, pairs in sets.items()}
    return {"networks": networks, "leak": leak, "examples": [("test", shown)]}
