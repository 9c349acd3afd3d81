"""Is a synthetic volume nearer to a training case than real volumes of other patients are?

Two searches, each with a limit that real volumes set (`thresholds`): a self-supervised embedding of the training set
(`embedding`), and registered voxel space (`registered`). Beside the synthetic volumes stand fresh real ones, which
nobody copied; copies that were planted (`copies`), which must be found; and stand-ins without detail, which must not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.memorisation import rank_test
from SynthDiffusionLib.evaluation.sets import copies
from SynthDiffusionLib.evaluation.sets.embedding import (
    EmbeddingSettings,
    central,
    common_box,
    cosine_distances,
    prepared,
    train_embedding,
)
from SynthDiffusionLib.evaluation.sets.image_set import ImageSet, check_apart, check_comparable
from SynthDiffusionLib.evaluation.sets.membership import candidates, membership
from SynthDiffusionLib.evaluation.sets.registered import (
    DistanceCache,
    VoxelSpace,
    gallery_of,
    keys_of,
    voxel_distances,
    voxel_space,
)
from SynthDiffusionLib.evaluation.sets.thresholds import (
    LEVEL,
    Threshold,
    clopper_pearson,
    fewest,
    threshold_of,
)

SPACES = ("embedding", "voxels")
OWN_MASK = ("keep", "leave-out")
REFERENCES = ("validation", "held-out")
MOST_PLANTED = 20
FAR_BELOW = 0.5  # of the limit


Event = Callable[[dict], None]


@dataclass(frozen=True)
class Settings:
    """What the figures depend on.

    Args:
        own_mask: "keep": synthetic volumes are compared with all training cases; "leave-out": without those of the
            patient whose mask they were made for. The sentences are about this one; both are in the tables.
        reference: what sets the limit: "validation", or "held-out": validation and fresh real cases together, which
            leaves no fresh ones to check the rate with. In voxel space, training cases join, each without its patient.
        level: nominal flag rate.
        pairs: closest pairs that are listed.
        embedding: how it is trained.
        seed: of planted copies and stand-ins.
    """

    own_mask: str = "keep"
    reference: str = "validation"
    level: float = LEVEL
    pairs: int = 8
    embedding: EmbeddingSettings = field(default_factory=EmbeddingSettings)
    seed: int = 2026


@dataclass(frozen=True)
class Group:
    """Volumes of one row.

    Args:
        name, label: of the row.
        kind: "reference", "real", "synthetic", "control" or "no skill".
        images: by their keys, cut to the common box.
        patients: of each.
        hidden: (N, T) bool, training cases that a volume is not compared with; None: none.
        source: of a planted copy, the place of its training case.
    """

    name: str
    label: str
    kind: str
    images: Mapping[str, np.ndarray]
    patients: Sequence[str]
    hidden: np.ndarray | None = None
    source: Sequence[int] | None = None


def check_sets(training: ImageSet, validation: ImageSet, synthetic: ImageSet, fresh: ImageSet | None) -> None:
    """Refuses sets that do not belong together.

    Raises:
        BadInput: other spacings; a patient or a file in two of the real sets; a synthetic file that is a validation or
            fresh real one.
    """
    real = [s for s in (training, validation, fresh) if s is not None]
    check_comparable(*real, synthetic)
    for number, one in enumerate(real):
        for other in real[number + 1 :]:
            check_apart(one, other)
    for one in real[1:]:
        files = {c.sha256: c.file.name for c in one.cases}
        same = next((c for c in synthetic.cases if c.sha256 in files), None)
        if same is not None:
            raise BadInput(
                f"'{same.file.name}' of the synthetic set is the file '{files[same.sha256]}' of the {one.role} set",
                "Give real cases that are not among the synthetic volumes.",
            )


def measure_copies(
    training: ImageSet,
    validation: ImageSet,
    synthetic: ImageSet,
    fresh: ImageSet | None,
    cache: Path,
    settings: Settings = Settings(),
    on_event: Event = lambda event: None,
) -> dict[str, Any]:
    """All figures, as plain numbers; `memorisation_report` makes sentences and tables of them.

    Args:
        cache: folder for checkpoints and distances; an interrupted run goes on from there.

    Raises:
        BadInput: settings that make no sense, or sets that do not belong together.
    """
    if settings.own_mask not in OWN_MASK or settings.reference not in REFERENCES:
        raise BadInput(
            f"'{settings.own_mask}' or '{settings.reference}' is none of the choices",
            f"Choose from {', '.join(OWN_MASK)}, and from {', '.join(REFERENCES)}.",
        )
    if settings.reference == "held-out" and fresh is None:
        raise BadInput("There are no fresh real cases to take into the reference", "Give --real.")
    check_sets(training, validation, synthetic, fresh)
    sets = [s for s in (training, validation, synthetic, fresh) if s is not None]
    box = common_box([c.image.shape for s in sets for c in s.cases])
    limits = training.frame.intensity_range
    space = voxel_space(box, limits)
    key = keys_of([c.sha256 for c in training.cases]) + f"{training.frame.to_json()}{box}"
    groups = _groups(training, validation, synthetic, fresh, box, limits, settings)
    trained = {f"{c.sha256}-{n}": central(c.image, box) for n, c in enumerate(training.cases)}

    def points(group: Group) -> np.ndarray:
        volumes = prepared(list(group.images.values()), box, limits, settings.embedding.longest)
        return network.points(volumes, searched=False, stage=f"embedding: {group.label}", on_event=on_event)

    volumes = prepared(list(trained.values()), box, limits, settings.embedding.longest)
    network = train_embedding(volumes, key, settings.embedding, cache, on_event=on_event)
    of_training = network.points(volumes, searched=True)
    gallery, store = gallery_of(trained, space), DistanceCache(cache, [key, space.to_json()])
    rows: list[dict[str, Any]] = []
    thresholds: dict[str, Threshold] = {}
    per_volume: list[dict[str, Any]] = []
    names = [c.name for c in training.cases]
    for space_name in SPACES:
        found: dict[str, np.ndarray] = {}
        for group in groups:
            if space_name == "embedding":
                found[group.name] = cosine_distances(points(group), of_training)
            else:
                stage = f"voxel space: {group.label}"
                found[group.name] = voxel_distances(group.images, gallery, space, store, stage, on_event)
        apart = next(g.hidden for g in groups if g.name == "training")
        others = np.where(apart, np.inf, found["training"]) if space_name == "voxels" else None
        threshold = _threshold(groups, found, others, settings)
        thresholds[space_name] = threshold
        for group in groups:
            shown = found[group.name] if group.hidden is None else np.where(group.hidden, np.inf, found[group.name])
            rows.append(_row(group, shown, threshold, space_name))
            if group.kind in ("synthetic", "real", "reference"):
                per_volume += _volumes(group, shown, space_name, names, threshold)
    return {
        "rows": rows,
        "thresholds": {k: t.to_json() for k, t in thresholds.items()},
        "fewest": fewest(settings.level),
        "fewest_paired": fewest(settings.level / 2),
        "pairs": _pairs(per_volume, thresholds, settings),
        "membership": _membership(training, validation, synthetic, fresh, box, space, settings, cache, on_event),
        "masks": _mask_sources(training, validation, synthetic, fresh),
        "same_files": sorted(c.file.name for c in synthetic.cases if c.sha256 in {t.sha256 for t in training.cases}),
        "per_volume": per_volume,
        "space": space.to_json() | {"core_mm": [round(space.core_voxels * s, 1) for s in training.cases[0].spacing]},
        "embedding": settings.embedding.to_json() | {"shape": list(volumes.shape[1:])},
        "own_mask": settings.own_mask,
        "reference": settings.reference,
    }


def _groups(
    training: ImageSet,
    validation: ImageSet,
    synthetic: ImageSet,
    fresh: ImageSet | None,
    box: tuple[int, int, int],
    limits: tuple[float, float],
    settings: Settings,
) -> list[Group]:
    """All rows, those that set the limit first."""

    def of(name: str, label: str, kind: str, cases: ImageSet, hidden: np.ndarray | None = None) -> Group:
        images = {c.sha256: central(c.image, box) for c in cases.cases}
        if len(images) < len(cases.cases):  # equal files are volumes of their own
            images = {f"{c.sha256}-{n}": central(c.image, box) for n, c in enumerate(cases.cases)}
        return Group(name, label, kind, images, cases.patients, hidden)

    owners = np.array(training.patients)
    groups = [of("validation", "validation, real", "reference", validation)]
    if fresh is not None:
        kind = "reference" if settings.reference == "held-out" else "real"
        groups.append(of("fresh", "fresh real", kind, fresh))
    apart = owners[:, None] == owners[None]
    groups.append(of("training", "training cases, to the other patients", "real", training, apart))
    own = np.array(synthetic.patients)[:, None] == owners[None]
    everything = of("synthetic", "synthetic", "synthetic", synthetic)
    groups.append(everything)
    if own.any() and not own.all(1).any():
        label = "synthetic, without the patient of its mask"
        groups.append(replace(everything, name="synthetic_other", label=label, hidden=own))
    chosen = training.cases[:MOST_PLANTED]
    originals = [central(c.image, box) for c in chosen]
    for kind, control in copies.CONTROLS.items():
        made = copies.planted(originals, kind, limits, settings.seed)
        keys = [f"{c.sha256}-{kind}-{settings.seed}-{n}-{copies.VERSION}" for n, c in enumerate(chosen)]
        label = f"planted: {control.label}"
        of_patients = [c.patient for c in chosen]
        groups.append(Group(kind, label, "control", dict(zip(keys, made)), of_patients, None, list(range(len(chosen)))))
    unseen = fresh if fresh is not None else validation
    images = [central(c.image, box) for c in unseen.cases]
    whole = [central(c.image, box) for c in training.cases]
    name = "fresh real" if fresh is not None else "validation"
    stand_ins = {
        "mean": ("means of random halves of the training images", copies.mean_images(whole, settings.seed), None),
        "smoothed": (f"{name} images without detail", copies.smoothed(images), unseen),
        "cartoon": (f"{name} images as flat classes", copies.cartoons(images, whole, settings.seed), unseen),
    }
    mark = keys_of([c.sha256 for c in training.cases])[:12]
    for kind, (label, made, owners_of) in stand_ins.items():
        parts = [c.sha256 for c in owners_of.cases] if owners_of else ["mean"] * len(made)
        keys = [f"{part}-{kind}-{settings.seed}-{mark}-{n}-{copies.VERSION}" for n, part in enumerate(parts)]
        patients = owners_of.patients if owners_of else [kind] * len(made)
        groups.append(Group(kind, f"no skill: {label}", "no skill", dict(zip(keys, made)), patients))
    return groups


def _first_of_patients(values: Sequence[float], patients: Sequence[str]) -> list[float]:
    first: dict[str, float] = {}
    for value, patient in zip(values, patients):
        first.setdefault(patient, float(value))
    return list(first.values())


def _threshold(
    groups: Sequence[Group], found: Mapping[str, np.ndarray], others: np.ndarray | None, settings: Settings
) -> Threshold:
    """From one volume of each patient of the reference.

    Args:
        others: (T, T) distances of training cases to those of other patients, of a search that was not trained on them.
    """
    reference = [
        v for g in groups if g.kind == "reference" for v in _first_of_patients(found[g.name].min(1), g.patients)
    ]
    patients = next(g.patients for g in groups if g.name == "training")
    of_training = [] if others is None else _first_of_patients(others.min(1), patients)
    return threshold_of(reference, of_training, settings.level)


def _row(group: Group, found: np.ndarray, threshold: Threshold, space: str) -> dict[str, Any]:
    values = found.min(1)
    flagged = values < threshold.value
    of_patients = np.array(_first_of_patients(values, group.patients))
    hits = int((of_patients < threshold.value).sum())
    row: dict[str, Any] = {
        "row": group.name,
        "label": group.label,
        "kind": group.kind,
        "space": space,
        "volumes": len(values),
        "patients": len(of_patients),
        "smallest": float(values.min()),
        "median": float(np.median(values)),
        "flagged": int(flagged.sum()),
        "rate": hits / len(of_patients),
        "far_below": int((values < FAR_BELOW * threshold.value).sum()),
        "low": None,
        "high": None,
        "expected": None,
        "p": None,
        "right": None,
        "needed": group.kind == "control" and copies.CONTROLS[group.name].needed,
        "values": [float(v) for v in values],
    }
    if group.kind == "control":
        row["right"] = int((found.argmin(1) == np.array(group.source)).sum())
    if group.name == "mean":
        row["rate"] = float(flagged.mean())
    elif group.kind in ("real", "synthetic") and group.name != "training":
        row["low"], row["high"] = clopper_pearson(hits, len(of_patients))
        row["expected"] = threshold.expected
        row["p"] = rank_test(hits, len(of_patients), threshold.safe_rank, threshold.patients)
    elif group.kind in ("control", "no skill"):
        row["low"], row["high"] = clopper_pearson(hits, len(of_patients))
    return row


def _volumes(
    group: Group, found: np.ndarray, space: str, names: Sequence[str], threshold: Threshold
) -> list[dict[str, Any]]:
    nearest = found.argmin(1)
    return [
        {
            "row": group.name,
            "space": space,
            "number": n,
            "patient": patient,
            "distance": float(found[n, nearest[n]]),
            "nearest": names[nearest[n]],
            "nearest_number": int(nearest[n]),
            "flagged": bool(found[n, nearest[n]] < threshold.value),
        }
        for n, patient in enumerate(group.patients)
    ]


def _pairs(
    per_volume: Sequence[Mapping[str, Any]], thresholds: Mapping[str, Threshold], settings: Settings
) -> list[dict[str, Any]]:
    """The closest pairs of both spaces, nearest first in relation to the limit, alternating; each pair once."""
    row = "synthetic"
    if settings.own_mask == "leave-out" and any(v["row"] == "synthetic_other" for v in per_volume):
        row = "synthetic_other"
    lists = []
    for space in SPACES:
        of_space = [v for v in per_volume if v["row"] == row and v["space"] == space]
        scale = max(thresholds[space].value, 1e-12)
        ordered = sorted(of_space, key=lambda v: v["distance"])
        lists.append([dict(v, ratio=v["distance"] / scale) for v in ordered])
    pairs: dict[tuple[int, int], dict[str, Any]] = {}
    for both in zip(*lists):
        for v in both:
            pairs.setdefault((v["number"], v["nearest_number"]), v)
    return list(pairs.values())[: settings.pairs]


def _membership(
    training: ImageSet,
    validation: ImageSet,
    synthetic: ImageSet,
    fresh: ImageSet | None,
    box: tuple[int, int, int],
    space: VoxelSpace,
    settings: Settings,
    cache: Path,
    on_event: Event,
) -> list[dict[str, Any]]:
    """Rows of the membership test; none without fresh real cases."""
    if fresh is None:
        return []
    limits, longest = training.frame.intensity_range, settings.embedding.longest

    def volumes(*sets: ImageSet) -> np.ndarray:
        return prepared([central(c.image, box) for s in sets for c in s.cases], box, limits, longest)

    made_of = [c.sha256 for s in (synthetic, validation) for c in s.cases]
    key = keys_of(made_of) + f"{training.frame.to_json()}{box}"
    name = "embedding of the membership test"
    network = train_embedding(
        volumes(synthetic, validation), key, settings.embedding, cache, name=name, on_event=on_event
    )
    points = network.points(volumes(synthetic), searched=True)
    shown = {
        s.role: network.points(volumes(s), searched=False, stage=f"membership, embedding: {s.role}", on_event=on_event)
        for s in (training, fresh)
    }
    to_synthetic = {"embedding": [cosine_distances(shown[s.role], points) for s in (training, fresh)]}
    images = {f"{c.sha256}-{n}": central(c.image, box) for n, c in enumerate(synthetic.cases)}
    gallery = gallery_of(images, space)
    store = DistanceCache(cache, [list(images), space.to_json(), str(training.frame.to_json())])
    to_synthetic["voxels"] = [
        voxel_distances(
            {c.sha256: central(c.image, box) for c in s.cases},
            gallery,
            space,
            store,
            f"membership, voxel space: {s.role}",
            on_event,
        )
        for s in (training, fresh)
    ]
    rows = []
    shared = bool(set(synthetic.patients) & {*training.patients, *fresh.patients})
    for space_name in SPACES:
        for leave_out in (True, False) if shared else (False,):
            allowed = candidates(training.patients, fresh.patients, synthetic.patients, leave_out, settings.seed)
            found = membership(*to_synthetic[space_name], allowed, training.patients, fresh.patients)
            if found is not None:
                rows.append({"space": space_name, "own_mask": "left out" if leave_out else "kept", **found})
    return rows


def _mask_sources(
    training: ImageSet, validation: ImageSet, synthetic: ImageSet, fresh: ImageSet | None
) -> dict[str, int]:
    """How many synthetic volumes are of masks of which set, by the patient's name."""
    sources = {"training": training, "validation": validation, "fresh": fresh}
    counts = {
        name: sum(p in set(one.patients) for p in synthetic.patients)
        for name, one in sources.items()
        if one is not None
    }
    return counts | {"others": len(synthetic.cases) - sum(counts.values())}
