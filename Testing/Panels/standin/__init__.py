"""A stand-in for Slicer 5.12's Python: PythonQt's `qt`, `ctk`, and what the application adds to `slicer`.

Test equipment, made of PySide6 and the slicer-core wheel; nothing in the product imports it. The real slicer.util,
scene, layout logic, slice logics and application logic are used; widgets, PythonQt's manners, the application object
and `parameterNodeWrapper` are made here. What Slicer 5.12 does not have is refused: Qt names by the Qt 5.15 stubs of
types-PySide2, names of ctk, qMRML and qSlicer classes by `slicer_qt_api.json`.

Not stood in for: rendering, segment editor effects, CLI modules, the DICOM database, the extension manager.

`environment.Environment` puts everything in place for one test, and takes it away again.
"""
