"""Volumes, segmentations, their geometry and their files."""

from SynthDiffusionLib.volumes.files import (
    from_label_map,
    read_segmentation,
    read_volume,
    write_segmentation,
    write_volume,
)
from SynthDiffusionLib.volumes.grid import (
    axis_codes,
    grid_with_spacing,
    grids_overlap,
    same_grid,
    shifted_affine,
    spacing_of,
    voxel_positions,
)
from SynthDiffusionLib.volumes.resample import (
    reorient,
    reorient_segmentation,
    resample_segmentation,
    resample_to,
    resample_volume,
)
from SynthDiffusionLib.volumes.volume import Code, Segment, Segmentation, Volume

__all__ = [
    "Code",
    "Segment",
    "Segmentation",
    "Volume",
    "axis_codes",
    "from_label_map",
    "grid_with_spacing",
    "grids_overlap",
    "read_segmentation",
    "read_volume",
    "reorient",
    "reorient_segmentation",
    "resample_segmentation",
    "resample_to",
    "resample_volume",
    "same_grid",
    "shifted_affine",
    "spacing_of",
    "voxel_positions",
    "write_segmentation",
    "write_volume",
]
