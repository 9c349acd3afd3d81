"""A tumour in words and numbers for a radiologist: ml in place of mm3, and sides of the patient in place of axes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from html import escape

from slicer.i18n import tr as _

from SynthDiffusionJobs.Tumour import FIELDS, NAMES, Trained

# What a value is divided by to be shown.
UNITS = {"volume_mm3": 1000.0, "surface_mm2": 100.0}
_STEPS = 200  # of a slider, at least


def fieldNames() -> dict[str, str]:
    """What the characteristics are called, with their unit."""
    return {
        "volume_mm3": _("Size (ml)"),
        "surface_mm2": _("Surface (cm2)"),
        "sphericity": _("Roundness"),
        "center": _("Position (mm from the middle)"),
        "box": _("Extent (mm)"),
    }


def axisNames() -> tuple[str, str, str]:
    """What the three axes are called; the first side is the positive one."""
    return _("right-left"), _("front-back"), _("up-down")


def shown(name: str, value: float) -> float:
    """A value in the unit that it is shown in."""
    return value / UNITS.get(name, 1.0)


def meant(name: str, value: float) -> float:
    """A shown value in the engine's unit, without the digits that only the conversion has made."""
    return float(f"{value * UNITS.get(name, 1.0):.9g}")


def decimalsOf(name: str, trained: Trained) -> int:
    """Decimals that let a slider be set finely enough: all of its range in steps, and two digits of the least value."""
    span, low = shown(name, trained.most - trained.least), shown(name, trained.low)
    decimals = math.ceil(-math.log10(span / _STEPS)) if span > 0 else 2
    if name not in FIELDS["center"] and low > 0:
        decimals = max(decimals, 1 - math.floor(math.log10(low)))
    return min(4, max(0, decimals))


def trainedText(field: str, trained: Mapping[str, Trained]) -> str:
    """What the training patients had: "1.2 to 830, half of them below 95."."""
    names = FIELDS[field]
    parts = []
    for number, name in enumerate(names):
        known = trained[name]
        if field == "center":
            low, high, middle = (_side(number, value) for value in (known.low, known.high, known.median))
            parts.append(_("{low} to {high}, as a rule {middle}").format(low=low, high=high, middle=middle))
            continue
        low, high, middle = (_short(shown(name, value)) for value in (known.low, known.high, known.median))
        text = _("{low} to {high}, half of them below {middle}").format(low=low, high=high, middle=middle)
        parts.append(f"{axisNames()[number]} {text}" if len(names) > 1 else text)
    return _("Training patients: {ranges}.").format(ranges="; ".join(parts))


def warningText(asked: Mapping[str, float], trained: Mapping[str, Trained]) -> str:
    """What is asked for that no training patient had; "" if there is nothing."""
    outside = [
        fieldNames()[field].split(" (")[0]
        for field, names in FIELDS.items()
        if any(name in asked and name in trained and not trained[name].holds(asked[name]) for name in names)
    ]
    if not outside:
        return ""
    text = _("No training patient had the like: {names}. The model may miss it, or the image look unrealistic.")
    return text.format(names=", ".join(outside))


def resultText(provenance: Mapping) -> str:
    """What was asked of the tumour of a volume and what it is like, as a table in rich text; "" for other volumes."""
    tumour = (provenance.get("settings") or {}).get("tumour")
    if not isinstance(tumour, Mapping):
        return ""
    asked, used, measured = tumour.get("asked") or {}, tumour.get("used") or {}, provenance.get("measured")
    rows = [("", _("asked for"), _("made"))]
    for field, names in FIELDS.items():
        wanted = _values(field, used)
        if names[0] not in asked:
            wanted = _("{value} (by chance)").format(value=wanted) if wanted else _("by chance")
        rows.append((fieldNames()[field], wanted, _values(field, measured) if measured else _("nothing")))
    cells = [
        "<tr>" + "".join(f"<{tag} align='left'>{escape(cell)}&nbsp;&nbsp;</{tag}>" for cell in row) + "</tr>"
        for tag, row in zip(["th"] + ["td"] * len(FIELDS), rows)
    ]
    text = f"<table>{''.join(cells)}</table>"
    if not measured:
        note = _("The model has marked nothing in this image, so there is no segmentation. Try another seed.")
        text += f"<p>{escape(note)}</p>"
    return text


def _values(field: str, values: Mapping | None) -> str:
    """ "12 right, 3 front, 8 down", "40 x 30 x 50" or "20"; "" if they are not known."""
    try:
        numbers = [shown(name, float(values[name])) for name in FIELDS[field]]
    except (KeyError, TypeError, ValueError):
        return ""
    if field == "center":
        return ", ".join(_side(number, value) for number, value in enumerate(numbers))
    return " x ".join(_short(number) for number in numbers)


def _side(axis: int, value: float) -> str:
    """ "12 right": how far on which side of the middle."""
    sides = ((_("right"), _("left")), (_("front"), _("back")), (_("up"), _("down")))[axis]
    distance = _short(abs(value))
    return distance if distance == "0" else f"{distance} {sides[0] if value > 0 else sides[1]}"


def _short(value: float) -> str:
    """Three digits, or all before the point."""
    if value and abs(value) < 1:
        return f"{value:.2g}" if abs(value) >= 0.005 else f"{value:.1g}"
    return f"{round(value)}" if abs(value) >= 100 else f"{value:.3g}"


_NUMBER = r"(-?\d(?:[\d.]|,(?=\d{3}))*(?:e[+-]?\d+)?)"
_OUTSIDE = r" lies outside [^,;]*\btraining\b[^,;]*, "
_OF_TUMOUR = re.compile(rf"No tumour is like that|In \d+ draws nothing|{_OUTSIDE}")
_NAMED = re.compile(rf"\b({'|'.join(NAMES)}) ?= ?{_NUMBER}(?:({_OUTSIDE}){_NUMBER} to {_NUMBER})?")


def engineWords(text: str) -> str:
    """A message of the engine on what was asked of a tumour, in the words and units of the panel; others unchanged."""
    if not _OF_TUMOUR.search(text):
        return text
    text = _NAMED.sub(_named, text)
    text = re.sub(rf"{_NUMBER} mm3", lambda match: f"{_converted('volume_mm3', match[1])} ml", text)
    text = re.sub(rf"{_NUMBER} mm2", lambda match: f"{_converted('surface_mm2', match[1])} cm2", text)
    words = (
        (r"\b(a|the) volume of\b", r"\1 size of"),
        (r"\bthe volume(?=, which|: | ends)", _("the image")),
        (r"\ba box of\b", _("an extent of")),
        (r"\bsphericity\b", _("roundness")),
        (r"\ba centre at\b", _("a position at")),
        *((rf" along {letter}\b", f" {name}") for letter, name in zip("RAS", axisNames())),
    )
    for pattern, word in words:
        text = re.sub(pattern, word, text)
    return text


def _named(match: re.Match) -> str:
    """ "volume_mm3=20000" as "Size 20 ml", and the range after it likewise."""
    name, value, outside, low, high = match.groups()
    field = next(field for field, names in FIELDS.items() if name in names)
    title = fieldNames()[field].split(" (")[0]
    if len(FIELDS[field]) > 1:
        title += f" {axisNames()[FIELDS[field].index(name)]}"
    unit = {"volume_mm3": " ml", "surface_mm2": " cm2", "sphericity": ""}.get(name, " mm")
    text = f"{title} {_converted(name, value)}{unit}"
    if outside:
        text += f"{outside}{_converted(name, low)} to {_converted(name, high)}{unit}"
    return text


def _converted(name: str, number: str) -> str:
    return f"{shown(name, float(number.replace(',', ''))):.4g}"
