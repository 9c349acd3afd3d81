"""Shows what the adherence of a run is worth: of the model's image, and of pictures that no model has made.

    python Testing/Benchmarks/adherence_centring.py [--samples solitary-nodule ...] [--seed 1] [--steps 20]

Makes one volume from each sample segmentation through `jobs.run` and prints the adherence that the run reports; the
Dice of the same segmenter when it is shown the whole volume at once, which is why it is shown windows; and adherence of
pictures that follow the drawing and look like no CT, or do not follow it. On the CPU.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from scipy import ndimage

from SynthDiffusionLib.jobs import GenerateRequest, run
from SynthDiffusionLib.jobs.adherence import adherence_of, load_segmenter
from SynthDiffusionLib.labels import LabelScheme, map_to_model
from SynthDiffusionLib.models import load_package
from SynthDiffusionLib.volumes import Volume, read_segmentation, read_volume

SAMPLES = Path(__file__).resolve().parents[2] / "Resources" / "Segmentations"
# HU as in any textbook, not measured; 0 is what lies outside the body.
CLASS_HU = {"": -1000.0, "body": 40.0, "lung": -850.0, "bone": 300.0, "nodule": 0.0}
FLAT_HU = ((-850.0, 0.0), (-700.0, -300.0))  # of lung and nodule
BLUR_VOXELS = 1.0
MOVED_VOXELS = 4


def dice(found: np.ndarray, drawn: np.ndarray) -> float:
    """Dice of two masks of one shape."""
    return 2.0 * int((found & drawn).sum()) / (int(found.sum()) + int(drawn.sum()))


def class_picture(classes: np.ndarray, values: dict[int, float]) -> np.ndarray:
    """One HU for each class, blurred. (I, J, K)."""
    painted = np.select([classes == value for value in values], list(values.values()))
    return ndimage.gaussian_filter(painted, BLUR_VOXELS)


def flat_picture(drawn: np.ndarray, lung: float, nodule: float) -> np.ndarray:
    """The mask, blurred, in lung of one HU. (I, J, K)."""
    return lung + (nodule - lung) * ndimage.gaussian_filter(drawn.astype(float), BLUR_VOXELS)


def moved(drawn: np.ndarray) -> Iterator[np.ndarray]:
    """The mask moved along each axis, both ways, where nothing of it leaves the volume."""
    for axis, sign in product(range(3), (-1, 1)):
        away = ndimage.shift(drawn, sign * MOVED_VOXELS * np.eye(3)[axis], order=0)
        if away.sum() == drawn.sum():
            yield away


def pictures(classes: np.ndarray, drawn: np.ndarray, scheme: LabelScheme) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Those that no model has made: what they are, and one or several of them in HU."""
    values = {c.value: CLASS_HU[c.name] for c in scheme.classes if c.name in CLASS_HU}
    yield "one HU for each class, blurred", [class_picture(classes, {0: CLASS_HU[""]} | values)]
    for lung, nodule in FLAT_HU:
        yield f"flat {lung:.0f}, blob of {nodule:.0f} HU", [flat_picture(drawn, lung, nodule)]
    lung, nodule = FLAT_HU[0]
    away = [flat_picture(mask, lung, nodule) for mask in moved(drawn)]
    yield f"the first blob, {MOVED_VOXELS} voxels off, {len(away)} ways", away
    yield f"flat {lung:.0f}, empty", [flat_picture(np.zeros_like(drawn), lung, nodule)]


def line(sample: str, picture: str, entries: list[dict]) -> str:
    """A row of the table; of several pictures the least and the largest figures."""
    dices, found = sorted(e["dice"] for e in entries), sorted(e["found"] for e in entries)
    ends = [f"{dices[0]:.2f}", f"{dices[-1]:.2f}"][: len(entries)]
    counts = dict.fromkeys(str(n) for n in (found[0], found[-1]))
    return f"{sample:<16} {picture:<40} {' to '.join(ends):<12}  {' to '.join(counts)} of {entries[0]['structures']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted(path.name.removesuffix(".seg.nrrd") for path in SAMPLES.glob("*.seg.nrrd"))
    parser.add_argument("--samples", nargs="+", default=names)
    parser.add_argument("--model", default="lung-nodule-ct")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    package = load_package(args.model)
    segment, spec = load_segmenter(package), package.spec
    print(f"{'sample':<16} {'picture':<40} {'Dice':<12}  found")
    for name in args.samples:
        path = SAMPLES / f"{name}.seg.nrrd"
        with tempfile.TemporaryDirectory() as folder:
            settings = {"seed": args.seed, "steps": args.steps, "device": "cpu"}
            output = run(GenerateRequest(path, args.model, Path(folder), adherence=True, **settings)).outputs[0]
            volume = read_volume(output["volume"], "HU")
        mapped = map_to_model(read_segmentation(path), spec.label_scheme, target=spec.target_class)
        classes = mapped.class_map  # the samples lie on the model's grid
        drawn = np.isin(classes, spec.label_scheme.containing(spec.target_class))
        own, at_once = output["adherence"], segment(volume.array.astype(np.float32))
        print(line(name, "the model's", [own]))
        print(f"{name:<16} {'the same, shown at once':<40} {dice(at_once, drawn):.2f}")
        print(f"{name:<16} {'none: the blind ball':<40} {own['ball_dice']:.2f}")
        for label, images in pictures(classes, drawn, spec.label_scheme):
            views = [(Volume(hu.astype(np.float32), mapped.affine, "HU"), classes, drawn) for hu in images]
            entries = [adherence_of(partial(iter, [view]), spec, segment, print)["adherence"] for view in views]
            print(line(name, label, entries))
    quality = spec.quality["adherence"]
    print(f"model card, real images:       {quality['real']['dice']:.2f}")
    print(f"model card, blob in flat lung: {quality['blob_flat_lung']['dice']:.2f}")


if __name__ == "__main__":
    main()
