"""Speed beside MONAI and diffusers, growth with size, cold start, samples of a job, the floor, compiling, agreement.

    python Testing/Benchmarks/speed_table.py --out FILE.jsonl [--rows a,b,...] [--device cpu|cuda] [--repeats 5]
    python Testing/Benchmarks/speed_table.py --out FILE.jsonl --list
    python Testing/Benchmarks/speed_table.py --out FILE.jsonl --write Docs/performance.md

Every row is a process of its own, the most important first; rows that FILE.jsonl holds are not run again (a row is
known by its name and its device), so that a call that was cut off is simply repeated. `--rows` takes groups and single
rows:

    a  denoising: this project, MONAI's networks with diffusers' scheduler, MONAI's inferers; the same weights, one run,
       in turn, each time in another order, medians
    b  the gain from fewer evaluations: computed from the rows of a and e
    c  decoding: is measured by streamed_decode.py
    d  growth with the size of the volume, and the planner's predictions
    e  cold start: a fresh process of `generate`, until it denoises and until the file is there
    f  one sample against four of one job
    g  the floor: counted arithmetic and bytes against the machine's measured ceilings
    h  torch.compile, and CUDA graphs on a GPU: what they cost, what they gain, where they break even
    i  agreement: the same request in every way of computing

Presets have seeded random weights: time and memory do not depend on their values. A few steps are timed and multiplied
where a table says so. On a CPU the presets are measured in fp32, in which the two sides can be compared voxel by voxel.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- speed rows: begin -->", "<!-- speed rows: end -->"
LONGEST_S = 3600
SHIPPED = ("lung-nodule-ct", "limb-tumour-ct", "hippocampus-mr", "limb-tumour-mr")
ROWS: dict[str, tuple[str, ...]] = {
    "cpu": (
        "a:medlord-x4:96x96x64",
        "a:maisi-rflow:64x64x64",
        *(f"i:{model}" for model in SHIPPED),
        "g:medlord-x4:96x96x64",
        "g:maisi-rflow:64x64x64",
        *(f"e:{model}" for model in SHIPPED),
        *(f"d:medlord-x4:{n}x{n}x{n}" for n in (64, 96, 128, 160)),
        "d:maisi-rflow:128x128x128",
        *(f"d:{preset}" for preset in ("medlord-x4", "maisi-rflow")),
        "f:limb-tumour-ct",
        "f:limb-tumour-mr",
        "h:limb-tumour-ct:96x96x64",
        "h:medlord-x4:96x96x64",
    ),
    "cuda": (
        "a:medlord-x4:512x512x256",
        "a:maisi-rflow:512x512x128",
        "a:medlord-x4:256x256x256",
        "a:maisi-rflow:256x256x256",
        "g:medlord-x4:512x512x256",
        "g:maisi-rflow:256x256x256",
        "h:medlord-x4:512x512x256",
        "h:maisi-rflow:256x256x256",
        "h:limb-tumour-ct:96x96x64",
        *(f"i:{model}" for model in SHIPPED),
        *(f"d:medlord-x4:{size}" for size in ("64x64x64", "128x128x128", "256x256x256", "512x512x256")),
        *(f"d:maisi-rflow:{size}" for size in ("128x128x128", "256x256x256", "512x512x256", "512x512x512")),
        *(f"d:{preset}" for preset in ("medlord-x4", "maisi-rflow")),
        *(f"e:{model}" for model in SHIPPED),
        "f:limb-tumour-ct",
        "f:limb-tumour-mr",
    ),
}
# Of what a row's table is about: agreement and comparisons in fp32, processes as a user starts them.
PRECISION = {"e": "auto", "f": "auto", "i": "fp32"}
STEPS = {"i": 3, "d": 2, "g": 2}
GROUPS = "abcdefghi"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", metavar="a,ID,...", help="groups or rows (default: all of the device)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    parser.add_argument("--out", type=Path, metavar="FILE.jsonl", help="results, which are kept and added to")
    parser.add_argument("--repeats", type=int, default=5, help="of what is timed (default 5)")
    parser.add_argument("--steps", type=int, help="denoised in rows of a (default 3, on a GPU 10)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="on a CPU (default: all)")
    parser.add_argument("--precision", help="fp32, bf16 or fp16 for a, d, g and h (default: fp32, on a GPU bf16)")
    parser.add_argument("--again", action="store_true", help="run rows again that failed")
    parser.add_argument("--list", action="store_true", help="say which rows are there and which are not, and run none")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the tables into a page, and run none")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args)))
        return 0
    from speed_page import tables, write_page

    rows = read_rows(args.out)
    if args.write is not None:
        if not rows:
            parser.error("--write needs --out with a file that holds rows")
        write_page(args.write, rows, (BEGIN, END))
        return 0
    try:
        chosen = chosen_rows(args.rows, args.device)
    except ValueError as error:
        parser.error(str(error))
    for row in chosen:
        known = next((r for r in rows if same_row(r, row, args.device)), None)
        done = known is not None and not (args.again and "error" in known)
        if args.list:
            print(row, "not measured" if known is None else known.get("error", "measured"))
        elif not done:
            rows = [r for r in rows if r is not known]
            rows.append(in_a_process(row, args))
            print(json.dumps(rows[-1]), flush=True)
            if args.out is not None:
                with args.out.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(rows[-1]) + "\n")
    if not args.list:
        print("\n" + "\n".join(tables(rows)))
    return 0


def chosen_rows(text: str, device: str) -> list[str]:
    """The rows of a device, those of groups, or single ones, in the order of their importance.

    Raises:
        ValueError: what is no row and no group.
    """
    known = ROWS[kind_of(device)]
    if not text:
        return list(known)
    asked = [part.strip() for part in text.split(",") if part.strip()]
    for part in asked:
        if part not in tuple(GROUPS) and (":" not in part or part[0] not in GROUPS):
            raise ValueError(f"'{part}' is no row: give a letter of {GROUPS}, or one such as {known[0]}")
    # Those of b are computed from a's and e's; those of c are in another file.
    groups = {*asked, *("ae" if "b" in asked else "")}
    return [row for row in known if row[0] in groups or row in asked] + [
        part for part in asked if ":" in part and part not in known
    ]


def kind_of(device: str) -> str:
    """ "cpu" or "cuda"."""
    return "cuda" if device.startswith("cuda") else "cpu"


def same_row(row: dict[str, Any], name: str, device: str) -> bool:
    """Whether a result is that of a row on a kind of device."""
    return row["row"] == name and row["device"] == kind_of(device)


def read_rows(path: Path | None) -> list[dict[str, Any]]:
    """The results of a file, of each row the newest; a last line that was cut off is left out."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    if path is not None and path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            found[row["row"], row["device"]] = row
    return list(found.values())


def in_a_process(row: str, args: argparse.Namespace) -> dict[str, Any]:
    """A row, or its error, with how long it took."""
    from speed_parts import environment

    command = [sys.executable, str(Path(__file__).resolve()), "--one", row, "--device", args.device]
    command += ["--repeats", str(args.repeats), "--threads", str(args.threads)]
    command += ["--steps", str(args.steps)] if args.steps else []
    command += ["--precision", args.precision] if args.precision else []
    told, began = {"row": row, "device": kind_of(args.device), "repeats": args.repeats}, time.monotonic()
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST_S,
            env=environment(args.threads),
        )
        result = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return told | {"error": f"longer than {LONGEST_S} s"}
    except (IndexError, ValueError):
        return told | {"error": (done.stderr.strip().splitlines() or ["no output"])[-1][:300]}
    return told | result | {"row_s": round(time.monotonic() - began, 1)}


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """The row `args.one`, in this process."""
    import torch
    from full_size import commit
    from speed_parts import Setting, ran_on

    torch.set_num_threads(args.threads)
    group, _, name = args.one.partition(":")
    on_gpu = args.device.startswith("cuda")
    device = "cuda:0" if args.device == "cuda" else args.device
    precision = PRECISION.get(group) or args.precision or ("bf16" if on_gpu else "fp32")
    steps = STEPS.get(group) or args.steps or (10 if on_gpu else 3)
    setting = Setting(device, precision, args.repeats, steps)
    told = {"precision": precision, "machine": ran_on(device) | {"commit": commit()}}
    if group in "ef":
        from speed_process import batch, cold_start

        return told | (cold_start if group == "e" else batch)(name, setting, args.threads)
    if group == "g":
        from speed_floor import floor

        return told | floor(name, setting)
    if group == "i":
        from speed_agreement import agreement

        return told | agreement(name, setting)
    from speed_denoise import beside_monai, compiled, growth, predictions

    if group == "d":
        return told | (growth if ":" in name else predictions)(name, setting)
    return told | {"a": beside_monai, "h": compiled}[group](name, setting)


if __name__ == "__main__":
    sys.exit(main())
