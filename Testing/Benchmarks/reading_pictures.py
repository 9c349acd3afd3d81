"""Pictures of a blinded reading and of the form for a new study, from the module in the test stand-in.

    python Testing/Benchmarks/reading_pictures.py [--out Docs/Images] [--volumes FOLDER --note TEXT] [--looks FOLDER]

Writes reading_single.png, reading_choice.png and reading_new.png, 600 pixels wide: the panel, and above it the slice
views as Slicer's own slice logic draws them, off screen. Without --volumes (NIfTI files, at least two) the images are
drawn from the sample segmentations: flat grey values with noise, which nobody takes for a scan. Those of the
documentation were generated from the same segmentations (`synthdiffusion generate SEGMENTATION --model lung-nodule-ct
--steps 20`, seeds 3 to 8): both sides of the pair are synthetic. With --looks the same panels are
also written at 400 pixels, at a font of 200 % and in the dark theme, to be looked at.

Panels are pictures of the stand-in on PySide6, which is not 3D Slicer. Needs the extra "dev".
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
for folder in ("Panels", "Scene", "Engine"):
    sys.path.insert(0, str(ROOT / "Testing" / folder))
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

PACKAGES = ("SynthDiffusion", "SynthDiffusionPanels", "SynthDiffusionJobs", "SynthDiffusionScene")
WIDTH = 600
# HU of what the sample segmentations hold, and of the noise.
GREY = {"Body": 30, "Lung": -850, "Ribs": 500, "Nodule": 40, "Nodules": 40}
AIR, NOISE = -1000, 40
LOOKS = {"400": (400, 1.0, False), "200_percent": (400, 2.0, False), "dark": (600, 1.0, True)}


def drawn_volume(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey values of a sample segmentation, with noise that is a little smooth, and its affine."""
    from scipy.ndimage import gaussian_filter

    from SynthDiffusionLib.volumes import read_segmentation

    segmentation = read_segmentation(ROOT / "Resources" / "Segmentations" / f"{name}.seg.nrrd")
    values = np.full(segmentation.layers[0].shape, float(AIR))
    for segment in segmentation.segments:
        values[segmentation.layers[segment.layer] == segment.value] = GREY[segment.name]
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=values.shape), 0.8)
    values = gaussian_filter(values, 0.7) + NOISE * noise / noise.std()
    return values.astype(np.int16), segmentation.affine


def make_study(folder: Path, volumes: Path | None) -> Path:
    """A study with singles and pairs and the forms that ship."""
    import nibabel as nib
    import reader_study_examples

    files = sorted(volumes.glob("*.nii*")) if volumes is not None else []
    names = ("solitary-nodule", "pleural-nodule", "two-nodules")

    def write(path: Path, seed: int) -> None:
        write.count += 1
        if files:
            image = nib.load(files[write.count % len(files)])
            values, affine = np.asarray(image.dataobj).astype(np.int16), image.affine
        else:
            values, affine = drawn_volume(names[write.count % len(names)], seed)
        nib.save(nib.Nifti1Image(values, affine), path)

    write.count = 0
    forms = {name: json.loads((ROOT / "Resources" / "Forms" / f"{name}.json").read_text()) for name in FORMS}
    reader_study_examples._write_nifti = write
    reader_study_examples.choice_form = lambda: forms["forced-choice"]
    viewing = {
        "windows": [
            {"name": "Lung", "center": -600, "width": 1500},
            {"name": "Soft tissue", "center": 40, "width": 400},
        ]
    }
    return reader_study_examples.make_reading_folder(
        folder, single=4, pairs=4, real_volumes=True, form=forms["turing"], viewing=viewing, readers=("Anna",)
    )


FORMS = ("turing", "forced-choice")


class Pictures:
    """Takes the pictures.

    Args:
        standin: the environment.
        folder: for temporary files.
        out, looks: where they go; no looks without a folder.
        note: what the images are, below the pictures that show some.
    """

    def __init__(self, standin, folder: Path, out: Path, looks: Path | None, note: str) -> None:
        import slicer
        from panel_harness import Harness

        from SynthDiffusionPanels.StudyPanel import StudyPanel

        # Volumes get their grey scale from Slicer's colors.
        slicer.app.applicationLogic().SetModuleLogic("Colors", slicer.modules.colors.logic())
        self.standin, self.folder, self.out, self.looks, self.note = standin, folder, out, looks, note
        self.harness = Harness(standin.scene, StudyPanel)
        self.panel = self.harness.panel

    def read(self, study: Path) -> None:
        """The first single volume, and the first pair, of a reading."""
        ui, reading = self.panel.ui, self.panel.reading
        ui.folderEdit.currentPath = str(study)
        ui.beginButton.click()
        done = set()
        while reading.isActive and len(done) < 2:
            kind = reading._reading.task.kind
            for _ in range(3):
                reading._form.pressKey(5 if kind == "single" else 2)
                reading._form.pressKey(1)
            if kind not in done:
                done.add(kind)
                self.take("reading_single" if kind == "single" else "reading_choice")
            reading.goOn()
        reading.leave()

    def make(self, folder: Path) -> None:
        """The form for a new study, filled in."""
        panel = self.panel.newStudy
        self.panel.ui.newGroup.collapsed = False
        self.panel.ui.folderEdit.currentPath = ""
        for edit, name in (
            (panel.ui.realEdit, "CT real"),
            (panel.ui.syntheticEdit, "CT generated"),
            (panel.ui.outEdit, "study"),
        ):
            edit.currentPath = name
        panel.ui.readersEdit.text = "Anna, Ben, Chris"
        panel.ui.advancedBox.collapsed = False
        self.take("reading_new", views=False)

    def take(self, name: str, views: bool = True) -> None:
        """A picture of the panel as it is, under the slice views."""
        from PIL import Image
        from standin.screenshots import screenshot
        from tour_pictures import below, save, without_gap

        path = self.folder / "panel.png"
        screenshot(self.panel.widget, path, WIDTH, caption=self.note if views else "")
        picture = without_gap(Image.open(path).convert("RGB"))
        save(below(self.views(), picture) if views else picture, self.out / f"{name}.png")
        print(f"{name}.png {picture.size}")
        if self.looks is not None:
            for look, (width, scale, dark) in LOOKS.items():
                file = self.looks / f"{name}_{look}.png"
                least = screenshot(self.panel.widget, file, width, fontScale=scale, dark=dark)
                print(f"  {look}: needs {least.width()} of {width} pixels")

    def views(self):
        """The slice views of the reading beside each other."""
        from PIL import Image
        from tour_pictures import TourViews, beside

        shown = self.panel.reading._views
        gap = 4
        size = (WIDTH - gap * (len(shown.views) - 1)) // len(shown.views)
        views = TourViews(self.standin.scene, (size, size))
        pictures = []
        for view in shown.views:
            views.fit(view.tag)
            pictures.append(Image.fromarray(views.draw(view.tag)))
        views.close()
        return beside(*pictures)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "Docs" / "Images")
    parser.add_argument("--volumes", type=Path)
    parser.add_argument("--note", default="Images drawn from the sample segmentations.")
    parser.add_argument("--looks", type=Path)
    options = parser.parse_args()
    from standin.application import application
    from standin.environment import Environment

    application()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "slicer").mkdir()
        with Environment(folder / "slicer", [str(ROOT / "SynthDiffusion")], PACKAGES) as standin:
            pictures = Pictures(standin, folder, options.out, options.looks, options.note)
            pictures.read(make_study(folder / "study", options.volumes))
            pictures.make(folder)
            pictures.harness.close()
            if standin.faults:
                raise standin.faults[0]


if __name__ == "__main__":
    main()
