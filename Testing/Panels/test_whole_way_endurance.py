"""Twenty runs in a row: nothing grows, and nothing is left after the module is taken down.

The processes are real, but they say again what the engine's have said once; Testing/Benchmarks/module_endurance.py
does the same with real workers.
"""

from __future__ import annotations

from endurance import Ledger, own_objects, record
from whole_way import children, slow_workers

RUNS = 20
ACCOUNTS = (2, 10, 20)  # the first run makes what is made once
# Python, Qt and VTK keep memory for later; what a run's volumes take (a preview and a result of 24^3 voxels of 2 bytes,
# 28 kB each, and their display pipelines) would show.
MOST_BYTES_A_RUN = 100_000


def test_nothing_grows_in_twenty_runs(quick_answers, opened, monkeypatch, tmp_path):
    opened.add_chest()
    opened.set_usual()
    opened.wait_idle()
    slow_workers(monkeypatch, "")
    record(opened, tmp_path / "record")
    monkeypatch.setenv("SYNTHDIFFUSION_TEST_RECORD", str(tmp_path / "record"))
    ledger = Ledger(opened)
    for number in range(1, RUNS + 1):
        ledger.run(account=number in ACCOUNTS)
    assert [ledger.growth(ACCOUNTS[0], later) for later in ACCOUNTS[1:]] == [{}, {}]
    assert ledger.bytes_a_run(RUNS // 2) < MOST_BYTES_A_RUN
    assert ledger.rows[RUNS]["processes"] == ledger.rows[RUNS]["children"] == 0
    opened.loaded.unload()
    left = opened.standin.counts()
    assert [left[name] for name in ("observers", "timers", "processes", "guis")] == [0, 0, 0, 0]
    assert children() == []
    assert not list((tmp_path / "temporary").glob("SynthDiffusion-*"))
    assert own_objects() == {}
