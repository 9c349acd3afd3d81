"""How every figure of `adherence` is computed, and which paper it is from; "ours" where there is none."""

from __future__ import annotations

from SynthDiffusionLib.evaluation.sets.adherence import FEWEST_PATIENTS
from SynthDiffusionLib.evaluation.sets.cartoons import BLUR_VOXELS, LABELS
from SynthDiffusionLib.evaluation.statistics import CONFIDENCE, RESAMPLES

SOURCES = (
    "Dice: Dice, Ecology 1945;26:297. Surface Dice: Nikolov et al., J Med Internet Res 2021;23:e26151 (arXiv "
    "1809.04430), voxels of the boundary counted, as MONAI does. HD95: the larger of the two directed 95th percentiles "
    "of surface distances (Taha and Hanbury, BMC Med Imaging 2015;15:29).",
    "Intervals: percentile bootstrap over patients (Efron and Tibshirani 1993, chapter 13).",
    "That a re-segmented volume is compared with its mask, beside the same network on real images: our definition; the "
    "MedLoRD paper (arXiv 2503.13211) names mask adherence without a formula.",
)


def definitions(tolerance_mm: float) -> dict[str, str]:
    """How the figures are computed."""
    return {
        "Dice": "2 |A and B| / (|A| + |B|) of the segmenter's mask A and the drawn mask B, per class and volume; mean "
        "of a patient's volumes, then mean over patients.",
        "surface Dice": f"share of the boundary voxels of both masks that lie within {tolerance_mm:.3g} mm of the "
        "other mask's boundary (MONAI compute_surface_dice).",
        "HD95": "the larger of the two directed 95th percentiles of distances between the boundaries, in mm (MONAI "
        "compute_hausdorff_distance); median over patients, with a percentile bootstrap interval over patients.",
        "missed": "the class is drawn and the segmenter finds nothing: Dice and surface Dice 0, HD95 infinitely large. "
        "Where at least half of the patients are missed, the median HD95 is therefore not defined.",
        "not drawn": "a mask without the class has no figure for it; whether the segmenter finds the class there is "
        "counted apart.",
        "ratio": "mean over patients on synthetic images divided by the mean on real images. Above 1 the structure is "
        "easier to find than in reality, which is no merit. Ours.",
        "interval": f"{CONFIDENCE:.0%} percentile bootstrap over patients, {RESAMPLES} resamples, none with fewer than "
        f"{FEWEST_PATIENTS} patients; paired: a patient of both sets is drawn with both values; two-sample: each set "
        "is drawn by itself. Each class by itself: not corrected for the number of classes. The training of the "
        "segmenter is not redrawn.",
        LABELS["mean_mask"]: "the voxels that at least half of the real masks of other patients have, volumes laid "
        "middle on middle; the most frequent ones, as many as their median mask has, where none reaches half.",
        LABELS["other_patient"]: "what the segmenter finds in a real image of another patient, laid middle on middle "
        "on this mask.",
        LABELS["means_noise"]: "every class of the mask, and the background, at its mean in other patients' real "
        "images plus independent noise of its standard deviation, segmented.",
        LABELS["blobs"]: f"the same without noise, blurred by {BLUR_VOXELS:g} voxel, segmented.",
        LABELS["painted_real"]: "the measured classes of the mask painted at these means into a real image "
        f"of another patient, blurred by {BLUR_VOXELS:g} voxel, segmented.",
    }
