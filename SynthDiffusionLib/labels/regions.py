"""Which part of the body a drawing shows, in MAISI's four regions and by MAISI's label values."""

from __future__ import annotations

from collections.abc import Iterable

from SynthDiffusionLib.errors import BadInput

REGIONS = ("head", "chest", "abdomen", "pelvis")  # in the order of the model's input, from top to bottom
DEFAULT_REGIONS = ("chest", "abdomen")  # what most of the training volumes show

# By these the regions of the training volumes were told (get_body_region_index_from_mask in scripts/utils.py of
# NVIDIA-Medtech/NV-Generate-CTMR): brain and skull; lobes of the lungs; liver, spleen, pancreas, kidneys; femurs.
_MARKERS = {
    "head": {22, 120},
    "chest": {28, 29, 30, 31, 32},
    "abdomen": {1, 3, 4, 5, 14},
    "pelvis": {93, 94},
}
# Where a drawing has none of these, other organs that lie in one region.
_SIGNS = {
    # cervical vertebrae above the sixth
    "head": {52, 53, 54, 55, 56},
    # lung tumour, trachea, scapulae, heart, pulmonary vein, sternum, superior vena cava, airway; thoracic vertebrae 1
    # to 9, ribs 1 to 8, left atrial appendage and vessels of the arch
    "chest": {
        23,
        *range(41, 50),
        57,
        *range(63, 71),
        *range(75, 83),
        89,
        90,
        *range(108, 112),
        115,
        119,
        122,
        125,
        132,
    },
    # adrenals, gallbladder, stomach, duodenum, portal vein, pancreatic and hepatic tumours and vessels, colon cancer,
    # lumbar vertebrae 1 to 4, small bowel, colon, cysts of the kidneys
    "abdomen": {8, 9, 10, 12, 13, 17, 19, 24, 25, 26, 27, 34, 35, 36, 37, 62, 116, 117},
    # bladder, hips, sacrum, gluteal muscles, prostate, first sacral vertebra
    "pelvis": {15, 95, 96, 97, *range(98, 104), 118, 127},
}


def regions_of(values: Iterable[int]) -> tuple[str, str] | None:
    """The uppermost and the lowest region that label values show.

    The organs that MAISI's authors went by decide; only where none of them is drawn do others. A volume from the lungs
    to the kidneys is ("chest", "abdomen").

    Args:
        values: MAISI's label values that are in the drawing.

    Returns:
        two of `REGIONS`, or None where nothing in the drawing tells.
    """
    present = {int(v) for v in values}
    for organs in (_MARKERS, _SIGNS):
        found = [region for region in REGIONS if present & organs[region]]
        if found:
            return found[0], found[-1]
    return None


def choose_regions(values: Iterable[int], asked: tuple[str, str] | None) -> tuple[tuple[str, str], str]:
    """The regions that a volume is made for, and a sentence that says how they were chosen.

    Args:
        values: MAISI's label values that are in the drawing; none without a drawing.
        asked: what the user asked for, or None.

    Returns:
        (top, bottom) and the sentence.

    Raises:
        BadInput: regions that do not exist, or in the wrong order.
    """
    if asked is not None:
        for name in asked:
            if name not in REGIONS:
                raise BadInput(f"Unknown body region '{name}'", f"Choose from: {', '.join(REGIONS)}.")
        if REGIONS.index(asked[0]) > REGIONS.index(asked[1]):
            raise BadInput(f"The body region '{asked[0]}' does not lie above '{asked[1]}'", "Name the upper one first.")
        return asked, f"Body regions as asked for: {asked[0]} to {asked[1]}"
    found = regions_of(values)
    if found is not None:
        return found, f"Body regions from what is drawn: {found[0]} to {found[1]}; set them with --region"
    top, bottom = DEFAULT_REGIONS
    return DEFAULT_REGIONS, f"Nothing drawn tells the body regions: {top} to {bottom} is taken; set them with --region"
