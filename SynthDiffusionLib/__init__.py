"""The engine of SynthDiffusion: synthetic CT and MR volumes from segmentations by diffusion models.

Rules of the layers, held by `Testing/Engine/test_layers.py`:

* Nothing here imports slicer, qt, ctk or vtk. The Slicer side (SynthDiffusion/) talks to the engine through job folders
  and JSON events; the scene writer (SynthDiffusionScene) is started as a child process.
* `import SynthDiffusionLib` and `synthdiffusion --help` load neither torch nor MONAI. Heavy packages are imported in
  functions, or in modules that are themselves imported there.
* The command line, the Slicer worker, the batch runner and the tests all call the same `jobs.run(request)`.

`Docs/ARCHITECTURE.md` maps the packages.
"""

__version__ = "0.1.0"
