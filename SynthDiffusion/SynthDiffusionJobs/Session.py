"""All of the module that is not a widget, made once for each module widget and handed to its panels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from SynthDiffusionJobs.Engine import Engine, ModelInfo
from SynthDiffusionJobs.Generation import Generation
from SynthDiffusionJobs.JobFolders import JobFolders
from SynthDiffusionJobs.RunQueue import RunQueue
from SynthDiffusionJobs.Signal import Signal


class Session:
    """The scene, the engine, the runs and the parameters.

    Args:
        scene: the MRML scene.
        engineFolder: the folder that holds SynthDiffusionLib.
        resourcePath: gives the path of a file under Resources.

    Attributes:
        parameters: the `Parameters` of the scene; None while the scene is closed.
        parametersChanged: Signal(), a parameter has another value, or there are other parameters.
        drawingChanged: Signal(), segments of the chosen segmentation were added, removed, renamed or drawn into.
        engine, generation, queue, folders: see there.
    """

    def __init__(self, scene, engineFolder: str | Path, resourcePath: Callable[[str], str]) -> None:
        self.scene, self.resourcePath = scene, resourcePath
        self.parameters = None
        self.parametersChanged, self.drawingChanged = Signal(), Signal()
        self.folders = JobFolders()
        self.engine = Engine(engineFolder, self.folders)
        self.generation = Generation(scene, self.engine, self.folders)

    @property
    def queue(self) -> RunQueue:
        return self.generation.queue

    @property
    def model(self) -> ModelInfo | None:
        """The chosen model."""
        return self.engine.model(self.parameters.modelId) if self.parameters is not None else None

    def begin(self) -> None:
        """Cleans up after crashed sessions, and asks the engine about itself."""
        self.folders.removeAbandoned()
        self.engine.refresh()

    def setParameters(self, parameters) -> None:
        """Takes the parameters of the scene; None when the scene closes, which ends all runs without results."""
        self.parameters = parameters
        if parameters is None:
            self.generation.discardScene()
        self.parametersChanged.emit()

    def shutdown(self) -> None:
        """Ends every process and deletes every temporary file. Nothing of the session can be used afterwards."""
        self.parametersChanged.disconnectAll()
        self.drawingChanged.disconnectAll()
        self.generation.shutdown()
        self.engine.shutdown()
        self.folders.removeAll()
