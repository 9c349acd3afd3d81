"""Finding the readers' record files, wherever they read, and choosing one for each reader."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.chain import read_chain
from SynthDiffusionLib.reader_study.study import READING, Study, safe_name


@dataclass(frozen=True)
class Source:
    """A record file of a reader.

    Args:
        reader: by the file's name.
        path: where it lies; its head file lies beside it.
        raw: its bytes.
        whole: its complete lines; what follows is a write that was cut off.
    """

    reader: str
    path: Path
    raw: bytes
    whole: bytes


@dataclass(frozen=True)
class Sources:
    """What was found.

    Args:
        chosen: one file for each reader of the study that has one.
        forked: readers with copies that contradict each other: a sentence each.
        problems: sentences on foreign files and on copies.
    """

    chosen: dict[str, Source]
    forked: dict[str, str]
    problems: list[str]


def find_sources(study: Study, extra: Sequence[Path] = ()) -> Sources:
    """Looks through the study's own records and the folders of readers who read on their own copies.

    Args:
        study: whose records are wanted.
        extra: folders with `<reader>.jsonl`, reading folders, or whole studies; or such files themselves.

    Raises:
        BadInput: an extra folder is missing or holds no record, or a file cannot be read.
    """
    problems: list[str] = []
    found: dict[str, list[Source]] = {}
    known = set(study.readers())
    own = list(_files(study.folder / "records"))
    for path in [*own, *(path for place in extra for path in _extra_files(Path(place)))]:
        source = _source(path)
        other = _opening(source)
        foreign = other is not None and other.get("study_sha256") != study.sha256
        if foreign and source.reader in known and (path in own or (other or {}).get("study_id") == study.id):
            # Of this study, but with another hash, or put in the place of a reader's record: damaged rather than
            # foreign. The verification says so.
            found.setdefault(source.reader, []).append(source)
        elif foreign:
            named = (other or {}).get("study_id")
            title = f" ('{named}')" if isinstance(named, str) else ""
            problems.append(f"'{path}' belongs to another study{title} and is left out.")
        elif source.reader not in known:
            who = (
                f"'{source.reader}' is no reader of this study"
                if safe_name(source.reader)
                else "its name is no reader's"
            )
            problems.append(f"'{path}' is left out: {who}.")
        else:
            found.setdefault(source.reader, []).append(source)
    chosen: dict[str, Source] = {}
    forked: dict[str, str] = {}
    for reader, sources in sorted(found.items()):
        chosen[reader] = _choose(sources, forked, problems)
    return Sources(chosen, forked, problems)


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.glob("*.jsonl") if path.is_file()) if folder.is_dir() else []


def _extra_files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise BadInput(f"There is no folder '{place}'", "Give the folder in which the reader's record lies.")
    for folder in (place, place / "records", place / READING / "records"):
        if files := list(_files(folder)):
            return files
    raise BadInput(f"There is no reader's record in '{place}'", "Give the folder that holds <reader>.jsonl.")


def _source(path: Path) -> Source:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(f"The record '{path}' cannot be read ({error.strerror})", "Check its permissions.") from error
    return Source(path.stem, path, raw, raw[: raw.rfind(b"\n") + 1])


def _opening(source: Source) -> dict[str, Any] | None:
    """The opening record; None if there is none to be read. Whether it is sound is for the verification to say."""
    for line in source.whole.split(b"\n")[:8]:  # notes on a torn first line come before it
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and record.get("type") == "open":
            return record
    return None


def _choose(sources: list[Source], forked: dict[str, str], problems: list[str]) -> Source:
    """The longest of copies of which each is the beginning of the next."""
    order = sorted(sources, key=lambda s: len(s.whole))
    longest = order[-1]
    for shorter in order[:-1]:
        if not longest.whole.startswith(shorter.whole):
            forked[longest.reader] = (
                f"'{shorter.path}' and '{longest.path}' are both records of {longest.reader}, and they contradict each "
                f"other from record {_common(shorter, longest) + 1} on"
            )
        elif shorter.whole == longest.whole:
            problems.append(f"{longest.reader}: '{shorter.path}' is the same record as '{longest.path}'.")
        else:
            problems.append(
                f"{longest.reader}: '{shorter.path}' is an earlier state of '{longest.path}', which is taken."
            )
    return longest


def _common(a: Source, b: Source) -> int:
    """Number of records that two files have in common."""
    first, second = read_chain(a.whole).records, read_chain(b.whole).records
    return next((i for i, (x, y) in enumerate(zip(first, second)) if x != y or x is None), min(len(first), len(second)))
