"""The sample segmentations in the panel's list and in Slicer's Sample Data module."""

from __future__ import annotations

import hashlib
import urllib.request
from pathlib import Path

import pytest
from panel_harness import ROOT, resource_path

SHIPPED = sorted((ROOT / "Resources" / "Segmentations").glob("*.seg.nrrd"))


def test_every_shipped_segmentation_is_a_sample(slicer_python):
    from SynthDiffusionJobs.Samples import samples

    found = samples(resource_path)
    assert sorted(sample.path for sample in found) == SHIPPED
    assert all(sample.title and sample.description for sample in found)


def test_sample_data_can_fetch_check_and_load_them(slicer_python, standin, tmp_path):
    import slicer.util

    from SynthDiffusionJobs.Samples import CATEGORY, registerSampleData

    registerSampleData(resource_path)
    registerSampleData(resource_path)  # as when the module is reloaded
    sources = slicer_python.modules.sampleDataSources[CATEGORY]
    assert len(sources) == len(SHIPPED)
    for source in sources:
        # What Slicer's SampleDataLogic does: urlretrieve, computeChecksum, load by the file type.
        target = tmp_path / source.fileNames
        urllib.request.urlretrieve(source.uris, target)
        algorithm, digest = slicer.util.extractAlgoAndDigest(source.checksums)
        assert slicer.util.computeChecksum(algorithm, str(target)) == digest
        assert hashlib.sha256(target.read_bytes()).hexdigest() == digest
        assert source.loadFileTypes == "SegmentationFile"
        node = slicer.util.loadSegmentation(str(target))
        assert node.GetSegmentation().GetNumberOfSegments() == (2 if "hippocampus" in source.fileNames else 4)


def test_a_folder_with_blanks_and_umlauts_gives_a_proper_address(slicer_python, tmp_path):
    from SynthDiffusionJobs.Samples import CATEGORY, registerSampleData

    folder = tmp_path / "Prüfung & 100 %" / "Segmentations"
    folder.mkdir(parents=True)
    for path in SHIPPED:
        (folder / path.name).write_bytes(path.read_bytes())

    def moved(name: str) -> str:
        return str(folder.parent / name) if name.startswith("Segmentations") else resource_path(name)

    registerSampleData(moved)
    source = slicer_python.modules.sampleDataSources[CATEGORY][0]
    with urllib.request.urlopen(source.uris) as opened:
        assert opened.read() == (folder / "solitary-nodule.seg.nrrd").read_bytes()


def test_a_sample_that_is_missing_is_named(slicer_python):
    from SynthDiffusionJobs.Samples import samples

    def missing(name: str) -> str:
        raise FileNotFoundError(name)

    with pytest.raises(FileNotFoundError, match="solitary-nodule"):
        samples(missing)


def test_every_sample_has_a_picture_of_the_size_that_sample_data_asks_for(slicer_python):
    from PIL import Image

    from SynthDiffusionJobs.Samples import CATEGORY, registerSampleData

    registerSampleData(resource_path)
    for source in slicer_python.modules.sampleDataSources[CATEGORY]:
        with Image.open(source.thumbnailFileName) as picture:
            assert picture.size == (260, 280)
            colors = picture.convert("RGB").getcolors(maxcolors=1 << 20)
        assert len(colors) > 500  # no blank picture, as without a graphics card
        reddish = 1.4 if "hippocampus" in source.thumbnailFileName else 2  # the head is orange, a nodule red
        assert any(red > reddish * max(green, blue) for _count, (red, green, blue) in colors)
        assert Path(source.thumbnailFileName).stat().st_size < 100_000
