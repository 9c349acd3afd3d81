"""Orders of readers as files: at the build, and for a reader who joins later.

Made where the key is, since an order depends on the arms and on the key's secret; readers need neither.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.coordinator import COORDINATOR
from SynthDiffusionLib.reader_study.order import ALGORITHM, realise_order
from SynthDiffusionLib.reader_study.study import ORDER_FORMAT, PRIVATE, Study, reading_folder, safe_name
from SynthDiffusionLib.volumes.atomic import atomic_file


def add_reader(out: str | Path, reader: str, experience: str | None = None) -> Path:
    """Makes the order of one more reader, or once more that of a reader whose order was lost.

    Args:
        out: folder of the study, with its private part.
        reader: id.
        experience: of the reader, for the coordinator's record.

    Returns:
        path of the order.

    Raises:
        BadInput: a name that cannot be, a reader who is there already, a missing or changed key.
    """
    from SynthDiffusionLib.reader_study.records import RecordFile
    from SynthDiffusionLib.schemas import parse_json

    if not safe_name(reader):
        raise BadInput(
            f"'{reader}' cannot be the name of a reader", "Use up to 40 letters without accents, digits, - and _."
        )
    reading = reading_folder(Path(out))
    private = reading.parent / PRIVATE
    study = Study.load(reading)
    if reader.casefold() in {r.casefold() for r in study.readers()}:  # whose order is written
        raise BadInput(f"The reader '{reader}' is there already", f"Readers are {', '.join(study.readers())}.")
    try:
        raw = (private / "key.json").read_bytes()
        key = parse_json(raw)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"The key '{private / 'key.json'}' cannot be read", "An order can only be made where the key is."
        ) from error
    if hashlib.sha256(raw).hexdigest() != study.data["key_sha256"]:
        raise BadInput("The key is not the one that the study was built with", "Put the original key.json back.")
    path = reading / "orders" / f"{reader}.json"
    with RecordFile.open(private / COORDINATOR) as record:
        # Logged first: if what follows fails, `verify` knows of the reader, and the same call again writes the order.
        planned = [r["id"] if isinstance(r, dict) else r for r in study.data.get("readers_planned", ())]
        known = {name: index for index, name in enumerate(planned)}
        known |= {r["reader"]: int(r["index"]) for r in record.records if r["type"] == "reader_added"}
        index = known.get(reader, 1 + max(known.values(), default=-1))
        content = order_content(study, reader, index, key)
        if reader not in known:
            sha256 = hashlib.sha256(content).hexdigest()
            record.append("reader_added", reader=reader, index=index, order_sha256=sha256, experience=experience)
        write_bytes(path, content)
    return path


def order_content(study: Study, reader: str, index: int, key: dict[str, Any]) -> bytes:
    """Makes the order of a reader.

    Args:
        study: as built.
        reader: id.
        index: 0, 1, ... in the order in which readers were added.
        key: content of key.json.

    Returns:
        content of its file.
    """
    units = {u: entry["arm"] for u, entry in key["units"].items()}
    truth = {v: entry["truth"] for v, entry in key["volumes"].items()}
    synthetic = {u.id: next((v for v in u.volumes if truth[v] == 1), u.volumes[0]) for u in study.units.values()}
    presentations = realise_order(
        study.units.values(),
        study.tasks,
        study.sessions,
        study.randomisation,
        study.data["seed"],
        index,
        units,
        synthetic,
        key["nonce"],
    )
    data = {
        "format": ORDER_FORMAT,
        "study_sha256": study.sha256,
        "reader": reader,
        "index": index,
        "algorithm": ALGORITHM,
        "presentations": [{**vars(p), "volumes": list(p.volumes)} for p in presentations],
    }
    return json_bytes(data)


def json_bytes(data: Any) -> bytes:
    """A JSON file's content."""
    return (json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, complete or not at all."""
    with atomic_file(path) as file:
        file.write(content)
