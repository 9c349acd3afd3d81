"""What the forms of a training set have in common: which files they want where, and what describes them."""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from SynthDiffusionLib.errors import BadInput, shortened
from SynthDiffusionLib.export.splits import TEST

if TYPE_CHECKING:
    from SynthDiffusionLib.export.manifest import Entry

LONGEST_NAME = 60


@dataclass(frozen=True)
class SetFacts:
    """What is true of a whole training set.

    Args:
        name: of it.
        modality: "CT" or "MR".
        values: of the classes by name, the background with 0 first.
        folds: how many there are, or 0.
        counts: volumes of each kind.
    """

    name: str
    modality: str
    values: Mapping[str, int]
    folds: int
    counts: Mapping[str, int]

    @property
    def description(self) -> str:
        """A sentence that says what is synthetic."""
        kinds = ", ".join(f"{number} {kind}" for kind, number in self.counts.items())
        return f"{kinds} volumes; manifest.csv says which is which. For research, not for diagnosis."


class SetForm(ABC):
    """A form of a training set."""

    needs_labels = False
    takes_folds = False

    def folder_name(self, name: str) -> str:
        """Name of the set's folder.

        Raises:
            BadInput: a name that cannot be one.
        """
        if not name.isprintable() or name != name.strip(" .") or not name or set(name) & set('<>:"/\\|?*'):
            raise BadInput(f"'{shortened(name)}' cannot be the name of a folder", "Give --name letters and digits.")
        return name

    @abstractmethod
    def places(self, entries: Sequence[Entry], modality: str) -> list[tuple[str, str]]:
        """POSIX paths of image and label map of each volume, relative to the set's folder."""

    @abstractmethod
    def describe(self, folder: Path, entries: Sequence[Entry], facts: SetFacts) -> None:
        """Writes what describes the set, beside its files and its manifest."""


def in_parts(entries: Iterable[Entry], ending: str, channel: str = "") -> list[tuple[str, str]]:
    """Places in the folders imagesTr, labelsTr, imagesTs and labelsTs, which nnU-Net has from the Decathlon.

    Args:
        ending: of all files.
        channel: what comes before it in the name of an image.
    """
    parts = [("Ts" if entry.part == TEST else "Tr", entry.case) for entry in entries]
    return [(f"images{part}/{case}{channel}{ending}", f"labels{part}/{case}{ending}") for part, case in parts]


def safe_names(names: Iterable[str], only_letters: bool = False) -> list[str]:
    """Names of ASCII letters, digits, `_` and `-`, each different from the others also in lower case.

    Args:
        names: of anything; accents are taken off, all else becomes `_`.
        only_letters: without `_` and `-`, which BIDS has for itself.
    """
    taken: set[str] = set()
    found = []
    for name in names:
        text = unicodedata.normalize("NFKD", name.replace("ß", "ss"))
        text = "".join(c for c in text if not unicodedata.combining(c))
        text = re.sub(r"[^A-Za-z0-9]+" if only_letters else r"[^A-Za-z0-9_-]+", "" if only_letters else "_", text)
        stem = text.strip("_-")[:LONGEST_NAME] or "case"
        safe, number = stem, 1
        while safe.casefold() in taken:
            number += 1
            safe = f"{stem}{'x' if only_letters else '_'}{number}"
        taken.add(safe.casefold())
        found.append(safe)
    return found
