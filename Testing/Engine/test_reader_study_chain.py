"""Lines and heads of record files that no program of this project writes, with all hashes right."""

from __future__ import annotations

import hashlib
import json

import pytest
from reader_study_examples import FakeClock

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.chain import canonical, read_chain, read_head
from SynthDiffusionLib.reader_study.records import RecordFile


def test_numbers_that_no_calculation_takes_are_damage(tmp_path):
    """Hashes anew, so that only the number is wrong; the largest that are taken are 300 digits long."""
    path = tmp_path / "R1.jsonl"
    with RecordFile.open(path, clock=FakeClock()) as file:
        file.append("note", i=0)
    for number, damaged in ((10**299, False), (-(10**299), False), (10**300, True), (-(10**400), True)):
        line = json.loads(path.read_bytes().split(b"\n")[0]) | {"i": number}
        del line["hash"]
        text = canonical(line | {"hash": hashlib.sha256(canonical(line)).hexdigest()})
        assert bool(read_chain(text + b"\n").faults) is damaged
    with RecordFile.open(path) as file, pytest.raises(BadInput, match="cannot be stored"):
        file.append("note", i=10**300)
    assert not read_chain(path.read_bytes()).faults


@pytest.mark.parametrize("count", ["-1", "1" * 400, "1.0", "true", "[1]"])
def test_a_head_that_counts_what_cannot_be_is_damaged(tmp_path, count):
    head = tmp_path / "R1.head"
    head.write_text(f'{{"count":{count},"format":"synthdiffusion-study-head-1","hash":"{"a" * 64}"}}\n')
    with pytest.raises(BadInput, match="is damaged"):
        read_head(head)
