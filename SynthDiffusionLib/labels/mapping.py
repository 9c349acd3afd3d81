"""From the segments that a user has drawn to the classes that a model knows, with a report of what went where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels.condition import Condition
from SynthDiffusionLib.labels.label_map import NamedLabelMap
from SynthDiffusionLib.labels.matching import (
    class_by_code,
    class_by_name,
    classes_like,
    name_words,
    says_nothing,
    side_of_segment,
)
from SynthDiffusionLib.labels.scheme import LabelClass, LabelScheme
from SynthDiffusionLib.volumes.volume import Segment, Segmentation

_HOW = {
    "explicit": "as you said",
    "code": "by SNOMED code",
    "name": "by name",
    "value": "by value; give --labels if they are something else",
    "only-segment": "the only label",
}
_MOST_LINES = 12  # more mappings than this are told together
_SLAB_VOXELS = 1 << 22
_LARGEST_TABLE = 1 << 20


@dataclass(frozen=True)
class MappingEntry:
    """What became of one segment.

    Args:
        segment: its name.
        value: its label value.
        layer: the layer that holds it.
        voxels: how many voxels the user has drawn.
        target: name of the class of the model, None if the segment is left out.
        how: "explicit", "code", "name", "value" or "only-segment"; None if nothing matched.
        note: what the user should know about it, if anything.
        unused: name of the class that it was matched to, if that class was not to be used.
    """

    segment: str
    value: int
    layer: int
    voxels: int
    target: str | None = None
    how: str | None = None
    note: str = ""
    unused: str | None = None


@dataclass(frozen=True)
class Overlap:
    """Voxels that were drawn in two classes; `over` keeps them. A class nested in another one overlaps it by design.
    Where two segments of class `under` overlap, their voxels count twice."""

    over: str
    under: str
    voxels: int
    nested: bool


@dataclass(frozen=True)
class MappingReport:
    """Segments in the order of the segmentation, and where their classes overlap."""

    entries: tuple[MappingEntry, ...]
    overlaps: tuple[Overlap, ...] = ()

    @property
    def merged(self) -> dict[str, list[str]]:
        """Classes that several segments went into, with the segments' names."""
        found: dict[str, list[str]] = {}
        for e in self.entries:
            if e.target is not None and e.voxels:
                found.setdefault(e.target, []).append(e.segment)
        return {target: names for target, names in found.items() if len(names) > 1}

    @property
    def left_out(self) -> list[str]:
        """Names of the segments that the model does not get."""
        return [e.segment for e in self.entries if e.target is None]

    def lines(self, most_names: int = 4) -> list[str]:
        """What to tell the user, a line each; at most `most_names` segments are named in one line."""
        groups: dict[tuple[str, str], list[MappingEntry]] = {}
        for e in self.entries:
            if e.target is not None and e.voxels and not (e.how == "only-segment" and e.note):  # its note says it all
                groups.setdefault((e.target, e.how or ""), []).append(e)
        lines = [f"{_names(group, most_names)} -> {t} ({_HOW[how]})" for (t, how), group in groups.items()]
        for kind in _HOW if len(groups) > _MOST_LINES else ():
            some = [(t, e) for (t, how), group in groups.items() if how == kind for e in group]
            shown = f"{len(some)} segments -> {len({t for t, _ in some})} classes ({_HOW[kind]}), such as "
            lines = [line for line in lines if some == [] or not line.endswith(f"({_HOW[kind]})")]
            lines += [shown + ", ".join(f"{_quoted(e)} -> {t}" for t, e in some[:most_names])] if some else []
        left_out = [e for e in self.entries if e.target is None and e.voxels]
        if left_out:
            lines.append(f"{_names(left_out, most_names)} left out")
        empty = [e for e in self.entries if not e.voxels]
        if empty:
            lines.append(f"{_names(empty, most_names)} empty")
        lines += [f"{_quoted(e)}: {e.note}" for e in self.entries if e.note]
        lines += [
            f"{o.over} lies over {o.under} in {o.voxels} voxels, which count as {o.over}"
            for o in self.overlaps
            if not o.nested
        ]
        return lines

    def as_dict(self) -> dict[str, Any]:
        """For JSON output and provenance."""
        return {
            "segments": [
                {"name": e.segment, "value": e.value, "layer": e.layer, "class": e.target, "how": e.how}
                | {"voxels": e.voxels}
                | ({"note": e.note} if e.note else {})
                | ({"unused": e.unused} if e.unused else {})
                for e in self.entries
            ],
            "merged": self.merged,
            "left_out": self.left_out,
            "overlaps": [
                {"over": o.over, "under": o.under, "voxels": o.voxels, "nested": o.nested} for o in self.overlaps
            ],
        }


@dataclass(frozen=True)
class MappedSegmentation:
    """A user's segmentation in the classes of one model.

    Args:
        class_map: (I, J, K) uint8 on the segmentation's grid, values of `scheme`.
        affine: (4, 4) of the segmentation.
        scheme: the model's label scheme.
        given: names of the classes for which the user has drawn something, in the scheme's order.
        report: what went where.
    """

    class_map: np.ndarray
    affine: np.ndarray
    scheme: LabelScheme
    given: tuple[str, ...]
    report: MappingReport = field(default_factory=lambda: MappingReport(()))

    def condition(self) -> Condition:
        """The condition on the segmentation's own grid."""
        return Condition(self.class_map, self.affine, self.scheme, self.given)


def map_to_model(
    segmentation: Segmentation,
    scheme: LabelScheme,
    explicit: Mapping[str, str | None] | None = None,
    target: str | None = None,
) -> MappedSegmentation:
    """Maps every segment to a class of the model, or leaves it out; `match_segments` says by what rules.

    Where classes overlap, the one that comes later in the scheme keeps the voxels.

    Args:
        segmentation: what the user has drawn.
        scheme: the model's classes.
        explicit: segment name or label value to class name, None to leave a segment out; see `read_label_map`.
        target: name of the class that a lone unnamed label stands for (`target_class` of the model).

    Raises:
        BadInput: nothing is drawn, nothing could be mapped, or the explicit map does not fit.
    """
    drawn = _count_segments(segmentation)
    if not any(voxels for _, voxels in drawn):
        raise BadInput("The segmentation is empty: no voxel has a label", "Draw a segment, or give another file.")
    entries = match_segments(drawn, scheme, target, explicit)
    given = {e.target for e in entries if e.target is not None and e.voxels}
    if not given:
        raise _nothing_mapped(entries, scheme, _is_plain(drawn), bool(explicit))
    class_map, overlaps = _merge(segmentation, entries, scheme)
    return MappedSegmentation(
        class_map,
        segmentation.affine,
        scheme,
        tuple(c.name for c in scheme.classes if c.name in given),
        MappingReport(tuple(entries), overlaps),
    )


def match_segments(
    segments: Sequence[tuple[Segment, int]],
    scheme: LabelScheme,
    target: str | None = None,
    explicit: Mapping[str, str | None] | None = None,
) -> list[MappingEntry]:
    """Which class of a model each segment stands for, judged by what is known of the segments without their voxels.

    A segment is matched by the explicit map, else by its SNOMED type code, else by its name. A plain label map, whose
    labels have numbers for names, is taken as it stands if all its values are values of the scheme; with one label only
    it is a binary mask, and taken as the target class. Given an explicit map, numbers that it does not name are left
    out.

    Args:
        segments: each with the number of its voxels. One without voxels is empty: it gets a class by its code or name,
            but does not count when it comes to how many labels there are.
        scheme: the model's classes.
        target: name of the class that a lone unnamed label stands for (`target_class` of the model).
        explicit: see `map_to_model`.

    Returns:
        an entry a segment, in the same order; "target" is None where nothing matched.

    Raises:
        BadInput: the explicit map does not fit.
    """
    drawn = [(s, MappingEntry(s.name, s.value, s.layer, voxels)) for s, voxels in segments]
    chosen = _resolve_explicit(explicit or {}, drawn, scheme)
    plain = _is_plain(segments)
    present = [i for i, (_, e) in enumerate(drawn) if e.voxels]

    entries = [e for _, e in drawn]
    for i, (segment, entry) in enumerate(drawn):
        if i in chosen:
            note = "" if chosen[i] else _why_unmapped(segment, explicit)
            entries[i] = replace(entry, target=chosen[i], how="explicit", note=note)
        elif not (plain and explicit):
            entries[i] = _match(segment, entry, scheme)
    if not explicit:
        if len(present) == 1:
            i = present[0]
            entries[i] = _match_only_segment(drawn[i][0], entries[i], scheme, target, plain)
        elif plain:
            by_value = {c.value: c.name for c in scheme.classes}
            if all(entries[i].value in by_value for i in present):
                for i in present:
                    entries[i] = replace(entries[i], target=by_value[entries[i].value], how="value")
    return entries


def _why_unmapped(segment: Segment, explicit: Mapping[str, str | None] | None) -> str:
    """The reason that the label map itself gives, if any."""
    reasons = explicit.unmapped if isinstance(explicit, NamedLabelMap) else {}
    return {name_words(name): why for name, why in reasons.items()}.get(name_words(segment.name), "")


def _is_plain(segments: Sequence[tuple[Segment, int]]) -> bool:
    """Whether the drawn segments have numbers for names, and no codes."""
    return all(s.name == str(s.value) and s.type is None for s, voxels in segments if voxels)


def _match(segment: Segment, entry: MappingEntry, scheme: LabelScheme) -> MappingEntry:
    side = side_of_segment(segment)
    by_code = class_by_code(segment.type, scheme, side, segment.region, segment.name)
    by_name = class_by_name(segment.name, scheme)
    if by_code is not None:
        note = ""
        if by_name is not None and by_name is not by_code:
            note = f"its code says {by_code.name}, its name {by_name.name}; the code was followed"
        return replace(entry, target=by_code.name, how="code", note=note)
    if by_name is not None:
        return replace(entry, target=by_name.name, how="name")
    several = classes_like(segment.name, scheme)
    if several:
        names = [c.name for c in several[:2]]
        note = f"it may be {' or '.join(names)}{' or others' if len(several) > 2 else ''}: give it the class's name"
        return replace(entry, note=note)
    return entry


def _match_only_segment(
    segment: Segment, entry: MappingEntry, scheme: LabelScheme, target: str | None, plain: bool
) -> MappingEntry:
    """A lone segment that does not say what it is. It stands for the target, unless it has the value of another part of
    the target's structure, or of a class that is no condition: nobody gets the value of "remove" into a mask by
    accident."""
    if entry.target is not None or not says_nothing(segment):
        return entry
    same_value = next((c for c in scheme.classes if c.value == entry.value), None)
    if not plain and not (target and same_value in scheme.like(target)):
        same_value = None  # the value of a named segment is a matter of its file, but for parts of one structure
    by_value = target is None or (
        same_value is not None
        and (same_value.role != "condition" or (same_value.name != target and same_value in scheme.like(target)))
    )
    if same_value is not None and by_value:
        return replace(entry, target=same_value.name, how="value")
    if target is None:
        return entry
    note = f"one label, taken as {target}; give --labels to say otherwise"
    if same_value is not None and same_value.name != target:
        note = f"one label, taken as {target} although {entry.value} is {same_value.name} in this model; "
        note += "give --labels to say otherwise"
    return replace(entry, target=target, how="only-segment", note=note)


def _resolve_explicit(
    explicit: Mapping[str, str | None], drawn: list[tuple[Segment, MappingEntry]], scheme: LabelScheme
) -> dict[int, str | None]:
    """Index in `drawn` to class name or None."""
    from SynthDiffusionLib.schemas import closest

    if isinstance(explicit, NamedLabelMap):
        return _resolve_named(explicit, drawn, scheme)
    chosen: dict[int, tuple[str, str | None]] = {}
    for key, wanted in explicit.items():
        name = _class_name(wanted, scheme)
        if wanted is not None and name is None:
            known = {n: c.name for c in scheme.classes for n in (c.name, *c.synonyms)}
            near = closest(wanted, known)
            raise BadInput(
                f"'{wanted}' (for '{key}' in the label map) is no class of this model",
                (f"Did you mean '{known[near]}'? " if near else "")
                + f"Its classes: {', '.join(c.name for c in scheme.classes)}.",
            )
        hits = [i for i, (s, _) in enumerate(drawn) if s.name == key]
        words = name_words(key)
        hits = hits or [i for i, (s, _) in enumerate(drawn) if words and name_words(s.name) == words]
        if not hits and key.strip().isdecimal() and len(key) < 100:  # Python refuses thousands of digits
            hits = [i for i, (s, _) in enumerate(drawn) if s.value == int(key)]
            if len(hits) > 1:
                raise BadInput(
                    f"The value {key} in the label map stands for {len(hits)} segments: "
                    + _names([drawn[i][1] for i in hits]),
                    "Overlapping segments are stored in layers that number their labels anew: use the segments' names.",
                )
        if not hits:
            near = closest(key, [s.name for s, _ in drawn])
            raise BadInput(
                f"'{key if len(key) <= 60 else key[:57] + '...'}' in the label map is no segment "
                "and no value of the segmentation",
                (f"Did you mean '{near}'? " if near else "") + f"It holds {_names([e for _, e in drawn], 12)}.",
            )
        for i in hits:
            if i in chosen and chosen[i][1] != name:
                raise BadInput(
                    f"'{chosen[i][0]}' and '{key}' in the label map are the same segment, with different classes",
                    "Keep one of the two.",
                )
            chosen[i] = (key, name)
    return {i: name for i, (_, name) in chosen.items()}


def _resolve_named(
    labels: NamedLabelMap, drawn: list[tuple[Segment, MappingEntry]], scheme: LabelScheme
) -> dict[int, str | None]:
    """The same for a map of another labelling: names that are not drawn do not matter, values only if plain."""
    foreign = sorted({c for c in labels.values() if c is not None and _class_name(c, scheme) is None})
    if foreign:
        raise BadInput(
            f"The label map is not for this model, which has no class {foreign[0]}",
            f"Its classes: {', '.join(c.name for c in scheme.classes)}.",
        )
    by_words = {name_words(name): name for name in labels}
    plain = _is_plain([(s, e.voxels) for s, e in drawn])
    chosen: dict[int, str | None] = {}
    for i, (segment, _) in enumerate(drawn):
        name = labels.values_of_names.get(segment.value) if plain else by_words.get(name_words(segment.name))
        if name is not None:
            chosen[i] = _class_name(labels[name], scheme)
    return chosen


def _class_name(wanted: str | None, scheme: LabelScheme) -> str | None:
    """The class whose name this is, but for case, blanks and plural."""
    names: list[LabelClass] = [c for c in scheme.classes if c.name == wanted]
    if not names and wanted is not None:
        names = [c for c in scheme.classes if name_words(c.name) == name_words(wanted)]
    return names[0].name if names else None


def _nothing_mapped(entries: list[MappingEntry], scheme: LabelScheme, plain: bool, explicit: bool) -> BadInput:
    found = [e for e in entries if e.voxels]
    if explicit:
        return BadInput(
            f"The label map leaves out everything that is drawn: {_names(found)}",
            f"Give at least one of them a class: {', '.join(c.name for c in scheme.classes)}.",
        )
    some = [f"{c.name} ({c.value})" if plain else c.name for c in scheme.classes]
    known = ", ".join(some[:_MOST_LINES]) + (f" and {len(some) - _MOST_LINES} more" if some[_MOST_LINES:] else "")
    if plain and any(e.value == c.value for e in found for c in scheme.classes):
        foreign = [e for e in found if all(e.value != c.value for c in scheme.classes)]
        return BadInput(
            f"The labels have no names, and not all their values are this model's ({_names(foreign)} unknown; the "
            f"model knows {known}), so the others may mean something else too",
            f'Give --labels MAP.json, for example {{"{found[0].segment}": "{scheme.condition_classes[-1].name}"}}; '
            "labels that it does not name are left out.",
        )
    return BadInput(
        f"The segmentation holds only unknown labels: {_names(found)}; the model knows {known}",
        f'Name the segments so, or give --labels MAP.json, for example {{"{found[0].segment}": '
        f'"{scheme.condition_classes[-1].name}"}}.',
    )


def _quoted(e: MappingEntry) -> str:
    return f"label {e.value}" if e.segment == str(e.value) else f"'{e.segment}'"


def _names(entries: list[MappingEntry], most: int = 6) -> str:
    """ "'a', 'b' and 59 more"."""
    names = [_quoted(e) for e in entries]
    if len(names) > most + 1:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _slabs(array: np.ndarray) -> Iterator[tuple[slice, ...]]:
    """Cuts a volume across its slowest axis, so that temporary arrays stay small."""
    axis = int(np.argmax(np.abs(array.strides)))
    thickness = max(1, _SLAB_VOXELS * array.shape[axis] // max(array.size, 1))
    for start in range(0, array.shape[axis], thickness):
        yield tuple(slice(start, start + thickness) if a == axis else slice(None) for a in range(array.ndim))


def _count_values(layer: np.ndarray) -> dict[int, int]:
    """Voxels of every label value but 0."""
    counts: dict[int, int] = {}
    for slab in _slabs(layer):
        part = _as_integers(layer[slab]).ravel(order="K")
        if part.size and int(part.min()) < 0:
            raise BadInput(f"The segmentation has a negative label ({part.min()})", "Labels are numbers from 0 up.")
        if part.size and int(part.max()) < _LARGEST_TABLE:
            values = np.bincount(part.astype(np.intp, copy=False))
            pairs = ((int(v), int(values[v])) for v in np.flatnonzero(values))
        else:
            pairs = ((int(v), int(n)) for v, n in zip(*np.unique(part, return_counts=True)))
        for value, n in pairs:
            if value:
                counts[value] = counts.get(value, 0) + n
    return counts


def _count_segments(segmentation: Segmentation) -> list[tuple[Segment, int]]:
    """The segments with their sizes, and labels that no segment describes as segments named by their number."""
    counts = [_count_values(layer) for layer in segmentation.layers]
    segments = list(segmentation.segments)
    described = {(s.layer, s.value) for s in segments}
    for layer, found in enumerate(counts):
        segments += [Segment(str(v), v, layer) for v in sorted(found) if (layer, v) not in described]
    return [(s, counts[s.layer].get(s.value, 0)) for s in segments]


def _merge(
    segmentation: Segmentation, entries: list[MappingEntry], scheme: LabelScheme
) -> tuple[np.ndarray, tuple[Overlap, ...]]:
    """Class map, and the overlaps between classes of different layers."""
    rank_of = {c.name: rank for rank, c in enumerate(scheme.classes, start=1)}
    ranks = len(scheme.classes) + 1
    layers: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for number, layer in enumerate(segmentation.layers):
        mapped = sorted((e.value, rank_of[e.target]) for e in entries if e.layer == number and e.target and e.voxels)
        if mapped:
            values, layer_ranks = np.array(mapped).T
            layers.append((layer, values, layer_ranks.astype(np.uint8)))

    first = layers[0][0]
    class_map = np.zeros(segmentation.shape, np.uint8, order="F" if first.flags.f_contiguous else "C")
    value_of_rank = np.array([0, *(c.value for c in scheme.classes)], np.uint8)
    hidden = np.zeros(ranks * ranks, np.int64)
    for slab in _slabs(first):
        merged = np.zeros(first[slab].shape, np.uint8)
        for layer, values, layer_ranks in layers:
            np.maximum(merged, _look_up(layer[slab], values, layer_ranks), out=merged)
        for layer, values, layer_ranks in layers if len(layers) > 1 else ():
            rank = _look_up(layer[slab], values, layer_ranks)
            covered = (rank > 0) & (rank < merged)
            if covered.any():
                pairs = merged[covered].astype(np.intp) * ranks + rank[covered]
                hidden += np.bincount(pairs, minlength=ranks * ranks)
        class_map[slab] = value_of_rank[merged]

    overlaps = []
    for pair in np.flatnonzero(hidden):
        over, under = (scheme.classes[r - 1] for r in divmod(int(pair), ranks))
        overlaps.append(Overlap(over.name, under.name, int(hidden[pair]), under.name in over.within))
    return class_map, tuple(overlaps)


def _as_integers(part: np.ndarray) -> np.ndarray:
    return part.view(np.uint8) if part.dtype == bool else part


def _look_up(part: np.ndarray, values: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Rank of every voxel's label; 0 for labels that are not in `values` (sorted)."""
    part = _as_integers(part)
    largest = max(int(part.max()), int(values[-1]))
    if largest < _LARGEST_TABLE:
        table = np.zeros(largest + 1, np.uint8)
        table[values] = ranks
        return table[part]
    place = np.minimum(np.searchsorted(values, part), len(values) - 1)
    return np.where(values[place] == part, ranks[place], np.uint8(0))
