"""Lists and dictionaries of a parameter node: a change to them is written into the node. Only what Slicer's can do."""

from __future__ import annotations

import collections.abc


class ObservedList(collections.abc.MutableSequence):
    def __init__(self, node, kind, name: str, values: list) -> None:
        self._node, self._kind, self._name, self._list = node, kind, name, values

    def _save(self) -> None:
        import slicer

        try:
            self._kind.validate(self._list)
            with slicer.util.NodeModify(self._node):
                self._kind.write(self._node, self._name, self._list)
        finally:
            self._list = self._kind.plain(self._node, self._name)

    def __eq__(self, other) -> bool:
        return self._list == (other._list if isinstance(other, ObservedList) else other)

    __hash__ = None

    def __repr__(self) -> str:
        return f"ObservedList({self._list})"

    def __len__(self) -> int:
        return len(self._list)

    def __getitem__(self, index):
        return self._list[index]

    def __setitem__(self, index, value) -> None:
        self._list[index] = value
        self._save()

    def __delitem__(self, index) -> None:
        del self._list[index]
        self._save()

    def __add__(self, other):
        raise NotImplementedError("Adding an ObservedList is not supported. However, += is supported.")

    __radd__ = __mul__ = __rmul__ = __add__

    def insert(self, index, value) -> None:
        self._list.insert(index, value)
        self._save()

    def sort(self, *args, **kwargs) -> None:
        self._list.sort(*args, **kwargs)
        self._save()


class ObservedDict:
    """Not a dict: no update, no setdefault, and get takes no default. `dict(...)` makes a plain copy."""

    def __init__(self, node, kind, name: str, values: dict) -> None:
        self._node, self._kind, self._name, self._dict = node, kind, name, values

    def _save(self) -> None:
        import slicer

        try:
            self._kind.validate(self._dict)
            with slicer.util.NodeModify(self._node):
                self._kind.write(self._node, self._name, self._dict)
        finally:
            self._dict = dict(self._kind.plain(self._node, self._name))

    def __eq__(self, other) -> bool:
        return self._dict == (other._dict if isinstance(other, ObservedDict) else other)

    __hash__ = None

    def __repr__(self) -> str:
        return f"ObservedDict({self._dict})"

    def __len__(self) -> int:
        return len(self._dict)

    def __contains__(self, key) -> bool:
        return key in self._dict

    def __iter__(self):
        return iter(self._dict)

    def __getitem__(self, key):
        return self._dict[key]

    def __setitem__(self, key, value) -> None:
        self._dict[key] = value
        self._save()

    def __delitem__(self, key) -> None:
        del self._dict[key]
        self._save()

    def keys(self):
        return self._dict.keys()

    def values(self):
        return self._dict.values()

    def items(self):
        return self._dict.items()

    def get(self, key):
        return self._dict.get(key)

    def pop(self, key):
        value = self._dict.pop(key)
        self._save()
        return value

    def popitem(self):
        item = self._dict.popitem()
        self._save()
        return item

    def clear(self) -> None:
        self._dict.clear()
        self._save()
