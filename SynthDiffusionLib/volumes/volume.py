"""The one image type of the engine, and the segmentation type that goes with it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True)
class Volume:
    """A scalar 3D image with its place in the world.

    Args:
        array: voxels, shape (I, J, K); the first axis is the fastest in the written file, as in nibabel and VTK.
        affine: (4, 4) float64, maps voxel indices (i, j, k, 1) to RAS+ millimetres.
        unit: "HU" for CT, "arbitrary" for MR, "label" for a label map.
        metadata: text attributes that travel with the volume into file headers (never patient identity).
    """

    array: np.ndarray
    affine: np.ndarray
    unit: str = "HU"
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(int(n) for n in self.array.shape)

    @property
    def spacing(self) -> np.ndarray:
        """(3,) voxel edge lengths in mm along i, j, k."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def with_array(self, array: np.ndarray, **changes) -> Volume:
        """The same geometry with other voxels."""
        return replace(self, array=array, **changes)


@dataclass(frozen=True)
class Code:
    """One coded concept, as DICOM PS3.3 section 8.8 (scheme, value, meaning): `Code("SCT", "39607008", "Lung")`."""

    scheme: str
    value: str
    meaning: str

    def __str__(self) -> str:
        return f"{self.scheme}^{self.value}^{self.meaning}"


@dataclass(frozen=True)
class Segment:
    """One structure of a segmentation.

    Args:
        name: as the user sees it.
        layer: index of the layer of `Segmentation.layers` that holds it.
        value: its label value in that layer (> 0).
        category: terminology category ("SCT^49755003^Morphologically Altered Structure"), if known.
        type: terminology type (what the structure is), if known.
        region: anatomic region, if known.
        color: RGB in 0..1, if known.
        type_modifier: what narrows the type down, mostly the side ("SCT^7771000^Left"), if known.
        region_modifier: the same for the region.
    """

    name: str
    value: int
    layer: int = 0
    category: Code | None = None
    type: Code | None = None
    region: Code | None = None
    color: tuple[float, float, float] | None = None
    type_modifier: Code | None = None
    region_modifier: Code | None = None


@dataclass(frozen=True)
class Segmentation:
    """Label maps on one grid; several layers where segments overlap.

    Args:
        layers: integer label maps, each of shape (I, J, K).
        affine: (4, 4) voxel indices to RAS+ millimetres.
        segments: what the label values mean. A plain label map has segments named "1", "2", ... .
    """

    layers: tuple[np.ndarray, ...]
    affine: np.ndarray
    segments: tuple[Segment, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(int(n) for n in self.layers[0].shape)

    @property
    def spacing(self) -> np.ndarray:
        """(3,) voxel edge lengths in mm along i, j, k."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def mask(self, segment: Segment) -> np.ndarray:
        """Voxels of a segment, bool, shape (I, J, K)."""
        return self.layers[segment.layer] == segment.value
