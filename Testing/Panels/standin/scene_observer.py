"""Observers of the stand-in's own widgets, which end with the widget."""

from __future__ import annotations

import weakref

import shiboken6


class Observers:
    """VTK observers that call a method of a PySide6 object, as long as it lives.

    Args:
        owner: the object; only weakly held.
    """

    def __init__(self, owner) -> None:
        self._owner = weakref.ref(owner)
        self._tags: list[tuple[object, int]] = []
        owner.destroyed.connect(lambda *_: self.remove())

    def add(self, observed, event, method: str) -> None:
        """Has `owner.method()` called at each event of a VTK object."""

        def call(_caller, _event) -> None:
            owner = self._owner()
            if owner is not None and shiboken6.isValid(owner):
                getattr(owner, method)()

        self._tags.append((observed, observed.AddObserver(event, call)))

    def remove(self) -> None:
        for observed, tag in self._tags:
            observed.RemoveObserver(tag)
        self._tags.clear()
