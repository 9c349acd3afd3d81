"""The explicit label map of `--labels`: which segment is which class, from a file or as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput

_EXAMPLE = 'Write it like {"3": "nodule", "Left lung": "lung", "heart": null}.'


def read_label_map(source: Path | str) -> dict[str, str | None]:
    """Segment name or label value to class name, null to leave a segment out.

    Args:
        source: a JSON file, or the JSON itself: text that begins with a brace.

    Raises:
        BadInput: no such file, not JSON, or not of the form of Resources/Schemas/label-map.schema.json.
    """
    from SynthDiffusionLib.schemas import first_problem, parse_json, read_json

    inline = isinstance(source, str) and is_inline(source)
    name = "The label map in --labels" if inline else f"The label map '{source}'"
    try:
        data: Any = parse_json(source) if inline else read_json(Path(source))
    except OSError as error:
        raise BadInput(f"Cannot read the label map '{source}' ({error.strerror})", "Check the path.") from error
    except ValueError as error:
        raise BadInput(f"{name} is not valid JSON: {error}", _EXAMPLE) from error
    problem = first_problem(data, "label-map")
    if problem:
        raise BadInput(f"{name} cannot be used: {problem}", _EXAMPLE)
    return data


def is_inline(text: str) -> bool:
    """Whether the text is a label map itself and not the name of a file."""
    return text.lstrip().startswith("{")
