"""Reads a study in a process that is killed hard at random moments and started again, until it is read.

    python Testing/Engine/reader_study_killing.py FOLDER READER ANSWERS.json

is the process that is killed. It reads one case for each line that it gets, and says on its output what it has
committed, after `commit` has returned. So every kill can be put into the reading of a case: at a random moment of the
time that a case takes, or of the time that opening takes.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

_REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Killed:
    """What was seen of a reading with kills.

    Args:
        kills: processes that were ended while they read.
        early: of them, those that had not opened the study yet.
        acknowledged: by position: unit, presentation and answers that a process said it had committed.
        orders: for each process, the positions in the order in which it committed them.
        messages: told to the reader at log-ins.
    """

    kills: int = 0
    early: int = 0
    acknowledged: dict[int, dict[str, Any]] = field(default_factory=dict)
    orders: list[list[int]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


def read_with_kills(
    folder: Path, reader: str, answers: Mapping[str, Mapping[str, Any]], *, kills: int, seed: int
) -> Killed:
    """Reads a reader's next session to its end, with kills on the way.

    Args:
        folder: of the study.
        reader: who reads.
        answers: by "unit/presentation".
        kills: how often the process is killed; at most the number of cases that are left in the session.
        seed: of the moments.
    """
    rng, result = random.Random(seed), Killed()
    opening_s, case_s = 0.5, 0.01  # measured anew in each life
    with tempfile.TemporaryDirectory() as temporary:
        policy = Path(temporary) / "answers.json"
        policy.write_text(json.dumps(answers), encoding="utf-8")
        while True:
            life = _Life(folder, reader, policy)
            left = kills - result.kills
            try:
                if left and rng.random() < 0.15:
                    life.kill(rng.uniform(0, opening_s))
                else:
                    opening_s = life.open()
                    # Every kill that is still to come needs a case.
                    spare = max(life.remaining - left, 0)
                    cases = life.remaining if not left else rng.randint(0, min(spare, 2 * spare // left))
                    for _ in range(cases):
                        case_s = life.read_case()
                    if left:
                        life.go()
                        life.kill(rng.uniform(0, 1.2 * case_s))
                    else:
                        life.go()
            finally:
                said = life.end()
            commits = [line for line in said if "position" in line]
            result.acknowledged |= {line["position"]: line for line in commits}
            result.orders.append([line["position"] for line in commits])
            result.messages += [text for line in said for text in line.get("messages", [])]
            if not life.killed:
                return result
            result.kills += 1
            result.early += not any("opened" in line for line in said)


class _Life:
    """One process, from its start to its end."""

    def __init__(self, folder: Path, reader: str, policy: Path) -> None:
        self.killed = False
        self.remaining = 0
        self._said: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), str(folder), reader, str(policy)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(_REPOSITORY), "PYTHONIOENCODING": "utf-8"},
            encoding="utf-8",
        )

    def open(self) -> float:
        """Waits until the study is open; returns how long it took."""
        started = time.monotonic()
        answered, total = self._hear()["progress"]
        self.remaining = total - answered
        return time.monotonic() - started

    def go(self) -> None:
        """Lets it read one case, or close."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def read_case(self) -> float:
        """Lets it read one case and waits; returns how long it took."""
        started = time.monotonic()
        self.go()
        self._hear()
        return time.monotonic() - started

    def kill(self, after_s: float) -> None:
        """Ends it hard."""
        time.sleep(after_s)
        psutil.Process(self._process.pid).kill()
        self.killed = True

    def end(self) -> list[dict[str, Any]]:
        """Waits for its end; returns all that it said."""
        rest = self._process.communicate(timeout=300)[0]
        lines = [*self._said, *rest.splitlines()]
        if not self.killed and self._process.returncode:
            raise RuntimeError(f"the reading process ended with {self._process.returncode}: {lines}")
        return [json.loads(line) for line in lines if line.rstrip().endswith("}")]

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self._said.append(line)
        if not line:
            raise RuntimeError("the reading process said nothing")
        return json.loads(line)


def main(argv: list[str]) -> int:
    """The process that is killed."""
    from SynthDiffusionLib.reader_study.reading import Reading

    folder, reader, policy = Path(argv[0]), argv[1], json.loads(Path(argv[2]).read_text(encoding="utf-8"))
    reading = Reading.open(folder, reader)
    print(json.dumps({"opened": True, "progress": reading.progress, "messages": reading.messages}), flush=True)
    while sys.stdin.readline():
        current = reading.current
        if current is None:
            reading.close()
            print(json.dumps({"closed": True}), flush=True)
            return 0
        reading.show({"window": "Lung"})
        reading.touch()
        answers = policy[f"{current.unit}/{current.presentation}"]
        reading.commit(answers, {"window": "Lung"})
        told = {"position": current.position, "unit": current.unit, "presentation": current.presentation}
        print(json.dumps({**told, "answers": answers}), flush=True)
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
