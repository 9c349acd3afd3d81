"""A complete reader study on real data, read by three simulated readers who are killed 50 times, then analysed.

    python Testing/Benchmarks/reader_study_demonstration.py --data PREPARED --out FOLDER

PREPARED is a training set of `synthdiffusion prepare` on LIDC nodules with the split of lung-nodule-ct. From its test
patients, 12 real cubes and 12 synthetic ones (made from the masks of the same patients) become a blinded study. Each
reader is a process that goes through the study as the panel does (`reader_study.reading.Reading`) and is killed hard at
random moments; after each kill the committed answers that it had told of are looked up in its record. Then the study is
merged and analysed with the commands that a coordinator uses.

A simulated reader has a known ability: the evidence for "synthetic" is normal with standard deviation 1 and lies d'
higher for synthetic volumes, so that the true area under the curve is Phi(d' / sqrt 2) and the true accuracy
Phi(d' / 2) (Green and Swets 1966). The evidence depends on reader, volume and presentation only: a killed reader gives
the same answer again. Slow parts (the 12 synthetic volumes) are kept in the folder and not made twice.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from scipy.stats import norm

from SynthDiffusionLib.cli import main as synthdiffusion
from SynthDiffusionLib.reader_study.merge import merge
from SynthDiffusionLib.reader_study.reading import Reading
from SynthDiffusionLib.reader_study.records import read_chain
from SynthDiffusionLib.reader_study.statistics.curves import auc
from SynthDiffusionLib.reader_study.study import Study

ABILITIES = {"R1": 0.5, "R2": 1.5, "R3": 2.5}  # d'
CASES = 12
KILLS = 50
SEED = 2026
# Of the evidence less its middle between the two kinds: where one level of confidence ends and the next begins.
CUTS = (-1.0, -0.4, 0.0, 0.4, 1.0)
LEVELS = (-3, -2, -1, 1, 2, 3)


def main() -> int:
    """Makes the study, has it read, and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="PREPARED", help="what synthdiffusion prepare wrote")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder for everything; made if missing")
    parser.add_argument("--model", default="lung-nodule-ct", metavar="ID")
    parser.add_argument("--kills", type=int, default=KILLS, metavar="N", help=f"hard kills in total (default {KILLS})")
    parser.add_argument("--read", nargs=2, metavar=("STUDY", "READER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        return read(Path(args.read[0]), args.read[1])
    if not (args.data and args.out):
        parser.error("--data and --out are needed")
    args.out.mkdir(parents=True, exist_ok=True)
    design = make_design(args.data, args.out, args.model)
    study = args.out / "study"
    if study.exists():
        shutil.rmtree(study)
    run("study", "new", str(design), "--out", str(study))
    killed, lost = read_with_kills(study, args.kills)
    print(f"{killed} hard kills, {lost} committed answers lost")
    run("study", "status", str(study))
    run("study", "verify", str(study))
    run("study", "analyse", str(study), "--out", str(args.out / "results"))
    run("study", "export", str(study), "--out", str(args.out / "exports"))
    print(ability_table(study))
    return 0 if lost == 0 and killed == args.kills else 1


def run(*arguments: str) -> None:
    """A command of synthdiffusion, which must succeed."""
    print("\n$ synthdiffusion " + " ".join(arguments), flush=True)
    code = synthdiffusion(list(arguments))
    if code:
        raise SystemExit(f"synthdiffusion {' '.join(arguments[:2])} ended with {code}")


def make_design(data: Path, out: Path, model: str) -> Path:
    """Real cubes, synthetic ones from the masks of the same test patients, and the design of the study."""
    dataset = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    cases = sorted(dataset["split"]["test"])[: CASES + 2]  # two more for training
    real, synthetic = out / "real", out / "synthetic"
    for folder in (real, synthetic):
        folder.mkdir(exist_ok=True)
    for case in cases:
        shutil.copyfile(data / "images" / f"{case}.nii.gz", real / f"{case}.nii.gz")
        if not (synthetic / f"{case}_{model}_seed1.nii.gz").exists():
            classes = str(data / "classes" / f"{case}.nii.gz")
            run("generate", classes, "--model", model, "--seed", "1", "--out", str(synthetic))
    with open(out / "patients.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["file", "patient"])
        for case in cases:
            for name in (f"{case}.nii.gz", f"{case}_{model}_seed1.nii.gz"):
                rows.writerow([name, dataset["cases"][case]["patient"]])
    design: dict[str, Any] = {
        "format": "synthdiffusion-study-design-1",
        "title": "Real or synthetic lung nodules, read by simulated readers",
        "seed": SEED,
        "readers": [{"id": reader, "experience": f"simulated, d' = {d}"} for reader, d in ABILITIES.items()],
        "arms": [
            {"id": "real", "truth": "real", "images": "real"},
            {"id": model, "truth": "synthetic", "images": "synthetic", "suffix": f"_{model}_seed*"},
        ],
        "patients": "patients.csv",
        "training_cases": 2,
        "tasks": [{"id": "turing", "kind": "single", "form": "turing"}],
        "sessions": [{"id": "s1", "tasks": ["turing"]}],
        "randomisation": {"repeats": 0.25, "repeat_min_distance": 8},
        "viewing": {
            "layout": "three_planes",
            "windows": [{"name": "Lung", "center": -600, "width": 1500}],
            "window_locked": True,
            "start_slice": "middle",
            "back": "none",
            "idle_cap_s": 60,
        },
        "primary": {
            "measure": "auc",
            "task": "turing",
            "item": "score",
            "arm": model,
            "test": "difference",
            "null": 0.5,
            "alpha": 0.05,
            "readers": "random",
            "cases": "random",
            "covariance": "delong",
        },
    }
    path = out / "design.json"
    path.write_text(json.dumps(design, indent=1), encoding="utf-8")
    return path


def read(study: Path, reader: str) -> int:
    """The child: reads on until the study is done, telling of each committed answer."""
    truth = truth_of(study)
    with Reading.open(study, reader) as reading:
        print("open", flush=True)
        while (current := reading.current) is not None:
            reading.show({"layout": "three_planes"})
            print(f"shown {current.position}", flush=True)
            time.sleep(0.02)
            reading.touch()
            answers = {"score": level(reader, current.unit, current.presentation, truth[current.unit])}
            reading.commit(answers, {"layout": "three_planes"})
            print(f"committed {current.position} {json.dumps(answers)}", flush=True)
        reading.close()
    print("done", flush=True)
    return 0


def truth_of(study: Path) -> dict[str, int]:
    """Unit to 1 for synthetic. Only a simulated reader may look at the key."""
    key = json.loads((study / "private" / "key.json").read_text(encoding="utf-8"))
    return {unit: entry["truth"] for unit, entry in key["units"].items()}


def level(reader: str, unit: str, presentation: int, truth: int) -> int:
    """The signed confidence of a simulated reader."""
    digest = hashlib.sha256(f"{SEED} {reader} {unit} {presentation}".encode()).digest()
    noise = norm.ppf((int.from_bytes(digest[:7], "big") + 0.5) / 2**56)
    evidence = ABILITIES[reader] * (truth - 0.5) + noise
    return LEVELS[sum(evidence > cut for cut in CUTS)]


def read_with_kills(study: Path, kills: int) -> tuple[int, int]:
    """Has every reader read the study in processes that are killed.

    Returns:
        how often one was killed while it ran, and how many answers that it had told of are not in its record.
    """
    rng = random.Random(SEED)
    shares = [kills // len(ABILITIES) + (i < kills % len(ABILITIES)) for i in range(len(ABILITIES))]
    killed, lost = 0, 0
    for reader, share in zip(ABILITIES, shares):
        told: dict[int, str] = {}
        order_before = Study.load(study).order(reader)
        done, left = False, share
        while not done:
            # A number of lines, then a moment: before, while or after the next record is written.
            lines, delay = (rng.randrange(0, 4), rng.uniform(0, 0.04)) if left else (None, 0.0)
            done, was_killed = read_once(study, reader, lines, delay, told)
            killed, left = killed + was_killed, left - was_killed
            lost += missing(study, reader, told)
        if Study.load(study).order(reader) != order_before:
            raise SystemExit(f"the order of {reader} has changed")
        print(f"{reader}: {len(told)} answers told of, {share - left} kills")
    return killed, lost


def read_once(study: Path, reader: str, lines: int | None, delay: float, told: dict[int, str]) -> tuple[bool, bool]:
    """One process; killed after so many lines and a delay. Whether it was done, and whether it was killed."""
    command = [sys.executable, __file__, "--read", str(study), reader]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    assert child.stdout is not None
    seen: list[str] = []
    enough = threading.Event()

    def listen() -> None:
        for line in child.stdout:
            seen.append(line)
            if lines is not None and len(seen) > lines:
                enough.set()
        enough.set()

    listener = threading.Thread(target=listen)
    listener.start()
    if lines is not None:
        enough.wait()
        time.sleep(delay)
        running = child.poll() is None
        if running:
            psutil.Process(child.pid).kill()
    child.wait()
    listener.join()
    for line in seen:
        word, *rest = line.split(maxsplit=2)
        if word == "committed" and line.endswith("\n"):
            told[int(rest[0])] = rest[1].strip()
    done = "done\n" in seen
    if not done and lines is None:
        raise SystemExit(f"{reader} ended with {child.returncode}")
    return done, lines is not None and not done and child.returncode != 0


def missing(study: Path, reader: str, told: dict[int, str]) -> int:
    """How many of the answers that the reader was told are stored are not in the record as they were given."""
    raw = (study / "reading" / "records" / f"{reader}.jsonl").read_bytes() if told else b""
    records = [r for r in read_chain(raw).records if r is not None and r["type"] == "answer"]
    stored = {r["position"]: r["answers"] for r in records}
    return sum(stored.get(position) != json.loads(answers) for position, answers in told.items())


def ability_table(study: Path) -> str:
    """True and observed figures of each reader, as Markdown."""
    rows = [r for r in merge(study).ratings if r.item == "score" and r.phase == "main" and r.presentation == 1]
    lines = ["", "| reader | d' | true AUC | AUC | true accuracy | accuracy |", "|---|---|---|---|---|---|"]
    for reader, d in ABILITIES.items():
        own = [r for r in rows if r.reader == reader]
        observed = float(auc([float(r.value) for r in own], [r.truth for r in own]))
        right = sum((float(r.value) > 0) == (r.truth == 1) for r in own) / len(own)
        lines.append(
            f"| {reader} | {d} | {norm.cdf(d / 2**0.5):.2f} | {observed:.2f} | {norm.cdf(d / 2):.2f} | {right:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
