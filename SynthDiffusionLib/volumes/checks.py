"""What a file must hold to be a volume, checked before memory is spent on it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.volumes.stream import native, truncated

MAX_VOXELS = 1024**3
"""Largest volume that is read, in voxels. A whole-body CT of 512 x 512 x 2000 has half of it."""

MAX_LABELS = 1024
"""Most label values that one label map may have; an atlas of the brain has some hundred, a 12-bit image thousands."""

# The deflate format cannot pack more than 1032 bytes into one (zlib technical notes, https://zlib.net/zlib_tech.html).
_MAX_DEFLATE_RATIO = 1032


def check_size(
    sizes: Sequence[int], bytes_per_voxel: int, name: str, stored_bytes: int | None = None, compressed: bool = False
) -> None:
    """Refuse a declared size that cannot be right or cannot be held, before anything is allocated.

    Args:
        sizes: declared size along each axis.
        bytes_per_voxel: of the stored type.
        name: file name for the message.
        stored_bytes: how many bytes of the file hold voxels, if known.
        compressed: whether those bytes are deflated.

    Raises:
        BadInput: not positive, over `MAX_VOXELS`, more than the file can hold, or more than the free memory.
    """
    text = " x ".join(str(int(n)) for n in sizes)
    if min(sizes) < 1:
        raise BadInput(f"{name}: its header declares a size of {text} voxels", "Export the image again.")
    voxels = math.prod(int(n) for n in sizes)
    if voxels > MAX_VOXELS:
        raise BadInput(
            f"{name}: its header declares {text} voxels, more than the {MAX_VOXELS:,} that can be read",
            "Crop or resample the image first.",
        )
    needed = voxels * bytes_per_voxel
    if stored_bytes is not None:
        holds = stored_bytes * (_MAX_DEFLATE_RATIO if compressed else 1) + (1024 if compressed else 0)
        if needed > holds:
            raise truncated(name, f"its header declares {text} voxels but the file is too short for them")
    free = _free_memory()
    if free is not None and needed > free:
        raise BadInput(
            f"{name}: {text} voxels need {needed / 2**30:.1f} GiB of memory and {free / 2**30:.1f} GiB are free",
            "Crop or resample the image, or close other programs.",
        )


def check_3d(shape: Sequence[int], name: str) -> None:
    """Refuse what is not a volume with some extent along every axis.

    Raises:
        BadInput: an axis has one voxel only.
    """
    if min(shape) > 1:
        return
    text = " x ".join(str(int(n)) for n in shape)
    if max(shape) == 1:
        raise BadInput(f"{name}: it has a single voxel", "Choose a 3D image.")
    raise BadInput(f"{name}: it is a single slice ({text} voxels)", "Choose a 3D image with at least two slices.")


def spatial_shape(shape: Sequence[int], name: str) -> tuple[int, int, int]:
    """The three sizes of an array in which further axes may only have length one.

    Raises:
        BadInput: fewer than three axes, or a further axis longer than one (a time series).
    """
    shape = tuple(int(n) for n in shape)
    if len(shape) < 3:
        raise BadInput(f"{name}: it is a {len(shape)}-D image", "Choose a 3D image.")
    if any(n != 1 for n in shape[3:]):
        text = " x ".join(str(n) for n in shape)
        raise BadInput(
            f"{name}: it is {len(shape)}-D ({text}), a time series or several images in one file",
            "Save the one 3D image that is meant.",
        )
    return shape[:3]


def check_finite(array: np.ndarray, name: str) -> None:
    """Refuse NaN and infinite voxels.

    Raises:
        BadInput: says how many there are.
    """
    if np.issubdtype(array.dtype, np.floating):
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        if bad:
            raise BadInput(f"{name}: {bad:,} voxels are not finite (NaN or infinite)", "Replace them and save again.")


def as_labels(array: np.ndarray, name: str) -> np.ndarray:
    """A label map's voxels in the smallest unsigned type that holds them.

    Args:
        array: any real type; floats must hold whole numbers.

    Raises:
        BadInput: non-finite, negative or fractional voxels, or values beyond 32 bits.
    """
    if array.dtype == bool:
        return array.astype(np.uint8)
    check_finite(array, name)
    low, high = array.min(), array.max()
    if low < 0:
        raise BadInput(
            f"{name}: a label map cannot hold negative values (smallest is {low:g})",
            "Choose a segmentation, not an image.",
        )
    if high > np.iinfo(np.uint32).max:
        raise BadInput(f"{name}: label value {high:g} is too large", "Choose a segmentation, not an image.")
    if np.issubdtype(array.dtype, np.floating) and not np.array_equal(array, np.rint(array)):
        raise BadInput(
            f"{name}: a label map must hold whole numbers, but it has fractions",
            "Threshold it (a probability map) or choose a segmentation, not an image.",
        )
    return array.astype(next(t for t in (np.uint8, np.uint16, np.uint32) if high <= np.iinfo(t).max), copy=False)


def label_values(array: np.ndarray, name: str) -> list[int]:
    """The values above zero that occur in a label map, ascending.

    Args:
        array: unsigned integers, shape (I, J, K).

    Raises:
        BadInput: so many that it must be an image.
    """
    # One slice at a time, which are small and lie together in memory; sorting the whole volume takes many seconds.
    found: set[int] = set()
    for k in range(array.shape[2]):
        found.update(_values_in(array[:, :, k]).tolist())
        if len(found - {0}) > MAX_LABELS:
            raise BadInput(
                f"{name}: it has more than {MAX_LABELS} different values, so it is an image and not a label map",
                "Choose a segmentation.",
            )
    return sorted(found - {0})


def _values_in(part: np.ndarray) -> np.ndarray:
    # Counting costs no sort, but a table as long as the largest value.
    if part.size and int(part.max()) <= 2 * part.size:
        return np.flatnonzero(np.bincount(part.ravel(order="K").astype(np.intp, copy=False)))
    return np.unique(part)


def rescaled(raw: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """raw * slope + intercept; whole numbers stay whole (int16 if they fit), all else becomes floating point."""
    if slope == 1 and intercept == 0:
        return raw
    whole = float(slope).is_integer() and float(intercept).is_integer() and raw.dtype.kind in "iu"
    if whole and raw.dtype.itemsize <= 2 and max(abs(slope), abs(intercept)) < 2**14:
        scaled = raw.astype(np.int32)
        scaled *= np.int32(slope)
        scaled += np.int32(intercept)
        fits = -(2**15) <= scaled.min() and scaled.max() < 2**15
        return scaled.astype(np.int16) if fits else scaled
    work = np.float64 if raw.dtype.itemsize > 4 or raw.dtype in (np.int32, np.uint32) else np.float32
    scaled = raw.astype(work)
    scaled *= work(slope)
    scaled += work(intercept)
    return scaled


def storable(array: np.ndarray) -> np.ndarray:
    """The array in a type that all readers know; the values stay as they are.

    Raises:
        BadInput: 64-bit integers that do not fit into 32 bits.
    """
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype in (np.int64, np.uint64):
        low, high = int(array.min()), int(array.max())
        for narrow in (np.int16, np.int32, np.uint32):
            if np.iinfo(narrow).min <= low and high <= np.iinfo(narrow).max:
                return array.astype(narrow)
        raise BadInput(f"Voxel values {low} to {high} do not fit into 32 bits", "Rescale the volume.")
    return native(array)


def _free_memory() -> int | None:
    try:
        from psutil import virtual_memory
    except ImportError:
        return None
    return int(virtual_memory().available)
