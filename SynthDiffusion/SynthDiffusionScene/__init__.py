"""Scene logic: segmentations and volumes in and out of a MRML scene.

Rules of this layer:

* It uses `slicer.vtkMRML*`, `slicer.vtk*` logics and those functions of `slicer.util` that need no application. It
  never imports qt or ctk, so that it runs in Slicer and on the slicer-core wheel alike (tested on the wheel).
* It does not import SynthDiffusionLib. The engine starts `python -m SynthDiffusionScene.write JOB_DIR` as a child
  process.
* Importing this package imports neither slicer nor vtk; its modules do.

Modules: `segmentations` (node to job and back), `volumes` and `names` (synthetic volumes, their marks and display),
`hierarchy` (patient and study), `bundle` (build, save and check a scene file), `write` (the child process).
"""
