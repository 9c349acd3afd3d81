"""The lists that come with sets of volumes: whose a case is, who was trained on, what label values are called."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput, shortened
from SynthDiffusionLib.training.prepare import case_name


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


def training_list(path: Path) -> set[str]:
    """Names of the cases and patients that something was trained on.

    Args:
        path: a `model.json` or `dataset.json` with a split (train and validation count), a `dataset.json` of the
            Medical Segmentation Decathlon, a JSON list, a CSV file with a column `patient` or `case`, or a text file
            with a name a line. Names may be file names: folders and suffixes do not count.

    Raises:
        BadInput: it cannot be read, or names nobody.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".json":
            from SynthDiffusionLib.schemas import read_json

            names = _split_of(read_json(path))
        elif path.suffix.lower() == ".csv":
            names = {row[key] for row in _rows(path) for key in ("patient", "case") if row.get(key)}
        else:
            names = {line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError, csv.Error) as error:
        raise BadInput(
            f"The training list '{path}' cannot be read", "Give a model.json, a dataset.json, a CSV or a text file."
        ) from error
    names = {_bare(name) for name in names} - {""}
    if not names:
        raise BadInput(f"'{path}' names no patient", "Give a list with a patient a line.")
    return names


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


def _split_of(content: Any) -> set[str]:
    if isinstance(content, list):  # names
        return {str(name) for name in content}
    training = content.get("training")
    if isinstance(training, list):  # Medical Segmentation Decathlon: pairs of files, or files
        return {str(e["image"] if isinstance(e, Mapping) else e) for e in training}
    if isinstance(training, Mapping):  # model.json: cases or patients
        split, cases = training["split"], {}
    else:  # dataset.json of `synthdiffusion prepare`
        split, cases = content["split"], content["cases"]
    names = {str(name) for part in ("train", "validation") for name in split.get(part, ())}
    return names | {str(cases[name]["patient"]) for name in names if name in cases}


def _bare(name: str) -> str:
    """A name without the folders and the suffix of a file."""
    return case_name(name.strip().replace("\\", "/").rpartition("/")[2])
