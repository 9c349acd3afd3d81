"""The Slicer module for a long time: twenty runs with real workers, and a cancellation at every stage of a run.

    python Testing/Benchmarks/module_endurance.py [--runs 20]

In the stand-in for Slicer, with a tiny model. Prints what has grown from the second run to the last and how much memory
a run has kept, and for each stage how many seconds the cancellation took and what it left behind. Takes about five
minutes on two cores. Testing/Panels/test_whole_way_endurance.py and test_whole_way_ended.py are short versions of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import pytest

PANELS = Path(__file__).resolve().parents[1] / "Panels"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="how many, at least 4; default 20")
    runs = max(4, parser.parse_args().runs)
    sys.path.insert(0, str(PANELS))
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from whole_way import Slicer, make_model_folder, slicer_session

    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        for part in ("models", "state", "slicer"):
            (folder / part).mkdir()
        patch.setenv("SYNTHDIFFUSION_MODELS", str(make_model_folder(folder / "models")))
        patch.setenv("SYNTHDIFFUSION_STATE", str(folder / "state"))
        with slicer_session(folder / "slicer") as standin:
            slicer = Slicer(standin)
            slicer.add_chest()
            slicer.set_usual()
            slicer.wait_idle()
            failed = cancel_everywhere(slicer, patch) + run_often(slicer, runs)
    print("failed" if failed else "passed")
    return 1 if failed else 0


def cancel_everywhere(slicer, patch) -> int:
    """Cancels a run at each stage. Returns how many left something behind; raises if one did not end in two seconds."""
    from whole_way import STAGES, cancel_at, slow_workers

    failed, before = 0, slicer.inventory()
    for stage in STAGES:
        began = time.monotonic()
        cancel_at(slicer, patch, stage)
        left = "nothing" if slicer.inventory() == before else str(slicer.inventory())
        failed += left != "nothing"
        print(f"cancelled {stage}: {time.monotonic() - began:.1f} s from Generate to the end, left behind: {left}")
    slow_workers(patch, "")
    while slicer.queue.runs:
        slicer.ui.runsTable.selectRow(0)
        slicer.ui.removeRunButton.click()
    slicer.wait_idle()
    return failed


def run_often(slicer, runs: int) -> int:
    """Runs often. Returns 1 if something has grown."""
    from endurance import Ledger

    ledger, began = Ledger(slicer), time.monotonic()
    for number in range(1, runs + 1):
        ledger.run(account=number in (2, runs))
    growth = ledger.growth(2, runs)
    print(f"{runs} runs in {time.monotonic() - began:.0f} s, grown from run 2 to {runs}: {growth or 'nothing'}")
    print(f"memory: {ledger.memory[-1] / 2**20:.0f} MiB, {ledger.bytes_a_run(runs // 2) / 1024:.1f} KiB more a run")
    return bool(growth)


if __name__ == "__main__":
    sys.exit(main())
