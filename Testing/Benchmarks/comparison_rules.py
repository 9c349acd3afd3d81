"""Which method is best for what: from the figures of the comparison, by rules that the page prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Figures = Mapping[str, Mapping[str, Any]]  # by method, see `figures_of`

CLEARLY = 0.975  # share of the bootstrap resamples
COST_LEAD = 1.1  # times as much that the runner-up must take
# What a drawing is followed against: a prediction blind to the image, and real images of other patients.
BLIND = ("ball", "unrelated_real")

RULES = {
    "follows_drawing": "its adherence ratio is nearest to 1 among the methods that take a drawing, Dice with the own "
    "mask lies above Dice with other patients' masks (interval above 0), and the ratio is nearer to 1 than those of "
    "the ball, of the unrelated real image and of each other method that takes a drawing in at least {clearly:.1%} of "
    "the bootstrap resamples of the patients, the same for both",
    "looks_real": "its distance to real (MMD²) is the smallest, its interval ends below those of all no-skill rows "
    "that are not real images, and the next one's value lies above its interval",
    "fastest": "a further volume takes the least time, by a factor of {cost_lead:g}",
    "least_memory": "a process that makes one volume has the lowest peak, by a factor of {cost_lead:g}",
}
TITLES = {
    "follows_drawing": "Follows a drawing",
    "looks_real": "Looks most like real images",
    "fastest": "Fastest",
    "least_memory": "Least memory",
}


@dataclass(frozen=True)
class Outcome:
    """Of one rule.

    Args:
        need: key of `RULES`.
        winner: name of a method; None where there is none.
        level: methods between which it does not decide.
        text: why, in a sentence.
    """

    need: str
    winner: str | None
    level: tuple[str, ...]
    text: str


def rule_text(need: str) -> str:
    """A rule as the page prints it."""
    return RULES[need].format(clearly=CLEARLY, cost_lead=COST_LEAD)


def figures_of(
    name: str, train: Mapping[str, Any], cost: Mapping[str, Any], measures: Mapping[str, Any]
) -> dict[str, Any]:
    """The figures of a method that the rules and `methods.json` use; None for what is not measured.

    Args:
        train, cost, measures: contents of the files of those names; {} where there is none.
    """
    found: dict[str, Any] = dict.fromkeys(
        ("ratio", "ratio_low", "ratio_high", "gain", "gain_low", "nearer", "nearer_than")
        + ("mmd2", "mmd2_low", "mmd2_high")
        + ("frechet", "auc", "mmd2_below_all", "seconds", "seconds_further", "peak_bytes", "package_bytes")
        + ("parameters", "trained_s", "trained_steps")
    )
    stages = train.get("methods", {}).get(name, {}).get("stages", {})
    if stages and all(s["done"] for s in stages.values()):
        found["trained_steps"] = [s["steps"] for s in stages.values()]
        found["trained_s"] = sum(seconds_of(s, train["settings"]["clock"]) for s in stages.values())
    if name in cost.get("methods", {}):
        own = cost["methods"][name]
        found |= {k: own[k] for k in ("seconds", "seconds_further", "peak_bytes", "package_bytes")}
        found["parameters"] = sum(own["parameters"].values())
    if name in measures.get("row_of", {}):
        row = measures["row_of"][name]
        adherence = measures["adherence"]
        own = next(r for r in adherence["rows"] if r["row"] == row)
        gain = adherence["gain_over_others"][name]
        rivals = adherence["verdicts"][row]["against_no_skill"]
        found |= {"ratio": own["ratio"], "ratio_low": own["ratio_interval"][0], "ratio_high": own["ratio_interval"][1]}
        found |= {"gain": gain["value"], "gain_low": gain["low"]}
        found["nearer_than"] = adherence["nearer_to_one"][name]
        found["nearer"] = {k.removesuffix("_joint"): v["nearer_to_real"] for k, v in rivals.items()}
        fidelity = measures["fidelity"][name]
        arm = next(iter(fidelity["verdicts"]))
        own = next(r for r in fidelity["rows"] if r["row"] == arm)
        found |= {"mmd2": own["mmd2"]["value"], "mmd2_low": own["mmd2"]["low"], "mmd2_high": own["mmd2"]["high"]}
        found |= {"frechet": own["frechet"]["value"], "auc": own["auc"]["features"]["value"]}
        found["mmd2_below_all"] = fidelity["verdicts"][arm]["mmd2_below_all"]
    return found


def seconds_of(stage: Mapping[str, Any], clock: str) -> float:
    """What a stage took: its process, or, where that is not known, the clock of its own loop."""
    return float(stage["loop_s"] if only_loop_known(stage, clock) else stage[f"{clock}_s"])


def only_loop_known(stage: Mapping[str, Any], clock: str) -> bool:
    """Whether what the processes of a stage took is not known: one ended early, or before the comparison was begun."""
    return bool(stage["loop_s"]) and (stage["by_hand"] or stage["loop_s"] > stage[f"{clock}_s"])


def decide(figures: Figures, drawing: Sequence[str], titles: Mapping[str, str]) -> list[Outcome]:
    """All outcomes, in the order of `RULES`; one without a winner where something is not measured.

    Args:
        figures: of `figures_of`, by method.
        drawing: the methods that take a drawing.
        titles: of the methods, for readers.
    """
    needed = {
        "follows_drawing": "ratio",
        "looks_real": "mmd2",
        "fastest": "seconds_further",
        "least_memory": "peak_bytes",
    }
    made = {"follows_drawing": _follows, "looks_real": _looks}
    outcomes = []
    for need, key in needed.items():
        among = {n: f for n, f in figures.items() if need != "follows_drawing" or n in drawing}
        missing = [titles[n] for n, f in among.items() if f[key] is None]
        if missing:
            outcomes.append(Outcome(need, None, (), f"Not decided: {', '.join(missing)} not measured."))
        elif need in made:
            outcomes.append(made[need](among, titles))
        else:
            outcomes.append(_cheapest(need, key, among, titles))
    return outcomes


def _follows(figures: Figures, titles: Mapping[str, str]) -> Outcome:
    def qualifies(f: Mapping[str, Any]) -> bool:
        return f["gain_low"] is not None and f["gain_low"] > 0 and all(f["nearer"][row] >= CLEARLY for row in BLIND)

    def distance(name: str) -> float:
        return abs(figures[name]["ratio"] - 1.0)

    good = sorted((n for n, f in figures.items() if qualifies(f)), key=distance)
    if not good:
        best = min(figures, key=distance)
        text = (
            f"None. The nearest to 1 is {titles[best]} with {figures[best]['ratio']:.2f}, but {_lacks(figures[best])}."
        )
        return Outcome("follows_drawing", None, (), text)
    first = good[0]
    gains = sorted((n for n, f in figures.items() if f["gain_low"] is not None and f["gain_low"] > 0),
                   key=lambda n: -figures[n]["gain"])  # fmt: skip
    all_gains = ", ".join(f"{titles[n]} {figures[n]['gain']:.2f}" for n in gains)
    shares = {n: figures[first]["nearer_than"][n] for n in sorted(figures, key=distance) if n != first}
    shown = ", ".join(
        f"{titles[n]} with {figures[n]['ratio']:.2f} in {share:.1%} of the resamples" for n, share in shares.items()
    )
    text = (
        f"Its ratio, {figures[first]['ratio']:.2f}, is clearly nearer to 1 than those of the ball and the unrelated "
        f"image, and nearer than that of {shown}. Gains by the own mask: {all_gains}. Painted cartoons gain about "
        "as much (below)."
    )
    unclear = tuple(n for n, share in shares.items() if share < CLEARLY)
    if unclear:
        told = f"{titles[first]} is first, but not clearly ahead of {_names(unclear, titles)}. {text}"
        return Outcome("follows_drawing", None, (first, *unclear), told)
    return Outcome("follows_drawing", first, (), f"{titles[first]}. {text}")


def _lacks(f: Mapping[str, Any]) -> str:
    if f["gain_low"] is None or f["gain_low"] <= 0:
        return "its volumes fit their own masks no better, beyond chance, than other patients' masks"
    beaten_by = {"ball": "the ball", "unrelated_real": "the unrelated real image"}
    not_beaten = [beaten_by[row] for row in BLIND if f["nearer"][row] < CLEARLY]
    return f"it is not clearly nearer to 1 than {' and '.join(not_beaten)}"


def _looks(figures: Figures, titles: Mapping[str, str]) -> Outcome:
    order = sorted(figures, key=lambda n: figures[n]["mmd2"])
    aucs = [f["auc"] for f in figures.values() if f["auc"] is not None]
    told = " Features see intensities and texture, not anatomy: look at the picture."
    if aucs:
        told = f" A linear classifier tells them from real images, AUC {min(aucs):.2f} to {max(aucs):.2f}." + told
    shown = ", ".join(f"{titles[n]} {figures[n]['mmd2']:.3f}" for n in order)
    best = figures[order[0]]
    if not best["mmd2_below_all"]:
        beating = [n for n in order if figures[n]["mmd2_below_all"]]
        more = f" Only {_names(beating, titles)} did." if beating else " None of the four did."
        return Outcome(
            "looks_real", None, (),
            f"None: the nearest to real images, {titles[order[0]]}, is not clearly nearer than every no-skill row."
            f"{more} (MMD²: {shown}).{told}",
        )  # fmt: skip
    level = [n for n in order[1:] if figures[n]["mmd2"] <= best["mmd2_high"] and figures[n]["mmd2_below_all"]]
    if level:
        return Outcome(
            "looks_real",
            None,
            (order[0], *level),
            f"{_names((order[0], *level), titles)} are level (MMD²: {shown}).{told}",
        )
    return Outcome("looks_real", order[0], (), f"{titles[order[0]]} (MMD²: {shown}).{told}")


def _cheapest(need: str, key: str, figures: Figures, titles: Mapping[str, str]) -> Outcome:
    order = sorted(figures, key=lambda n: figures[n][key])
    say: Callable[[float], str] = (lambda v: f"{v:.1f} s") if key != "peak_bytes" else (lambda v: f"{v / 1e9:.2f} GB")
    shown = ", ".join(f"{titles[n]} {say(figures[n][key])}" for n in order)
    level = tuple(n for n in order if figures[n][key] < COST_LEAD * figures[order[0]][key])
    if len(level) > 1:
        return Outcome(need, None, level, f"{_names(level, titles)} are level ({shown}).")
    return Outcome(need, order[0], (), f"{titles[order[0]]} ({shown}).")


def _names(names: Sequence[str], titles: Mapping[str, str]) -> str:
    shown = [titles[n] for n in names]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
