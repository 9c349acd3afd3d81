"""The tables of `speed_table.py` in Markdown, and where they stand in a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MIB, GIB = 2**20, 2**30
COMMAND = "python Testing/Benchmarks/speed_table.py --device {device} --out speed.jsonl --rows {row}"
WAYS = {
    "ours": "this project",
    "monai-diffusers": "MONAI's networks, diffusers' scheduler",
    "monai-diffusers-fused": "the same, MONAI's option for fused attention",
    "ControlNetDiffusionInferer": "MONAI's `ControlNetDiffusionInferer`, its scheduler",
    "LatentDiffusionInferer": "MONAI's `LatentDiffusionInferer`, no drawing",
}
Row = dict[str, Any]


def tables(rows: list[Row]) -> list[str]:
    """All tables, of what is measured; what is not is named with its command."""
    lines: list[str] = []
    for title, head, group in (
        ("a. Denoising beside MONAI and diffusers", _HEAD_A, _beside_monai),
        ("b. Fewer evaluations", _HEAD_B, _fewer),
        ("c. Decoding", (), _decoding),
        ("d. Growth with size, measured", _HEAD_D, _growth),
        ("d. Growth with size: predictions of the planner, not measured", _HEAD_P, _predictions),
        ("e. Cold start", _HEAD_E, _cold),
        ("f. One job of four samples", _HEAD_F, _batch),
        ("g. The floor", _HEAD_G, _floor),
        ("h. Compiling", _HEAD_H, _compiled),
        ("i. Agreement", _HEAD_I, _agreement),
    ):
        lines += [f"### {title}", ""]
        if head:
            lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
            lines += ["| " + " | ".join(cells) + " |" for cells in group(rows)]
        else:
            lines += [text for cells in group(rows) for text in cells]
        lines.append("")
    return lines + list(_notes(rows))


def write_page(page: Path, rows: list[Row], marks: tuple[str, str]) -> None:
    """Puts the tables between the marks of a page.

    Raises:
        ValueError: the page lacks them.
    """
    text = page.read_text(encoding="utf-8")
    if any(text.count(mark) != 1 for mark in marks):
        raise ValueError(f"'{page}' must have {marks[0]} and {marks[1]} once each")
    before, rest = text.split(marks[0])
    _, after = rest.split(marks[1])
    body = "\n".join(tables(rows)).strip()
    page.write_text(f"{before}{marks[0]}\n\n{body}\n\n{marks[1]}{after}", encoding="utf-8")


def _of(rows: list[Row], group: str, width: int, fill: Callable[[Row], Iterator[tuple[str, ...]]]) -> Iterator[list]:
    """The lines of a group: of the rows that are there, of their errors, and of those that are not measured."""
    from speed_table import ROWS

    found = {(row["device"], row["row"]): row for row in rows if row["row"].startswith(f"{group}:")}
    for device in ROWS:
        for name in dict.fromkeys((*ROWS[device], *(n for d, n in found if d == device))):
            row = found.get((device, name))
            if not name.startswith(f"{group}:") or (group == "d" and (name.count(":") == 1)):
                continue
            title = f"{name[2:].replace(':', ', ')}, {device}"
            if row is None:
                said = f"not measured: `{COMMAND.format(device=device, row=name)}`"
                yield [title, said, *[""] * (width - 2)]
            elif "error" in row or "said" in row:
                yield [title, row.get("error") or row["said"], *[""] * (width - 2)]
            else:
                for cells in fill(row):
                    yield [f"{title}, {row['precision']}", *cells]


_HEAD_A = (
    "model, voxels",
    "way",
    "s (processor s)",
    "of this project's",
    "s an evaluation",
    "tensors at the peak, MiB",
    "largest deviation / range",
    "evaluations by default, s (multiplied)",
)


def _beside_monai(rows: list[Row]) -> Iterator[list]:
    def fill(row: Row) -> Iterator[tuple[str, ...]]:
        ours = row["ways"]["ours"]
        for name, way in row["ways"].items():
            one = way["seconds"] / row["steps"]
            steps = row["default_steps"] if name == "ours" else row["monai_steps"]
            exact = f"{row['deviation']:.1e}" if name == "monai-diffusers" else ""
            whole = "the same" if name.startswith("monai-diffusers") else f"{steps}: {steps * one:.0f}"
            if name != "ours" and "rflow" in row["row"] and whole != "the same":
                whole = f"none with RFlow; NVIDIA's {row['default_steps']}: {row['default_steps'] * one:.0f}"
            yield (
                WAYS[name],
                f"{way['seconds']:.2f} ({way['processor_s']:.2f}), {row['steps']} steps, n = {row['repeats']}",
                f"{way['seconds'] / ours['seconds']:.2f}",
                f"{one:.3f}",
                f"{way['peak_bytes'] / MIB:.0f}",
                exact,
                whole,
            )
        said = row["control_latent_inferer"]
        yield (f"MONAI's `ControlNetLatentDiffusionInferer`: {said}", *[""] * 6)

    return _of(rows, "a", len(_HEAD_A), fill)


_HEAD_B = ("model", "steps by default", "MONAI's default", "s a step", "s: ours, MONAI's count", "gain")


def _fewer(rows: list[Row]) -> Iterator[list]:
    """From rows of a, whose evaluations are timed, and of e, whose denoising is."""
    for row in rows:
        if "error" in row or row["row"][0] not in "ae" or "rflow" in row["row"]:  # MONAI's RFlow has no default
            continue
        steps, theirs = row["default_steps"], row["monai_steps"]
        if row["row"].startswith("a"):
            one = row["ways"]["ours"]["seconds"] / row["steps"]
        else:
            one = row["denoise_s"] / steps
        name = ", ".join(row["row"].split(":")[1:])
        yield [
            f"{name}, {row['device']}, {row['precision']}",
            str(steps),
            str(theirs),
            f"{one:.3f}",
            f"{steps * one:.0f}, {theirs * one:.0f} (multiplied)",
            f"{theirs / steps:.1f} times",
        ]


def _decoding(rows: list[Row]) -> Iterator[list]:
    yield [
        "Plain, MONAI's sliding window with its seams, MAISI's splitting and ours are in the table of",
        "`python Testing/Benchmarks/streamed_decode.py` (on a GPU with `--gpu`), which runs them in one go.",
    ]


_HEAD_D = ("model, voxels", "computed", "s an evaluation", "decode s", "process GiB at the peak", "predicted", "ratio")


def _growth(rows: list[Row]) -> Iterator[list]:
    def fill(row: Row) -> Iterator[tuple[str, ...]]:
        yield (
            ", ".join(f"{stage} {way}" for stage, way in row["execution"].items()) or "whole",
            f"{row['seconds_per_evaluation']:.3f}",
            f"{row['decode_s']:.2f}",
            f"{row['measured_bytes'] / GIB:.2f}",
            f"{row['predicted_bytes'] / GIB:.2f}",
            f"{row['predicted_bytes'] / row['measured_bytes']:.2f}",
        )

    return _of(rows, "d", len(_HEAD_D), fill)


_HEAD_P = (
    "model, voxels",
    "CPU, fp32, no limit: GiB by stage",
    "GPU, bf16, no limit: GiB by stage",
    "GPU within 24 GiB",
)


def _predictions(rows: list[Row]) -> Iterator[list]:
    for row in rows:
        for size, told in row.get("sizes", {}).items():
            cells = [
                ", ".join(f"{stage} {n / GIB:.1f}" for stage, n in told[device].items()) for device in ("cpu", "cuda")
            ]
            peak = told["within_24_bytes"]
            ways = ", ".join(f"{stage} {way}" for stage, way in told["within_24"].items())
            grid = "x".join(map(str, told["grid"]))
            name = row["row"][2:] + f", {size}" + (f" (computed as {grid})" if grid != size else "")
            name += " (not a size of the model's)" if told["outside"] and grid == size else ""
            yield [name, *cells, "nothing fits" if peak is None else f"{ways}: {peak / GIB:.1f} GiB"]


_HEAD_E = (
    "model",
    "s until it denoises",
    "s until the file is there",
    "of these denoising",
    "evaluations",
    "processes",
)


def _cold(rows: list[Row]) -> Iterator[list]:
    def fill(row: Row) -> Iterator[tuple[str, ...]]:
        seconds = (f"{row[key]:.1f}" for key in ("begins_s", "files_s", "denoise_s"))
        yield (*seconds, str(row["evaluations"]), str(row["runs"]))

    return _of(rows, "e", len(_HEAD_E), fill)


_HEAD_F = ("model", "s, one sample", "s, four samples", "s a sample of four", "of one alone", "processes")


def _batch(rows: list[Row]) -> Iterator[list]:
    def fill(row: Row) -> Iterator[tuple[str, ...]]:
        one, four = row["one_s"], row["four_s"]
        yield f"{one:.1f}", f"{four:.1f}", f"{four / 4:.1f}", f"{four / 4 / one:.2f}", str(row["runs"])

    return _of(rows, "f", len(_HEAD_F), fill)


_HEAD_G = (
    "model, voxels",
    "stage",
    "s",
    "multiply-adds, 10^9",
    "bytes, 10^9",
    "floor s: arithmetic, bytes",
    "times the floor",
    "ceilings: GFLOP/s, GB/s",
)


def _floor(rows: list[Row]) -> Iterator[list]:
    def fill(row: Row) -> Iterator[tuple[str, ...]]:
        best = row["ceilings"]
        for name, stage in row["stages"].items():
            yield (
                name,
                f"{stage['seconds']:.3f}",
                f"{stage['flop'] / 2e9:.0f}",
                f"{stage['bytes'] / 1e9:.2f}",
                f"{stage['arithmetic_s']:.3f}, {stage['bytes_s']:.3f}",
                f"{stage['times_the_floor']:.1f}",
                f"{best['flop_per_s'] / 1e9:.0f}, {best['bytes_per_s'] / 1e9:.1f}",
            )

    return _of(rows, "g", len(_HEAD_G), fill)


_HEAD_H = (
    "model, voxels",
    "way",
    "s an evaluation",
    "of the first",
    "largest deviation / range",
    "s to prepare",
    "breaks even after evaluations",
    "after samples",
    "pays within one run",
)


def _compiled(rows: list[Row]) -> Iterator[list]:
    def fill(row: Row) -> Iterator[tuple[str, ...]]:
        plain = row["ways"]["as it is"]["seconds"]
        yield ("as it is", f"{plain:.3f}", "1.00", "", "", "", "", "")
        for name, way, cost in (
            ("compiled", "compiled", "compile_s"),
            ("CUDA graph", "CUDA graph", "capture_s"),
        ):
            if way not in row["ways"]:
                yield (f"{name}: {row['graphs_said']}", *[""] * 7)
                continue
            fast = row["ways"][way]["seconds"]
            exact = f"{row['deviation']:.1e}" if way == "compiled" else ""
            yield (name, f"{fast:.3f}", f"{fast / plain:.2f}", exact, *break_even(row[cost], plain, fast, row))

    return _of(rows, "h", len(_HEAD_H), fill)


def break_even(cost: float, plain: float, fast: float, row: Row) -> list[str]:
    """When preparing has paid.

    Args:
        cost: seconds of preparing.
        plain: seconds of an evaluation without it.
        fast: with it.
        row: of which the evaluations of a sample by default are used.

    Returns:
        the cells: seconds to prepare, evaluations, samples, whether one sample is enough.
    """
    if fast >= plain:
        return [f"{cost:.1f}", "never", "never", "no"]
    evaluations = cost / (plain - fast)
    samples = evaluations / row["evaluations"]
    return [f"{cost:.1f}", f"{evaluations:.0f}", f"{samples:.1f}", "yes" if samples <= 1 else "no"]


_HEAD_I = (
    "model",
    "way",
    "largest deviation / range",
    "mean",
    "codes that differ",
    "same codes decoded: largest",
    "within 1e-4",
)


def _agreement(rows: list[Row]) -> Iterator[list]:
    def fill(row: Row) -> Iterator[tuple[str, ...]]:
        for name, way in row["ways"].items():
            has_codes = way["codes"] is not None
            judged = way["same_codes"] if has_codes else way["largest"]
            yield (
                name,
                f"{way['largest']:.1e}",
                f"{way['mean']:.1e}",
                f"{way['codes']:.2%}" if has_codes else "no codes",
                f"{way['same_codes']:.1e}" if has_codes else "",
                "not exact: another precision" if name.startswith("bf16") else ("yes" if judged <= 1e-4 else "NO"),
            )

    return _of(rows, "i", len(_HEAD_I), fill)


def _notes(rows: list[Row]) -> Iterator[str]:
    """What it ran on, once for each that differs."""
    seen: dict[str, int] = {}
    for row in rows:
        if "machine" in row:
            m = row["machine"]
            text = (
                f"{m['machine']}, {m['system']}, {m['threads']} thread(s), PyTorch {m['torch']}, MONAI {m['monai']}, "
                f"diffusers {m['diffusers']}, commit {m['commit']}"
            )
            seen[text] = seen.get(text, 0) + 1
    for text, count in seen.items():
        yield f"Run on: {text} ({count} rows)."
