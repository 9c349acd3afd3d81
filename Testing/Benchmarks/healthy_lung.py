"""How plainly a nodule comes that is drawn into healthy lung, which is what inpainting is mostly used for.

    python Testing/Benchmarks/healthy_lung.py --data runs/lidc-prepared --out runs/healthy [--split validation]

The arm "inpainting" of `synthdiffusion evaluate` draws every nodule where a real one was, among surroundings that fit.
Here a ball of 5 mm radius is drawn into each patient's image at a place (random, the same for every setting) where it
and its rim lie in the lung, 8 mm or more from the real nodule; patients without such a place are left out. The table
has, for each guidance:

* Dice of the model's segmenter with the ball, and its interval (bootstrap over patients);
* found: share of balls of which the segmenter covers at least 10%;
* HU: mean intensity in the ball; the real nodules of the same patients stand in the first line.

The control, which needs no model, is a blurred ball of the training nodules' mean intensity, put into the same image.
Settings are chosen on validation patients; `--split test` measures what was chosen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy import ndimage

from SynthDiffusionLib.evaluation.adherence import package_segmenter
from SynthDiffusionLib.evaluation.statistics import bootstrap_mean
from SynthDiffusionLib.jobs import GenerateRequest, run
from SynthDiffusionLib.models import load_package
from SynthDiffusionLib.training.dataset import Case, load_split
from SynthDiffusionLib.volumes import Volume, read_volume, write_volume

RADIUS_MM, DISTANCE_MM, SEED = 5.0, 8.0, 2026


def ball(shape: tuple[int, ...], centre: np.ndarray) -> np.ndarray:
    return ((np.stack(np.indices(shape), -1) - centre) ** 2).sum(-1) <= RADIUS_MM**2


def place(case: Case, lung: int, target: int, margin_mm: float, number: int) -> np.ndarray | None:
    """A voxel that a ball and its rim can lie around in the lung, or None; grids are of 1 mm."""
    classes = case.classes.array
    away = ndimage.distance_transform_edt(classes != target) >= DISTANCE_MM + RADIUS_MM
    padded = np.pad(classes == lung, 1)
    deep = ndimage.distance_transform_edt(padded)[1:-1, 1:-1, 1:-1] > RADIUS_MM + margin_mm
    candidates = np.argwhere(away & deep)
    if len(candidates) == 0:
        return None
    return candidates[np.random.default_rng([SEED, number]).integers(len(candidates))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="what `synthdiffusion prepare` wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="lung-nodule-ct")
    parser.add_argument("--split", default="validation", help="validation or test")
    parser.add_argument("--guidance", default="1,1.5,2", help="values to compare")
    args = parser.parse_args()

    package = load_package(args.model)
    spec = package.spec
    values = {c.name: c.value for c in spec.label_scheme.condition_classes}
    lung, target = values["lung"], values[spec.target_class]
    low, high = spec.intensity.range
    training, cases = load_split(args.data, "train"), load_split(args.data, args.split)
    mean_hu = float(np.mean([c.image.array[c.classes.array == target].mean() for c in training]))
    segment = package_segmenter(package)
    found = [(n, c, place(c, lung, target, spec.inpaint.margin_mm, n)) for n, c in enumerate(cases)]
    drawn = [(n, c, ball(c.classes.shape, where)) for n, c, where in found if where is not None]
    real = np.mean([c.image.array[c.classes.array == target].mean() for _, c, _ in drawn])
    before = np.mean([c.image.array[mask].mean() for _, c, mask in drawn])
    print(
        f"{len(drawn)} of {len(cases)} {args.split} patients; HU of their nodules {real:.0f}, of the lung {before:.0f}"
    )
    print("row             Dice                  found    HU")

    def show(name: str, images: list[np.ndarray]) -> None:
        pairs = [(mask, segment(np.clip(hu, low, high)), hu) for (_, _, mask), hu in zip(drawn, images)]
        dice = bootstrap_mean(np.array([2.0 * (m & s).sum() / (m.sum() + s.sum()) for m, s, _ in near(pairs)]))
        seen = np.mean([(m & s).sum() >= 0.1 * m.sum() for m, s, _ in pairs])
        hu = np.mean([h[m].mean() for m, _, h in pairs])
        print(f"{name:14}  {dice.value:.2f} [{dice.low:.2f}, {dice.high:.2f}]     {seen:4.0%}  {hu:5.0f}", flush=True)

    def near(pairs):
        """What the segmenter finds at the patient's own nodule is no fault of the ball's."""
        for mask, predicted, hu in pairs:
            yield mask, predicted & (ndimage.distance_transform_edt(~mask) <= DISTANCE_MM), hu

    control = []
    for _, case, mask in drawn:
        weight = ndimage.gaussian_filter(mask.astype(np.float32), 1.0)
        control.append(weight * mean_hu + (1.0 - weight) * case.image.array)
    show("control", control)
    for guidance in (float(g) for g in args.guidance.split(",")):
        images = []
        for number, case, mask in drawn:
            folder = args.out / f"{args.split}_{guidance:g}" / case.name
            folder.mkdir(parents=True, exist_ok=True)
            write_volume(Volume(mask.astype(np.uint8) * target, case.classes.affine, "label"), folder / "ball.nii.gz")
            request = GenerateRequest(
                folder / "ball.nii.gz",
                str(package.folder),
                folder,
                mode="inpaint",
                image=args.data / "images" / f"{case.name}.nii.gz",
                labels={str(target): spec.target_class},
                guidance=guidance,
                seed=1000 + number,
            )
            images.append(read_volume(run(request).outputs[0]["volume"], unit=spec.intensity.unit).array)
        show(f"guidance {guidance:g}", images)


if __name__ == "__main__":
    main()
