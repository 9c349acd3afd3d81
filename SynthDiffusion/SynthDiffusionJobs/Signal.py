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
        for receiver in list(self._receivers):
            receiver(*arguments)

    def disconnectAll(self) -> None:
        self._receivers.clear()

    @property
    def receiverCount(self) -> int:
        return len(self._receivers)
