"""The page of the comparison of methods, its picture, and Resources/Methods/methods.json; see `compare_methods`.

Every figure comes from the JSON files of the other parts; what is not measured is said not to be.
"""

from __future__ import annotations

import argparse
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from comparison_texts import ABOUT, ADHERENCE, CARTOONS, CONTROL, COST, GIVEN, INTRODUCTION, REALISM, WALL

from SynthDiffusionLib.errors import BadInput

if TYPE_CHECKING:
    from compare_methods import Method

    from SynthDiffusionLib.evaluation.rows import Item

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "Docs" / "COMPARISON.md"
PICTURE = ROOT / "Docs" / "Images" / "comparison_methods.jpg"
METHODS_JSON = ROOT / "Resources" / "Methods" / "methods.json"
WIDTH = 130
NOT_MEASURED = "not measured"
COLUMNS = 6
SCALE = 3
GAP, SIDE, HEADER = 4, 150, 22
CONTROLS = ("volume_mm3", "sphericity", "center_r_mm", "center_a_mm", "center_s_mm")


def md_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def number(value: float | None, digits: int = 2) -> str:
    """A number, or that there is none."""
    if value is None:
        return NOT_MEASURED
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def estimate(found: Mapping[str, float | None] | None, digits: int = 2) -> str:
    """`value [low, high]`, or that there is none."""
    if not found or found["value"] is None:
        return NOT_MEASURED
    return f"{number(found['value'], digits)} [{number(found['low'], digits)}, {number(found['high'], digits)}]"


def clock_words(clock: str, threads: int) -> str:
    """What a clock counts."""
    return "processor time of one thread" if clock == "processor" and threads == 1 else {
        "processor": "processor time", "wall": "wall time"
    }[clock]  # fmt: skip


def training_table(train: Mapping[str, Any], methods: Sequence[Method]) -> str:
    """What each stage took."""
    from comparison_rules import only_loop_known, seconds_of

    by_processor = train.get("settings", {}).get("clock") == "processor"
    rows = []
    for method in methods:
        stages = train.get("methods", {}).get(method.name, {}).get("stages", {})
        total = 0.0
        for stage in method.stages:
            own = stages.get(stage)
            if own is None or not own["done"]:
                rows.append([method.title, stage, *([NOT_MEASURED] * (4 if by_processor else 3))])
                continue
            preparation, taken = own.get("preparation_s", 0.0), seconds_of(own, train["settings"]["clock"])
            total += preparation + taken
            latents = number(preparation / 60.0, 1) if preparation else ""
            mark = "*" if only_loop_known(own, train["settings"]["clock"]) else ""
            row = [method.title, stage, str(own["steps"]), latents, f"{taken / 60.0:.1f}{mark}"]
            rows.append([*row, wall_words(own)] if by_processor else row)
        if len(stages) == len(method.stages) and all(s["done"] for s in stages.values()):
            row = [f"**{method.title}**", "**together**", "", "", f"**{total / 60.0:.1f}**"]
            rows.append([*row, ""] if by_processor else row)
    titles = ["method", "stage", "steps", "latents, minutes", "training process, minutes"]
    return md_table([*titles, "wall time for processor time, minutes"] if by_processor else titles, rows)


def wall_words(stage: Mapping[str, Any]) -> str:
    """What is known of a stage's wall time, with the processor time of the same processes."""
    if not stage["processor_s"]:
        return "not known"
    return f"{stage['wall_s'] / 60.0:.1f} for {stage['processor_s'] / 60.0:.1f}"


def clock_paragraph(train: Mapping[str, Any]) -> list[str]:
    """That equal processor time is not equal wall time, and why it was taken; empty where the wall's clock was."""
    settings = train.get("settings", {})
    if settings.get("clock") != "processor":
        return []
    stages = [s for m in train["methods"].values() for s in m["stages"].values() if s["done"] and s["processor_s"]]
    slower = [s["wall_s"] / s["processor_s"] for s in stages]
    spread = (
        f" Where both are known, a clock on the wall showed {min(slower):.1f} to {max(slower):.1f} times as much."
        if slower
        else ""
    )
    return [WALL.format(spread=spread, cpus=train["machine"]["logical_cpus"])]


def cost_table(cost: Mapping[str, Any], methods: Sequence[Method]) -> str:
    """Seconds, memory and size."""
    rows = []
    on_gpu = any(m["peak_gpu_bytes"] for m in cost.get("methods", {}).values())
    for method in methods:
        own = cost.get("methods", {}).get(method.name)
        if own is None:
            rows.append([method.title, *([NOT_MEASURED] * (6 + on_gpu))])
            continue
        gpu = [f"{(own['peak_gpu_bytes'] or 0) / 1e9:.2f} GB"] if on_gpu else []
        rows.append(
            [method.title, f"{own['sampler']}, {own['steps']}", number(own["seconds"], 1)]
            + [number(own["seconds_further"], 1), f"{own['peak_bytes'] / 1e9:.2f} GB", *gpu]
            + [f"{sum(own['parameters'].values()) / 1e6:.2f} M", f"{own['package_bytes'] / 1e6:.1f} MB"]
        )
    titles = ["method", "sampler, steps", "one volume, s", "a further one, s", "peak memory"]
    return md_table([*titles, *(["peak on the GPU"] if on_gpu else []), "parameters", "package"], rows)


def adherence_table(measures: Mapping[str, Any], methods: Sequence[Method]) -> str:
    """Methods, real images, and no-skill rows."""
    from comparison_measures import OTHERS

    adherence = measures.get("adherence", {})
    found = {r["row"]: r for r in adherence.get("rows", [])}

    def ratio(row: Mapping[str, Any]) -> str:
        low, high = row["ratio_interval"]
        return estimate({"value": row["ratio"], "low": low, "high": high})

    rows = []
    for method in methods:
        name = measures.get("row_of", {}).get(method.name)
        if name is None:
            rows.append([method.title, *([NOT_MEASURED] * 5)])
            continue
        own, other = found[name], found[name + OTHERS]
        gain = estimate(adherence["gain_over_others"][method.name])
        label = method.title + (", own masks" if name == "joint" else "")
        rows.append(
            [label, number(own["dice_mean"]), ratio(own), f"{own['found']:.0%}", number(other["dice_mean"]), gain]
        )
    for kind in ("real", "no-skill"):
        for r in sorted(found.values(), key=lambda r: r["row"].endswith("_joint")):
            if r["kind"] == kind:
                label = f"*{r['label']}*" if kind == "no-skill" else r["label"]
                gain, other = adherence["gain_over_others"].get(r["row"]), adherence["others_dice"].get(r["row"])
                # Shifted crops lie anywhere, so that another's mask has no place in them.
                more = ["", ""] if gain is None else [number(other), estimate(gain)]
                rows.append([label, number(r["dice_mean"]), ratio(r), f"{r['found']:.0%}", *more])
    return md_table(["row", "Dice", "ratio", "found", "Dice, other masks", "gain"], rows)


def realism_table(measures: Mapping[str, Any], methods: Sequence[Method]) -> str:
    """Methods, the floor and no-skill rows."""
    rows, others = [], {}
    for method in methods:
        fidelity = measures.get("fidelity", {}).get(method.name)
        if fidelity is None:
            rows.append([method.title, *([NOT_MEASURED] * 4)])
            continue
        (arm,) = fidelity["verdicts"]
        for r in fidelity["rows"]:
            others.setdefault(r["row"], r)
            if r["row"] == arm:
                below = "yes" if fidelity["verdicts"][arm]["mmd2_below_all"] else "**no**"
                rows.append([method.title, *_distances(r), below])
    for r in others.values():
        if r["kind"] == "real":
            rows.append([f"{r['label']} (floor)", *_distances(r), ""])
    rows += [[f"*{r['label']}*", *_distances(r), ""] for r in others.values() if r["kind"] == "no-skill"]
    return md_table(["row", "MMD²", "Fréchet", "AUC, linear", "below no-skill"], rows)


def cartoon_words(measures: Mapping[str, Any], methods: Sequence[Method]) -> str:
    """That painted cartoons follow a drawing as well as the best method, with the figures."""
    from comparison_measures import PAINTED

    adherence = measures.get("adherence", {})
    rows = {r["row"]: r for r in adherence.get("rows", [])}
    gains, drawing = adherence.get("gain_over_others", {}), [m for m in methods if m.backend != "slice_ldm"]
    own = [m for m in drawing if gains.get(m.name, {}).get("value") is not None]
    painted = [n for n in rows if n == PAINTED or n == "class_means_noise" or n.startswith("blob_flat")]
    painted = [n for n in painted if not n.endswith("_joint") and n in gains]
    if not own or not painted:
        return "How much painted cartoons gain is not measured.\n"
    best = max(own, key=lambda m: gains[m.name]["value"])
    shown = ", ".join(f"{rows[n]['label']} {number(gains[n]['value'])}" for n in painted)
    shares = [adherence["nearer_to_one"][best.name][n] for n in painted]
    return CARTOONS.format(
        shown=shown, real=number(gains["real"]["value"]), best=best.title, gain=number(gains[best.name]["value"]),
        least=f"{min(shares):.0%}", most=f"{max(shares):.0%}",
    )  # fmt: skip


def _distances(row: Mapping[str, Any]) -> list[str]:
    return [estimate(row["mmd2"], 3), estimate(row["frechet"]), estimate(row["auc"]["features"])]


def control_table(control: Mapping[str, Any]) -> str:
    """Asked against made."""
    rows = []
    there = [v for v in control.get("per_volume", []) if v["measured"] is not None]
    for r in control.get("rows", []):
        if r["row"] not in CONTROLS:
            continue
        asked = np.array([v["asked"][r["row"]] for v in there])
        spread = np.log10(asked).std() if r["row"] == "volume_mm3" else asked.std()
        chance = r["ignores"]["slope"]
        random = f"[{number(chance['low'])}, {number(chance['high'])}]"
        rows.append([r["label"], number(float(spread)), estimate(r["slope"]), random]
                    + [estimate(r["pearson"]), number(r["absolute_error"])])  # fmt: skip
    titles = ["characteristic", "asked, sd", "slope", "slope at random", "correlation", "mean absolute error"]
    return md_table(titles, rows or [["all", *([NOT_MEASURED] * 5)]])


def outcome_lines(outcomes: Sequence[Any], measures: Mapping[str, Any], titles: Mapping[str, str]) -> list[str]:
    """Which is best for what, with the rules."""
    from comparison_rules import TITLES, rule_text

    lines = [f"- **{TITLES[o.need]}**: {o.text}" for o in outcomes]
    lines.append(f"- **Needs no drawing**: {titles['slice-ldm']} alone. {control_words(measures)}")
    lines.append(
        f"- **Changes a part of a real scan**: {titles['patch-ddpm']} alone (not measured here; the card of "
        "`lung-nodule-ct` has it)."
    )
    rules = [f"- {TITLES[o.need]}: {rule_text(o.need)}." for o in outcomes]
    return [*lines, "", "The rules. They were fixed before the figures were known, but for one: that the method that "
            "follows a drawing best must be held against each other method by resampled patients was added afterwards; "
            "before, a ratio nearer to 1 by 0.05 was enough. A method is named where:", "", *rules]  # fmt: skip


def control_words(measures: Mapping[str, Any]) -> str:
    """Whether the slice-based method makes what it is asked for, and whether its mask fits its image."""
    control = measures.get("control")
    if not control or not control.get("rows"):
        return "Whether it makes what it is asked for is not measured."
    heeded, not_heeded = [], []
    for r in control["rows"]:
        if r["row"] in CONTROLS[:2]:
            low, chance = r["slope"]["low"], r["ignores"]["slope"]["high"]
            (heeded if None not in (low, chance) and low > chance else not_heeded).append(r["label"].split(" ")[0])
    words = {"volume_mm3": "volume", "sphericity": "sphericity"}
    groups = ((heeded, "followed what was asked"), (not_heeded, "did not clearly follow what was asked"))
    said = [f"{' and '.join(words[n] for n in names)} {how}" for names, how in groups if names]
    text = f"Its tumours: {'; '.join(said)}."
    volume = next((r for r in control["rows"] if r["row"] == "volume_mm3"), None)
    if volume is not None and volume["absolute_error"] is not None:
        text += f" Volumes are off by a factor of {10 ** volume['absolute_error']:.3g} (geometric mean)."
    own = measures.get("row_of", {}).get("slice-ldm")
    dice = {r["row"]: r["dice_mean"] for r in measures.get("adherence", {}).get("rows", [])}
    if own in dice and "real" in dice:
        text += f" Dice of its images with its own masks: {dice[own]:.2f}, of real ones with theirs {dice['real']:.2f}."
    return text


def empty_words(control: Mapping[str, Any]) -> str:
    """How many masks are empty, and how many in pieces."""
    if not control:
        return "How many masks are empty is not measured."
    text = f"{control['empty']} of {control['requests']} masks are empty"
    return text + (f", {control['several_pieces']} have several pieces." if "several_pieces" in control else ".")


def machine_words(record: Mapping[str, Any]) -> str:
    """What the figures were made on."""
    if not record:
        return ""
    m = record["machine"]
    on = m["gpu"] or f"{m['logical_cpus']} logical CPUs ({m['processor']})"
    threads = "one thread" if m["threads"] == 1 else f"{m['threads']} threads"
    return f"Machine: {on}, {threads} for each process, {m['system']}, Python {m['python']}, PyTorch {m['torch']}."


def command_of(args: argparse.Namespace) -> str:
    """The command that makes the page, with what differs from the defaults."""
    text = "python Testing/Benchmarks/compare_methods.py all"
    defaults = {"minutes": 15.0, "clock": "processor", "device": "cpu", "threads": 1, "auc_steps": 0}
    for name, value in defaults.items():
        if getattr(args, name) != value:
            text += f" --{name.replace('_', '-')} {getattr(args, name):g}" if name in ("minutes",) else (
                f" --{name.replace('_', '-')} {getattr(args, name)}"
            )  # fmt: skip
    return text + (" --together" if args.together else "")


def page_text(
    train: Mapping[str, Any], cost: Mapping[str, Any], measures: Mapping[str, Any], patients: Mapping[str, int],
    args: argparse.Namespace, methods: Sequence[Method], outcomes: Sequence[Any], shown: Sequence[str],
) -> str:  # fmt: skip
    """The page.

    Args:
        train, cost, measures: contents of the files of those names; {} where there is none.
        patients: number by part.
        shown: cases of the picture; empty without one.
    """
    settings = train.get("settings", {"minutes": args.minutes, "clock": args.clock, "threads": args.threads})
    clock = clock_words(settings["clock"], settings["threads"])
    titles = {m.name: m.title for m in methods}
    real = next((r for r in measures.get("adherence", {}).get("rows", []) if r["row"] == "real"), None)
    control = measures.get("control", {})
    steps = measures.get("auc_steps", args.auc_steps)
    networks = (
        "The two small networks of the evaluation are left out here (`--auc-steps` trains them)."
        if steps == 0
        else f"The networks of the evaluation were trained for {steps} steps; see `measures.json`."
    )
    picture = ["The picture has not been made yet."]
    if shown:
        picture = [
            f"![real images and those of the four methods for the same masks](Images/{PICTURE.name})",
            "",
            f"The same {len(shown)} test masks in every row, at even steps of the nodule's volume, smallest and "
            "largest included: chosen by the mask alone. Axial slices through the middle of the mask with its "
            "outline; the slice-based method's with the mask that it made for the same characteristics. First sample "
            "of each.",
        ]
    threads = settings["threads"]
    parts = [
        INTRODUCTION.format(command=command_of(args), minutes=settings["minutes"], clock=clock,
                            machine=machine_words(train), **patients),
        "## Which is best for what", "",
        *outcome_lines(outcomes, measures, titles), "",
        "## What was made", "", GIVEN, *picture, "",
        "## Training", "",
        *(["The methods were trained at the same time and shared the GPU.", ""] if settings.get("together") else []),
        f"The budget is {settings['minutes']:g} minutes for each method. Encoding of latents counts; the start of each "
        "process, reading the data, and sample pictures come on top.",
        "", *clock_paragraph(train), training_table(train, methods), "",
        *(["\\* interrupted and gone on with, or ended before this comparison was begun, by the same command: the "
           "minutes are those of the training loop alone.", ""] if _interrupted(train) else []),
        "## Adherence", "",
        ADHERENCE.format(segmenter=measures.get("segmenter", {}).get("model", "lung-nodule-ct"),
                         real=number(real["dice_mean"]) if real else NOT_MEASURED),
        cartoon_words(measures, methods),
        adherence_table(measures, methods), "",
        "## Distance to real", "", REALISM.format(networks=networks, **patients),
        realism_table(measures, methods), "",
        "## Asked and made", "",
        CONTROL.format(empty=empty_words(control)),
        control_table(control), "",
        "## Time and memory", "",
        COST.format(repeats=3, clock=clock_words(cost.get("clock", args.clock), 2), threads=threads,
                    s="" if threads == 1 else "s", gpu=""),
        cost_table(cost, methods), "",
    ]  # fmt: skip
    return "\n\n".join(wrapped(part) for part in "\n".join(parts).split("\n\n"))


def wrapped(paragraph: str) -> str:
    """A paragraph in lines of `WIDTH`; headings, tables, pictures and lists as they are, but for the last one's end."""
    text = paragraph.rstrip("\n")
    if text.startswith(("#", "|", "!", "-")):
        return paragraph
    lines = textwrap.wrap(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines) + "\n" * (len(paragraph) - len(text))


def _interrupted(train: Mapping[str, Any]) -> bool:
    from comparison_rules import only_loop_known

    stages = [s for m in train.get("methods", {}).values() for s in m["stages"].values() if s["done"]]
    return any(only_loop_known(stage, train["settings"]["clock"]) for stage in stages)


def methods_content(
    figures: Mapping[str, Mapping[str, Any]], outcomes: Sequence[Any], train: Mapping[str, Any],
    methods: Sequence[Method], patients: Mapping[str, int],
) -> dict[str, Any]:  # fmt: skip
    """`methods.json`: what is known of the methods, and where one is the best of the four by the rules."""
    from SynthDiffusionLib.models.methods import FORMAT, NEEDS

    measured = all(f[k] is not None for f in figures.values() for k in ("ratio", "mmd2", "seconds_further"))
    comparison: dict[str, Any] = {"page": "Docs/COMPARISON.md", "measured": measured}
    if measured:
        settings = train["settings"]
        comparison |= {"minutes": settings["minutes"], "clock": settings["clock"]}
        comparison |= {"machine": machine_words(train).removeprefix("Machine: "), "test_patients": patients["test"]}
    by_backend = {m.backend: m.name for m in methods}
    entries = {}
    for about in ABOUT:
        name = by_backend.get(about.backend)
        wins = [o.need for o in outcomes if measured and o.winner is not None and o.winner == name]
        said = about.best_for
        if wins:
            said += (
                f" Of four methods that were trained equally long on little data, it {_joined(NEEDS[w] for w in wins)}."
            )
        own = figures.get(name) if measured else None
        entries[about.backend] = {
            "name": about.name,
            "paper": {"title": about.title, "authors": about.authors, "url": about.url},
            "input": about.input,
            "in_short": about.in_short,
            "best_for": said,
            "wins": wins,
            "figures": {k: v for k, v in own.items() if k not in ("nearer", "nearer_than")} if own else None,
        }
    return {"format": FORMAT, "comparison": comparison, "methods": entries}


def _joined(words: Any) -> str:
    *first, last = list(words)
    return f"{', '.join(first)} and {last}" if first else last


def draw_picture(
    path: Path, rows: Sequence[tuple[str, Mapping[str, Item], bool]], cases: Sequence[str],
    masks: Mapping[str, Item], target: int,
) -> None:  # fmt: skip
    """Writes a JPEG: a row for the real images and for each method, a column for each mask.

    Args:
        rows: label, items by case, and whether an item is shown with its own mask.
        cases: the columns.
        masks: the real items, by case.
        target: label value whose outline is drawn.
    """
    from PIL import Image, ImageDraw

    from SynthDiffusionLib.contact_sheet import LUNG_WINDOW
    from SynthDiffusionLib.evaluation.picture import _slice
    from SynthDiffusionLib.volumes.atomic import atomic_file

    cells = [
        [_slice(items.get(case), items.get(case) if own else masks[case], target, LUNG_WINDOW) for case in cases]
        for _, items, own in rows
    ]
    side = max(cell.shape[0] for row in cells for cell in row if cell is not None) * SCALE // 4
    sheet = Image.new("RGB", (SIDE + len(cases) * (side + GAP), HEADER + len(rows) * (side + GAP)), (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    for c, case in enumerate(cases):
        voxels = int((masks[case].classes == target).sum())
        draw.text((SIDE + c * (side + GAP) + 2, 5), f"{case.split('_')[0]}: {voxels} voxels", fill=(230, 230, 230))
    for r, ((label, _, _), row) in enumerate(zip(rows, cells)):
        y = HEADER + r * (side + GAP)
        draw.text((6, y + side // 2 - 6), label, fill=(230, 230, 230))
        for c, cell in enumerate(row):
            place = (SIDE + c * (side + GAP), y)
            if cell is None:
                draw.text((place[0] + 8, y + side // 2), "none", fill=(150, 150, 150))
            else:
                sheet.paste(Image.fromarray(cell).resize((side, side), Image.Resampling.LANCZOS), place)
    buffer = io.BytesIO()
    sheet.save(buffer, format="JPEG", quality=88, optimize=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as stream:
        stream.write(buffer.getvalue())


def write_page(
    args: argparse.Namespace, methods: Sequence[Method], page: Path = PAGE, picture: Path = PICTURE,
    methods_json: Path = METHODS_JSON,
) -> None:  # fmt: skip
    """Writes the page, the picture where there are samples, and `methods.json`.

    Raises:
        BadInput: nothing was measured: what is in the project is kept.
    """
    from compare_methods import read_json, read_records, write_json
    from comparison_measures import load_rows
    from comparison_rules import decide, figures_of

    from SynthDiffusionLib.evaluation.picture import chosen_cases
    from SynthDiffusionLib.evaluation.rows import real_items

    train = read_records(args.out)
    cost, measures = (read_json(args.out / f"{name}.json") for name in ("cost", "measures"))
    if not (train and measures):
        raise BadInput(f"'{args.out}' holds no comparison", "Run the parts before 'page', or give another --out.")
    data, rows, _ = load_rows(args, methods)
    patients = {"train": len(data.training), "validation": len(data.others), "test": len(data.evaluated)}
    titles = {m.name: m.title for m in methods}
    figures = {m.name: figures_of(m.name, train, cost, measures) for m in methods}
    drawing = [m.name for m in methods if m.backend != "slice_ldm"]
    outcomes = decide(figures, drawing, titles)
    shown: list[str] = []
    if rows:
        real = {i.case: i for i in real_items(data.evaluated, data.intensity_range)}
        shown = chosen_cases(list(real.values()), data.target_value, COLUMNS)
        drawn = [("real", real, False)]
        for name, row in rows.items():
            drawn.append((titles[name], {i.case: i for i in reversed(row.items)}, name == "slice-ldm"))
        draw_picture(picture, drawn, shown, real, data.target_value)
    page.write_text(page_text(train, cost, measures, patients, args, methods, outcomes, shown), encoding="utf-8")
    write_json(methods_json, methods_content(figures, outcomes, train, methods, patients))
