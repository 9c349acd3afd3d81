"""Scene logic: segmentations and volumes in and out of a MRML scene.

Rules of this layer:

* It uses `slicer.vtkMRML*`, `slicer.vtk*` logics and those functions of `slicer.util` that need no application. It
  never imports qt or ctk, so that it runs in Slicer and on the slicer-core wheel alike (tested on the wheel).
* It does not import SynthDiffusionLib. The engine starts `python -m SynthDiffusionScene.write JOB_DIR` as a child
  process.
* Importing this package imports neither slicer nor vtk; its modules do.

Modules:

* `drawing` and `labelMaps` (what the user draws or loads), `segmentations` (node to job and back), `volumeFiles` (a
  volume as a job's input), `modified` (whether a node has changed since)
* `runs` and `runFolders` (what a run has made), `volumes` and `names` (synthetic volumes, their marks and display),
  `hierarchy` (patient and study), `preview` (what is shown while a run goes on)
* `comparison` and what it is made of: `comparisonLayout`, `comparisonTables`, `statistics`, `histogram`, `difference`,
  `grids`, `displayState`, `temporaryNodes`
* `readingViews` (the cases of a blinded reading, one at a time) and what it is made of: `readingLayout`,
  `readingNodes`, `readingPoints`
* `bundle` (build, save and check a scene file), `sceneExport` (the user's whole scene), `write` (the child process)
"""
