"""Receipts: count and hash of a record's last line, kept away from the record itself.

A reader hands one in after each sitting. Whoever later rewrites or shortens the record, its head file included, can no
longer make it agree with the receipt that the coordinator keeps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.locks import writing_error
from SynthDiffusionLib.reader_study.records import write_whole
from SynthDiffusionLib.reader_study.study import safe_name

RECEIPT_FORMAT = "synthdiffusion-study-receipt-1"


@dataclass(frozen=True)
class Receipt:
    """What a record held when a sitting ended.

    Args:
        study_sha256: of the study file.
        reader: whose record.
        count: its records, the closing one included.
        hash: `hash` of the last of them.
        utc: when.
        answered: answered positions, all sessions.
    """

    study_sha256: str
    reader: str
    count: int
    hash: str
    utc: str
    answered: int

    @property
    def file_name(self) -> str:
        """Unique among all receipts, also those of other studies: none ever takes the place of another."""
        return f"{self.reader}-{self.study_sha256[:8]}-{self.count}-{self.hash[:8]}.json"

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return {"format": RECEIPT_FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, data: Any, where: str = "The receipt") -> Receipt:
        """Reads a receipt.

        Raises:
            BadInput: it is none.
        """
        if not isinstance(data, dict) or data.get("format") != RECEIPT_FORMAT:
            raise BadInput(f"{where} is no receipt of a reading", "Give the file that the reading wrote at its end.")
        try:
            receipt = cls(**{k: v for k, v in data.items() if k != "format"})
        except TypeError as error:
            raise BadInput(f"{where} is damaged", "Ask the reader for the original.") from error
        texts = (receipt.study_sha256, receipt.reader, receipt.hash, receipt.utc)
        counts = (receipt.count, receipt.answered)
        if not all(isinstance(t, str) for t in texts) or not all(type(c) is int and c >= 0 for c in counts):
            raise BadInput(f"{where} is damaged", "Ask the reader for the original.")
        if not safe_name(receipt.reader) or not receipt.count:
            raise BadInput(f"{where} is damaged", "Ask the reader for the original.")
        return receipt


def read_receipt(path: Path) -> Receipt:
    """Reads a receipt's file.

    Raises:
        BadInput: it cannot be read or is none.
    """
    from SynthDiffusionLib.schemas import read_json

    try:
        data = read_json(Path(path))
    except OSError as error:
        raise BadInput(f"The receipt '{path}' cannot be read ({error.strerror})", "Check the path.") from error
    except ValueError as error:
        raise BadInput(f"The receipt '{path}' is damaged: {error}", "Ask the reader for the original.") from error
    return Receipt.from_json(data, f"'{path}'")


def receipts_in(folder: Path, problems: list[str] | None = None) -> Iterator[Receipt]:
    """The receipts in a folder; none if it does not exist.

    Args:
        folder: where to look.
        problems: gets a sentence for each JSON file that is no receipt; None: they are raised.

    Raises:
        BadInput: a file is no receipt, and `problems` is None.
    """
    for path in sorted(Path(folder).glob("*.json")):
        try:
            yield read_receipt(path)
        except BadInput as error:
            if problems is None:
                raise
            problems.append(error.one_line())


def write_receipt(receipt: Receipt, folder: Path) -> Path:
    """Writes a receipt into a folder, which is made if need be.

    Raises:
        BadInput, RunFailed: it cannot be written.
    """
    path = Path(folder) / receipt.file_name
    text = json.dumps(receipt.to_json(), indent=2, ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        raise writing_error(error, path, "The receipt was not written") from error
    return path
