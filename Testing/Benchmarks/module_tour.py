"""Drives the module in the test stand-in, with a real worker and the shipped model, through the steps of the tutorial.

    python Testing/Benchmarks/module_tour.py [--out Docs/Images/Tutorial] [--chest FOLDER]

Without --chest: the sample with one nodule becomes two volumes. With it: a nodule is drawn into the chest CT of
FOLDER/ct-64.nrrd (wholeLung-64.nrrd says where the lung is), made, compared, saved and reopened, and made again with
the same seed. OUT gets the pictures of Docs/TUTORIAL.md; the table says what was seen, and whether the voxels were the
same. Takes minutes on a CPU. Needs the extra "dev". Past runs of this computer are left alone: the tour has timings of
its own.

Panels are pictures of the stand-in on PySide6, which is not 3D Slicer; slice views are drawn by Slicer's own slice
logic and segmentation display, off screen. What is missing in the panels' pictures is the segment editor's tools and
the path of the engine on this computer.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Testing" / "Panels"))
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

PACKAGES = ("SynthDiffusion", "SynthDiffusionPanels", "SynthDiffusionJobs", "SynthDiffusionScene")
WIDTH = 460  # of the panel, in pixels
NODULE_RADIUS_MM = 8.0
CHEST_NOTE = "Real CT: Chest Imaging Platform. Drawn off screen by Slicer's slice logic; not a screenshot of 3D Slicer."


class Tour:
    """The module with its panels, and what was seen.

    Args:
        environment: the `standin.environment.Environment`.
        out: folder for the pictures.
        folder: for temporary files.
    """

    def __init__(self, environment, out: Path, folder: Path) -> None:
        import slicer

        self.standin, self.out, self.scene = environment, out, slicer.mrmlScene
        self.seen: list[tuple[str, str]] = []
        self.folder = folder
        self.loaded = environment.load_module(ROOT / "SynthDiffusion" / "SynthDiffusion.py")
        environment.complete_startup()
        # Slicer's own modules know each other through the application logic; volumes get their grey scale from it.
        slicer.app.applicationLogic().SetModuleLogic("Colors", slicer.modules.colors.logic())
        self.panel = self.loaded.make_widget().panel
        self.panel.setupPanel.ui.folderEdit.hide()

    @property
    def parameters(self):
        return self.panel.session.parameters

    def note(self, what: str, text: str) -> None:
        self.seen.append((what, text))
        print(f"{what:34s} {text}", flush=True)

    def wait(self, condition, seconds: float, what: str) -> None:
        self.standin.wait(condition, seconds, what)

    def wait_for_estimate(self) -> None:
        self.standin.process_events(1.0)  # it is asked for a moment after the last change
        label = self.panel.generatePanel.ui.estimateLabel
        self.wait(lambda: "free memory" in label.text, 60, "the estimate")

    def panel_picture(self, *open_panels):
        """A picture of the whole module with the sections of these panels open and the others closed."""
        from PIL import Image
        from standin.screenshots import screenshot
        from tour_pictures import without_gap

        for section, panel in self.panel.sections.items():
            section.collapsed = panel not in open_panels
        self.standin.process_events(0.3)
        path = self.folder / "panel.png"
        screenshot(self.loaded.parent, path, WIDTH)
        return without_gap(Image.open(path).convert("RGB"))

    def save(self, picture, name: str) -> None:
        from tour_pictures import save

        save(picture, self.out / f"{name}.png")

    def show(self, name: str, title: str, filled: bool = False, **options):
        """A picture of the three slice views through the middle of the nodule, which is outlined or filled."""
        from tour_pictures import slices

        node = self.parameters.segmentation
        node.GetDisplayNode().SetVisibility2DFill(filled)
        segmentation = node.GetSegmentation()
        ids = {segmentation.GetSegment(id_).GetName().lower(): id_ for id_ in segmentation.GetSegmentIDs()}
        picture = slices(self.scene, title, node.GetSegmentCenterRAS(ids["nodule"]), **options)
        if name:
            self.save(picture, name)
        return picture

    # The steps

    def begin(self) -> None:
        """The module is opened and asks the engine about itself."""
        self.loaded.enter()
        engine = self.panel.session.engine
        self.wait(lambda: engine.models or engine.status.state in ("missing", "failed"), 120, "the engine")
        if not engine.status.ready:
            raise SystemExit(f"The set-up is not complete: {engine.status.problem} {engine.status.missing}")

    def set_up(self) -> None:
        setup, status = self.panel.setupPanel, self.panel.session.engine.status
        self.note("set-up", f"PyTorch {status.torch}, {status.devices[0].name}")
        setup.ui.calibrateButton.click()
        self.wait(lambda: not setup.ui.cancelButton.visible, 300, "the measured speed")
        self.wait(lambda: setup.ui.calibrateButton.enabled, 60, "the set-up panel")
        self.note("speed", setup.ui.messageLabel.text)
        self.save(self.panel_picture(setup), "setup")

    def choose_sample(self, title: str) -> None:
        segmentation = self.panel.segmentationPanel
        action = next(a for a in segmentation.ui.sampleButton.menu().actions() if a.text == title)
        action.trigger()
        self.standin.process_events(1.0)
        self.save(self.panel_picture(segmentation), "segmentation")
        self.show("sample", f"Sample '{title}': axial, coronal, sagittal", filled=True)

    def set_seed(self, seed: int) -> None:
        ui = self.panel.modelPanel.ui
        ui.fixedSeedButton.click()
        ui.seedBox.value = seed

    def generate(self, what: str, pictures: str = ""):
        """Clicks Generate and waits. Returns the new volume node.

        Args:
            what: for the table.
            pictures: name that the pictures of the run under way begin with; "" for none.
        """
        from SynthDiffusionScene.runs import runsOf

        generate, queue = self.panel.generatePanel, self.panel.session.queue
        self.wait_for_estimate()
        self.note(f"{what}, before", generate.ui.estimateLabel.text)
        before, previews = {row.node.GetID() for row in runsOf(self.scene)}, []
        queue.previewed.connect(lambda run, path: previews.append(path))
        began = time.monotonic()
        generate.ui.generateButton.click()
        run = queue.runs[-1]
        if pictures:
            self.wait(lambda: len(previews) >= 3 or run.ended, 600, f"previews of {what}")
            self.save(self.panel_picture(generate), f"{pictures}_running")
            self.show(f"{pictures}_preview", "A preview while the image is made")
        self.wait(lambda: run.ended, 900, what)
        if run.state != "done":
            raise SystemExit(f"{what}: {run.state}. {run.message} {run.hint}")
        row = next(row for row in runsOf(self.scene) if row.node.GetID() not in before)
        measured = run.outputs[0]["adherence"]
        self.note(
            what,
            f"{time.monotonic() - began:.0f} s, {len(previews)} previews, adherence {measured['dice']:.2f}"
            f" (real images {measured['real_dice']:.2f}, ball {measured['ball_dice']:.2f})",
        )
        self.standin.process_events(1.0)
        self.panel.resultsPanel.select(row.node)
        self.panel.resultsPanel.ui.showButton.click()
        return row.node

    def end(self) -> None:
        self.loaded.unload()
        left = {name: number for name, number in self.standin.counts().items() if name in ("timers", "processes")}
        self.note("left after the module has closed", str(left))


def sample_tour(tour: Tour) -> None:
    """Steps 1 to 5 of the tutorial: no patient data."""
    from tour_pictures import below, beside

    tour.set_up()
    tour.choose_sample("Solitary nodule")
    tour.set_seed(1)
    tour.save(tour.panel_picture(tour.panel.modelPanel), "model")
    tour.generate("sample, seed 1", pictures="sample")
    tour.show("result", "Synthetic CT, seed 1, with the outlines of the drawing")
    axial = {"caption": "Drawn off screen; not 3D Slicer.", "names": ("Red",)}
    first = tour.show("", "Synthetic CT, seed 1", **axial)
    tour.set_seed(2)
    tour.generate("sample, seed 2")
    second = tour.show("", "Synthetic CT, seed 2", **axial)
    tour.save(beside(first, second), "seeds")
    tour.save(tour.panel_picture(tour.panel.resultsPanel), "results")
    export_dicom(tour)
    tour.wait_for_estimate()
    overview = tour.panel_picture(tour.panel.segmentationPanel, tour.panel.generatePanel, tour.panel.resultsPanel)
    tour.save(beside(overview, below(first, second)), "module")


def chest_tour(tour: Tour, folder: Path) -> None:
    """A nodule drawn into a real CT; the comparison; the scene saved, reopened and run again."""
    import slicer.util

    real = slicer.util.loadVolume(str(folder / "ct-64.nrrd"))
    real.SetName("Chest CT")
    slicer.util.setSliceViewerLayers(background=real, fit=True)
    lung = slicer.util.loadVolume(str(folder / "wholeLung-64.nrrd"))
    mask = nodule_in(slicer.util.arrayFromVolume(lung) > 0, real.GetSpacing()[::-1])
    tour.scene.RemoveNode(lung)
    draw_nodule(tour, real, mask)
    tour.save(tour.panel_picture(tour.panel.segmentationPanel), "draw")
    tour.panel.segmentationPanel.ui.drawSection.collapsed = True
    tour.show("drawn", "A nodule drawn into a real CT", caption=CHEST_NOTE)
    tour.panel.modelPanel.ui.inpaintButton.click()
    tour.set_seed(1)
    made = tour.generate("chest CT, seed 1")
    tour.show("inpainted", "The synthetic nodule in the real CT", caption=CHEST_NOTE)
    compare(tour, real, made)
    export(tour)
    voxels = slicer.util.arrayFromVolume(made).copy()
    again = reopened(tour, made.GetName())
    same = np.array_equal(voxels, slicer.util.arrayFromVolume(again))
    tour.note("reopened, same seed, same voxels", "yes" if same else "NO")


def export_dicom(tour: Tour) -> None:
    """The chosen result as DICOM, and the panel at its end."""
    folder, results = tour.folder / "DICOM", tour.panel.resultsPanel
    folder.mkdir()
    results.ui.dicomGroup.collapsed = False
    tour.standin.dialogs.answer(str(folder))
    began = time.monotonic()
    results.dicom.ui.exportButton.click()
    tour.wait(lambda: not results.dicom.busy, 120, "the DICOM export")
    tour.note("DICOM", f"{time.monotonic() - began:.0f} s, {results.dicom.ui.messageLabel.text.splitlines()[0]}")
    # The temporary folder of the tour says nothing to a reader.
    results.dicom.ui.messageLabel.text = results.dicom.ui.messageLabel.text.replace(str(folder), "DICOM")
    tour.save(tour.panel_picture(results), "dicom")
    results.ui.dicomGroup.collapsed = True


def nodule_in(lung: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """A lobulated nodule at the place in the lung that is farthest from its border, as a mask."""
    from inpainting_examples import lobulated
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(lung, sampling=spacing)
    center = np.array(np.unravel_index(np.argmax(depth), depth.shape))
    return lobulated(lung.shape, center, NODULE_RADIUS_MM, np.array(spacing))


def draw_nodule(tour: Tour, real, mask: np.ndarray) -> None:
    """Chooses the volume, begins a drawing and adds a nodule; the voxels stand for what a user paints."""
    import qt
    import slicer.util

    segmentation = tour.panel.segmentationPanel
    segmentation.ui.volumeSelector.setCurrentNode(real)
    segmentation.ui.newButton.click()
    buttons = segmentation.ui.drawSection.findChildren(qt.QPushButton)
    next(button for button in buttons if button.text == "Add nodule").click()
    node = tour.parameters.segmentation
    segment_id = node.GetSegmentation().GetSegmentIdBySegmentName("nodule")
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, segment_id, real)
    tour.standin.process_events(1.0)


def compare(tour: Tour, real, made) -> None:
    """The comparison, its picture and its panel; then back to the user's own views."""
    from slice_pictures import comparisonPicture
    from tour_pictures import TourViews

    from SynthDiffusionScene.comparisonLayout import TAGS

    results, panel = tour.panel.resultsPanel, tour.panel.comparePanel
    results.select(made)
    results.ui.compareButton.click()
    if not panel.isActive or tour.parameters.compareReal is not real:
        raise SystemExit(f"The comparison was not shown: {panel.ui.messageLabel.text}")
    views = TourViews(tour.scene)
    for tag in TAGS.values():
        views.draw(tag)  # the views are made here, and the comparison is fitted to their size
    panel._comparison.fit()
    path = tour.out / "comparison.png"
    tour.save(comparisonPicture(views, panel._comparison, path, CHEST_NOTE), "comparison")
    views.close()
    tour.save(tour.panel_picture(panel), "compare")
    panel.ui.compareButton.click()
    tour.note("comparison", panel.ui.noteLabel.text)


def export(tour: Tour) -> None:
    tour.save(tour.panel_picture(tour.panel.exportPanel), "export")


def reopened(tour: Tour, name: str):
    """Saves the scene, opens it again, and makes the volume again by "Same settings" and Generate."""
    import slicer.util

    from SynthDiffusionScene.runs import runsOf

    path = tour.folder / "tour.mrb"
    tour.panel.exportPanel.saveScene(str(path))
    tour.note("scene", f"{path.stat().st_size / 1e6:.1f} MB")
    slicer.util.loadScene(str(path))
    tour.standin.process_events(1.0)
    row = next(row for row in runsOf(tour.scene) if row.node.GetName() == name)
    tour.panel.resultsPanel.select(row.node)
    tour.panel.resultsPanel.ui.sameButton.click()
    return tour.generate("reopened scene, seed 1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "Docs" / "Images" / "Tutorial", help="folder for the pictures"
    )
    parser.add_argument("--chest", type=Path, help="folder with ct-64.nrrd and wholeLung-64.nrrd")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as state:
        os.environ["SYNTHDIFFUSION_STATE"] = state
        from standin.application import application
        from standin.environment import Environment

        application()
        tours = [sample_tour]
        if args.chest is not None:
            tours.append(lambda tour: chest_tour(tour, args.chest))
        for number, steps in enumerate(tours):
            folder = Path(state) / f"slicer{number}"
            with Environment(folder, [str(ROOT / "SynthDiffusion")], PACKAGES) as environment:
                tour = Tour(environment, args.out, Path(state))
                tour.begin()
                steps(tour)
                tour.end()
    pictures = sorted(args.out.glob("*.png"))
    print(f"{len(pictures)} pictures, {sum(path.stat().st_size for path in pictures) / 1e6:.2f} MB, in {args.out}")


if __name__ == "__main__":
    main()
