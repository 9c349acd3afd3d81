"""Child processes of the engine, and what is asked of them: the module's side of `SynthDiffusionLib.jobs`.

Rules of this layer:

* It uses qt.QProcess, qt.QTimer and qt.QSettings, and no widgets. What happens is told through `Signal`s.
* torch and the other packages of the engine are loaded in child processes only. Of SynthDiffusionLib it imports the
  modules that need numpy at most: `labels`, `jobs.request`, `jobs.command_line`, `sampling.quality`, `resources`,
  `errors`.
* It reads and writes the scene through SynthDiffusionScene.

Importing this package imports nothing else.
"""
