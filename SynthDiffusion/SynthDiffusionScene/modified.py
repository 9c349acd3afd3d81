"""When a node and what it shows were last changed."""

from __future__ import annotations

from SynthDiffusionScene.segmentations import segmentsOf


def modifiedTime(node) -> int:
    """The newest of VTK's time stamps of a segmentation or volume node and of the data in it.

    A brush stroke changes only the label map of a segment, and a new transform only the node.
    """
    times = [node.GetMTime()]
    if node.IsA("vtkMRMLSegmentationNode"):
        times.append(node.GetSegmentation().GetMTime())
        for segment in segmentsOf(node):
            times.append(segment.GetMTime())
            labelmap = segment.GetRepresentation("Binary labelmap")
            if labelmap is not None:
                times.append(labelmap.GetMTime())
    elif node.IsA("vtkMRMLVolumeNode") and node.GetImageData() is not None:
        times.append(node.GetImageData().GetMTime())
    return max(times)
