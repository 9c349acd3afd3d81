"""Draws the layers of the project from what its files import: `python Docs/Site/layer_picture.py [--check]`.

Writes `Docs/Images/layers.svg`, the picture of Docs/ARCHITECTURE.md. An arrow stands for imports that are there: a new
one appears by itself, or asks for a place in `ROUTES`. Dashed arrows are child processes; each is drawn only where the
source of the one names the module of the other. With --check nothing is written, and the exit code is 1 if anything
would be. A test compares the picture with the imports and with the rules of `Testing/Engine/test_layers.py`.
"""

from __future__ import annotations

import argparse
import ast
import sys
from functools import cache
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "Docs" / "Images" / "layers.svg"

# Name of each layer as Python imports it: its folder or file.
LAYERS = {
    "SynthDiffusion": "SynthDiffusion/SynthDiffusion.py",
    "SynthDiffusionPanels": "SynthDiffusion/SynthDiffusionPanels",
    "SynthDiffusionJobs": "SynthDiffusion/SynthDiffusionJobs",
    "SynthDiffusionScene": "SynthDiffusion/SynthDiffusionScene",
    "SynthDiffusionLib": "SynthDiffusionLib",
}
# What each layer says of itself, and what of the outside is worth naming, if it is imported.
TEXTS = {
    "SynthDiffusion": ("the module file", "what Slicer loads"),
    "SynthDiffusionPanels": ("panels", "what the user sees"),
    "SynthDiffusionJobs": ("jobs", "child processes and their queue"),
    "SynthDiffusionScene": ("scene logic", "nodes, views, scene files"),
    "SynthDiffusionLib": ("engine and command line", "volumes, models, sampling, training"),
}
NAMED = ("qt", "ctk", "slicer", "vtk", "numpy", "scipy", "torch", "monai", "diffusers", "pydicom", "lightning_fabric")

# Left, top, width and height of each box.
BOXES = {
    "SynthDiffusion": (20, 40, 960, 76),
    "SynthDiffusionPanels": (150, 166, 700, 76),
    "SynthDiffusionJobs": (320, 292, 360, 76),
    "SynthDiffusionScene": (20, 418, 400, 76),
    "SynthDiffusionLib": (580, 418, 400, 76),
}
# The way of every arrow, from point to point.
ROUTES = {
    ("SynthDiffusion", "SynthDiffusionPanels"): [(500, 116), (500, 166)],
    ("SynthDiffusion", "SynthDiffusionJobs"): [(890, 116), (890, 330), (680, 330)],
    ("SynthDiffusion", "SynthDiffusionScene"): [(80, 116), (80, 418)],
    ("SynthDiffusion", "SynthDiffusionLib"): [(940, 116), (940, 418)],
    ("SynthDiffusionPanels", "SynthDiffusionJobs"): [(500, 242), (500, 292)],
    ("SynthDiffusionPanels", "SynthDiffusionScene"): [(230, 242), (230, 418)],
    ("SynthDiffusionPanels", "SynthDiffusionLib"): [(800, 242), (800, 418)],
    ("SynthDiffusionJobs", "SynthDiffusionScene"): [(370, 368), (370, 418)],
    ("SynthDiffusionJobs", "SynthDiffusionLib"): [(610, 368), (610, 418)],
}
# Child processes: who starts whom, the module that is started, the way of the arrow, what passes and where that stands.
CHILDREN = (
    (
        "SynthDiffusionJobs",
        "SynthDiffusionLib",
        "SynthDiffusionLib.jobs.worker",
        [(650, 368), (650, 418)],
        (660, 398, "start", ["job folder, JSON lines"]),
    ),
    (
        "SynthDiffusionLib",
        "SynthDiffusionScene",
        "SynthDiffusionScene.write",
        [(580, 456), (420, 456)],
        (500, 448, "middle", ["saves a scene"]),
    ),
)
SIZE = (1000, 620)


@cache
def imports(layer: str) -> frozenset[str]:
    """Top-level names of all that the files of a layer import, wherever in the file."""
    place = ROOT / LAYERS[layer]
    found: set[str] = set()
    for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.split(".")[0])
    return frozenset(found)


def arrows() -> set[tuple[str, str]]:
    """Which layer imports which other one."""
    return {(a, b) for a in LAYERS for b in imports(a) & set(LAYERS) if a != b}


def starts(layer: str, module: str) -> bool:
    """Whether the source of a layer names a module that it starts as a process."""
    return any(module in path.read_text(encoding="utf-8") for path in sorted((ROOT / LAYERS[layer]).rglob("*.py")))


def picture() -> str:
    """The picture as SVG.

    Raises:
        KeyError: an import has no place in `ROUTES` yet, or one of `CHILDREN` is started no more.
    """
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE[0]} {SIZE[1]}" role="img" '
        'font-family="Helvetica, Arial, sans-serif" font-size="15">',
        "<title>Layers of SynthDiffusion, and which imports which</title>",
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="#334"/></marker></defs>',
        f'<rect width="{SIZE[0]}" height="{SIZE[1]}" fill="#fff"/>',
        '<path d="M6 10H994V396H540V508H6z" fill="#eef3fb"/>',
        '<text x="20" y="30" fill="#456">in Slicer\'s process</text>',
        '<rect x="554" y="402" width="440" height="106" rx="8" fill="#f3f7ec"/>',
        '<text x="580" y="528" fill="#456">in a process of its own, or on the command line</text>',
    ]
    for a, b in sorted(arrows()):
        parts.append(_arrow(a, b, ROUTES[a, b], "imports"))
    for a, b, module, route, label in CHILDREN:
        if not starts(a, module):
            raise KeyError(f"{a} does not start {module}")
        parts += [_arrow(a, b, route, "starts"), _label(*label)]
    for layer, box in BOXES.items():
        parts += _box(layer, *box)
    parts += [
        '<rect x="20" y="548" width="960" height="52" rx="6" fill="#faf6ea" stroke="#b9a36a"/>',
        '<text x="20" y="528" fill="#456" font-size="13">solid: imports; dashed: starts as a child process</text>',
        '<text x="500" y="570" text-anchor="middle" font-weight="bold">Resources</text>',
        '<text x="500" y="589" text-anchor="middle" fill="#555" font-size="13">data only: model packages, presets, '
        "catalogue, label schemes, JSON schemas, sample segmentations</text>",
        "</svg>",
        "",
    ]
    return "\n".join(parts)


def _arrow(start: str, end: str, route: list[tuple[int, int]], kind: str) -> str:
    points = " ".join(f"{x},{y}" for x, y in route)
    dashes = ' stroke-dasharray="6 4"' if kind == "starts" else ""
    return (
        f'<polyline class="{kind}" data-from="{start}" data-to="{end}" points="{points}" fill="none" stroke="#334" '
        f'stroke-width="1.6"{dashes} marker-end="url(#tip)"/>'
    )


def _label(x: int, y: int, anchor: str, lines: list[str]) -> str:
    return "".join(
        f'<text x="{x}" y="{y + 15 * i}" text-anchor="{anchor}" fill="#456" font-size="12">{escape(line)}</text>'
        for i, line in enumerate(lines)
    )


def _box(layer: str, x: int, y: int, width: int, height: int) -> list[str]:
    name = f"{layer}.py" if LAYERS[layer].endswith(".py") else layer
    kind, says = TEXTS[layer]
    at = f'text-anchor="middle" x="{x + width // 2}"'
    outside = ", ".join(n for n in NAMED if n in imports(layer))
    return [
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="#fff" stroke="#4a6fa5"/>',
        f'<text {at} y="{y + 24}"><tspan font-weight="bold">{name}</tspan>: {escape(kind)}</text>',
        f'<text {at} y="{y + 44}" fill="#333" font-size="13">{escape(says)}</text>',
        f'<text {at} y="{y + 63}" fill="#777" font-size="12">imports {escape(outside)}</text>',
    ]


def main(arguments: list[str] | None = None) -> int:
    """Writes the picture, or with --check compares it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the picture is out of date")
    options = parser.parse_args(arguments)
    new = picture()
    if PICTURE.is_file() and PICTURE.read_text(encoding="utf-8") == new:
        return 0
    if options.check:
        print(f"{PICTURE.relative_to(ROOT)} is out of date: run python Docs/Site/layer_picture.py")
        return 1
    PICTURE.write_text(new, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
