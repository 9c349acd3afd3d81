"""The sample segmentations that come with the extension."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slicer.i18n import tr as _

CATEGORY = "SynthDiffusion"
_SUFFIX = ".seg.nrrd"


@dataclass(frozen=True)
class Sample:
    """One sample.

    Args:
        name: of the file, without its suffix.
        title, description: what the user reads.
        path: of the file.
    """

    name: str
    title: str
    description: str
    path: Path


def samples(resourcePath: Callable[[str], str]) -> list[Sample]:
    """The samples in the order of a tutorial.

    Args:
        resourcePath: gives the path of a file under Resources.

    Raises:
        FileNotFoundError: a file is missing from the installation.
    """
    texts = {
        "solitary-nodule": (
            _("Solitary nodule"),
            _("Side of the right lung with ribs, and one nodule of about 11 mm. Drawn; no patient data."),
        ),
        "pleural-nodule": (
            _("Pleural nodule"),
            _("Back of the right lung base, and a nodule of about 15 mm on the chest wall. Drawn; no patient data."),
        ),
        "two-nodules": (
            _("Two nodules"),
            _("Left lung between heart and front wall, nodules of about 9 and 6 mm. Drawn; no patient data."),
        ),
        "hippocampus": (
            _("Hippocampus"),
            _("A right hippocampus, its head and its body with the tail, for MR models. Drawn; no patient data."),
        ),
    }
    return [
        Sample(name, title, description, Path(resourcePath(f"Segmentations/{name}{_SUFFIX}")))
        for name, (title, description) in texts.items()
    ]


def registerSampleData(resourcePath: Callable[[str], str]) -> None:
    """Offers the samples in Slicer's Sample Data module. Registering them twice changes nothing.

    Args:
        resourcePath: as for `samples`.
    """
    import SampleData

    for sample in samples(resourcePath):
        checksum = hashlib.sha256(sample.path.read_bytes()).hexdigest()
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=sample.title,
            # Sample Data copies it into its cache as if it came from the network, and compares the checksum, so that a
            # newer version of the extension is not answered from an old cache.
            uris=sample.path.as_uri(),
            fileNames=f"SynthDiffusion-{sample.path.name}",
            nodeNames=sample.title,
            checksums=f"SHA256:{checksum}",
            loadFileTypes="SegmentationFile",
            thumbnailFileName=resourcePath(f"Icons/Samples/{sample.name}.png"),
        )
