"""The picture of the layers: its arrows are the imports of the files, and none breaks a layer rule."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Docs" / "Site"))

import layer_picture  # noqa: E402

sys.path.insert(0, str(ROOT / "Testing" / "Engine"))
import test_layers  # noqa: E402  # its rules, and its own way of reading imports

SVG = "{http://www.w3.org/2000/svg}"


def drawn(kind: str) -> set[tuple[str, str]]:
    """Arrows of the committed picture."""
    tree = ElementTree.parse(layer_picture.PICTURE)
    lines = [line for line in tree.iter(f"{SVG}polyline") if line.get("class") == kind]
    found = {(line.get("data-from"), line.get("data-to")) for line in lines}
    assert len(found) == len(lines)
    return found


@cache
def imported(layer: str) -> frozenset[str]:
    place = ROOT / layer_picture.LAYERS[layer]
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    assert files
    return frozenset().union(*(test_layers.imported_modules(path.read_text(encoding="utf-8")) for path in files))


def test_the_picture_is_up_to_date():
    assert layer_picture.PICTURE.read_text(encoding="utf-8") == layer_picture.picture()
    assert layer_picture.main(["--check"]) == 0


def test_arrows_are_the_imports():
    expected = {(a, b) for a in layer_picture.LAYERS for b in imported(a) if b in layer_picture.LAYERS and a != b}
    assert drawn("imports") == expected


def test_no_arrow_breaks_a_rule():
    assert set(test_layers.LAYERS) <= set(layer_picture.LAYERS)
    for layer, (folder, forbidden) in test_layers.LAYERS.items():
        assert folder == ROOT / layer_picture.LAYERS[layer]
        assert not {end for start, end in drawn("imports") if start == layer} & forbidden
    order = list(layer_picture.LAYERS)
    assert all(order.index(a) < order.index(b) for a, b in drawn("imports")), "upper layers call lower ones"


def test_every_box_says_what_it_imports():
    text = ["".join(node.itertext()) for node in ElementTree.parse(layer_picture.PICTURE).iter(f"{SVG}text")]
    for layer in layer_picture.LAYERS:
        outside = ", ".join(name for name in layer_picture.NAMED if name in imported(layer))
        assert f"imports {outside}" in text


def test_child_processes_are_started_and_not_imported():
    assert drawn("starts") == {(a, b) for a, b, *_ in layer_picture.CHILDREN}
    assert ("SynthDiffusionLib", "SynthDiffusionScene") not in drawn("imports")
    assert not layer_picture.starts("SynthDiffusionScene", "no.such.module")
