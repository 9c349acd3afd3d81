"""How every figure of `fidelity` is computed, and which paper it is from; "ours" where there is none."""

from __future__ import annotations

from SynthDiffusionLib.evaluation.sets import comparison, exchange, extraction, no_skill_sets
from SynthDiffusionLib.reports.sections import percent

DEFINITIONS = {
    "radiomics": "features of the Image Biomarker Standardisation Initiative (arXiv:1612.07003; codes in the names), "
    "of the whole volume in 32 grey levels of equal width over the fixed intensity range, textures in 3D with all "
    "directions merged. Those that grow with the size of the image are not among them. Standardised by the real set's "
    "mean and standard deviation (for tests: see scale of tests). They do not know where in the image something is",
    "radiomics of slices": "the same features in 2D, of at most {most} slices a volume from the middle {share:.0%} "
    "along each of three planes (as MAISI's 2.5D Fréchet distance, arXiv:2409.11169, whose features are those of a "
    "network); distances per plane, and their mean",
    "energy distance": "2 E|x-y| - E|x-x'| - E|y-y'| of standardised features, divided by the root of their number "
    "(Székely and Rizzo 2013, J Stat Plan Inference 143:1249): the kernel distance with the kernel -|x-y| (Sejdinovic "
    "et al. 2013, Ann Stat 41:2263), in standard deviations of the real set. Unbiased, over pairs of different "
    "patients (ours): 0 on average between sets of one kind, so it may be negative. Interval: 2,000 bootstrap "
    "resamples of patients, in which a patient who is drawn twice makes no pair with herself",
    "polynomial kernel distance": "unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, "
    "JMLR 13:723, lemma 6) with the kernel (x·y/D + 1)³ of the Kernel Inception Distance (Bińkowski et al. 2018, "
    "arXiv:1801.01401); pairs and interval as above. A single outlying feature counts with its sixth power",
    "Gaussian kernel distance": "the same with the kernel exp(-|x-y|²/2h²), h the median distance of real volumes. It "
    "stops growing far from the real set (and may fall again): for small differences only",
    "Fréchet distance": "|m1 - m2|² + tr(C1 + C2 - 2(C1 C2)^½) of mean and full covariance of either set (Dowson and "
    "Landau 1982; of features: Heusel et al. 2017, arXiv:1706.08500). Given only where both sets have more volumes (or "
    "slices) than features. It is biased upwards, the more the smaller the sets, so it is compared at equal numbers "
    "only. Slices of one patient are no independent draws: their number lifts the refusal, not the uncertainty. "
    "Interval: 200 parts of the patients, drawn without repetition (delete-d jackknife, Shao and Wu 1989)",
    "floor": "what real volumes differ by among themselves: the real set is cut at random into two parts of different "
    "patients, 200 times (classifier: 20 times). The first part holds half of the patients; the second as many as half "
    "of the synthetic set has. It shows how large a difference is; whether there is one, the test says, which uses all "
    "patients. 'At equal numbers' is the first part against as many synthetic volumes, one a patient "
    "(ours)",
    "test": "are the sets of one kind? The patients of both sets are dealt anew to sets of the same numbers, and the "
    "figure is computed anew (distances {deals} times, precision, recall, density and coverage {clouds} times, "
    "the classifier with a training of its own {classifier} times). A patient of both sets keeps both volumes, "
    "which change places or not. p = (1 + deals at least as extreme) / (1 + deals) (Phipson and Smyth 2010, SAGMB "
    "9:39): as large a distance or AUC; as low a precision, recall, density or coverage. Corrected by Holm: "
    "energy distance, for volumes and slices; polynomial kernel distance, the same; precision and density; recall "
    "and coverage. Where patients have different numbers of volumes, as many of each, drawn at random, as the "
    "patient with the fewest has. A p below 0.05 shows a difference; a larger one does not show that there is "
    "none. No-skill rows are made from real patients: their test exchanges pairs, and is another than that of a "
    "set of other patients",
    "scale of tests": "tests take features in standard deviations of both sets together, which no deal changes, so "
    "that p is exact; figures take those of the real set, the same for every synthetic set. A feature that is the "
    "same in all volumes of both sets counts for nothing",
    "smaller than deals": "a distance or AUC that is smaller than in 97.5 % of the deals, corrected in the same way, "
    "says that the sets are more alike than different patients are: a sign of copies, or of patients in both sets "
    "under two names",
    "copies": "synthetic volumes whose voxels are those of a real one, after both were brought to the report's "
    "orientation, spacing and intensity range; files may differ (ours). Doubles that were changed are for evaluate "
    "memorisation",
    "precision": "share of synthetic volumes that lie in the real cloud (within the distance of some real volume to "
    "its k-th nearest neighbour; Kynkäänniemi et al. 2019, arXiv:1904.06991)",
    "recall": "share of real volumes that lie in the synthetic cloud (the same paper)",
    "density": "mean number of real balls that a synthetic volume lies in, divided by k (Naeem et al. 2020, "
    "arXiv:2002.09797); about 1 between sets of one kind",
    "coverage": "share of real volumes whose ball holds a synthetic volume (the same paper)",
    "clouds": "volumes of one patient are no neighbours of each other (ours). Intervals are conditional on the clouds: "
    "the patients whose volumes are asked about are drawn, the clouds stay. Those of shares are Clopper and Pearson's "
    "for one volume a patient, and for several that of the effective number of patients (Korn and Graubard 1998, Surv "
    "Methodol 24:193); density: bootstrap, none where all volumes have the same. Main figures are of all volumes, with "
    "this interval; they depend on the numbers, so what the set and real parts have at equal numbers stands beside",
    "MS-SSIM": "multi-scale structural similarity (Wang et al. 2003), MONAI's, kernel 7, as many of five scales as fit "
    "with the first weights made to sum to 1; the middle of the volumes, cut to the smallest size of all (at most 128 "
    "voxels a side); mean over random pairs of volumes of different patients of one set. Interval: patients drawn, "
    "pairs of one patient left out",
    "classifier": "cross-validated area under the ROC curve of a linear discriminant on the radiomics (5 folds of "
    "patients, 10 repeats; Ledoit and Wolf's shrinkage, fixed at 0.3). 0.5: it cannot tell; 1: it always can; 0: it is "
    "always wrong, as where each volume that it is asked about has a copy in the other set, which it learnt from. The "
    "interval draws patients and holds the classifiers as they are: it is too narrow with few patients (it left out "
    "0.5 in {auc_misses} of random deals of {auc_sizes} real patients, not in 5 %). The test says whether it can tell",
    "networks": "the same with small 3D networks (evaluation/real_or_synthetic.py), only with --auc-steps",
} | {f"no-skill row: {name}": text for name, text in no_skill_sets.DEFINITIONS.items()}  # fmt: skip


def definitions() -> dict[str, str]:
    """Name of a figure to how it is computed."""
    words = {"most": extraction.MOST_SLICES, "share": extraction.CENTRAL_SHARE, "deals": exchange.DEALS,
             "clouds": exchange.CLOUD_DEALS, "classifier": exchange.AUC_DEALS,
             "auc_misses": percent(comparison.AUC_MISSES, 0), "auc_sizes": comparison.AUC_MISSES_SIZES}  # fmt: skip
    return {k: v.format(**words) if "{" in v else v for k, v in DEFINITIONS.items()}
