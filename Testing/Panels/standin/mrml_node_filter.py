"""qMRMLSortFilterProxyModel: which nodes a selector shows. Only the filter; there is no model of items behind it."""

from __future__ import annotations

from PySide6 import QtCore


class qMRMLSortFilterProxyModel(QtCore.QSortFilterProxyModel):
    """Args: changed: called after each change of a filter."""

    standin_name = "qMRMLSortFilterProxyModel"

    def __init__(self, parent, changed) -> None:
        super().__init__(parent)
        self._changed, self._attributes = changed, {}
        self._values = {"nodeTypes": (), "hideChildNodeTypes": (), "hiddenNodeIDs": (), "visibleNodeIDs": ()}
        self._values |= {"showHiddenForTypes": (), "showHidden": False, "showChildNodeTypes": True}

    def _filter(name: str):  # noqa: N805 - makes properties of this class
        def write(self, value) -> None:
            self._values[name] = tuple(value) if isinstance(value, (list, tuple)) else value
            self._changed()

        return property(lambda self: self._values[name], write)

    nodeTypes, hideChildNodeTypes = _filter("nodeTypes"), _filter("hideChildNodeTypes")
    hiddenNodeIDs, visibleNodeIDs = _filter("hiddenNodeIDs"), _filter("visibleNodeIDs")
    showHidden, showHiddenForTypes = _filter("showHidden"), _filter("showHiddenForTypes")
    showChildNodeTypes = _filter("showChildNodeTypes")

    def setShowHidden(self, shown: bool) -> None:
        self.showHidden = shown

    def addAttribute(self, node_type: str, name: str, value=None) -> None:
        self._attributes[node_type] = (name, value)  # one for each type, as in Slicer
        self._changed()

    def removeAttribute(self, node_type: str, _name: str = "") -> None:
        self._attributes.pop(node_type, None)
        self._changed()

    def attributeFilter(self, node_type: str):
        return self._attributes.get(node_type, ("", None))[1]

    def accepts(self, node) -> bool:
        """Whether a node is shown."""
        if node.GetID() in self.hiddenNodeIDs:
            return False
        if node.GetID() in self.visibleNodeIDs:
            return True
        if node.GetHideFromEditors() and not self.showHidden and not _is_any(node, self.showHiddenForTypes):
            return False
        if not self.nodeTypes:
            return True
        for node_type in [t for t in self.nodeTypes if node.IsA(t)]:
            if not self.showChildNodeTypes and node.GetClassName() != node_type:
                continue
            if self.showChildNodeTypes and _is_any(node, self.hideChildNodeTypes):
                return False
            name, value = self._attributes.get(node_type, ("", None))
            found = node.GetAttribute(name) if name else None
            return not name or (found is not None and (value is None or found == str(value)))
        return False

    def attributes_of_new(self, node_type: str) -> dict[str, str]:
        """What a node made for the selector gets, so that the filter lets it through."""
        name, value = self._attributes.get(node_type, ("", None))
        return {name: str(value)} if name and value is not None else {}


def _is_any(node, types) -> bool:
    return any(node.IsA(kind) for kind in types)
