"""The tables of Docs/SCALE.md, from the measurements of `scale_costs` alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import scale_paper as paper
from comparison_page import md_table

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "Docs" / "SCALE.md"
RESULTS = ROOT / "Docs" / "Tables" / "scale.json"
MARKS = ("<!-- scale: begin -->", "<!-- scale: end -->")
FULL_WORDS = {
    "worker": "the worker's steps beside the network",
    "driver": "the driver",
    "link": "the link",
    "files": "making files",
}


def tables(results: Mapping[str, Any]) -> list[str]:
    """All of the page that is computed, as Markdown lines."""
    lines: list[str] = []
    for title, part in (
        ("GPU seconds of a volume", _gpu_seconds),
        ("Ways to store a volume", _compression),
        ("A worker's steps beside the network", _life),
        ("A driver's steps", _driver),
        ("100,000 volumes on paper", _costs),
        ("What is full first", _first),
        ("The arithmetic of one column", _arithmetic),
    ):
        lines += [f"## {title}", "", *part(results), ""]
    return [*lines, *_ran_on(results)]


def write_page(page: Path, results: Mapping[str, Any]) -> None:
    """Puts the tables between the marks of the page.

    Raises:
        ValueError: the page lacks them.
    """
    text = page.read_text(encoding="utf-8")
    if any(text.count(mark) != 1 for mark in MARKS):
        raise ValueError(f"'{page.name}' must have {MARKS[0]} and {MARKS[1]} once each")
    before, rest = text.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    body = "\n".join(tables(results)).strip()
    page.write_text(f"{before}{MARKS[0]}\n\n{body}\n\n{MARKS[1]}{after}", encoding="utf-8", newline="\n")


def _gpu_seconds(results: Mapping[str, Any]) -> Iterator[str]:
    rows = [[g.name, _span(g.low, g.high), g.how] for g in paper.gpu_seconds()]
    yield md_table(["model", "GPU seconds", "where it comes from"], rows)
    yield ""
    yield (
        "Times go with the number of steps: `S = 10 s` stands for fewer of them, or a faster GPU. The tables below "
        "take the middle of a range."
    )


def _compression(results: Mapping[str, Any]) -> Iterator[str]:
    network = paper.gpu_seconds()[0]
    rows = []
    for row in results["compression"]:
        ratio = row["raw_bytes"] / row["bytes"]
        rows.append(
            [
                row["content"],
                row["type"],
                row["choice"] + (f" ({row['note']})" if row["note"] else ""),
                f"{row['write_s']:.2f}",
                f"{row['write_s'] / network.middle:.1%}",
                f"{row['bytes'] / 1e6:.1f}",
                f"{ratio:.2f}",
                f"{row['read_s']:.2f}",
                f"{paper.VOLUMES * row['bytes'] / 1e12:.2f}",
            ]
        )
    titles = [
        "content",
        "type",
        "stored as",
        "write s",
        f"of {network.name}'s GPU seconds",
        "MB",
        "times smaller",
        "read s",
        "TB for 100,000",
    ]
    yield md_table(titles, rows)
    yield ""
    for name, about in results["contents"].items():
        yield f"- {name}: {about}."
    runs = {row["runs"] for row in results["compression"]}
    yield (
        f"- Processor seconds, medians of {max(runs)}, all ways in turn. Every file was read back, and had the same "
        "voxels."
    )
    if not all(row["exact"] for row in results["compression"]):
        yield "- **Not all were read back with the same voxels.**"
    yield (
        "- The writer stores int16: volumes are in whole HU, so that up to 0.5 HU is lost against float32, whose "
        "rows have evenly spread fractions."
    )


def _life(results: Mapping[str, Any]) -> Iterator[str]:
    earlier = results.get("before", {}).get("life", [])
    columns = [(row, "now") for row in results["life"]] + [(row, "before") for row in earlier]
    titles = ["s"] + [f"{row['preset']}, {row['content']}, {when}" for row, when in columns]
    steps = list(results["life"][0]["seconds"])
    rows = [[step, *(f"{row['seconds'][step]:.2f}" for row, _ in columns)] for step in steps]
    rows.append(["**together**", *(f"**{sum(row['seconds'].values()):.2f}**" for row, _ in columns)])
    yield md_table(titles, rows)
    yield ""
    row = results["life"][0]
    calls = ", ".join(f"{name} {n}" for name, n in row["calls"].items())
    yield (
        f"A volume is {row['files']} files: {row['volume_bytes'] / 1e6:.1f} MB, and {row['other_bytes'] / 1e3:.0f} kB "
        f"of contact sheet, record and item file. Its drawing has {row['mask_bytes'] / 1e3:.0f} kB. Python asks the "
        f"batch's folder for {sum(row['calls'].values())} operations (its audit events: {calls}); looking at sizes is "
        "not counted."
    )
    loading = results["loading"]
    yield ""
    yield (
        f"All these are processor seconds. A worker starts in {loading['start_s']:.1f} s of wall time, "
        f"{loading['load_s']:.1f} s of them for the model (`{loading['model']}`, "
        f"{loading['weight_bytes'] / 1e6:.1f} MB). A package of 1 GB takes "
        f"{1e9 / results['disk']['hashed_per_s']:.1f} s more for its checksums (derived)."
    )
    if earlier:
        commit = results["before"]["commit"]
        ratios = []
        for old in earlier:
            new = next(r for r in results["life"] if (r["preset"], r["content"]) == (old["preset"], old["content"]))
            change = sum(old["seconds"].values()) / sum(new["seconds"].values())
            ratios.append(f"{change:.1f} times ({old['preset']}, {old['content']})")
        yield ""
        yield (
            f'"Before" is commit {commit}, in a run of its own. What these measurements showed was mended: voxels that '
            "only change their order are not interpolated any more, a class map is asked for all its classes at once, "
            f"and grey values are packed at gzip's level 3 instead of 6. Together: {', '.join(ratios)}."
        )


def _driver(results: Mapping[str, Any]) -> Iterator[str]:
    rows, most = results["driver"], paper.VOLUMES
    words = {
        "list_s": "list the drawings, one an item",
        "look_new_s": "look what is there, of none",
        "look_made_s": "look what is there, of all (`--resume`)",
        "schedule_s": "give out and take back, 64 workers",
        "report_s": "manifest and report",
        "publish_s": "(in workers) four small files, their checksums and the final name",
    }
    lines = []
    for key, what in words.items():
        start, slope = paper.line(rows, key)
        cells = [f"{row[key]:.2f}" for row in rows]
        each = [f"{row[key] / row['items'] * 1e3:.3f}" for row in (rows[0], rows[-1])]
        # Work of the file system's does not go with the number: no line through it.
        whole = "-" if key == "publish_s" else f"{start + slope * most:.0f}"
        lines.append([what, *cells, " and ".join(each), whole])
    start, slope = paper.line(rows, "bytes")
    cells = [f"{row['bytes'] / 1e6:.0f} MB" for row in rows]
    each = [f"{row['bytes'] / row['items'] / 1e3:.1f} kB" for row in (rows[0], rows[-1])]
    lines.append(["memory of list and report", *cells, " and ".join(each), f"{(start + slope * most) / 1e6:.0f} MB"])
    counts = [f"{row['items']:,} items" for row in rows]
    yield md_table(["s", *counts, "ms each, first and last", f"{most:,} (by a straight line)"], lines)
    files, disk = results["files"], results["disk"]
    yield ""
    yield (
        f"Drawings and files of 2 kB. The local disk, by plain calls: {files['made_per_s']:,.0f} files of 2 kB made a "
        f"second in folders of four, {files['listed_per_s']:,.0f} listed; {disk['written_per_s'] / 1e6:,.0f} MB/s "
        f"written with fsync. SHA-256 takes in {disk['hashed_per_s'] / 1e6:,.0f} MB/s."
    )


def _costs(results: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    for gpu in paper.gpu_seconds():
        parts = paper.parts_of(results, gpu.preset)
        for gpus in paper.GPUS:
            c = paper.cost(paper.VOLUMES, gpus, gpu.middle, parts)
            rows.append(
                [
                    gpu.name,
                    str(gpus),
                    f"{c.busy_hours:,.0f}",
                    f"{c.held_hours:,.0f}",
                    f"{c.idle:.0%}",
                    f"{c.wall_s / 86_400:.1f}",
                    f"{c.per_s:.3f}",
                    f"{c.written_per_s / 1e6:.1f}",
                    f"{c.read_per_s / 1e6:.2f}",
                    f"{c.files_per_s:.2f}",
                    f"{c.calls_per_s:.1f}",
                    f"{c.stored_bytes / 1e12:.2f}",
                ]
            )
    titles = [
        "model",
        "GPUs",
        "GPU-hours computing",
        "GPU-hours held",
        "idle",
        "days",
        "volumes/s",
        "MB/s written",
        "MB/s of drawings read",
        "files/s",
        "operations/s",
        "TB",
    ]
    yield md_table(titles, rows)
    yield ""
    first = paper.gpu_seconds()[0]
    parts = paper.parts_of(results, first.preset)
    again = parts.written_bytes + 2 * parts.volume_bytes + 3 * parts.mask_bytes
    yield (
        "Written and read are each byte once. A volume is read again for its two checksums and a drawing twice more, "
        f"from the page cache where that holds them; where it does not, `{first.name}` moves {again / 1e6:.0f} MB a "
        f"volume instead of {(parts.written_bytes + parts.mask_bytes) / 1e6:.0f}. TB by other ways of storing are in "
        "their table."
    )
    others = [r for r in results["life"] if r["preset"] == first.preset and r["content"] != paper.CONTENT]
    for life in others:
        other = paper.parts_of(results, first.preset, life["content"])
        c = paper.cost(paper.VOLUMES, max(paper.GPUS), first.middle, other)
        yield ""
        yield (
            f"**The content matters**: this table is of the {paper.CONTENT}. With the {life['content']}, which is "
            f"noisier, `{first.name}` on {max(paper.GPUS)} GPUs stores {c.stored_bytes / 1e12:.2f} TB, writes "
            f"{c.written_per_s / 1e6:.0f} MB/s, and is idle {c.idle:.0%} of the time."
        )


def _first(results: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    for gpu in paper.gpu_seconds():
        parts = paper.parts_of(results, gpu.preset)
        at_64 = paper.cost(paper.VOLUMES, 64, gpu.middle, parts)
        full = paper.gpus_until_full(gpu.middle, parts)
        first = {FULL_WORDS[paper.first_full(gpu.middle, gpus, parts)] for gpus in paper.GPUS}
        rows.append(
            [
                gpu.name,
                f"{parts.beside_s / at_64.each_s:.0%}",
                f"{parts.beside_s / gpu.middle:.2f}",
                f"{at_64.link_share:.1%}, {full['link']:,.0f}",
                f"{at_64.files_share:.2%}, {full['files']:,.0f}",
                f"{at_64.driver_share:.4%}, {full['driver']:,.0f}",
                " / ".join(sorted(first)),
            ]
        )
    titles = [
        "model",
        "worker: share of each volume beside the network",
        "CPU cores a GPU that would hide it",
        "link of 10 Gbit/s: used by 64 GPUs, full with",
        "1,000 new files/s: used, full with",
        "driver: used, full with",
        "first on 1, 8 and 64 GPUs",
    ]
    yield md_table(titles, rows)
    yield ""
    yield '"Full with" is a number of GPUs. The link and the files a second are assumed, the rest is measured.'
    parts = paper.parts_of(results, "medlord-x4")
    once = paper.VOLUMES * parts.mask_bytes
    read_s = once / results["disk"]["hashed_per_s"]
    shards = max(paper.GPUS)
    loss = paper.losses_share(paper.gpu_seconds()[0].middle, parts)
    yield ""
    yield (
        f"- **Listing**: a driver reads every drawing once, {once / 1e9:.0f} GB if each volume has its own: "
        f"{read_s:.0f} s of SHA-256, before any worker begins, and again with `--resume`. With `--shard i/{shards}` "
        f"each of {shards} drivers reads all of them, {shards * once / 1e12:.2f} TB altogether: "
        f"{shards * once / paper.LINK_BYTES_PER_S / 60:.0f} minutes of the link if all start at once. With 100 seeds "
        "a drawing (`--samples 100`) it is a hundredth of that."
    )
    yield (
        "- **Lost workers** cost the volume in hand and a start, at most "
        f"{paper.gpu_seconds()[0].middle + parts.beside_s + parts.start_s:.0f} s with `medlord-x4`: {loss:.2%} of the "
        f"GPU time if every GPU loses its worker {paper.LOSSES_PER_GPU_DAY:g} time a day (assumed). What is complete "
        "stays."
    )
    yield (
        f"- **Memory of the driver**: {parts.driver_bytes * paper.VOLUMES / 1e6:.0f} MB for {paper.VOLUMES:,} items."
    )


def _arithmetic(results: Mapping[str, Any]) -> Iterator[str]:
    gpu, gpus = paper.gpu_seconds()[0], max(paper.GPUS)
    parts = paper.parts_of(results, gpu.preset)
    c = paper.cost(paper.VOLUMES, gpus, gpu.middle, parts)
    n = paper.VOLUMES
    yield f"`{gpu.name}` on {gpus} GPUs; every other column goes the same way."
    yield ""
    yield f"- a volume: {gpu.middle:.2f} s of network + {parts.beside_s:.2f} s beside it = {c.each_s:.2f} s"
    yield f"- computing: {n:,} x {gpu.middle:.2f} s / 3600 = {c.busy_hours:,.0f} GPU-hours"
    driver = n * (parts.before_s + parts.after_s)
    rounds = -(-n // gpus)
    yield (
        f"- wall time: {parts.start_s:.0f} s start + {rounds:,} x {c.each_s:.2f} s + {driver:.0f} s of driver = "
        f"{c.wall_s:,.0f} s = {c.wall_s / 86_400:.2f} days"
    )
    yield f"- held: {gpus} x {c.wall_s:,.0f} s / 3600 = {c.held_hours:,.0f} GPU-hours, {c.idle:.1%} of them idle"
    yield (
        f"- rate: {gpus} / {c.each_s:.2f} s = {c.per_s:.3f} volumes/s; x {parts.written_bytes / 1e6:.2f} MB = "
        f"{c.written_per_s / 1e6:.1f} MB/s; x {parts.files} = {c.files_per_s:.2f} files/s"
    )
    yield (
        f"- driver: {c.per_s:.3f} volumes/s x {parts.schedule_s * 1e3:.4f} ms = {c.driver_share:.4%} of its thread, "
        f"which bears {1 / parts.schedule_s:,.0f} volumes/s"
    )
    yield f"- storage: {n:,} x {parts.written_bytes / 1e6:.2f} MB = {c.stored_bytes / 1e12:.2f} TB"


def _ran_on(results: Mapping[str, Any]) -> Iterator[str]:
    m = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    commits = ", ".join(f"{part} of commit {commit}" for part, commit in results["commits"].items())
    yield (
        f"Run on: {m['cpu']}, {m['cores']} cores, which other work shared, one thread, {m['system']}, Python "
        f"{m['python']}, zlib {m['zlib']}, {versions}; {commits}; {results['seconds']:.0f} s."
    )


def _span(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
