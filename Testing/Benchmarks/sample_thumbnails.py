"""Draws the pictures of the sample segmentations that Slicer's Sample Data module shows.

    python Testing/Benchmarks/sample_thumbnails.py [--out SynthDiffusion/Resources/Icons/Samples]

The lung is drawn as glass, with the ribs around it and the nodule in it; the hippocampus has no surroundings.
Needs the extra "slicer" (VTK).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from SynthDiffusionLib.volumes import read_segmentation

ROOT = Path(__file__).resolve().parents[2]
SIZE = (260, 280)  # pixels; the size that Sample Data asks for
LUNG, NODULE = 2, 4  # label values of the pieces of a chest
CHEST = {LUNG: 0.25, 3: 1.0, NODULE: 1.0}  # opacities; 3 is bone
HIPPOCAMPUS = {1: 1.0, 2: 1.0}
SMOOTHING_MM = 0.8
# From which side a sample is seen, in RAS: from where its ribs do not hide its nodules.
VIEWS = {
    "solitary-nodule": (1.0, 2.2, 0.6),
    "pleural-nodule": (-0.9, 2.2, 0.9),
    "two-nodules": (0.9, -2.2, 0.8),
    "hippocampus": (2.2, 0.9, 1.4),
}


def surface(mask: np.ndarray, affine: np.ndarray) -> vtk.vtkPolyData:
    """Smooth surface of a mask, in RAS mm.

    Args:
        mask: bool, shape (I, J, K).
        affine: (4, 4), voxel indices to RAS mm.
    """
    padded = np.pad(mask, 1).astype(np.float32)
    image = vtk.vtkImageData()
    image.SetDimensions(padded.shape)
    image.SetOrigin(-1, -1, -1)
    image.GetPointData().SetScalars(numpy_to_vtk(padded.ravel(order="F"), deep=True))
    smooth = vtk.vtkImageGaussianSmooth()
    smooth.SetStandardDeviation(SMOOTHING_MM)
    smooth.SetInputData(image)
    contour = vtk.vtkFlyingEdges3D()
    contour.SetValue(0, 0.5)
    contour.SetInputConnection(smooth.GetOutputPort())
    transform = vtk.vtkTransform()
    transform.SetMatrix(np.asarray(affine, float).ravel())
    placed = vtk.vtkTransformPolyDataFilter()
    placed.SetTransform(transform)
    placed.SetInputConnection(contour.GetOutputPort())
    placed.Update()
    return placed.GetOutput()


def thumbnail(path: Path, out: Path) -> None:
    """Draws one segmentation into a PNG file."""
    segmentation = read_segmentation(path)
    name = path.name.removesuffix(".seg.nrrd")
    opacities = HIPPOCAMPUS if name == "hippocampus" else CHEST
    renderer = vtk.vtkRenderer()
    renderer.SetBackground(0.12, 0.12, 0.14)
    for segment in segmentation.segments:
        if segment.value not in opacities:
            continue
        # The nodule is part of the lung: its glass has no hole there.
        values = (LUNG, NODULE) if opacities is CHEST and segment.value == LUNG else (segment.value,)
        mask = np.isin(segmentation.layers[segment.layer], values)
        mapper = vtk.vtkPolyDataMapper()
        mapper.SetInputData(surface(mask, segmentation.affine))
        mapper.ScalarVisibilityOff()
        actor = vtk.vtkActor()
        actor.SetMapper(mapper)
        actor.GetProperty().SetColor(segment.color)
        actor.GetProperty().SetOpacity(opacities[segment.value])
        renderer.AddActor(actor)
    camera = renderer.GetActiveCamera()
    camera.SetViewUp(0, 0, 1)
    camera.SetPosition(*VIEWS[name])
    camera.SetFocalPoint(0, 0, 0)
    renderer.ResetCamera()
    camera.Zoom(1.2)
    renderer.SetUseDepthPeeling(True)
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(True)
    window.SetMultiSamples(0)
    window.SetAlphaBitPlanes(True)
    window.SetSize(2 * SIZE[0], 2 * SIZE[1])
    window.AddRenderer(renderer)
    window.Render()
    picture = vtk.vtkWindowToImageFilter()
    picture.SetInput(window)
    picture.ReadFrontBufferOff()
    half = vtk.vtkImageResize()  # twice the size, halved: smooth edges without multi-sampling
    half.SetOutputDimensions(*SIZE, 1)
    half.SetInputConnection(picture.GetOutputPort())
    writer = vtk.vtkPNGWriter()
    writer.SetInputConnection(half.GetOutputPort())
    writer.SetCompressionLevel(9)
    writer.SetFileName(str(out))
    writer.Write()
    print(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ROOT / "SynthDiffusion" / "Resources" / "Icons" / "Samples"
    parser.add_argument("--out", type=Path, default=default, help="folder to write to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted((ROOT / "Resources" / "Segmentations").glob("*.seg.nrrd")):
        thumbnail(path, out / f"{path.name.removesuffix('.seg.nrrd')}.png")


if __name__ == "__main__":
    main()
