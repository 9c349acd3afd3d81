"""The four papers' methods on one LIDC split with one budget each: makes Docs/COMPARISON.md.

Run: python Testing/Benchmarks/compare_methods.py all [--minutes 15] [--device cuda --clock wall]

`all` does what the parts do, in this order; each can be run alone, interrupted and called again:

* train    all stages of the methods, one after the other (configurations: Resources/Training/Comparison);
* samples  one volume for each test patient; see `comparison_measures`;
* cost     seconds and peak memory of one volume, in fresh processes;
* measure  adherence, distance to real, real or synthetic, asked and made;
* page     Docs/COMPARISON.md, its picture and Resources/Methods/methods.json; see `comparison_page`.

A method has `--minutes` for all its stages together, the encoding of latents included. On a CPU that others use too,
`--clock processor` counts the processor time of one thread, so that the load of the machine takes nothing from a
method; on a GPU of one's own, `--clock wall` counts what a clock on the wall shows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput, SynthDiffusionError

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT, Path(__file__).resolve().parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

CONFIGURATIONS = ROOT / "Resources" / "Training" / "Comparison"
DATA = ROOT / "runs" / "lidc-48-prepared"
OUT = ROOT / "runs" / "compare"
MINUTES = 15.0  # what the shares in the configurations add up to
THREADS = 1
LEAST_SHARE = 0.2  # of a stage's budget is left for training, whatever its latents took
PARTS = ("train", "samples", "cost", "measure", "page")


@dataclass(frozen=True)
class Method:
    """One method of the comparison.

    Args:
        name: of its configurations and folders.
        backend: in the engine.
        title: for readers.
        stages: in order; the last one writes the package.
    """

    name: str
    backend: str
    title: str
    stages: tuple[str, ...]

    def folder(self, out: Path, stage: str) -> Path:
        """Of the run of a stage."""
        return out / (f"{self.name}-{stage}" if len(self.stages) > 1 else self.name)

    def package(self, out: Path) -> Path:
        """What the last stage writes."""
        return self.folder(out, self.stages[-1]) / "package"

    def configuration(self, stage: str) -> Path:
        """Shipped configuration of a stage."""
        return CONFIGURATIONS / f"{self.folder(Path(), stage).name}.toml"


METHODS = (
    Method("patch-ddpm", "patch_ddpm", "patch-wise DDPM", ("denoiser",)),
    Method("medlord", "medlord", "MedLoRD", ("autoencoder", "diffusion", "controlnet")),
    Method("slice-ldm", "slice_ldm", "slice-based latent diffusion", ("autoencoder", "refiner", "diffusion")),
    Method("med-lsdm", "med_lsdm", "Med-LSDM", ("autoencoder", "diffusion")),
)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file; empty where there is none.

    Raises:
        BadInput: it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise BadInput(f"'{path}' is damaged ({error})", "Remove it, and run the part that wrote it again.") from error


def write_json(path: Path, content: Any) -> None:
    """Written beside and renamed, so that a reader never finds half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(new, path)


def replaced(text: str, name: str, value: str) -> str:
    """A configuration with another value of a setting that it has, once.

    Raises:
        ValueError: it has it not, or several times.
    """
    changed, count = re.subn(rf"(?m)^{name} = [^#\n]*?(?=[ \t]*(?:#|$))", f"{name} = {value}", text)
    if count != 1:
        raise ValueError(f"The configuration has {count} lines '{name} = ...', 1 was expected")
    return changed


def scaled_configuration(text: str, *, minutes: float, clock: str, data: Path, out: Path) -> str:
    """The configuration of a stage for a budget and for these folders.

    Args:
        text: TOML of Resources/Training/Comparison.
        minutes: budget of the whole method.
        clock: "processor" or "wall".
        data: prepared data set; out: of the comparison.
    """
    text = replaced(text, "data", json.dumps(data.resolve().as_posix()))
    text = text.replace('"../../../runs/compare/', json.dumps(out.resolve().as_posix())[:-1] + "/")
    share = float(re.search(r"(?m)^minutes = ([0-9.]+)", text).group(1))
    text = replaced(text, "minutes", repr(round(share * minutes / MINUTES, 4)))
    return replaced(text, "clock", f'"{clock}"')


def child_environment(threads: int) -> dict[str, str]:
    """Of a process that trains or samples."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**os.environ, **{name: str(threads) for name in names}}


def children_seconds() -> float:
    """Processor time of all processes that this one has started and that have ended, and of theirs. Windows keeps none
    of it: 0 there."""
    used = os.times()
    return used.children_user + used.children_system


def run_child(command: Sequence[str], log: Path, threads: int) -> dict[str, float]:
    """A process to its end; what it took, its own children included.

    Returns:
        "wall_s", "processor_s", "code".
    """
    before, began = children_seconds(), time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as stream:
        done = subprocess.run(
            command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, env=child_environment(threads), check=False
        )
    wall, processor = time.monotonic() - began, children_seconds() - before
    return {"wall_s": round(wall, 1), "processor_s": round(processor, 1), "code": done.returncode}


def train_command(configuration: Path, folder: Path, device: str, resume: bool) -> list[str]:
    """What a user would type."""
    command = [sys.executable, "-m", "SynthDiffusionLib", "train", str(configuration), "--out", str(folder)]
    return [*command, "--device", device, *(["--resume"] if resume else [])]


def trained_by_others(folder: Path) -> bool:
    """Whether some other process trains into a folder now."""
    import psutil

    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        line, cwd = process.info["cmdline"] or [], process.info["cwd"]
        if "train" not in line or "--out" not in line[:-1] or cwd is None:
            continue
        if (Path(cwd) / line[line.index("--out") + 1]).resolve() == folder.resolve():
            return True
    return False


def machine(device: str, threads: int) -> dict[str, Any]:
    """What the figures were made on."""
    import torch

    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        found = re.search(r"model name\s*:\s*(.+)", information.read_text(encoding="utf-8"))
        processor = found.group(1) if found else processor
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else None
    return {
        "processor": processor,
        "logical_cpus": os.cpu_count(),
        "gpu": gpu,
        "threads": threads,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _prepare(text: str, folder: Path, args: argparse.Namespace) -> float:
    """Seconds that the latents of a stage take, which its own clock does not count: a run of one step makes them, and
    all but they is thrown away again.

    Raises:
        RuntimeError: it failed.
    """
    import shutil

    configuration = args.out / "configurations" / f"{folder.name}-preparation.toml"
    configuration.parent.mkdir(parents=True, exist_ok=True)
    configuration.write_text(replaced(text, "minutes", "0.0001"), encoding="utf-8")
    log = args.out / f"{folder.name}-preparation.log"
    resume = (folder / "checkpoint.pt").is_file()
    took = run_child(train_command(configuration, folder, args.device, resume), log, args.threads)
    if took["code"] != 0:
        raise RuntimeError(f"The preparation of {folder.name} failed: see {log}")
    for path in folder.iterdir():
        if path.name == "latents":
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return took[f"{args.clock}_s"]


def _finished(folder: Path, configuration: str, budget_s: float) -> bool:
    """Whether a stage is done: it has used its budget, and the last stage has written its package."""
    if "[package]" in configuration:
        return (folder / "package" / "model.json").is_file()
    summary = read_json(folder / "summary.json")
    return bool(summary) and summary["seconds"] >= 0.97 * budget_s


def train_method(method: Method, args: argparse.Namespace, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Trains what is not trained yet, and writes down what it took in a file of the folder `train`.

    What the encoding of latents takes is part of a stage's budget.

    Raises:
        RuntimeError: a stage failed.
    """
    place = args.out / "train" / f"{method.name}.json"
    record = read_json(place)
    header = {name: getattr(args, name) for name in ("minutes", "clock", "device", "threads", "together")}
    if record and record["settings"] != header:
        raise RuntimeError(f"{place} is of a run with other settings: give another --out")
    record = record or {"settings": header, "machine": machine(args.device, args.threads), "stages": {}}
    for stage in method.stages:
        folder, text = method.folder(args.out, stage), method.configuration(stage).read_text(encoding="utf-8")
        entry = record["stages"].setdefault(stage, {"wall_s": 0.0, "processor_s": 0.0, "by_hand": False, "done": False})
        text = scaled_configuration(text, minutes=args.minutes, clock=args.clock, data=args.data, out=args.out)
        entry["budget_s"] = budget = 60.0 * float(re.search(r"(?m)^minutes = ([0-9.]+)", text).group(1))
        while trained_by_others(folder):
            entry["by_hand"] = True
            time.sleep(20)
        latents = re.search(r"(?m)^\[latents\]", text) is not None
        # Without its latents on record, what lies in the folder may be the run of one step that makes them.
        if not entry["done"] and not latents and _finished(folder, text, budget):
            entry["by_hand"] = True  # trained before, with the same command: what the process took is not known
        elif not entry["done"]:
            if latents:
                if "preparation_s" not in entry:
                    say(f"{time.strftime('%H:%M:%S')} {method.name}: {stage}, latents")
                    entry["preparation_s"] = _prepare(text, folder, args)
                    write_json(place, record)
                left = max(LEAST_SHARE * budget, budget - entry["preparation_s"])
                text = replaced(text, "minutes", repr(round(left / 60.0, 4)))
            configuration = args.out / "configurations" / f"{folder.name}.toml"
            configuration.parent.mkdir(parents=True, exist_ok=True)
            configuration.write_text(text, encoding="utf-8")
            say(f"{time.strftime('%H:%M:%S')} {method.name}: {stage}")
            resume = (folder / "checkpoint.pt").is_file()
            took = run_child(
                train_command(configuration, folder, args.device, resume),
                args.out / f"{folder.name}.log",
                args.threads,
            )
            entry["wall_s"] = round(entry["wall_s"] + took["wall_s"], 1)
            entry["processor_s"] = round(entry["processor_s"] + took["processor_s"], 1)
            if took["code"] != 0:
                write_json(place, record)
                raise RuntimeError(f"{method.name}, {stage}, failed: see {args.out / folder.name}.log")
        entry.update(stage_summary(folder), done=True)
        write_json(place, record)
    return record


def stage_summary(folder: Path) -> dict[str, Any]:
    """Steps of a finished stage, and the seconds of its own clock, validation included."""
    summary = read_json(folder / "summary.json")
    return {"steps": summary["steps"], "loop_s": summary["seconds"], "loop_clock": summary["clock"]}


def read_records(out: Path) -> dict[str, Any]:
    """What the trainings took: "settings", "machine" and, by method, "methods"; {} where nothing was trained.

    Raises:
        ValueError: they were not trained with the same settings and on the same machine.
    """
    found = {m.name: record for m in METHODS if (record := read_json(out / "train" / f"{m.name}.json"))}
    if not found:
        return {}
    shared = [{key: record[key] for key in ("settings", "machine")} for record in found.values()]
    if any(one != shared[0] for one in shared):
        raise ValueError(f"The trainings in '{out / 'train'}' differ in their settings or their machine")
    return {**shared[0], "methods": {name: {"stages": record["stages"]} for name, record in found.items()}}


def train_together(args: argparse.Namespace) -> int:
    """All methods that are asked for at the same time, each in a process of its own.

    Returns:
        exit code: 1 where one failed.
    """
    names = ("minutes", "clock", "device", "threads", "data", "out")
    shared = [word for name in names for word in (f"--{name}", str(getattr(args, name)))]
    command = [sys.executable, str(Path(__file__).resolve()), "train", *shared, "--together", "--methods"]
    running = [subprocess.Popen([*command, method.name]) for method in chosen(args)]
    return 1 if any([process.wait() for process in running]) else 0


def train(args: argparse.Namespace) -> int:
    """All methods that are asked for; the others go on where one fails.

    Returns:
        exit code: 1 where one failed.
    """
    if args.together and len(list(chosen(args))) > 1:
        return train_together(args)
    failed = []
    for method in chosen(args):
        try:
            train_method(method, args, lambda line: print(line, flush=True))
        except RuntimeError as error:
            failed.append(method.name)
            print(f"{method.name}: {error}", file=sys.stderr, flush=True)
    return 1 if failed else 0


def chosen(args: argparse.Namespace) -> Iterator[Method]:
    """Methods that are asked for."""
    return (m for m in METHODS if not args.methods or m.name in args.methods)


def parser() -> argparse.ArgumentParser:
    """Arguments; the defaults make the page that is in Docs."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("part", choices=("all", *PARTS))
    made.add_argument("--minutes", type=float, default=MINUTES, help="budget of each method (default 15)")
    made.add_argument("--clock", choices=("processor", "wall"), default="processor")
    made.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    made.add_argument("--together", action="store_true", help="train the methods at the same time: they share the GPU")
    made.add_argument("--threads", type=int, default=THREADS, help="CPU threads of each process (default 1)")
    made.add_argument("--data", type=Path, default=DATA, help="prepared LIDC cubes of 48 voxels")
    made.add_argument("--out", type=Path, default=OUT)
    made.add_argument("--methods", nargs="*", choices=[m.name for m in METHODS], help="default: all four")
    made.add_argument("--auc-steps", type=int, default=0, help="steps of the networks that tell real (default 0: none)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Carries out one part, or all."""
    args = parser().parse_args(arguments)
    if args.clock == "processor" and os.name == "nt":
        raise SystemExit("Windows does not say what processor time a finished process has had: add --clock wall")
    if args.together and args.clock == "processor":
        raise SystemExit("--together is for a GPU that the methods share: add --clock wall")
    if not 0 < args.minutes < float("inf"):
        raise SystemExit("--minutes must be a number above 0")
    try:
        return carry_out(args)
    except SynthDiffusionError as error:
        raise SystemExit(error.one_line()) from error


def carry_out(args: argparse.Namespace) -> int:
    """One part, or all; the exit code."""
    methods = list(chosen(args))
    code = 0
    for part in PARTS if args.part == "all" else (args.part,):
        if part == "train":
            code = max(code, train(args))
        elif part == "page":
            from comparison_page import write_page

            write_page(args, METHODS)
        else:
            import comparison_measures as measures

            steps = {
                "samples": measures.make_all_samples,
                "cost": measures.measure_cost,
                "measure": measures.measure_all,
            }
            steps[part](args, methods)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
