# Slicer refuses to package an extension whose licence or readme is missing.
foreach(_name EXTENSION_LICENSE_FILE EXTENSION_README_FILE)
  if(NOT EXISTS "${${_name}}")
    message(FATAL_ERROR "${_name} points to a file that does not exist: ${${_name}}")
  endif()
endforeach()

# The evaluated metadata, for the test to read.
set(_metadata "{}")
foreach(_name HOMEPAGE CATEGORY CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS KEYWORDS STATUS DEPENDS)
  string(JSON _metadata SET "${_metadata}" "${_name}" "\"${EXTENSION_${_name}}\"")
endforeach()
file(WRITE "${CMAKE_BINARY_DIR}/metadata.json" "${_metadata}")
