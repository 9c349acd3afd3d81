"""The order in which a reader sees the cases: random, balanced, and the same whenever it is made again.

`realise_order` depends on the study's seed, the number of the reader, the name of the algorithm, and a secret that only
the key holds. Without the secret, somebody with the study file and this code could work out which positions hold
synthetic cases. The order that was made is stored and is what counts; this code is only needed to check it.

How it is balanced:

* **Arms** come in permuted blocks, each with the arms' shares of the whole, and no arm more than `longest_run` times in
  a row, across the ends of blocks too. In a forced choice the same holds for the side of the synthetic volume. All
  orders that fulfil this are equally likely: a list is drawn anew as a whole until it does.
* **Sides** differ by one at most in a reader, in every arm; the readers 2k and 2k+1 see the sides exchanged.
* **Tasks** of a session, or what is read in which session, follow a Williams design (Williams 1949, Aust J Sci Res A
  2:149): every task in every place, and after every other, equally often over 2k readers.
* **Repeats** are shown again at least `repeat_min_distance` presentations later, or in a later session, on the same
  sides. They count in the blocks and runs, so that they do not stand out.

Every such rule tells something about which volumes are synthetic to whoever has the orders of several readers: with
blocks of four, three orders of 24 cases are enough to work all of them out. So by default there is one block, the whole
list, and `longest_run` is the smallest that at least `_EASY` of all lists fulfil, which tells half a bit an order.
`told_bits` says how much a design's rules tell.

Only `random.Random.random` is used, which Python keeps the same for a seed (documentation of `random`, "Notes on
Reproducibility"); the order of shuffles and choices is this module's own.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.study import Presentation, Task, Unit

ALGORITHM = "synthdiffusion-order-1"
DEFAULTS: dict[str, Any] = {
    "block_size": 0,  # 0: the whole list
    "longest_run": 0,  # 0: what most lists fulfil anyway
    "repeats": 0.0,
    "repeat_min_distance": 10,
    "repeats_in": "same_session",
    "task_order": "latin_square",
    "session_order": "fixed",
}
_WHOLE_TRIES, _LABEL_TRIES, _PAIR_TRIES = 100, 5000, 60
_EASY = 0.7  # share of random lists that the default longest run lets pass
_COUNTED = 1000  # lists that this share is counted on

T = TypeVar("T")


@dataclass(frozen=True)
class _Entry:
    """A unit to be placed: `label` is what is balanced, (side or "", arm)."""

    unit: Unit
    volumes: tuple[str, ...]
    label: tuple[str, str]
    presentation: int = 1


def realise_order(
    units: Iterable[Unit],
    tasks: Mapping[str, Task],
    sessions: Sequence[Mapping[str, Any]],
    randomisation: Mapping[str, Any],
    seed: int,
    reader_index: int,
    arms: Mapping[str, str],
    synthetic: Mapping[str, str],
    secret: str = "",
) -> list[Presentation]:
    """The presentations of a reader, in their order.

    Args:
        units: of the study, of all tasks and phases.
        tasks: by id; only `kind` is used.
        sessions: {"id", "tasks", "repeats_only"?}, in the order of time.
        randomisation: the design's part of this name; what is missing is as in `DEFAULTS`.
        seed: of the study.
        reader_index: 0, 1, ... in the order in which readers were added.
        arms: arm of each unit; in a forced choice, of its synthetic volume.
        synthetic: in a forced choice, the synthetic volume of each unit.
        secret: of the key.

    Returns:
        presentations; training of a task comes before its first case, in the first session in which it is read.

    Raises:
        BadInput: runs, blocks or repeats that cannot be had with these numbers of cases.
    """
    rules = {**DEFAULTS, **randomisation}
    streams = _Streams(f"{ALGORITHM}|{seed}|{secret}")
    # Sorted: the order of the list must not matter.
    units = sorted(units, key=lambda u: u.id)
    arranged = _arranged(sessions, rules, streams, reader_index)
    planned: dict[tuple[str, str], list[tuple[_Entry, str]]] = {}
    for task_id in dict.fromkeys(t for _, names, _ in arranged for t in names):
        own = [u for u in units if u.task == task_id]
        places = [(session, only) for session, names, only in arranged if task_id in names]
        planned |= _plan_task(tasks[task_id], own, places, rules, streams, reader_index, arms, synthetic)
    order: list[Presentation] = []
    for session, names, _ in arranged:
        for task_id in names:
            for entry, phase in planned.get((session, task_id), []):
                order.append(
                    Presentation(len(order), session, task_id, entry.unit.id, entry.volumes, entry.presentation, phase)
                )
    return order


def williams_design(n: int) -> list[list[int]]:
    """Rows of a Williams design of n treatments: n rows for even n, 2n for odd n.

    Every treatment is in every place equally often, and directly after every other equally often (Williams 1949).
    """
    first = [0] * n
    for place in range(1, n):
        first[place] = (place + 1) // 2 if place % 2 else n - place // 2
    rows = [[(treatment + shift) % n for treatment in first] for shift in range(n)]
    return rows if n % 2 == 0 else rows + [row[::-1] for row in rows]


def longest_run(labels: Sequence[Hashable]) -> int:
    """How often the same label comes directly after itself at most, counting the first; 0 for no labels."""
    best = current = 0
    for i, label in enumerate(labels):
        current = current + 1 if i and label == labels[i - 1] else 1
        best = max(best, current)
    return best


class _Streams:
    """Independent random numbers for each purpose, so that a change in one place moves nothing elsewhere."""

    def __init__(self, root: str) -> None:
        self._root = root

    def of(self, *what: object) -> random.Random:
        digest = hashlib.sha256("|".join([self._root, *map(str, what)]).encode("utf-8")).digest()
        return random.Random(int.from_bytes(digest, "big"))


def _shuffled(items: Iterable[T], rng: random.Random) -> list[T]:
    """Fisher and Yates' shuffle; `random.shuffle` may change between versions of Python."""
    items = list(items)
    for i in range(len(items) - 1, 0, -1):
        j = int(rng.random() * (i + 1))
        items[i], items[j] = items[j], items[i]
    return items


def _arranged(
    sessions: Sequence[Mapping[str, Any]], rules: Mapping[str, Any], streams: _Streams, reader: int
) -> list[tuple[str, list[str], bool]]:
    """(session, its tasks in order, whether it holds repeats only) for this reader."""
    contents = [list(s["tasks"]) for s in sessions]
    if rules["session_order"] == "latin_square" and len(contents) > 1:
        contents = _latin(contents, reader, streams.of("sessions"))
    if rules["task_order"] == "latin_square":
        # The next row in the next session: a reader who reads the same tasks again does not do so in the same order.
        contents = [_latin(c, reader + n, streams.of("tasks", n)) for n, c in enumerate(contents)]
    return [(s["id"], c, bool(s.get("repeats_only", False))) for s, c in zip(sessions, contents)]


def _latin(items: Sequence[T], row: int, rng: random.Random) -> list[T]:
    names = _shuffled(items, rng)
    rows = williams_design(len(names))
    return [names[i] for i in rows[row % len(rows)]]


def _plan_task(
    task: Task,
    units: Sequence[Unit],
    places: Sequence[tuple[str, bool]],
    rules: Mapping[str, Any],
    streams: _Streams,
    reader: int,
    arms: Mapping[str, str],
    synthetic: Mapping[str, str],
) -> dict[tuple[str, str], list[tuple[_Entry, str]]]:
    """What is read of a task in each of its sessions: (entry, phase) in order, by (session, task)."""
    main = [u for u in units if u.phase == "main"]
    training = [u for u in units if u.phase != "main"]
    if task.kind == "forced_choice":
        sides = _sides(main, streams.of("sides", task.id, reader // 2), arms, mirrored=reader % 2 == 1)
        entries = [_Entry(u, _placed(u.volumes, synthetic[u.id], sides[u.id]), (sides[u.id], arms[u.id])) for u in main]
    else:
        entries = [_Entry(u, u.volumes, ("", arms[u.id])) for u in main]
    rng = streams.of("cases", task.id, reader)
    reading = [session for session, only in places if not only]
    if not reading:
        raise BadInput(
            f"The task '{task.id}' is only in sessions that hold repeats only",
            "List it in an earlier session without repeats_only.",
        )
    firsts = dict(zip(reading, _split(_spaced(entries, rng), len(reading))))
    repeats = _repeats(task, firsts, places, rules, rng)
    found: dict[tuple[str, str], list[tuple[_Entry, str]]] = {}
    for session, _ in places:
        shown: list[tuple[_Entry, str]] = []
        if session == reading[0]:
            # In the unit's own order of left and right: the feedback names the side.
            taught = [_Entry(u, u.volumes, ("", arms[u.id])) for u in training]
            shown += [(e, "training") for e in _spaced(taught, streams.of("training", task.id, reader))]
        placed = _sequence(task, firsts.get(session, []), repeats.get(session, []), rules, rng)
        found[session, task.id] = shown + [(e, "main") for e in placed]
    return found


def _sides(units: Sequence[Unit], rng: random.Random, arms: Mapping[str, str], *, mirrored: bool) -> dict[str, str]:
    """The side of the synthetic volume of each unit: alternating through a random list, arm by arm."""
    listed = [
        unit
        for arm in sorted({arms[u.id] for u in units})
        for unit in _shuffled([u for u in units if arms[u.id] == arm], rng)
    ]
    start = int(rng.random() * 2)
    return {u.id: ("left", "right")[(i + start + mirrored) % 2] for i, u in enumerate(listed)}


def _placed(volumes: tuple[str, ...], synthetic: str, side: str) -> tuple[str, ...]:
    real = next(v for v in volumes if v != synthetic)
    return (synthetic, real) if side == "left" else (real, synthetic)


def _spaced(entries: Sequence[_Entry], rng: random.Random) -> list[_Entry]:
    """The entries, shuffled, with each label spread evenly over the list.

    Entry i of n of a label goes to (i + u) / n, with one random u a label: any part of the list holds the labels in
    their shares, give or take one, and no place in the list is likelier for one label than its share.
    """
    keyed: list[tuple[float, int, _Entry]] = []
    for label in _shuffled(sorted({e.label for e in entries}), rng):
        members = _shuffled([e for e in entries if e.label == label], rng)
        start = rng.random()
        keyed += [((i + start) / len(members), len(keyed) + i, e) for i, e in enumerate(members)]
    return [entry for _, _, entry in sorted(keyed, key=lambda k: k[:2])]


def _split(entries: Sequence[T], parts: int) -> list[list[T]]:
    ends = [round(len(entries) * part / parts) for part in range(parts + 1)]
    return [list(entries[a:b]) for a, b in zip(ends, ends[1:])]


def _repeats(
    task: Task,
    firsts: Mapping[str, list[_Entry]],
    places: Sequence[tuple[str, bool]],
    rules: Mapping[str, Any],
    rng: random.Random,
) -> dict[str, list[_Entry]]:
    """The hidden repeats of each session."""
    total = sum(len(entries) for entries in firsts.values())
    wanted = int(rules["repeats"] * total + 0.5)
    sessions = [session for session, _ in places]
    only = {session for session, repeats_only in places if repeats_only}
    target: dict[str, str] = {}
    for session in firsts:
        if rules["repeats_in"] == "same_session":
            target[session] = session
        else:
            later = sessions[sessions.index(session) + 1 :]
            chosen = next((s for s in later if s in only), later[0] if later else None)
            if chosen is not None:
                target[session] = chosen
    possible = [(session, entry) for session in target for entry in firsts[session]]
    if wanted > len(possible):
        raise BadInput(
            f"{wanted} cases of the task '{task.id}' are to be repeated, but only {len(possible)} are read in a "
            "session that has a later one with this task",
            "List the task in a later session too, with repeats_only, or lower 'repeats'.",
        )
    home = {entry.unit.id: target[session] for session, entry in possible}
    found: dict[str, list[_Entry]] = {}
    for entry in _spaced([entry for _, entry in possible], rng)[:wanted]:
        again = _Entry(entry.unit, entry.volumes, entry.label, 2)
        found.setdefault(home[entry.unit.id], []).append(again)
    return found


def _sequence(
    task: Task, firsts: Sequence[_Entry], repeats: Sequence[_Entry], rules: Mapping[str, Any], rng: random.Random
) -> list[_Entry]:
    """The order of a session's cases of a task."""
    entries = [*firsts, *repeats]
    # Of what no run may be too long: the sides, and the arms, each only where there are two of them at least.
    watched = [part for part in (0, 1) if len({e.label[part] for e in entries}) > 1]
    counts_of = tuple((label, sum(e.label == label for e in entries)) for label in sorted({e.label for e in entries}))
    limit = int(rules["longest_run"]) or _easy_run(counts_of, tuple(watched))
    block_size = int(rules["block_size"]) or max(len(entries), 1)
    for _ in range(_WHOLE_TRIES):
        slots = _blocked(entries, block_size, limit, watched, rng)
        if slots is None:
            break
        placed = _assigned(slots, firsts, repeats, int(rules["repeat_min_distance"]), rng)
        if placed is not None:
            return placed
    counts = ", ".join(
        f"{sum(e.label == label for e in entries)} {' '.join(part for part in label if part)}"
        for label in sorted({e.label for e in entries})
    )
    rule = f"runs of at most {limit} in blocks of {block_size}"
    if {e.unit.id for e in firsts} & {e.unit.id for e in repeats}:
        rule += f", and {len(repeats)} repeats at least {rules['repeat_min_distance']} presentations later,"
    raise BadInput(
        f"No order of the task '{task.id}' has {rule} with these cases: {counts}",
        "Allow a larger longest_run or block_size, or a smaller repeat_min_distance or fewer repeats.",
    )


def _blocked(
    entries: Sequence[_Entry], block_size: int, limit: int, watched: Sequence[int], rng: random.Random
) -> list[tuple[str, str]] | None:
    """Labels in permuted blocks, without a run over the limit; None if no try has given such a list.

    The whole list is drawn anew, not its last block: otherwise the places at the ends of blocks would tell the label.
    """
    for _ in range(_LABEL_TRIES):
        labels = [entry.label for entry in _spaced(entries, rng)]
        blocks = [labels[start : start + block_size] for start in range(0, len(labels), block_size)]
        drawn = [label for block in _shuffled(blocks, rng) for label in _shuffled(block, rng)]
        if _fulfils(drawn, limit, watched):
            return drawn
    return None


def _fulfils(labels: Sequence[tuple[str, str]], limit: int, watched: Sequence[int]) -> bool:
    return all(longest_run([label[part] for label in labels]) <= limit for part in watched)


@lru_cache(maxsize=256)
def _easy_run(counts: tuple[tuple[tuple[str, str], int], ...], watched: tuple[int, ...]) -> int:
    """The smallest limit that `_EASY` of random lists with so many of each label fulfil."""
    labels = [label for label, count in counts for _ in range(count)]
    rng = random.Random(1)
    longest = sorted(
        max((longest_run([label[part] for label in drawn]) for part in watched), default=1)
        for drawn in (_shuffled(labels, rng) for _ in range(_COUNTED))
    )
    return longest[int(_EASY * _COUNTED)]


def told_bits(labels: Sequence[Hashable], rules: Mapping[str, Any]) -> tuple[float, float]:
    """What an order tells about which unit has which label, to somebody who knows the rules but not the labels.

    Args:
        labels: of the units, such as their arms.
        rules: of the randomisation; what is missing is as in `DEFAULTS`.

    Returns:
        bits that one order tells (log2 of the number of all assignments over that of those which fulfil the rules), and
        bits that there are to tell. Orders of different readers tell nearly independent things, so that the bits of k
        orders add up until all is told.
    """
    rules = {**DEFAULTS, **rules}
    entries = [_Entry(Unit(str(i), "", "main", ()), (), ("", str(label))) for i, label in enumerate(labels)]
    names = sorted({e.label for e in entries})
    counts = tuple((name, sum(e.label == name for e in entries)) for name in names)
    if len(names) < 2:
        return 0.0, 0.0
    limit = int(rules["longest_run"]) or _easy_run(counts, (1,))
    block_size = int(rules["block_size"]) or len(entries)
    rng = random.Random(2)
    drawn = [entry.label for entry in _spaced(entries, rng)]
    blocks = [drawn[start : start + block_size] for start in range(0, len(drawn), block_size)]
    whole = _log2_arrangements([count for _, count in counts])
    in_blocks = sum(_log2_arrangements([block.count(name) for name in names]) for block in blocks)
    # The compositions of blocks may come in any order, as far as they differ.
    kinds = [tuple(block.count(name) for name in names) for block in blocks]
    in_blocks += _log2_arrangements([kinds.count(kind) for kind in set(kinds)])
    tries = [
        _fulfils([x for block in _shuffled(blocks, rng) for x in _shuffled(block, rng)], limit, (1,))
        for _ in range(_COUNTED)
    ]
    passed = max(sum(tries), 0.5) / len(tries)
    return max(0.0, whole - in_blocks) - math.log2(passed), whole


def _log2_arrangements(counts: Sequence[int]) -> float:
    """log2 of the multinomial coefficient."""
    return (math.lgamma(sum(counts) + 1) - sum(math.lgamma(n + 1) for n in counts)) / math.log(2)


def _assigned(
    slots: Sequence[tuple[str, str]],
    firsts: Sequence[_Entry],
    repeats: Sequence[_Entry],
    distance: int,
    rng: random.Random,
) -> list[_Entry] | None:
    """Puts entries of each label into its slots, repeats far enough behind their first reading; None if it cannot."""
    placed: list[_Entry | None] = [None] * len(slots)
    for label in sorted(set(slots)):
        free = [i for i, slot in enumerate(slots) if slot == label]
        own = {e.unit.id: e for e in firsts if e.label == label}
        again = _shuffled([e for e in repeats if e.label == label], rng)
        twice = [e for e in again if e.unit.id in own]
        pairs = _pairs(free, len(twice), distance, rng)
        if pairs is None:
            return None
        for entry, (early, late) in zip(twice, pairs):
            placed[early], placed[late] = own.pop(entry.unit.id), entry
        taken = {i for pair in pairs for i in pair}
        rest = [*own.values(), *(e for e in again if e not in twice)]
        for i, entry in zip((i for i in free if i not in taken), _shuffled(rest, rng)):
            placed[i] = entry
    return [entry for entry in placed if entry is not None]


def _pairs(free: Sequence[int], count: int, distance: int, rng: random.Random) -> list[tuple[int, int]] | None:
    """So many pairs of different slots, at least `distance` apart; at random, or else the widest there are."""
    left, pairs = list(free), []
    for _ in range(count):
        for _ in range(_PAIR_TRIES):
            a, b = sorted(left[int(rng.random() * len(left))] for _ in range(2))
            if b - a >= distance:
                pairs.append((a, b))
                left = [i for i in left if i not in (a, b)]
                break
        else:
            break
    if len(pairs) == count:
        return pairs
    # The first slots with the last ones, in the same order: no other choice has a wider narrowest pair.
    widest = list(zip(free[:count], free[len(free) - count :]))
    return _shuffled(widest, rng) if all(b - a >= distance for a, b in widest) and 2 * count <= len(free) else None
