"""Which files of the hippocampus data are of one person, and a split without them in two parts."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "Benchmarks" / "hippocampus_persons.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("hippocampus_persons", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_person_has_an_odd_file_and_the_next(script):
    assert script.person_of("hippocampus_177") == script.person_of("hippocampus_178") == "person_089"
    assert script.person_of("hippocampus_179") != script.person_of("hippocampus_178")


def test_later_parts_lose_who_is_in_an_earlier_one(script, tmp_path, capsys):
    split = {"train": [1, 3, 9], "validation": [2, 5, 7], "test": [4, 6, 8, 11, 12]}
    split = {part: [f"hippocampus_{n:03d}" for n in numbers] for part, numbers in split.items()}
    names = [name for part in split.values() for name in part]
    # One scanner setting for a person: files 2k - 1 and 2k are equally bright.
    cases = {name: {"patient": name, "intensity": [0.0, 100.0 * 2.0 ** ((int(name[-3:]) + 1) // 2)]} for name in names}
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"cases": cases, "split": split}), encoding="utf-8")
    for _ in range(2):  # called again, it changes nothing
        assert script.main([str(tmp_path)]) == 0
        made = json.loads(path.read_text(encoding="utf-8"))
        assert made["split"]["train"] == split["train"]
        assert made["split"]["validation"] == ["hippocampus_005", "hippocampus_007"]
        assert made["split"]["test"] == ["hippocampus_011", "hippocampus_012"]  # 8 is the mate of 7, 6 of 5, 4 of 3
        assert made["cases"]["hippocampus_012"]["patient"] == made["cases"]["hippocampus_011"]["patient"]
    said = capsys.readouterr().out
    assert "files 2k - 1 and 2k: 5 pairs, intensities apart by 0.000" in said
    assert "files 2k and 2k + 1: 4 pairs, intensities apart by 0.693" in said
