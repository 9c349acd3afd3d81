"""Bytes of image files: unpacking within bounds, and one error for all that a damaged file can raise."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from SynthDiffusionLib.errors import BadInput

_CHUNK = 1 << 22
_GZIP_MAGIC = b"\x1f\x8b"


def is_gzip(path: Path) -> bool:
    """Whether the file begins as a gzip file does, whatever its suffix."""
    with open(path, "rb") as file:
        return file.read(2) == _GZIP_MAGIC


@contextmanager
def open_unpacked(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked if it is a gzip file."""
    with gzip.open(path, "rb") if is_gzip(path) else open(path, "rb") as file:
        yield file


def read_voxels(stream: BinaryIO, dtype: np.dtype, sizes: Sequence[int], name: str) -> np.ndarray:
    """Exactly as many voxels as declared, first axis fastest, in this machine's byte order.

    A packed stream is read no further than that (it may unpack to any size), but for a short rest: at the end of a
    gzip stream stands its checksum, which is thereby tested.

    Args:
        stream: at the first voxel.
        sizes: checked by `checks.check_size` before.

    Raises:
        BadInput: the stream ends early.
    """
    array = np.empty(math.prod(int(n) for n in sizes), dtype=dtype)
    buffer = memoryview(array).cast("B")
    position = 0
    while position < len(buffer):
        chunk = stream.read(min(_CHUNK, len(buffer) - position))
        if not chunk:
            share = position / len(buffer)
            raise truncated(name, f"it ends after {share:.0%} of the voxels that its header declares")
        buffer[position : position + len(chunk)] = chunk
        position += len(chunk)
    for _ in range(4):
        if not stream.read(_CHUNK):
            break
    return native(array).reshape(tuple(int(n) for n in sizes), order="F")


class Inflate:
    """A zlib or gzip stream inside a file (MetaImage's compressed data), as a readable stream."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
        self._rest = b""

    def read(self, count: int) -> bytes:
        while not self._unpacker.eof:
            packed = self._rest or self._file.read(_CHUNK)
            out = self._unpacker.decompress(packed, count)
            self._rest = self._unpacker.unconsumed_tail
            if out:
                return out
            if not packed:
                raise EOFError
        return b""


def native(array: np.ndarray) -> np.ndarray:
    """The array in this machine's byte order."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def truncated(name: str, detail: str = "the file is truncated or damaged") -> BadInput:
    """The error for a file that ends too early or is damaged."""
    return BadInput(f"{name}: {detail}", "Copy or download it again.")


@contextmanager
def decoding(path: Path, kind: str, *also: type[Exception]) -> Iterator[None]:
    """Turns what the libraries raise on damaged files into one BadInput.

    Args:
        path: the file.
        kind: its format, for the message.
        also: further exception types that the library raises.
    """
    try:
        yield
    except PermissionError as error:
        raise BadInput(f"{path.name}: no permission to read it", "Change its access rights.") from error
    except FileNotFoundError as error:
        missing = Path(error.filename).name if error.filename else "with its voxels"
        raise BadInput(f"{path.name}: the file {missing}, which it names, is missing", "Copy both files.") from error
    except (EOFError, zlib.error) as error:
        raise truncated(path.name) from error
    except MemoryError as error:
        raise BadInput(f"{path.name}: not enough memory to read it", "Crop or resample the image.") from error
    # UnicodeError is a ValueError and gzip's BadGzipFile an OSError.
    except (OSError, ValueError, LookupError, TypeError, OverflowError, *also) as error:
        cause = "".join(c for c in " ".join(str(error).split()) if c.isprintable())[:160]
        raise BadInput(
            f"{path.name}: it cannot be read as {kind} ({cause or type(error).__name__})",
            "The file is damaged or of another format; copy or export it again.",
        ) from error


def data_file_beside(path: Path, named: str) -> Path:
    """The file with the voxels that a header file names; it must lie in the header's folder or below.

    Raises:
        BadInput: the name leads elsewhere, or there is no such file.
    """
    folder = path.parent.resolve()
    with decoding(path, "an image"):  # the name may hold anything
        data = (folder / named.strip().replace("\\", "/")).resolve()
    if not data.is_relative_to(folder):
        raise BadInput(f"{path.name}: it names a data file outside its folder ({named})", "Move both into one folder.")
    if not data.is_file():
        raise BadInput(f"{path.name}: its data file {named} is missing", "Copy both files into one folder.")
    return data
