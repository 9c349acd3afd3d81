"""Copies the entries of the stand-in's classes and their bases: python write_api_table.py LIST.json

LIST.json: of all Qt classes of Slicer and CTK, with `base`, `properties`, `signals`, `methods` and `enums` of each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

CLASSES = (
    "ctkCheckBox",
    "ctkCollapsibleButton",
    "ctkCollapsibleGroupBox",
    "ctkComboBox",
    "ctkDoubleSpinBox",
    "ctkFittedTextBrowser",
    "ctkMessageBox",
    "ctkPathLineEdit",
    "ctkSearchBox",
    "ctkSliderWidget",
    "ctkVTKRenderView",
    "qMRMLNodeComboBox",
    "qMRMLPlotView",
    "qMRMLPlotWidget",
    "qMRMLSegmentEditorWidget",
    "qMRMLSegmentsTableView",
    "qMRMLSliceControllerWidget",
    "qMRMLSliceView",
    "qMRMLSliceWidget",
    "qMRMLSortFilterProxyModel",
    "qMRMLTableView",
    "qMRMLTableWidget",
    "qMRMLThreeDView",
    "qMRMLThreeDWidget",
    "qMRMLWidget",
    "qSlicerAppMainWindow",
    "qSlicerApplication",
    "qSlicerExtensionsManagerModel",
    "qSlicerIOManager",
    "qSlicerLayoutManager",
    "qSlicerModuleFactoryManager",
    "qSlicerModuleManager",
    "qSlicerModuleSelectorToolBar",
    "qSlicerScriptedLoadableModule",
    "qSlicerScriptedLoadableModuleWidget",
    "qSlicerSegmentEditorAbstractEffect",
    "qSlicerWidget",
)


def entries(full: dict[str, dict]) -> dict[str, dict]:
    """The entries of CLASSES and of their bases, by name.

    Raises:
        KeyError: one of CLASSES is not in the list.
    """
    found = {}
    for name in CLASSES:
        found[name] = full[name]
        while (name := full[name]["base"]) in full:
            found[name] = full[name]
    return dict(sorted(found.items()))


if __name__ == "__main__":
    copied = entries(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    text = json.dumps(copied, indent=1, sort_keys=True)
    Path(__file__).with_name("slicer_qt_api.json").write_text(text + "\n", encoding="utf-8")
