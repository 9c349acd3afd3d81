"""The lists that come with sets of volumes: whose a case is, who was trained on, what label values are called."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput, shortened
from SynthDiffusionLib.training.prepare import case_name

# What `synthdiffusion generate` adds to the name of a case.
MADE = re.compile(r"^(?P<case>.+?)_[A-Za-z0-9.-]+_seed\d+(?:_inpainted)?$")
_OF_CASE = ("case", "case_id", "name", "id", "image", "images", "file", "path", "label", "mask")
_OF_PATIENT = ("patient", "patient_id", "subject", "subject_id")


@dataclass(frozen=True)
class Listed:
    """An entry of a training list.

    Args:
        names: of the case, without folders and suffixes; or of a patient: the list need not say which.
        patient: whose it is, where the list says so; else "".
    """

    names: tuple[str, ...]
    patient: str = ""


def base_name(name: str) -> str:
    """A case's name without what `synthdiffusion generate` adds to it (`_MODEL_seedN`)."""
    made = MADE.match(name)
    return made["case"] if made else name


def patient_of_case(name: str, pattern: str | None, table: Mapping[str, str] | None) -> str:
    """The patient of a case, by a table, by a pattern (see `training.prepare.patient_of`), or its own name.

    Raises:
        BadInput: the table lacks the case, or the pattern does not fit.
    """
    if table is not None:
        found = table.get(name) or table.get(base_name(name))
        if not found:
            raise BadInput(f"The table of patients has no case '{name}'", "Add it to the file given with --patients.")
        return found
    if pattern is None:
        return base_name(name)
    from SynthDiffusionLib.training.prepare import patient_of

    return patient_of(base_name(name), pattern)


def patient_table(path: Path) -> dict[str, str]:
    """Patient by case, from a CSV file with the columns `case` and `patient`.

    Raises:
        BadInput: it cannot be read, or gives one case two patients.
    """
    table: dict[str, str] = {}
    try:
        for row in _rows(path):
            case, patient = case_name(row["case"]), row["patient"]
            if case and table.setdefault(case, patient) != patient:
                raise BadInput(
                    f"'{Path(path).name}' gives the case '{shortened(case)}' two patients, "
                    f"'{shortened(table[case])}' and '{shortened(patient)}'",
                    "Keep one line for each case.",
                )
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise BadInput(
            f"'{path}' is no table of patients", "Give --patients a CSV file with the columns case and patient."
        ) from error
    return table


def training_list(path: Path) -> list[Listed]:
    """The cases and patients that something was trained on.

    Args:
        path: a `model.json` or `dataset.json` with a split (train and validation count), a `dataset.json` of the
            Medical Segmentation Decathlon, a JSON list of names or of objects ({"image": ..., "label": ...}), a CSV
            file with a column `patient` or `case`, or a text file with a name a line, further columns after a comma.
            Names may be file names: folders and suffixes do not count.

    Raises:
        BadInput: it cannot be read, or names nobody.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".json":
            from SynthDiffusionLib.schemas import read_json

            listed = _split_of(read_json(path))
        elif path.suffix.lower() == ".csv":
            listed = [_listed(row) for row in _rows(path)]
        else:
            lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
            listed = [_entry([line, re.split(r"[,;\t]", line)[0]]) for line in lines if not line.startswith("#")]
    except (OSError, ValueError, KeyError, AttributeError, TypeError, csv.Error) as error:
        raise BadInput(
            f"The training list '{path}' cannot be read", "Give a model.json, a dataset.json, a CSV or a text file."
        ) from error
    listed = [entry for entry in dict.fromkeys(listed) if entry.names]
    if not listed:
        raise BadInput(f"'{path}' names no patient", "Give a list with a patient a line.")
    return listed


def parse_classes(text: str) -> dict[int, str]:
    """Names of label values from "1=liver,2=spleen", or from a CSV file with the columns `value` (or `id`) and `name`.

    Raises:
        BadInput: neither, or a value with two names.
    """
    pairs = [part.partition("=") for part in text.split(",")]
    if all(value.strip().isdecimal() and name.strip() for value, _, name in pairs):
        named = [(int(value), name.strip()) for value, _, name in pairs]
    else:
        try:
            named = [
                (int(next(row[k] for k in ("value", "id", "label", "index") if row.get(k))), row["name"])
                for row in _rows(Path(text))
            ]
        except (OSError, ValueError, KeyError, StopIteration, csv.Error) as error:
            raise BadInput(
                f"'{text}' names no classes",
                "Give --classes 1=liver,2=spleen or a CSV file with the columns value, name.",
            ) from error
    names: dict[int, str] = {}
    for value, name in named:
        if names.setdefault(value, name) != name:
            raise BadInput(f"The classes name the label value {value} twice", "Give each value one name.")
    if not names:
        raise BadInput(f"'{text}' names no classes", "Give --classes 1=liver,2=spleen.")
    return names


def _rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file by lower-case column; commas, or the semicolons that spreadsheets write in much of Europe."""
    text = Path(path).read_text(encoding="utf-8-sig")
    head = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if ";" in head and "," not in head else ",")
    return [
        {k.strip().lower(): (v or "").strip() for k, v in row.items() if isinstance(k, str) and not isinstance(v, list)}
        for row in reader
    ]


def _split_of(content: Any) -> list[Listed]:
    if isinstance(content, list):  # names, or pairs of files
        return [_listed(e) if isinstance(e, Mapping) else _entry([str(e)]) for e in content]
    training = content.get("training")
    if isinstance(training, list):  # Medical Segmentation Decathlon: pairs of files, or files
        return [_listed(e) if isinstance(e, Mapping) else _entry([str(e)]) for e in training]
    if isinstance(training, Mapping):  # model.json: cases or patients
        split, cases = training["split"], {}
    else:  # dataset.json of `synthdiffusion prepare`
        split, cases = content["split"], content["cases"]
    names = [str(name) for part in ("train", "validation") for name in split.get(part, ())]
    return [_entry([name], str(cases[name]["patient"]) if name in cases else "") for name in names]


def _listed(row: Mapping[str, Any]) -> Listed:
    """The entry of a row or an object; empty where it names nobody.

    Raises:
        ValueError: an object without any known key.
    """
    values = {str(key).lower(): value for key, value in row.items()}
    if not set(values) & {*_OF_CASE, *_OF_PATIENT}:
        raise ValueError(f"nobody is named by {shortened(list(values))}")
    names: list[str] = []
    for value in (values[key] for key in _OF_CASE if values.get(key)):
        names += [str(v) for v in value] if isinstance(value, list) else [str(value)]
    patient = next((str(values[key]) for key in _OF_PATIENT if values.get(key)), "")
    return _entry(names or [patient], patient)


def _entry(names: list[str], patient: str = "") -> Listed:
    """Names without the folders and the suffix of a file."""
    bare = [case_name(name.strip().replace("\\", "/").rpartition("/")[2]) for name in names]
    return Listed(tuple(dict.fromkeys(name for name in bare if name)), patient.strip())
