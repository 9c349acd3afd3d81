"""The order of cases: what must hold for every seed and reader, and that position tells nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.forms import load_form, shipped_forms
from SynthDiffusionLib.reader_study.order import longest_run, realise_order, told_bits, williams_design
from SynthDiffusionLib.reader_study.study import Task, Unit

TURING, FORCED = load_form(shipped_forms()["turing"]), load_form(shipped_forms()["forced-choice"])
SINGLE = {"t": Task("t", "single", TURING)}
PAIRS = {"t": Task("t", "forced_choice", FORCED)}
ONE = [{"id": "s1", "tasks": ["t"]}]


def single_units(counts: dict[str, int], task: str = "t", training: int = 0) -> tuple[list[Unit], dict[str, str]]:
    units, arms = [], {}
    for arm, count in counts.items():
        for i in range(count):
            # Hashed, as real ids are: they must not sort by arm.
            uid = "u" + hashlib.sha256(f"{task} {arm} {i}".encode()).hexdigest()[:10]
            units.append(Unit(uid, task, "training" if i < training else "main", (f"v{uid}",)))
            arms[uid] = arm
    return units, arms


def pair_units(counts: dict[str, int]) -> tuple[list[Unit], dict[str, str], dict[str, str]]:
    units, arms = single_units(counts)
    pairs = [dataclasses.replace(u, volumes=(f"a{u.id}", f"b{u.id}")) for u in units]
    # The synthetic one is the first of the two as often as not.
    return pairs, arms, {u.id: u.volumes[int(u.id[-1], 16) % 2] for u in pairs}


def labels(order, arms) -> list[str]:
    return [arms[p.unit] for p in order if p.phase == "main"]


@pytest.mark.parametrize(
    "counts", [{"r": 12, "s": 12}, {"r": 12, "a": 12, "b": 12}, {"r": 9, "s": 18}, {"r": 7, "s": 8}]
)
def test_every_case_comes_once_and_no_arm_runs_too_long(counts):
    units, arms = single_units(counts)
    for seed in range(100):
        order = realise_order(units, SINGLE, ONE, {"longest_run": 3}, seed, seed % 5, arms, {})
        assert sorted(p.unit for p in order) == sorted(u.id for u in units)
        assert [p.position for p in order] == list(range(len(units)))
        assert longest_run(labels(order, arms)) <= 3


def test_runs_are_limited_across_the_ends_of_blocks_and_with_repeats():
    units, arms = single_units({"r": 20, "s": 20})
    rules = {"block_size": 4, "longest_run": 2, "repeats": 0.25, "repeat_min_distance": 8}
    at_limit = 0
    for seed in range(100):
        order = realise_order(units, SINGLE, ONE, rules, seed, 0, arms, {})
        assert len(order) == 50
        run = longest_run(labels(order, arms))
        assert run <= 2
        at_limit += run == 2
    assert at_limit == 100  # it does not get there by strict alternation


def test_each_block_holds_the_arms_in_their_shares():
    units, arms = single_units({"r": 12, "a": 12, "b": 12})
    for seed in range(50):
        found = labels(realise_order(units, SINGLE, ONE, {"block_size": 6}, seed, 0, arms, {}), arms)
        for start in range(0, 36, 6):
            assert Counter(found[start : start + 6]) == {"r": 2, "a": 2, "b": 2}


@pytest.mark.parametrize(
    "counts", [{"r": 20, "s": 10}, {"r": 30, "s": 10}, {"r": 10, "s": 20}, {"r": 12, "a": 12, "b": 6}]
)
@pytest.mark.parametrize("rules", [{}, {"block_size": 10, "longest_run": 20}])
def test_position_does_not_tell_the_arm_of_unequal_numbers(counts, rules):
    """The share of real volumes at each place, over 1,000 studies, is that of the whole, but for what a limit of runs
    does at the ends."""
    units, arms = single_units(counts)
    share, n = counts["r"] / len(units), 1000
    real = np.zeros(len(units))
    for seed in range(n):
        real += [arm == "r" for arm in labels(realise_order(units, SINGLE, ONE, rules, seed, seed % 6, arms, {}), arms)]
    z = (real / n - share) / np.sqrt(share * (1 - share) / n)
    assert np.abs(z).max() < 4.5 and np.abs(real / n - share).max() < 0.08


def partitions(n: int) -> np.ndarray:
    """All ways to call half of n units synthetic, (ways, n) bool."""
    chosen = np.array(list(itertools.combinations(range(n), n // 2)))
    found = np.zeros((len(chosen), n), bool)
    np.put_along_axis(found, chosen, True, 1)
    return found


def fulfilling(rows: np.ndarray, block: int, limit: int) -> np.ndarray:
    """Which rows have half of each kind in each block, and no run over the limit."""
    n = rows.shape[1]
    good = np.ones(len(rows), bool)
    for start in range(0, n, block):
        good &= rows[:, start : start + block].sum(1) * 2 == min(block, n - start)
    for start in range(n - limit):
        total = rows[:, start : start + limit + 1].sum(1)
        good &= (total > 0) & (total <= limit)
    return good


def test_orders_of_all_readers_do_not_tell_which_are_synthetic():
    """An attack: of all ways to halve 16 units, those that fit the orders of five readers. With blocks of four and runs
    of three, as this project once had, hardly any but the truth is left; by default, most are."""
    units, arms = single_units({"r": 8, "s": 8})
    place = {u.id: i for i, u in enumerate(units)}
    rows = partitions(16)
    left = {}
    for name, rules, block, limit in (
        ("blocks", {"block_size": 4, "longest_run": 3}, 4, 3),
        ("default", {}, 16, None),
    ):
        good = np.ones(len(rows), bool)
        for reader in range(5):
            order = realise_order(units, SINGLE, ONE, rules, 7, reader, arms, {}, "secret")
            most = limit or max(
                longest_run(labels(realise_order(units, SINGLE, ONE, {}, s, 0, arms, {}), arms)) for s in range(200)
            )
            good &= fulfilling(rows[:, [place[p.unit] for p in order]], block, most)
        left[name] = int(good.sum())
    assert left["blocks"] < 20 and left["default"] > 0.1 * len(rows)


@pytest.mark.parametrize(("block", "limit"), [(0, 2), (4, 8), (4, 2), (0, 3)])
def test_what_an_order_tells_is_what_counting_says(block, limit):
    rows = partitions(8)
    admissible = fulfilling(rows, block or 8, limit).sum()
    told, there = told_bits(["r", "s"] * 4, {"block_size": block, "longest_run": limit})
    assert there == pytest.approx(np.log2(len(rows)))
    assert told == pytest.approx(np.log2(len(rows) / admissible), abs=0.15)


def test_position_does_not_tell_the_arm():
    units, arms = single_units({"r": 12, "s": 12})
    rules = {"repeats": 0.2, "repeat_min_distance": 8}
    seeds = 1500
    counts = Counter()
    for seed in range(seeds):
        for p in realise_order(units, SINGLE, ONE, rules, seed, 0, arms, {}):
            counts[p.position] += arms[p.unit] == "s"
    positions = max(counts) + 1
    observed = [counts[i] for i in range(positions)]
    # One odd repeat per order falls to either arm; expected is one half of all seeds in each place.
    statistic = sum((o - seeds / 2) ** 2 / (seeds / 4) for o in observed)
    from scipy.stats import chi2

    assert chi2.sf(statistic, positions) > 0.001


def test_position_does_not_tell_the_case():
    units, arms = single_units({"r": 6, "s": 6})
    places = Counter()
    for seed in range(3000):
        order = realise_order(units, SINGLE, ONE, {}, seed, 0, arms, {})
        places[next(p.position for p in order if p.unit == units[0].id)] += 1
    assert chisquare([places[i] for i in range(12)]).pvalue > 0.001


def test_what_came_before_does_not_tell_what_comes_beyond_what_the_blocks_force():
    """The chance to guess the next arm from the last two stays near that of an ideal permuted block design."""
    units, arms = single_units({"r": 20, "s": 20})
    same = total = 0
    for seed in range(300):
        found = labels(realise_order(units, SINGLE, ONE, {"block_size": 40}, seed, 0, arms, {}), arms)
        same += sum(a == b for a, b in zip(found, found[1:]))
        total += len(found) - 1
    # One block of all, runs of at most 3: alternation is a little likelier than in a coin toss, not by much.
    assert 0.38 < same / total < 0.5


def test_training_comes_first_and_only_once():
    units, arms = single_units({"r": 8, "s": 8}, training=2)
    sessions = [*ONE, {"id": "s2", "tasks": ["t"]}]
    for seed in range(30):
        order = realise_order(units, SINGLE, sessions, {}, seed, 0, arms, {})
        phases = [p.phase for p in order]
        assert phases == ["training"] * 4 + ["main"] * 12
        assert all(p.session == "s1" for p in order[:4])


def test_sides_are_balanced_in_each_reader_and_arm_and_exchanged_between_readers():
    units, arms, synthetic = pair_units({"a": 7, "b": 6})
    for seed in range(60):
        sides = []
        for reader in (0, 1):
            order = realise_order(units, PAIRS, ONE, {"longest_run": 4}, seed, reader, arms, synthetic)
            side = {p.unit: p.volumes.index(synthetic[p.unit]) for p in order}
            assert all(set(p.volumes) == set(u.volumes) for p in order for u in units if u.id == p.unit)
            assert abs(sum(side.values()) * 2 - 13) <= 1
            for arm, count in {"a": 7, "b": 6}.items():
                assert abs(2 * sum(s for u, s in side.items() if arms[u] == arm) - count) <= 1
            assert longest_run([side[p.unit] for p in order]) <= 4
            sides.append(side)
        assert all(sides[0][u] == 1 - sides[1][u] for u in sides[0])


def test_the_side_is_not_that_of_the_ids():
    units, arms, synthetic = pair_units({"a": 20})
    right = Counter()
    for seed in range(400):
        for p in realise_order(units, PAIRS, ONE, {}, seed, 0, arms, synthetic):
            right[p.unit] += p.volumes.index(synthetic[p.unit])
    # Twenty units, 400 coin tosses each: all within five standard deviations (10 each).
    assert all(150 < n < 250 for n in right.values())


def test_repeats_are_far_enough_behind_and_of_all_arms():
    units, arms = single_units({"r": 15, "s": 15})
    rules = {"repeats": 0.2, "repeat_min_distance": 12}
    for seed in range(100):
        order = realise_order(units, SINGLE, ONE, rules, seed, 0, arms, {})
        again = [p for p in order if p.presentation == 2]
        assert len(again) == 6 and Counter(arms[p.unit] for p in again) == {"r": 3, "s": 3}
        first = {p.unit: p.position for p in order if p.presentation == 1}
        assert all(p.position - first[p.unit] >= 12 for p in again)
        assert len(first) == 30


def test_a_repeated_pair_keeps_its_sides():
    units, arms, synthetic = pair_units({"a": 12})
    order = realise_order(units, PAIRS, ONE, {"repeats": 0.5, "repeat_min_distance": 3}, 4, 0, arms, synthetic)
    shown: dict[str, set] = {}
    for p in order:
        shown.setdefault(p.unit, set()).add(p.volumes)
    assert len(order) == 18 and all(len(v) == 1 for v in shown.values())


def test_repeats_in_a_later_session():
    units, arms = single_units({"r": 10, "s": 10})
    sessions = [*ONE, {"id": "s2", "tasks": ["t"], "repeats_only": True}]
    for seed in range(30):
        order = realise_order(
            units, SINGLE, sessions, {"repeats": 0.5, "repeats_in": "later_session"}, seed, 0, arms, {}
        )
        assert Counter((p.session, p.presentation) for p in order) == {("s1", 1): 20, ("s2", 2): 10}
        assert Counter(arms[p.unit] for p in order if p.session == "s2") == {"r": 5, "s": 5}


def test_a_task_in_two_sessions_is_split_evenly_between_them():
    units, arms = single_units({"r": 10, "s": 10})
    order = realise_order(units, SINGLE, [*ONE, {"id": "s2", "tasks": ["t"]}], {}, 3, 0, arms, {})
    for session in ("s1", "s2"):
        assert Counter(arms[p.unit] for p in order if p.session == session) == {"r": 5, "s": 5}
    assert len({p.unit for p in order}) == 20


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_williams_designs_balance_places_and_neighbours(n):
    rows = williams_design(n)
    assert len(rows) == (n if n % 2 == 0 else 2 * n)
    for place in range(n):
        assert set(Counter(row[place] for row in rows).values()) == {len(rows) // n}
    after = Counter((a, b) for row in rows for a, b in zip(row, row[1:]))
    assert len(after) == n * (n - 1) and len(set(after.values())) == 1


def task_orders(sessions: list[dict], rules: dict, readers: int) -> list[list[tuple[str, str]]]:
    units, arms = [], {}
    for name in "abcd":
        more, own = single_units({"r": 2, "s": 2}, task=name)
        units += more
        arms |= own
    tasks = {name: Task(name, "single", TURING) for name in "abcd"}
    found = []
    for reader in range(readers):
        order = realise_order(units, tasks, sessions, rules, 5, reader, arms, {})
        found.append(list(dict.fromkeys((p.session, p.task) for p in order)))
    return found


def test_tasks_of_a_session_follow_a_latin_square_over_readers():
    found = task_orders([{"id": "s", "tasks": list("abcd")}], {}, 4)
    for place in range(4):
        assert {order[place][1] for order in found} == set("abcd")
    fixed = task_orders([{"id": "s", "tasks": list("abcd")}], {"task_order": "fixed"}, 3)
    assert all([t for _, t in order] == list("abcd") for order in fixed)


def test_sessions_change_places_over_readers_when_asked():
    sessions = [{"id": "s1", "tasks": ["a", "b"]}, {"id": "s2", "tasks": ["c", "d"]}]
    stay = task_orders(sessions, {}, 4)
    assert all({t for s, t in order if s == "s1"} == {"a", "b"} for order in stay)
    moved = task_orders(sessions, {"session_order": "latin_square"}, 4)
    firsts = Counter(frozenset(t for s, t in order if s == "s1") for order in moved)
    assert firsts == {frozenset("ab"): 2, frozenset("cd"): 2}
    assert all([s for s, _ in order] == ["s1", "s1", "s2", "s2"] for order in moved)


def test_the_order_depends_on_seed_reader_and_secret_and_on_nothing_else():
    units, arms = single_units({"r": 12, "s": 12})

    def made(units, seed=1, reader=0, secret="x"):
        return [p.unit for p in realise_order(units, SINGLE, ONE, {"repeats": 0.2}, seed, reader, arms, {}, secret)]

    base = made(units)
    assert made(units[::-1]) == base == made(sorted(units, key=lambda u: arms[u.id]))
    assert len({tuple(o) for o in (base, made(units, seed=2), made(units, reader=1), made(units, secret="y"))}) == 4


def test_the_order_of_a_seed_stays_what_it_was():
    """Stored orders are what counts, but an order that a coordinator makes again must be the same in ten years."""
    units, arms = single_units({"r": 6, "s": 6})
    order = realise_order(units, SINGLE, ONE, {"repeats": 0.25, "repeat_min_distance": 4}, 2026, 3, arms, {}, "secret")
    text = json.dumps([[p.position, p.unit, p.presentation] for p in order])
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "804e937c5320b4edeab4a76579008c6eb39d80cca4cac062668409dd39f188b3"
    )


@pytest.mark.parametrize(
    ("counts", "rules", "said"),
    [
        ({"r": 2, "s": 12}, {"longest_run": 2}, "longest_run"),
        ({"r": 5, "s": 5}, {"repeats": 1.0, "repeat_min_distance": 30}, "fewer repeats"),
        ({"r": 5, "s": 5}, {"repeats": 0.2, "repeats_in": "later_session"}, "repeats_only"),
    ],
)
def test_what_cannot_be_had_is_refused(counts, rules, said):
    units, arms = single_units(counts)
    with pytest.raises(BadInput) as caught:
        realise_order(units, SINGLE, ONE, rules, 1, 0, arms, {})
    assert said in caught.value.one_line()
