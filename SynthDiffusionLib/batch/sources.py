"""Which segmentations, and real volumes to inpaint into, a batch goes over."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from SynthDiffusionLib.errors import BadInput, shortened
from SynthDiffusionLib.jobs.inputs import SUFFIXES
from SynthDiffusionLib.jobs.outputs import safe_stem

_HINT = "Give a CSV file with the column segmentation, and if need be image and case."


@dataclass(frozen=True)
class Source:
    """A segmentation of a batch.

    Args:
        case: what the names of its volumes begin with.
        segmentation: its file; None for volumes without a drawing.
        image: the real volume to inpaint into, or None.
    """

    case: str
    segmentation: Path | None
    image: Path | None = None


def find_sources(paths: Sequence[Path]) -> list[Source]:
    """The segmentations that the command line names, in order of their cases.

    Args:
        paths: files of segmentations; folders, all of whose segmentations count (not those of folders within them); and
            CSV files with the columns `segmentation` and, if need be, `image` and `case`, whose relative paths start at
            the CSV file.

    Raises:
        BadInput: a path that is not there, a folder without a segmentation, or two segmentations of one case.
    """
    sources: list[Source] = []
    for path in paths:
        path = Path(path).expanduser()
        try:
            if path.is_dir():
                sources += _of_folder(path)
            elif path.suffix.lower() == ".csv":
                sources += _of_list(path)
            else:
                path.stat()  # a missing file is a mistake in typing; a damaged one is seen when it is its turn
                sources.append(_source(path))
        except FileNotFoundError as error:
            raise BadInput(f"'{path}' does not exist", "Give files, folders or CSV lists of segmentations.") from error
        except OSError as error:
            raise BadInput(f"'{path}' cannot be read ({error.strerror})", "Check its permissions.") from error
    by_case: dict[str, Source] = {}
    for source in sources:
        other = by_case.setdefault(source.case.casefold(), source)  # names of files may not differ by case alone
        if other.segmentation != source.segmentation or other.image != source.image:
            raise BadInput(
                f"'{other.segmentation}' and '{source.segmentation}' are both named '{source.case}'",
                "Name them in a CSV file with the columns segmentation and case.",
            )
    return [by_case[name] for name in sorted(by_case)]


def _of_folder(folder: Path) -> Iterable[Source]:
    # Resolved here, so that another working directory, or a worker on another machine, finds the same files.
    names = sorted(name for name in os.listdir(folder) if not name.startswith(".") and not os.path.isdir(folder / name))
    found = [_source(folder / name) for name in names if name.lower().endswith(SUFFIXES)]
    if not found:
        raise BadInput(f"The folder '{folder}' holds no segmentation", f"Expected are {', '.join(SUFFIXES)}.")
    return found


def _of_list(path: Path) -> Iterable[Source]:
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")), strict=True))
    except (ValueError, csv.Error) as error:
        raise BadInput(f"'{path}' is no list of segmentations ({shortened(error)})", _HINT) from error
    rows = [row for row in rows if any(isinstance(value, str) and value.strip() for value in row.values())]
    if rows and "segmentation" not in (names := [(name or "").strip() for name in rows[0]]):
        raise BadInput(f"The list '{path}' has no column segmentation, but {', '.join(map(shortened, names))}", _HINT)
    if not rows:
        raise BadInput(f"The list '{path}' has no line below its heading", _HINT)
    found = []
    for number, row in enumerate(rows, 2):
        cells = {(name or "").strip(): (value or "").strip() for name, value in row.items() if isinstance(value, str)}
        if not cells.get("segmentation"):
            raise BadInput(f"Line {number} of '{path}' names no segmentation", _HINT)
        image = path.parent / Path(cells["image"]).expanduser() if cells.get("image") else None
        found.append(_source(path.parent / Path(cells["segmentation"]).expanduser(), image, cells.get("case") or None))
    return found


def _source(segmentation: Path, image: Path | None = None, case: str | None = None) -> Source:
    if case is None:
        name = segmentation.name
        suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), "")
        case = name[: len(name) - len(suffix)]
    absolute = None if image is None else Path(os.path.abspath(image))
    return Source(safe_stem(case), Path(os.path.abspath(segmentation)), absolute)
