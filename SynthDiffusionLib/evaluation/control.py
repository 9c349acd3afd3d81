"""`synthdiffusion evaluate control`: does a model that makes image and mask together make what it is asked for?

Requests are spread over the trained range: a Latin hypercube (McKay et al. 1979, Technometrics 21:239) on the logarithm
of the volume, the sphericity and the three coordinates of the centre; surface and box are drawn from the training
distribution given these. Each sample's mask is measured (`labels.characteristics`), and what was asked for is compared
with what came out. A model that ignores the request has a slope of 0: the rows of training masks dealt to the requests
at random say how far from 0 chance gets. A model that heeds the volume alone gets boxes that go with the requested ones
too, since large tumours have large boxes: a ball of the requested volume at a random place says how far that goes, and
boxes are judged by their slope given the requested volume.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.control_statistics import (
    compare,
    dealt,
    given,
    given_dealt,
    latin_hypercube,
    pieces,
    random_balls,
)
from SynthDiffusionLib.evaluation.joint import as_tumour, own_classes
from SynthDiffusionLib.models.characteristics import NAMES, CharacteristicsSpec
from SynthDiffusionLib.volumes import read_volume

if TYPE_CHECKING:
    from SynthDiffusionLib.evaluation.cases import EvaluationData
    from SynthDiffusionLib.models import ModelPackage

FORMAT = "synthdiffusion-control-1"
INDEX = "control_requests.json"
REQUESTS = 40
SEED = 2026
FIRST_SEED = 5000
REDRAWS = 200
CHOSEN = ("volume_mm3", "sphericity", "center_r_mm", "center_a_mm", "center_s_mm")
# What is compared: all but the surface, which volume and sphericity give.
COMPARED = ("volume_mm3", "sphericity", *NAMES[3:])
BOXES = NAMES[6:]
MEASURED = ("slope", "given_volume", "theil_sen", "pearson", "spearman")  # in the order of the table

DEFINITIONS = {
    "requests": "a Latin hypercube on log volume, sphericity and centre over the range of the training cases; surface "
    "and box drawn from the training distribution given these. Impossible ones are drawn again within that range",
    "slope": "of the measured value on the requested one by least squares; volumes as log10. 1: as asked; 0: not "
    "heeded",
    "theil_sen": "the same by Theil and Sen: the median of the slopes of all pairs of requests with different values, "
    "which outliers do not move",
    "pearson, spearman": "correlation of requested and measured values, and of their ranks",
    "interval": "percentile bootstrap over requests",
    "ignores": "no-skill: masks of training cases dealt to the same requests at random, {deals} times; mean and middle "
    "95 % of what they get",
    "given volume": "of boxes: coefficient of the requested box when the measured box is regressed on it and on the "
    "cube root of the requested volume. 0: nothing but the volume is heeded",
    "ball": "no-skill: a ball of the requested volume at a random place within the grid. It has the right volume, and "
    "boxes that grow with it",
    "p": "share of {deals} random permutations of the model's own masks among the requests whose Spearman correlation "
    "is at least as high",
    "empty": "masks without a voxel; they have no measured values and are left out of the other figures",
    "pieces": "masks of more than one connected piece (26 neighbours); measured as a whole",
}


@dataclass(frozen=True)
class Settings:
    """How the samples of a control are made; see `samples.Settings`."""

    requests: int = REQUESTS
    steps: int | None = None  # the model's default
    sampler: str | None = None
    guidance: float | None = None
    device: str = "auto"
    precision: str = "auto"

    def to_json(self) -> dict[str, Any]:
        """What decides the samples."""
        return {k: v for k, v in vars(self).items() if k != "device"} | {"seed": SEED, "first_seed": FIRST_SEED}


def plan_requests(
    spec: CharacteristicsSpec, number: int, extent_mm: Sequence[float], voxel_mm: Sequence[float]
) -> list[dict[str, float]]:
    """The requests: all nine characteristics of each, by name.

    Args:
        spec: of the model.
        number: of requests.
        extent_mm: of the volumes along R, A and S; voxel_mm: of their voxels.

    Raises:
        BadInput: no tumour can be found in the range.
    """
    from SynthDiffusionLib.jobs.joint import draw_tumour

    ranges = dict(zip(NAMES, spec.range))
    low, high = (np.array([ranges[name][end] for name in CHOSEN], float) for end in (0, 1))
    low[0], high[0] = np.log(low[0]), np.log(high[0])
    rng = np.random.default_rng([SEED, number])
    requests = []
    for n, place in enumerate(latin_hypercube(number, len(CHOSEN), rng)):
        for attempt in range(REDRAWS):
            values = low + (high - low) * place
            asked = {"volume_mm3": float(np.exp(values[0])), **dict(zip(CHOSEN[1:], map(float, values[1:])))}
            try:
                used = draw_tumour(asked, spec, SEED + n * REDRAWS + attempt, extent_mm, voxel_mm).used
            except BadInput:
                place = rng.uniform(size=len(CHOSEN))
                continue
            requests.append(dict(zip(NAMES, used)))
            break
        else:
            raise BadInput(
                f"In {REDRAWS} draws no tumour was found within the range that the model was trained on",
                "Look at 'characteristics' in its model.json.",
            )
    return requests


def make_control(
    package: ModelPackage,
    data: EvaluationData,
    out: Path,
    settings: Settings = Settings(),
    *,
    run: Callable[..., Any] | None = None,
    on_event: Callable[[dict], None] = lambda event: None,
) -> dict[str, Any]:
    """Makes the samples that are missing in `out/control` and returns the index of all of them.

    Raises:
        BadInput: the model has no mode "joint"; numbers out of range; a folder of other samples.
    """
    from SynthDiffusionLib.evaluation.samples import generator_identity
    from SynthDiffusionLib.jobs.provenance import sha256_of, write_json
    from SynthDiffusionLib.jobs.request import GenerateRequest

    if run is None:
        from SynthDiffusionLib.jobs import run
    if package.spec.characteristics is None or "joint" not in package.spec.modes:
        raise BadInput(
            f"The model '{package.id}' does not make a mask from characteristics",
            "Control is measured of models that have the mode joint.",
        )
    if not 5 <= settings.requests <= 1000:
        raise BadInput(f"{settings.requests} requests were asked for", "Give --requests a number from 5 to 1000.")
    if settings.steps is None:
        settings = replace(settings, steps=package.spec.sampling.default_steps)
    extent, voxel = frame_of(package, data)
    wanted = plan_requests(package.spec.characteristics, settings.requests, extent, voxel)
    folder, path = Path(out) / "control", Path(out) / INDEX
    folder.mkdir(parents=True, exist_ok=True)
    header = {"format": FORMAT, "model": generator_identity(package), "settings": settings.to_json()}
    index = _read(path) if path.is_file() else header | {"samples": []}
    if {k: index.get(k) for k in header} != header:
        raise BadInput(
            f"'{path}' lists samples of another model or with other settings",
            "Give another --out, or the --requests and --steps that it names, or remove it first.",
        )
    made = {entry["request"]: entry for entry in index["samples"]}
    for number, values in enumerate(wanted):
        on_event({"event": "progress", "stage": "control: samples", "step": number, "total": len(wanted)})
        entry = made.get(number)
        if entry and all(
            (folder / entry[k]).is_file() and sha256_of(folder / entry[k]) == entry[f"{k}_sha256"]
            for k in ("volume", "segmentation")
        ):
            continue
        output = run(
            GenerateRequest(
                segmentation=None,
                model=str(package.folder),
                out=folder,
                mode="joint",
                tumour=as_tumour(values),
                sampler=settings.sampler,
                guidance=settings.guidance,
                steps=settings.steps,
                seed=FIRST_SEED + number,
                device=settings.device,
                precision=settings.precision,
                case=f"request{number:03d}",
            )
        ).outputs[0]
        files = {k: Path(output[k]) for k in ("volume", "segmentation")}
        made[number] = {
            "request": number,
            "asked": values,
            "seed": FIRST_SEED + number,
            **{k: p.name for k, p in files.items()},
            **{f"{k}_sha256": sha256_of(p) for k, p in files.items()},
        }
        index["samples"] = [made[n] for n in sorted(made)]
        write_json(path, index)
    return index


def _read(path: Path) -> dict[str, Any]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        keys = {"request", "asked", "seed", "volume", "segmentation", "volume_sha256", "segmentation_sha256"}
        # Plain names: none may lead out of the folder.
        whole = all(
            keys <= set(e) and all(Path(e[k]).name == e[k] for k in ("volume", "segmentation"))
            for e in index["samples"]
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BadInput(f"'{path}' is damaged", "Remove it and make the samples again.") from error
    if not whole:
        raise BadInput(f"'{path}' is damaged", "Remove it and make the samples again.")
    return index


def frame_of(package: ModelPackage, data: EvaluationData) -> tuple[np.ndarray, np.ndarray]:
    """Extent of the model's volumes, and their voxels, in mm along R, A and S; the data set's where the model has no
    default size."""
    grid = package.spec.grid
    shape = grid.default_size or data.training[0].image.shape
    order = [next(n for n, letter in enumerate(grid.orientation) if letter in pair) for pair in ("RL", "AP", "SI")]
    voxel = np.array(grid.spacing_mm, float)[order]
    return voxel * np.array(shape)[order], voxel


def measure_control(package: ModelPackage, data: EvaluationData, out: Path, index: Mapping[str, Any]) -> dict[str, Any]:
    """Compares requests and masks.

    Args:
        index: of `make_control`.

    Returns:
        JSON: rows by characteristic, values by request ("per_volume"), settings, definitions.
    """
    from SynthDiffusionLib.labels.characteristics import measure

    target = data.values[package.spec.characteristics.target]
    per_volume = []
    for entry in index["samples"]:
        folder = Path(out) / "control"
        volume = read_volume(folder / entry["volume"], unit=data.unit)
        mask = own_classes(folder / entry["segmentation"], volume, data) == target
        measured = measure(mask, volume.affine) if mask.any() else None
        per_volume.append(
            {"request": entry["request"], "seed": entry["seed"], "asked": dict(entry["asked"])}
            | {"measured": measured, "pieces": pieces(mask)}
        )
    return summarise(per_volume, training_characteristics(data, target), frame_of(package, data)) | {
        "target": package.spec.characteristics.target,
        "ranges": dict(zip(NAMES, map(list, package.spec.characteristics.range))),
    }


def training_characteristics(data: EvaluationData, target: int) -> np.ndarray:
    """(N, 9): of the training masks, in the order of `NAMES`."""
    from SynthDiffusionLib.labels.characteristics import measure

    masks = [(c.classes.array == target, c.classes.affine) for c in data.training]
    return np.array([[measure(m, a)[name] for name in NAMES] for m, a in masks if m.any()])


def summarise(
    per_volume: Sequence[Mapping[str, Any]],
    training: np.ndarray,
    frame: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, Any]:
    """The figures of requests and measured values.

    Args:
        per_volume: entries with "asked" and "measured" by name (None where the mask is empty) and "pieces".
        training: (N, 9) characteristics of training masks.
        frame: `frame_of` the model, for the balls; without it there are none.

    Raises:
        BadInput: fewer than five masks that are not empty.
    """
    there = [v for v in per_volume if v["measured"] is not None]
    if len(there) < 5:
        raise BadInput(
            f"{len(per_volume) - len(there)} of {len(per_volume)} masks are empty, so that nothing can be compared",
            "Train the model for longer.",
        )
    volumes = np.array([v["asked"]["volume_mm3"] for v in there], float)
    balls = random_balls(volumes, *frame) if frame is not None else None
    rows = []
    for name in COMPARED:
        asked, measured = (np.array([v[key][name] for v in there], float) for key in ("asked", "measured"))
        other = training[:, NAMES.index(name)]
        ball = None if balls is None else np.array([b[name] for b in balls])
        if name == "volume_mm3":
            asked, measured, other = (np.log10(values) for values in (asked, measured, other))
            ball = None if ball is None else np.log10(ball)
        rivals = {"ignores": dealt(asked, other)} | ({} if ball is None else {"ball": compare(asked, ball)})
        own = compare(asked, measured)
        if name in BOXES:
            side = np.cbrt(volumes)
            own["given_volume"] = given(asked, measured, side)
            rivals["ignores"]["given_volume"] = given_dealt(asked, other, side)
            if ball is not None:
                rivals["ball"]["given_volume"] = given(asked, ball, side)
        rows.append(
            {
                "row": name,
                "label": name + (" (log10)" if name == "volume_mm3" else ""),
                "kind": "ours",
                **own,
                **rivals,
            }
        )
    count = len(per_volume)
    from SynthDiffusionLib.evaluation.control_statistics import DEALS
    from SynthDiffusionLib.evaluation.statistics import CONFIDENCE, RESAMPLES

    return {
        "kind": "control",
        "rows": rows,
        "requests": count,
        "empty": sum(v["pieces"] == 0 for v in per_volume),
        "several_pieces": sum(v["pieces"] > 1 for v in per_volume),
        "settings": {"deals": DEALS, "resamples": RESAMPLES, "confidence": CONFIDENCE, "training_masks": len(training)},
        "definitions": {k: v.format(deals=DEALS) for k, v in DEFINITIONS.items()},
        "per_volume": list(per_volume),
    }


def table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A line for each characteristic, and below it what ignoring the request gets, and what the right volume alone."""
    from SynthDiffusionLib.evaluation.report import NOTHING, number, with_interval

    titles = ["characteristic", "masks", "slope", "given volume", "Theil-Sen", "Pearson", "Spearman", "p"]
    titles += ["mean error", "mean |error|"]

    def line(label: str, masks: str, r: Mapping[str, Any]) -> list[str]:
        values = [with_interval(r[key]) if key in r else NOTHING for key in MEASURED]
        p = number(r["p_spearman"], 4) if "p_spearman" in r else NOTHING
        return [label, masks, *values, p, *(number(r.get(k), 3) for k in ("bias", "absolute_error"))]

    cells = []
    for r in result["rows"]:
        cells += [line(r["label"], str(r["n"]), r), line("  training masks at random", NOTHING, r["ignores"])]
        if "ball" in r:
            cells.append(line("  ball of that volume, anywhere", NOTHING, r["ball"]))
    return titles, cells


def verdict_lines(result: Mapping[str, Any]) -> list[str]:
    """Whether each characteristic is heeded, in words."""
    lines = [
        f"{result['empty']} of {result['requests']} masks are empty, {result['several_pieces']} have several pieces."
    ]
    for r in result["rows"]:
        box = r["row"] in BOXES
        key = "given_volume" if box else "slope"
        # The ball has the right volume by its making, and its place is nothing but another draw of chance.
        with_ball = "ball" in r and (box or r["row"] == "sphericity")
        rivals = [r["ignores"][key], *([r["ball"][key]] if with_ball else [])]
        low, highs = r[key]["low"], [v["high"] for v in rivals if v["high"] is not None]
        beyond = low is not None and bool(highs) and low > max(highs)
        word = "heeded" if beyond else "NOT clearly heeded"
        what = "the interval of the slope"
        if box:
            word += " beyond the volume"
            what += " given the requested volume"
        others = "training masks at random get" if not with_ball else "training masks at random and the ball get"
        lines.append(f"{r['label']}: {word}: {what} {'lies above' if beyond else 'does not lie above'} what {others}.")
    return lines


def write_scatter(path: Path, result: Mapping[str, Any]) -> None:
    """Draws measured against requested values as a PNG, see `control_picture`."""
    from SynthDiffusionLib.evaluation.control_picture import write_panels

    there = [v for v in result["per_volume"] if v["measured"] is not None]
    panels = []
    for r in result["rows"]:
        points = np.array([[v["asked"][r["row"]], v["measured"][r["row"]]] for v in there], float)
        slope, intercept = r["slope"]["value"], r["intercept"]
        if r["row"] == "volume_mm3":
            points = np.log10(points)
        panels.append(SimpleNamespace(title=r["label"], points=points, slope=slope, intercept=intercept))
    write_panels(path, panels)
