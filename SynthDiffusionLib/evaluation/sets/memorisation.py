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
from SynthDiffusionLib.evaluation.sets import copies
from SynthDiffusionLib.evaluation.sets.embedding import (
    EmbeddingSettings,
    central,
    common_box,
    cosine_distances,
    prepared,
    train_embedding,
)
from SynthDiffusionLib.evaluation.sets.flags import flag_figures
from SynthDiffusionLib.evaluation.sets.image_set import ImageSet, check_apart, check_comparable
from SynthDiffusionLib.evaluation.sets.leaks import MILD, Doubles, leak_limit, leaks_of, without
from SynthDiffusionLib.evaluation.sets.membership import candidates, membership
from SynthDiffusionLib.evaluation.sets.odd_sizes import box_sentences
from SynthDiffusionLib.evaluation.sets.registered import (
    DistanceCache,
    VoxelSpace,
    by_content,
    gallery_of,
    keys_of,
    voxel_distances,
    voxel_space,
)
from SynthDiffusionLib.evaluation.sets.thresholds import (
    LEVEL,
    Threshold,
    fewest,
    threshold_of,
)

SPACES = ("embedding", "voxels")
OWN_MASK = ("keep", "leave-out")
REFERENCES = ("validation", "held-out")
MOST_PLANTED = 20
FAR_BELOW = 0.5  # of the limit
LABELS = {
    "validation": "validation, real",
    "fresh real": "fresh real",
    "training": "training cases, to the other patients",
}


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


def check_sets(
    training: ImageSet,
    validation: ImageSet,
    synthetic: ImageSet,
    fresh: ImageSet | None,
    on_event: Event = lambda event: None,
) -> None:
    """Refuses sets that do not belong together.

    Args:
        on_event: see `check_apart`.

    Raises:
        BadInput: other spacings; a patient or a file in two of the real sets; a synthetic file that is a validation or
            fresh real one.
    """
    real = [s for s in (training, validation, fresh) if s is not None]
    check_comparable(*real, synthetic)
    for number, one in enumerate(real):
        for other in real[number + 1 :]:
            check_apart(one, other, on_event)
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
    check_sets(training, validation, synthetic, fresh, on_event)
    sets = [s for s in (training, validation, synthetic, fresh) if s is not None]
    box = common_box([c.image.shape for s in sets for c in s.cases])
    box_told = box_sentences(sets, box)
    for sentence in box_told:
        on_event({"event": "warning", "message": sentence})
    limits = training.frame.intensity_range
    space = voxel_space(box, limits)
    key = keys_of([c.sha256 for c in training.cases]) + f"{training.frame.to_json()}{box}"
    trained = {f"{c.sha256}-{n}": central(c.image, box) for n, c in enumerate(training.cases)}
    gallery, equals = gallery_of(trained, space), by_content(trained)
    store = DistanceCache(cache, [key, space.to_json()])

    def in_voxels(group: Group) -> np.ndarray:
        return voxel_distances(group.images, gallery, space, store, f"voxel space: {group.label}", on_event, equals)

    doubles = _doubles(training, validation, fresh, synthetic, box, limits, settings, in_voxels)
    validation = without(validation, doubles.real)
    fresh = fresh if fresh is None else without(fresh, doubles.real)
    groups = _groups(training, validation, synthetic, fresh, box, limits, settings)

    def points(group: Group) -> np.ndarray:
        volumes = prepared(list(group.images.values()), box, limits, settings.embedding.longest)
        return network.points(volumes, searched=False, stage=f"embedding: {group.label}", on_event=on_event)

    volumes = prepared(list(trained.values()), box, limits, settings.embedding.longest)
    network = train_embedding(volumes, key, settings.embedding, cache, on_event=on_event)
    of_training = network.points(volumes, searched=True)
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
                found[group.name] = in_voxels(group)
        apart = next(g.hidden for g in groups if g.name == "training")
        others = np.where(apart, np.inf, found["training"]) if space_name == "voxels" else None
        threshold = _threshold(groups, found, others, {x.patient for x in doubles.real}, settings)
        thresholds[space_name] = threshold
        for group in groups:
            shown = found[group.name] if group.hidden is None else np.where(group.hidden, np.inf, found[group.name])
            copy_limit = doubles.limit if space_name == "voxels" else None
            rows.append(_row(group, shown, threshold, space_name, copy_limit))
            if group.kind in ("synthetic", "real", "reference"):
                per_volume += _volumes(group, shown, space_name, names, threshold)
    return {
        "rows": rows,
        "thresholds": {k: t.to_json() for k, t in thresholds.items()},
        **doubles.to_json(),
        "box_told": box_told,
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


def _doubles(
    training: ImageSet,
    validation: ImageSet,
    fresh: ImageSet | None,
    synthetic: ImageSet,
    box: tuple[int, int, int],
    limits: tuple[float, float],
    settings: Settings,
    search: Callable[[Group], np.ndarray],
) -> Doubles:
    """Held-out cases that are in the training set too, training cases that are in it twice, and probable copies."""
    own = _of_set("training", LABELS["training"], "real", training, box)
    between = np.where(_own(training, training), np.inf, search(own))
    planted = [search(g).min(1) for g in _planted(training, box, limits, settings) if g.name in MILD]
    healthy = _first_of_patients(between.min(1), training.patients)
    healthy = [v for v in healthy if np.isfinite(v)]
    if not healthy:
        return Doubles()
    limit, median = leak_limit(healthy, np.concatenate(planted)), float(np.median(healthy))
    held_out = [s for s in (validation, fresh) if s is not None]
    of_set = [
        leaks_of(s, search(_of_set(s.role, LABELS.get(s.role, s.role), "real", s, box)), training, limit, median)
        for s in (*held_out, synthetic)
    ]
    real = (*of_set[:-1], leaks_of(training, between, training, limit, median))
    return Doubles(limit, sum(real, ()), of_set[-1], sum(len(s.cases) for s in held_out))


def _own(cases: ImageSet, training: ImageSet) -> np.ndarray:
    """(N, T) bool: whether a case is of the training case's patient."""
    return np.array(cases.patients)[:, None] == np.array(training.patients)[None]


def _of_set(
    name: str, label: str, kind: str, cases: ImageSet, box: tuple[int, int, int], hidden: np.ndarray | None = None
) -> Group:
    images = {c.sha256: central(c.image, box) for c in cases.cases}
    if len(images) < len(cases.cases):  # equal files are volumes of their own
        images = {f"{c.sha256}-{n}": central(c.image, box) for n, c in enumerate(cases.cases)}
    return Group(name, label, kind, images, cases.patients, hidden)


def _planted(
    training: ImageSet, box: tuple[int, int, int], limits: tuple[float, float], settings: Settings
) -> list[Group]:
    """Copies of training cases, of each kind."""
    chosen = training.cases[:MOST_PLANTED]
    originals = [central(c.image, box) for c in chosen]
    groups = []
    for kind, control in copies.CONTROLS.items():
        made = copies.planted(originals, kind, limits, settings.seed)
        keys = [f"{c.sha256}-{kind}-{settings.seed}-{n}-{copies.VERSION}" for n, c in enumerate(chosen)]
        of = [c.patient for c in chosen]
        images, sources = dict(zip(keys, made)), list(range(len(chosen)))
        groups.append(Group(kind, f"planted: {control.label}", "control", images, of, None, sources))
    return groups


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
    groups = [_of_set("validation", LABELS["validation"], "reference", validation, box)]
    if fresh is not None:
        kind = "reference" if settings.reference == "held-out" else "real"
        groups.append(_of_set("fresh", LABELS["fresh real"], kind, fresh, box))
    apart = _own(training, training)
    groups.append(_of_set("training", LABELS["training"], "real", training, box, apart))
    own = _own(synthetic, training)
    everything = _of_set("synthetic", "synthetic", "synthetic", synthetic, box)
    groups.append(everything)
    if own.any() and not own.all(1).any():
        label = "synthetic, without the patient of its mask"
        groups.append(replace(everything, name="synthetic_other", label=label, hidden=own))
    groups += _planted(training, box, limits, settings)
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
    groups: Sequence[Group],
    found: Mapping[str, np.ndarray],
    others: np.ndarray | None,
    doubles: set[str],
    settings: Settings,
) -> Threshold:
    """From one volume of each patient of the reference.

    Args:
        others: (T, T) distances of training cases to those of other patients, of a search that was not trained on them.
        doubles: training patients that are another one too, see `leaks`.
    """
    reference = [
        v for g in groups if g.kind == "reference" for v in _first_of_patients(found[g.name].min(1), g.patients)
    ]
    patients = next(g.patients for g in groups if g.name == "training")
    of_training: list[float] = []
    if others is not None:
        once = [n for n, p in enumerate(patients) if p not in doubles]
        of_training = _first_of_patients(others.min(1)[once], [patients[n] for n in once])
    return threshold_of(reference, of_training, settings.level)


def _row(group: Group, found: np.ndarray, threshold: Threshold, space: str, copy_limit: float | None) -> dict[str, Any]:
    values = found.min(1)
    flagged = values < threshold.value
    tested = group.kind in ("real", "synthetic") and group.name != "training"
    row: dict[str, Any] = {
        "row": group.name,
        "label": group.label,
        "kind": group.kind,
        "space": space,
        "volumes": len(values),
        "patients": len(set(group.patients)),
        "smallest": float(values.min()),
        "median": float(np.median(values)),
        "flagged": int(flagged.sum()),
        "far_below": int((values < FAR_BELOW * threshold.value).sum()),
        "copies": None if copy_limit is None else int((values < copy_limit).sum()),
        **flag_figures(flagged, group.patients, threshold, tested),
        "right": None,
        "needed": group.kind == "control" and copies.CONTROLS[group.name].needed,
        "values": [float(v) for v in values],
    }
    if group.kind == "control":
        row["right"] = int((found.argmin(1) == np.array(group.source)).sum())
    if group.name in ("mean", "training") or group.kind == "reference":
        row["low"] = row["high"] = None
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
    shown = [
        network.points(volumes(s), searched=False, stage=f"membership, embedding: {s.role}", on_event=on_event)
        for s in (training, fresh)
    ]

    def distances_to(searched: ImageSet) -> dict[str, list[np.ndarray]]:
        """(T, S) of training and (F, S) of fresh cases to the volumes of a set, in both spaces."""
        points = network.points(volumes(searched), searched=True)
        images = {f"{c.sha256}-{n}": central(c.image, box) for n, c in enumerate(searched.cases)}
        gallery = gallery_of(images, space)
        store = DistanceCache(cache, [list(images), space.to_json(), str(training.frame.to_json())])
        looked_for = [_of_set(s.role, s.role, "", s, box).images for s in (training, fresh)]
        stages = [f"membership, voxel space: {s.role} to {searched.role}" for s in (training, fresh)]
        return {
            "embedding": [cosine_distances(one, points) for one in shown],
            "voxels": [
                voxel_distances(one, gallery, space, store, stage, on_event) for one, stage in zip(looked_for, stages)
            ],
        }

    to_synthetic, to_real = distances_to(synthetic), distances_to(validation)
    rows = []
    shared = bool(set(synthetic.patients) & {*training.patients, *fresh.patients})
    for space_name in SPACES:
        for leave_out in (True, False) if shared else (False,):
            allowed = candidates(training.patients, fresh.patients, synthetic.patients, leave_out, settings.seed)
            both = training.patients, fresh.patients
            found = membership(*to_synthetic[space_name], allowed, *both, tests=len(SPACES))
            everything = candidates(*both, validation.patients, False, settings.seed)
            real = membership(*to_real[space_name], everything, *both)
            if found is not None:
                floor = {"floor": real["auc"], "floor_low": real["low"], "floor_high": real["high"]}
                own_mask = "left out" if leave_out else "kept"
                rows.append({"space": space_name, "own_mask": own_mask, **found, **floor})
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
