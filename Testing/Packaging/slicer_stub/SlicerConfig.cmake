# Test equipment: a find_package(Slicer) that knows scripted modules only. What it does was read from Slicer 5.12
# (CMake/SlicerMacroBuildScriptedModule.cmake) and CTK (CMake/ctkMacroCompilePythonScript.cmake) and is written anew here;
# files are copied while configuring, where the originals copy while building.

set(Slicer_USE_FILE "${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake")
set(Slicer_EXTENSION_GENERATE_CONFIG "${CMAKE_CURRENT_LIST_DIR}/GenerateConfig.cmake")
set(Slicer_EXTENSION_CPACK "${CMAKE_CURRENT_LIST_DIR}/ExtensionCPack.cmake")
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR "lib/Slicer-5.12/qt-scripted-modules")
set(Slicer_INSTALL_QTSCRIPTEDMODULES_SHARE_DIR "share/Slicer-5.12/qt-scripted-modules")
