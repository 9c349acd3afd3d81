"""What each figure of `memorisation` is, with its source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from SynthDiffusionLib.evaluation.memorisation import FLAT_SD
from SynthDiffusionLib.evaluation.sets import copies, leaks
from SynthDiffusionLib.evaluation.sets.memorisation import FAR_BELOW


def definitions_of(found: Mapping[str, Any]) -> dict[str, str]:
    """What each figure is, with its source."""
    space, embedding = found["space"], found["embedding"]
    box, core = (" x ".join(map(str, space[k])) for k in ("box", "core_mm"))
    return {
        "Distance in the embedding": "1 minus the largest cosine between two volumes' points in a network's output, "
        "over crops at 27 and 8 places of the two and the eight mirror images, scaled by what random changes of one "
        "volume do to its point (within-class covariance normalisation, Hatch et al. 2006). The "
        f"network ({len(embedding['channels'])} convolutions, {embedding['features']} dimensions) is trained on the "
        f"training set alone, {embedding['steps']} steps of SimCLR (Chen et al. 2020, arXiv:2002.05709; looking for "
        "copied patients in such an embedding: Dar et al. 2024, arXiv:2402.01054; network and changes: ours), so that "
        "volumes that are shifted, rotated, warped, blurred, noisy or of another contrast stay where they "
        f"were. All volumes are cut to their middle {box} voxels, which every volume has, thinned to "
        f"{' x '.join(map(str, embedding['shape']))}.",
        "Distance in registered voxel space": "1 minus the largest normalised cross-correlation of the volume's core "
        f"({core} mm round the middle) with a training case, over all shifts that keep the core inside and the eight "
        "mirror images, of band-passed volumes"
        f"{' at half resolution' if space['step'] == 2 else ''}. Brightness and contrast do not matter; a core with "
        f"hardly a pattern (standard deviation below {FLAT_SD / 2:.0%} of the intensity range) is near to nothing, "
        "but for a volume that is the same voxel by voxel. Ours.",
        "Limit": "the k-th smallest distance of held-out real patients to their nearest training case (one volume of "
        "each patient), k = floor(0.05 (V + 1)) of V patients. A new real patient is nearer with a probability of "
        "k / (V + 1), at most 5 %, over validation sets and new patients alike (split conformal prediction, Vovk et "
        "al. 2005; order statistics, Wilks 1941). The rate of the one limit that was drawn varies as Beta(k, V + 1 - "
        "k). Fewer than 19 patients allow no limit at 5 %; then the smallest distance stands in, which is a rank only. "
        "In registered voxel space, which learns nothing from the training cases, they join the reference with their "
        "distances to the nearest other patient; since small ones come in pairs, the limit is one rank lower (full "
        "conformal prediction). The embedding drives training cases apart: there, held-out patients alone set it.",
        "Flagged": "volumes that are nearer to a training case than the limit.",
        "Flag rate": "share of a patient's volumes that are flagged, mean over patients. A synthetic volume counts for "
        "the patient of its mask. Interval, given the limit: that of Clopper and Pearson 1934, where patients have "
        "several volumes with the number of independent volumes that would leave the mean as uncertain (Korn and "
        "Graubard 1998, Survey Methodology 24:193).",
        "p of flags": "probability that at least so many are below the limit if all volumes were drawn as the "
        "reference was: the exact precedence test (Nelson 1963, Technometrics 5:491), which knows that the limit was "
        "drawn too. Where patients have several volumes, the first ones of all patients are tested, then the second "
        "ones, and so on, so that each test has one volume of a patient; the smallest p counts, times the number of "
        "all volumes over those of its test (weighted Bonferroni). Then corrected for the two searches (Holm 1979).",
        "Probable copies": "synthetic volumes that are nearer to a training case, in registered voxel space, than the "
        f"distance that {leaks.COPY_SHARE:.0%} of planted exact, noisy, shifted, mirrored, blurred and gamma-changed "
        "copies have from the copied case, and than the outer fence of Tukey 1977 (lower quartile minus three "
        "interquartile ranges, of logarithms) of what training patients have to the nearest other one. All training "
        "cases count, also those of the patient whose mask a volume was made for. Each volume is judged by itself, so "
        "that one is named however few they are; the main figure is the share of a patient's volumes, mean over "
        "patients, with the interval of the flag rate. Held-out real cases (before doubles were left out) and volumes "
        "without detail say how often others are so near. Missed are, mostly: copies that are rotated (also by 90°, or "
        "with two axes exchanged) or warped, of inverted contrast, blends of two cases, copies of a part of a case, "
        "and some shifted ones (the row of planted copies). A training image "
        "whose intensities were made flat counts as its copy. Ours.",
        "Probable doubles": "held-out cases that are in the training set too, and training cases that are in it twice, "
        "under another name: as near to a training case (of another patient) as probable copies are. Their patients "
        "do not set the limit, and held-out ones are left out of every figure. Other scans of one person mostly stay "
        "unseen. Ours.",
        "Far below the limit": f"nearer than {FAR_BELOW:g} times the limit. How many planted copies and how many fresh "
        "real cases are so near says what that means. Ours.",
        "Membership AUC": "probability that a training case is nearer to its nearest synthetic volume than a fresh "
        "real case is (ties count half). 0.5: the synthetic volumes do not tell who was trained on; 1: they tell it "
        "for certain. p of the test of Mann and Whitney 1947, of the first case of each patient. The "
        "embedding of this test is trained on synthetic and "
        "validation volumes only, since one that was trained on the training cases drives those apart. Interval: "
        "bootstrap over patients. Smallest AUC found: by the two-sided test at 2.5 %, which is what the correction "
        "leaves of 5 % for the smaller p of two searches, in 80 % of studies of this size (variance of Hanley and "
        "McNeil 1982). Real volumes instead: the same AUC with the validation cases in the synthetic volumes' place.",
        "Own mask left out": "a synthetic volume is near the patient whose mask it was made for, for the mask's sake. "
        "Such pairs are left out; in the membership test, every case also goes without the volumes of a drawn patient "
        "of the other side, so that none has more to be near to.",
        "Planted copies": f"up to 20 training cases: shifted by at most {copies.SHIFT_SHARE:.0%} of each side, noise "
        f"of {copies.NOISE_SHARE:.0%} of the range, blur of {copies.BLUR_VOXELS:g} voxel, gamma {copies.GAMMA:g} or "
        f"its inverse, rotation by {copies.TURN_DEGREES:g}°, a smooth random warp of {copies.WARP_SHARE:.0%} of the "
        "shortest side (standard deviation), or one half from another training case.",
        "No skill": "volumes that nobody copied and that have no detail: means of random halves of the training "
        f"images; held-out real images smoothed by {copies.SMOOTH_VOXELS:g} voxels; held-out real images as flat "
        f"areas of {copies.CARTOON_CLASSES} intensities. Smooth volumes correlate with everything.",
    }
