"""Fidelity of two folders: how far are synthetic volumes from real ones, beside real ones and beside no-skill sets.

`measure_fidelity_sets` measures, `fidelity_sections` writes down. Every row is set against the same real set in the
same features: the synthetic set, a second real set (`--reference`) where there is one, and the no-skill sets of
`no_skill_sets`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.sets import comparison, exchange, extraction, similarity
from SynthDiffusionLib.evaluation.sets.extraction import Extractor, SetFeatures, Source
from SynthDiffusionLib.evaluation.sets.image_set import ImageSet, SetCase, check_apart, check_comparable, same_images
from SynthDiffusionLib.evaluation.sets.no_skill_sets import LABELS, cartoon_cases, cartoons, smallest_shape
from SynthDiffusionLib.reports.sections import counted

PAIRS = 100
SYNTHETIC, REFERENCE = "synthetic", "reference"
Event = Callable[[dict], None]


@dataclass(frozen=True)
class Options:
    """What is measured besides the defaults.

    Args:
        seed: of everything that is drawn.
        medicalnet: file of a MedicalNet network, or None.
        resnet2d: file of a 2D ResNet-50, in place of radiomics of slices, or None.
        pairs: of volumes per set for MS-SSIM; 0 leaves it out.
        auc_steps: training steps of the real-or-synthetic networks; 0 leaves them out.
        auc_repeats: trainings to average.
    """

    seed: int = 2026
    medicalnet: Path | None = None
    resnet2d: Path | None = None
    pairs: int = PAIRS
    auc_steps: int = 0
    auc_repeats: int = 1


@dataclass(frozen=True)
class Fidelity:
    """What was found, by row: "synthetic", "reference", and the no-skill sets in order.

    Args:
        labels: of the rows, as printed.
        volumes: kind of features ("radiomics", "medicalnet") to row to `comparison.compare`'s part "volume".
        planes: row to `comparison.compare` of slices.
        clouds: kind of features to row to `comparison.compare_clouds`.
        auc: row to `comparison.compare_by_classifier`; networks: recipe to row to an estimate.
        shifts: of the synthetic set's radiomics.
        similarity: row (and "real") to {"value", "low", "high", "pairs"}; None where volumes are too small.
        titles: kind of features to its title.
        settings: what the figures depend on.
        real, synthetic: the sets.
        copies: names of synthetic volumes that are real ones (of the real set or the reference) voxel by voxel in the
            frame, and of those.
        examples: of the no-skill sets, of one real volume.
    """

    labels: dict[str, str]
    volumes: dict[str, dict[str, dict[str, Any]]]
    planes: dict[str, dict[str, dict[str, Any]]]
    clouds: dict[str, dict[str, dict[str, Any]]]
    auc: dict[str, dict[str, Any]]
    networks: dict[str, dict[str, dict[str, Any]]]
    shifts: list[dict[str, Any]]
    similarity: dict[str, dict[str, Any]] | None
    titles: dict[str, str]
    settings: dict[str, Any]
    real: ImageSet
    synthetic: ImageSet
    copies: Sequence[tuple[str, str]]
    examples: dict[str, np.ndarray]


def measure_fidelity_sets(
    real: ImageSet,
    synthetic: ImageSet,
    reference: ImageSet | None,
    cache: Path,
    options: Options = Options(),
    on_event: Event = lambda event: None,
) -> Fidelity:
    """Measures a synthetic set against a real one.

    Args:
        real, synthetic: of one frame; they may share patients (a synthetic volume belongs to the patient whose mask it
            was made for).
        reference: further real volumes of other patients than `real`'s, or None.
        cache: folder for features, which are kept per file.

    Raises:
        BadInput: different spacings; too few patients; a reference that shares patients or files with the real set; a
            network's file that is none.
    """
    check_comparable(*[s for s in (real, synthetic, reference) if s is not None])
    if reference is not None:
        check_apart(real, reference, on_event)
    _check_patients(real, synthetic)
    limits = real.frame.intensity_range
    kinds = [extraction.volume_radiomics(limits)]
    if options.medicalnet is not None:
        kinds.append(extraction.network_extractor(options.medicalnet, limits))
    slices = (
        extraction.slice_radiomics(limits)
        if options.resnet2d is None
        else extraction.slice_network_extractor(options.resnet2d, limits)
    )
    sets = {SYNTHETIC: synthetic} | ({REFERENCE: reference} if reference is not None else {})
    sources = {name: sources_of(s) for name, s in sets.items()}
    of_real = sources_of(real)

    features = extraction.extract("real", of_real, kinds[0], real.frame, cache, on_event)
    cases = cartoon_cases(real, len(set(synthetic.patients)), options.seed)
    made = cartoons(real, cases, typical_case(real, features), options.seed)
    sources |= made
    labels = {SYNTHETIC: "synthetic", REFERENCE: "other real volumes (--reference)"} | LABELS
    labels = {name: labels[name] for name in sources}

    def extracted(kind: Extractor) -> tuple[comparison.View, dict[str, SetFeatures]]:
        own = extraction.extract("real", of_real, kind, real.frame, cache, on_event)
        rows = {n: extraction.extract(labels[n], s, kind, real.frame, cache, on_event) for n, s in sources.items()}
        return comparison.view_of(own, options.seed), rows

    def told(stage: str, step: int, total: int) -> None:
        on_event({"event": "progress", "stage": stage, "step": step, "total": total})

    k = comparison.neighbours(real.patients, synthetic.patients)
    volumes: dict[str, dict[str, dict[str, Any]]] = {}
    clouds: dict[str, dict[str, dict[str, Any]]] = {}
    auc: dict[str, dict[str, Any]] = {}
    unused: dict[str, list[str]] = {}
    moved: list[dict[str, Any]] = []
    for kind in kinds:
        view, rows = extracted(kind)
        volumes[kind.id], clouds[kind.id] = {}, {}
        for number, (name, row) in enumerate(rows.items()):
            told(f"distances of {kind.title}", number, len(rows))
            volumes[kind.id][name] = comparison.compare(view, row, name in sets)["volume"]
            clouds[kind.id][name] = comparison.compare_clouds(view, row, k, name in sets)
            if kind is kinds[0]:
                auc[name] = comparison.compare_by_classifier(view, row, floor=name in sets)
        if kind.names:
            used = view.standard["volume"].used
            unused[kind.id] = [n for n, u in zip(kind.names, used) if not u]
        if kind is kinds[0]:
            moved = comparison.shifts(view, rows[SYNTHETIC], kind.names)
    view, rows = extracted(slices)
    planes = {}
    for number, (name, row) in enumerate(rows.items()):
        told(f"distances of {slices.title}", number, len(rows))
        planes[name] = comparison.compare(view, row, name in sets)

    for name in labels:
        for key in comparison.TESTED:
            spaces = [*(volumes[kind.id][name] for kind in kinds), planes[name]["mean"]]
            comparison.correct(*(space[key].get("test") for space in spaces))

    pairs, measure = None, None
    if options.pairs > 0:
        pairs, measure = _similarity(real, sets, of_real, sources, labels, cache, options, on_event)
    networks, recipes = _networks(real, sets, options, on_event)
    settings = {
        "seed": options.seed,
        "confidence": 0.95,
        "resamples": resampling_settings(),
        "features": {kind.id: dict(kind.identity) for kind in (*kinds, slices)},
        "features_without_spread": unused,
        "nearest_neighbours": k,
        "nearest_neighbours_rule": f"{comparison.NEIGHBOURS}, or {comparison.FEW_NEIGHBOURS} where half of the "
        f"smallest set is fewer than {comparison.FEWER_THAN} patients",
        "bandwidth": {"slices": view.bandwidth},
        "no_skill_volumes": len(cases),
        "ms_ssim": (measure.to_json() | {"pairs": options.pairs}) if measure else None,
        "networks": recipes,
    }
    copied = {c.name: same.name for s in (reference, real) if s is not None for same, c in same_images(s, synthetic)}
    return Fidelity(
        labels,
        volumes,
        planes,
        clouds,
        auc,
        networks,
        moved,
        pairs,
        {kind.id: kind.title for kind in kinds} | {"planes": slices.title},
        settings,
        real,
        synthetic,
        tuple(copied.items()),
        {name: made[name][0].image() for name in LABELS if name != "repeated"},
    )


def resampling_settings() -> dict[str, Any]:
    """Numbers of draws, for the results."""
    from SynthDiffusionLib.evaluation.sets.resampling import PARTS, RESAMPLES

    deals = {"kernel": exchange.DEALS, "clouds": exchange.CLOUD_DEALS, "classifier": exchange.AUC_DEALS}
    return {"bootstrap": RESAMPLES, "parts": PARTS, "classifier_parts": comparison.AUC_SPLITS, "deals": deals}


def sources_of(images: ImageSet) -> list[Source]:
    """The volumes of a set as they are."""
    return [Source(c.patient, c.sha256, lambda c=c: c.image) for c in images.cases]


def typical_case(real: ImageSet, features: SetFeatures) -> SetCase:
    """The real volume whose standardised radiomics lie nearest to the mean."""
    values = features.rows("volume")[0]
    apart = (comparison.standard_of(values)(values) ** 2).sum(1)
    return real.cases[int(np.argmin(apart))]


def _similarity(
    real: ImageSet,
    sets: dict[str, ImageSet],
    of_real: Sequence[Source],
    sources: dict[str, list[Source]],
    labels: dict[str, str],
    cache: Path,
    options: Options,
    on_event: Event,
) -> tuple[dict[str, dict[str, Any]] | None, similarity.Measure | None]:
    shape = smallest_shape(real, *sets.values())
    # Shuffled volumes lose up to three voxels a side.
    measure = similarity.measure_for([n // 4 * 4 if n >= 8 else n for n in shape])
    if measure is None:
        return None, None
    found = {}
    for name, own in {"real": of_real, **sources}.items():
        patients = [s.patient for s in own]
        pairs = similarity.draw_pairs(patients, options.pairs, options.seed)
        if name == "repeated":
            found[name] = {"value": 1.0, "low": 1.0, "high": 1.0, "pairs": len(pairs), "patients": 1}
            continue
        if not pairs:
            continue
        limits = real.frame.intensity_range
        values = similarity.similarities(labels.get(name, name), own, pairs, measure, limits, cache, on_event)
        estimate = similarity.mean_similarity(values, pairs, patients, options.seed)
        found[name] = estimate.to_json() | {"pairs": len(pairs), "patients": len(set(patients))}
    return found, measure


def _check_patients(real: ImageSet, synthetic: ImageSet) -> None:
    """Neighbours are looked for among other patients, in the real set (the floor) within each half of them."""
    few = comparison.FEW_NEIGHBOURS + 1
    for images, least in ((real, 2 * few), (synthetic, few)):
        patients = len(set(images.patients))
        if patients < least:
            raise BadInput(
                f"The {len(images.cases)} volumes of the {images.role} set are of {counted(patients, 'patient')}, and "
                f"{least} are the fewest",
                "Check --patient-pattern and --patients, or give volumes of more patients.",
            )


def _networks(
    real: ImageSet, sets: dict[str, ImageSet], options: Options, on_event: Event
) -> tuple[dict[str, dict[str, dict[str, Any]]], dict[str, Any] | None]:
    """AUC of small networks that learn to tell a row from the real set, where asked for."""
    if options.auc_steps <= 0:
        return {}, None
    from SynthDiffusionLib.evaluation.real_or_synthetic import RECIPES, discriminate, fitted, recipe_to_json
    from SynthDiffusionLib.evaluation.rows import Item

    def items(images: ImageSet) -> list[Item]:
        return [Item(c.name, c.patient, c.image, np.zeros((1, 1, 1), np.uint8), c.affine) for c in images.cases]

    shapes = [c.image.shape for images in (real, *sets.values()) for c in images.cases]
    recipes = {name: fitted(replace(recipe, steps=options.auc_steps), shapes) for name, recipe in RECIPES.items()}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, recipe in recipes.items():
        found[name] = {}
        for row, images in sets.items():

            def step(done: int, total: int, text: str = f"network '{name}': {row}") -> None:
                on_event({"event": "progress", "stage": text, "step": done, "total": total})

            told = discriminate(
                items(real),
                items(images),
                recipe,
                real.frame.intensity_range,
                seed=options.seed,
                repeats=options.auc_repeats,
                on_step=step,
            )
            found[name][row] = told.auc.to_json()
    return found, {name: recipe_to_json(recipe) for name, recipe in recipes.items()}
