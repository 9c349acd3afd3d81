"""The explicit label map of `--labels`: which segment is which class, from a file, as text, or one that is shipped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput

_EXAMPLE = 'Write it like {"3": "nodule", "Left lung": "lung", "heart": null}.'
_NAMED_FORMAT = "synthdiffusion-named-label-map-1"


class NamedLabelMap(dict[str, str | None]):
    """A label map for all files of one origin, of whose names a single file holds only some.

    As a dictionary it leads from the origin's class names to classes of the model, None for classes that the model does
    not have.

    Args:
        classes: name to class of the model.
        unmapped: name to the reason why the model gets nothing of it.
        values: label value to name, for files that keep values only. Values do not count where segments have names.
    """

    def __init__(self, classes: Mapping[str, str], unmapped: Mapping[str, str], values: Mapping[str, str]):
        super().__init__(classes)
        self.update(dict.fromkeys(unmapped))
        self.unmapped = dict(unmapped)
        self.values_of_names = {int(value): name for value, name in values.items()}


def read_label_map(source: Path | str) -> dict[str, str | None]:
    """Segment name or label value to class name, null to leave a segment out.

    Args:
        source: a JSON file, or the JSON itself: text that begins with a brace, or the name of a map that is shipped
            with SynthDiffusion (`shipped_label_maps`).

    Raises:
        BadInput: no such file, not JSON, or not of the form of Resources/Schemas/label-map.schema.json or
            named-label-map.schema.json.
    """
    from SynthDiffusionLib.resources import resource_path
    from SynthDiffusionLib.schemas import first_problem, parse_json, read_json

    inline = isinstance(source, str) and is_inline(source)
    name = "The label map in --labels" if inline else f"The label map '{source}'"
    if not inline and str(source) in shipped_label_maps() and not Path(source).exists():
        source = resource_path("LabelMaps", f"{source}.json")
    try:
        data: Any = parse_json(source) if inline else read_json(Path(source))
    except OSError as error:
        shipped = ", ".join(shipped_label_maps())
        hint = (
            f"Check the path, or give the name of a map that is shipped: {shipped}." if shipped else "Check the path."
        )
        raise BadInput(f"Cannot read the label map '{source}' ({error.strerror})", hint) from error
    except ValueError as error:
        raise BadInput(f"{name} is not valid JSON: {error}", _EXAMPLE) from error
    named = isinstance(data, dict) and data.get("format") == _NAMED_FORMAT
    problem = first_problem(data, "named-label-map" if named else "label-map")
    if problem:
        raise BadInput(f"{name} cannot be used: {problem}", _EXAMPLE)
    return NamedLabelMap(data["classes"], data["unmapped"], data["values"]) if named else data


def shipped_label_maps() -> list[str]:
    """Names that `read_label_map` knows."""
    from SynthDiffusionLib.resources import resource_path

    return sorted(path.stem for path in resource_path("LabelMaps").glob("*.json"))


def is_inline(text: str) -> bool:
    """Whether the text is a label map itself and not the name of a file."""
    return text.lstrip().startswith("{")
