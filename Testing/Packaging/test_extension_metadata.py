"""What the Extensions Index checks of a submission, as far as it can be checked before there is a repository.

Read from Slicer/ExtensionsIndex, scripts/check_description_files.py, and from Slicer's
Schemas/slicer-extension-catalog-entry-schema-v1.0.2.json.
"""

from __future__ import annotations

import json
import re
import struct
from urllib.parse import urlsplit

import pytest
from test_file_lists import ROOT

CMAKE = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
ENTRY = json.loads((ROOT / "SynthDiffusion.json").read_text(encoding="utf-8"))


def _organization() -> str:
    return re.search(r'set\(SYNTHDIFFUSION_ORGANIZATION "([^"]+)"\)', CMAKE)[1]


def test_entry_has_the_keys_of_schema_1_0_2_and_no_others():
    required = {"$schema", "category", "scm_url"}
    optional = {
        "scm_revision",
        "scm_type",
        "build_dependencies",
        "build_subdirectory",
        "dicom_support_rule",
        "enabled",
        "tier",
    }
    assert required <= ENTRY.keys() <= required | optional
    assert "-schema-v1.0.2.json" in ENTRY["$schema"]
    assert ENTRY["tier"] == 3
    assert ENTRY["scm_revision"] == "main"


def test_entry_file_is_written_as_the_index_wants_it():
    raw = (ROOT / "SynthDiffusion.json").read_bytes()
    assert b"\r" not in raw and b"\t" not in raw and raw.endswith(b"}\n")
    assert raw.decode("utf-8") == json.dumps(ENTRY, indent=2) + "\n"


def test_names_agree_and_do_not_start_with_slicer():
    names = re.findall(r"project\s*\(\s*([^\s)]+)", CMAKE, re.IGNORECASE)
    assert names[0] == "SynthDiffusion"
    address = urlsplit(ENTRY["scm_url"])
    assert address.scheme == "https"
    assert address.path.split("/")[1:] == [_organization(), "SlicerSynthDiffusion"]


def test_category_is_accepted():
    assert ENTRY["category"] == "Image Synthesis"
    assert 'set(EXTENSION_CATEGORY "Image Synthesis")' in CMAKE


@pytest.mark.parametrize(
    ("variable", "pattern"),
    [
        ("EXTENSION_ICONURL", r'set\s*\(EXTENSION_ICONURL\s*"([^"]+)"[ ]*\)'),
        ("EXTENSION_SCREENSHOTURLS", r'set\s*\(EXTENSION_SCREENSHOTURLS\s*"([^"]+)"\)'),
    ],
)
def test_picture_addresses_are_literal_and_lead_to_files_of_this_repository(variable, pattern):
    """The index's own patterns; it downloads what they catch, so a CMake variable in there would fail the check."""
    found = re.findall(pattern, CMAKE, re.IGNORECASE | re.MULTILINE)
    assert len(found) == 1, variable
    for address in found[0].split():
        prefix = f"https://raw.githubusercontent.com/{_organization()}/SlicerSynthDiffusion/main/"
        assert address.startswith(prefix)
        picture = ROOT / address.removeprefix(prefix)
        assert picture.is_file(), f"{variable} names {picture.relative_to(ROOT)}, which is missing"
        assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_icon_is_128_pixels_square():
    header = (ROOT / "SynthDiffusion/Resources/Icons/SynthDiffusion.png").read_bytes()[16:24]
    assert struct.unpack(">II", header) == (128, 128)


def test_licence_and_readme_are_packaged():
    for variable, file in (("EXTENSION_LICENSE_FILE", "LICENSE"), ("EXTENSION_README_FILE", "README.md")):
        assert f'set({variable} "${{CMAKE_CURRENT_SOURCE_DIR}}/{file}")' in CMAKE
        assert (ROOT / file).is_file(), f"{file} is missing"


def test_commands_come_in_the_order_that_slicer_needs():
    order = [
        "cmake_minimum_required",
        "project(",
        "set(EXTENSION_HOMEPAGE",
        "find_package(Slicer",
        "include(${Slicer_USE_FILE})",
        "slicerMacroBuildScriptedModule(",
        "add_subdirectory(SynthDiffusion)",
        "## NEXT_MODULE",
        "include(${Slicer_EXTENSION_GENERATE_CONFIG})",
        "include(${Slicer_EXTENSION_CPACK})",
    ]
    places = [CMAKE.index(command) for command in order]
    assert places == sorted(places)
