"""A list of functions to call: signals declared in Python crash in Slicer's Qt binding."""

from __future__ import annotations

from collections.abc import Callable


class Signal:
    """Calls what is connected to it, in the order of connecting."""

    def __init__(self) -> None:
        self._receivers: list[Callable] = []

    def connect(self, receiver: Callable) -> None:
        self._receivers.append(receiver)

    def disconnect(self, receiver: Callable) -> None:
        """Does nothing if it is not connected."""
        if receiver in self._receivers:
            self._receivers.remove(receiver)

    def emit(self, *arguments: object) -> None:
        """Calls all of them. If one fails the others are called all the same, and the first failure is raised then."""
        failure = None
        for receiver in list(self._receivers):
            try:
                receiver(*arguments)
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def disconnectAll(self) -> None:
        self._receivers.clear()

    @property
    def receiverCount(self) -> int:
        return len(self._receivers)
