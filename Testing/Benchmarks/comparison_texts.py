"""What the page of the comparison of methods says in words, and what is known of the methods without measuring them.

Words in braces are filled in by `comparison_page`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """What is known of a method without measuring it; an entry of `methods.json`."""

    backend: str
    name: str
    title: str
    authors: str
    url: str
    input: str
    in_short: str
    best_for: str


ABOUT = (
    About(
        "patch_ddpm",
        "patch-wise DDPM",
        "Evaluating Utility of Memory Efficient Medical Image Generation: A Study on Lung Nodule Segmentation",
        "Khadra and Türkbey, 2024",
        "https://arxiv.org/abs/2410.12542",
        "drawing",
        "a part of a real scan",
        "Putting a drawn structure into a real scan, or taking one out: the only method here that changes a part and "
        "keeps the rest.",
    ),
    About(
        "medlord",
        "MedLoRD",
        "MedLoRD: A Medical Low-Resource Diffusion Model for High-Resolution 3D CT Image Synthesis",
        "Seyfarth et al., 2025",
        "https://arxiv.org/abs/2503.13211",
        "drawing",
        "large volumes in little memory",
        "Whole volumes at high resolution, with a drawing or without: built for up to 512 x 512 x 256 voxels on a card "
        "of 24 GB. How strongly a drawing counts can be set; the small limb-tumour-ct follows tumours badly all the "
        "same.",
    ),
    About(
        "med_lsdm",
        "Med-LSDM",
        "Towards 3D Semantic Image Synthesis for Medical Imaging",
        "Tang, Seyam and Yang, 2025",
        "https://arxiv.org/abs/2507.00206",
        "drawing",
        "volumes from a full label map",
        "Whole volumes from a label map in which all structures are drawn, such as the parts of an organ.",
    ),
    About(
        "slice_ldm",
        "slice-based latent diffusion",
        "3D MRI Synthesis with Slice-Based Latent Diffusion Models: Improving Tumor Segmentation Tasks in Data-Scarce "
        "Regimes",
        "Kebaili et al., 2024",
        "https://arxiv.org/abs/2406.05421",
        "characteristics",
        "image and mask, nothing drawn",
        "A tumour or nodule with its segmentation when nothing is drawn: it is asked for size, shape and place, and "
        "makes image and mask together. Of these limb-tumour-mr heeds size and place, with much scatter, the shape not "
        "clearly.",
    ),
    About(
        "maisi",
        "MAISI",
        "MAISI: Medical AI for Synthetic Imaging",
        "Guo et al., 2024",
        "https://arxiv.org/abs/2409.11169",
        "drawing",
        "bodies with many organs",
        "Large CT volumes of the body with many organs, with its authors' released weights; it is not trained here and "
        "not in the comparison.",
    ),
)

INTRODUCTION = """\
# The four methods on the same data

Made by one command, `{command}`; the figures are read from `runs/compare/*.json`, and none is written by hand. What
is not measured says so.

**What this page can say.** Every method was trained from nothing on the same {train} training patients for the same
{minutes:g} minutes of {clock}, all its stages together, with small networks (`Resources/Training/Comparison`).
No setting was chosen by a test patient. Some were mended after a first training, by its training and validation cases:
without a Dice loss the slice-based model's masks stayed empty; predicting noise, as published, it did not heed in so
short a training what it was asked for, and Med-LSDM lost brightness and contrast, so that all four predict v here; and
scaled by the codebook, as published, Med-LSDM's latents were far too small. That shows **who learns fast on little**.
It does not show what the methods can do at full size on a GPU in days, for which their authors built them, and no
figure of theirs can be compared with one of these. One training each: another seed would give other figures, and no
interval here holds that.

Data: LIDC-IDRI, cubes of 48 x 48 x 48 voxels at 1 mm round one nodule each, one per patient; {train} patients to
train, {validation} for validation, {test} to test ([TRAINING.md](TRAINING.md#the-data)). {machine}
"""

GIVEN = """\
Each method made one volume for each test patient, with its package's default sampler, steps and guidance. The three
that take a drawing were given the patient's whole class map (nodule, filled lung, bone, body). The slice-based method
takes none: it was given the nine characteristics of the patient's nodule (volume, surface, sphericity, centre, box),
makes a mask with its image, and is scored against **its own mask**, so that its adherence says whether image and mask
fit each other; whether it made what it was asked for is measured [below](#asked-and-made). Definitions:
[EVALUATION.md](EVALUATION.md).
"""

ADHERENCE = """\
Dice of one segmenter with the mask, the same for all: that of `{segmenter}`, which was trained on real images of the
same training patients (compared patient by patient). The ratio is that mean Dice divided by the one on the real
images of the same patients ({real}); 1 is right, above 1.1 is as bad a sign as below 0.9. **Other masks**: the same
volumes scored with other patients' masks. All nodules lie in the middle of their cubes, so that a wrong mask is not
far off, and only what a method gains by its own mask over that (**gain**) is following. The no-skill rows are made
without any model.
"""

REALISM = """\
MMD² and Fréchet distance between the features of {test} synthetic and {test} real images
([EVALUATION.md](EVALUATION.md)); the row of real images of other patients is the floor, what two sets of real images
of this size are apart. AUC: a linear discriminant on the same features tells real from synthetic, cross-validated by
patient; 0.5 is chance. {networks} `yes` under "below no-skill": the interval of MMD² ends below those of all no-skill
rows that are not real images. The last of them, training images cut into cubes and shuffled, has real texture and no
anatomy; it was added when the figures of the methods were known, since the others are all flat or painted.
"""

CARTOONS = """\
**This is no evidence of realism.** Cartoons that are painted on the drawing gain about as much ({shown}) as {best}
({gain}) and real images ({real}), and the ratio of {best} is nearer to 1 than theirs in only {least} to {most} of the
resamples. The figures rank how well a drawing is obeyed, and a picture without any anatomy obeys it as well.
"""

WALL = """\
**Equal processor time is not equal wall time**, which is what was first asked for. The {cpus} logical CPUs were shared
with other work, so that equal wall time would have given each method what that work happened to leave it.{spread}
"""

COST = """\
One volume of 48 x 48 x 48 voxels. "One volume" is a fresh process, the worker that Slicer starts, from its start to
its end (start of Python, imports and weights included; median of {repeats}); "a further one" is what each further
volume in the same process takes. Seconds are {clock} on {threads} thread{s}; memory is the peak of the resident
memory of the process{gpu}. A volume this small says little about memory at full size: that is what
[PRESETS.md](PRESETS.md) is for.
"""

CONTROL = """\
The slice-based method was asked for the nine characteristics of each test patient's nodule, and the mask that it made
was measured. A slope of 1 is as asked, 0 is not heeded; "at random" is what training masks get that are dealt to the
same requests at random (middle 95 %). Real nodules lie in the middle of their cubes, so the centres that were asked
for hardly differ (standard deviation in the table) and their slopes say little. {empty}
"""
