"""Whether two sets of volumes, or a set and a training list, have a patient in common, by the names.

Names are compared as people write them: folders, suffixes, upper and lower case, and the channel of nnU-Net's file
names (`_0000`) do not count. What only looks like the same patient is told, not refused: names of which one begins with
the other up to a `_` or `-`, or that differ in separators and leading zeros alone (`Pat-1`, `Pat 1`, `Pat_01`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from SynthDiffusionLib.errors import BadInput, shortened
from SynthDiffusionLib.evaluation.sets.lists import Listed, base_name, patient_of_case, patient_table, training_list
from SynthDiffusionLib.reports.sections import counted

if TYPE_CHECKING:
    from SynthDiffusionLib.evaluation.sets.image_set import ImageSet

CHANNEL = "_0000"  # of the file names of nnU-Net
MOST_TOLD = 5  # names in a sentence
OPTIONS = "--patients or --patient-pattern"


class Named(Protocol):
    """A case by its names: `case_file.SetCase`, for one."""

    @property
    def name(self) -> str: ...

    @property
    def patient(self) -> str: ...


@dataclass(frozen=True)
class Unseen:
    """A set of which no patient is on the training list.

    Args:
        role: of the set.
        file: name of the list.
        entries: of the list.
        example: a name on the list.
        own: a name in the set.
        perhaps: names in the set, each with the one on the list that it may be of.
    """

    role: str
    file: str
    entries: int
    example: str
    own: str
    perhaps: tuple[tuple[str, str], ...]

    @property
    def sentences(self) -> list[str]:
        """For console and report: what was compared, so that names of different kinds are seen."""
        told = [
            f"The training list '{shortened(self.file)}' has {counted(self.entries, 'entry', 'entries')}; by their "
            f"names none is in the {self.role} set. Names on the list are like '{shortened(self.example)}', those of "
            f"the set like '{shortened(self.own)}': this says something only where they are of one kind."
        ]
        return told + perhaps_sentences(dict(self.perhaps), "on the list")

    def to_json(self) -> dict[str, Any]:
        """For the settings of a result."""
        return {
            "file": self.file,
            "entries": self.entries,
            "perhaps_the_same": len(self.perhaps),
            "sentences": self.sentences,
        }


def spellings(names: Iterable[str]) -> set[str]:
    """All names that stand for the same case, in lower case."""
    whole = {unicodedata.normalize("NFC", n) for name in names for n in (name, base_name(name)) if n}
    return {n.casefold() for name in whole for n in (name, name.removesuffix(CHANNEL)) if n}


def names_of(case: Named) -> set[str]:
    """All names of a case of a set and of its patient."""
    return spellings((case.name, case.patient))


def perhaps_same(own: Mapping[str, set[str]], whose: Mapping[str, str]) -> dict[str, str]:
    """Names that may be of the same patient as others, though they are written otherwise.

    Args:
        own: the `spellings` of each name.
        whose: the other name by each of its spellings.

    Returns:
        the other name by each of `own` that may be the same.
    """
    longer = {part: name for spelling, name in whose.items() for part in _prefixes([spelling])}
    alike = {_parts(spelling): name for spelling, name in whose.items()}
    found = {}
    for name, spelled in own.items():
        if begun := sorted(_prefixes(spelled) & set(whose)):
            found[name] = whose[begun[-1]]
        elif begins := sorted(spelled & set(longer)):
            found[name] = longer[begins[-1]]
        elif same := sorted({_parts(s) for s in spelled} & set(alike)):
            found[name] = alike[same[-1]]
    return found


def perhaps_sentences(perhaps: Mapping[str, str], where: str, mend: str = OPTIONS) -> list[str]:
    """What `perhaps_same` found, in one sentence; none where it found nothing.

    Args:
        where: the other names are: "on the list", "in the training set".
        mend: what says who is whose.
    """
    if not perhaps:
        return []
    pairs = [f"'{shortened(a)}' ('{shortened(b)}' {where})" for a, b in sorted(perhaps.items())]
    more = f" and {len(pairs) - MOST_TOLD} more" if len(pairs) > MOST_TOLD else ""
    return [
        f"Perhaps the same patient under another name: {', '.join(pairs[:MOST_TOLD])}{more}. {mend} says who is whose."
    ]


def perhaps_shared(one: Iterable[str], other: Iterable[str], where: str, mend: str = OPTIONS) -> list[str]:
    """As `perhaps_sentences`, of patients of the second set whose names look like those of patients of the first."""
    whose = {spelling: name for name in one for spelling in spellings([name])}
    return perhaps_sentences(perhaps_same({name: spellings([name]) for name in other}, whose), where, mend)


def shared_patients(one: Iterable[str], other: Iterable[str]) -> dict[str, str]:
    """Patients of one set that are in another, however they are written, each with its name in the other."""
    whose = {spelling: name for name in other for spelling in spellings([name])}
    found = {name: sorted(spellings([name]) & set(whose)) for name in one}
    return {name: whose[same[0]] for name, same in found.items() if same}


def check_unseen(
    tested: ImageSet,
    trained_on: Path,
    patient_pattern: str | None = None,
    patients: Path | None = None,
    known: Mapping[str, str] | None = None,
    on_event: Callable[[dict], None] = lambda event: None,
) -> Unseen:
    """Refuses patients that a generator or segmenter was trained on.

    Args:
        tested: the set that figures are measured on.
        trained_on: see `lists.training_list`.
        patient_pattern, patients: as in `read_set`: a list of cases then excludes other cases of the same patients too.
        known: patient by case, of a prepared data set.
        on_event: told what was compared.

    Raises:
        BadInput: one of them is in `tested`, or the file cannot be read.
    """
    listed = training_list(Path(trained_on))
    table = {**(known or {}), **(patient_table(patients) if patients is not None else {})}
    leaked, whose = seen_patients(tested.cases, listed, patient_pattern, table)
    if leaked:
        raise BadInput(
            f"{counted(len(leaked), 'patient')} of the {tested.role} set {'is' if len(leaked) == 1 else 'are'} in the "
            f"training list '{Path(trained_on).name}', first '{min(leaked)}'",
            "Evaluate on patients that no training has seen.",
        )
    perhaps = perhaps_same({c.name: names_of(c) for c in tested.cases}, whose)
    example = listed[0].names[0]
    own_example = tested.cases[0].name if tested.cases else ""
    unseen = Unseen(
        tested.role, Path(trained_on).name, len(listed), example, own_example, tuple(sorted(perhaps.items()))
    )
    for sentence in unseen.sentences:
        on_event({"event": "warning", "message": sentence})
    return unseen


def seen_patients(
    cases: Iterable[Named], listed: Sequence[Listed], patient_pattern: str | None, table: Mapping[str, str]
) -> tuple[set[str], dict[str, str]]:
    """The patients of cases who are on a training list.

    Args:
        cases: with the names of case and patient.
        listed: see `lists.training_list`.
        patient_pattern: as in `read_set`, or None.
        table: patient by case, where that is known.

    Returns:
        those patients; and the name on the list by each of its spellings.
    """
    by_spelling = {s: patient for case, patient in table.items() for s in spellings([case])}
    whose: dict[str, str] = {}
    begins: dict[str, str] = {}  # of patients that the list names its cases by
    for entry in listed:
        for spelling in spellings(_all_names(entry, patient_pattern, by_spelling)):
            whose.setdefault(spelling, entry.names[0])
        patient = entry.patient.casefold()
        if patient and any(n.casefold().startswith((f"{patient}_", f"{patient}-")) for n in entry.names):
            begins[patient] = entry.names[0]
    known = set(whose)
    return {c.patient for c in cases if (own := names_of(c)) & known or _prefixes(own) & set(begins)}, whose


def look_alike(names: Iterable[str]) -> dict[str, str]:
    """Names of one list that may be of the same patient as another one of it, as in `perhaps_same`, with that one."""
    spelled = {name: spellings([name]) for name in sorted(set(names))}
    whose = {spelling: name for name, all_of_it in spelled.items() for spelling in all_of_it}
    alike: dict[tuple[str, ...], str] = {}
    found = {}
    for name, all_of_it in spelled.items():
        same = [alike.setdefault(_parts(s), name) for s in sorted(all_of_it)]
        begun = [whose[p] for p in sorted(_prefixes(all_of_it) & set(whose))]
        other = next((o for o in [*reversed(begun), *same] if o != name and not spelled[o] & all_of_it), None)
        if other is not None:
            found[name] = other
    return found


def _all_names(entry: Listed, pattern: str | None, table: Mapping[str, str]) -> list[str]:
    """The names of an entry, and the patients that they are of by what is known here."""
    names = [*entry.names, entry.patient]
    names += [table[s] for s in spellings(entry.names) if s in table]
    if pattern is not None:
        for name in entry.names:
            with suppress(BadInput):  # a name that is a patient already
                names.append(patient_of_case(name, pattern, None))
    return names


def _prefixes(names: Iterable[str]) -> set[str]:
    """What stands before each `_` and `-` of names."""
    return {name[: m.start()] for name in names for m in re.finditer(r"[_-]", name) if m.start()}


def _parts(name: str) -> tuple[str, ...]:
    """Words and numbers of a name, without what separates them and without leading zeros: `pat_01` and `pat1` are
    alike, `1_2` and `12` are not."""
    return tuple(part.lstrip("0") or "0" for part in re.findall(r"[^\W\d_]+|\d+", name))
