"""A folder that is exported to twice: what another study's export wrote goes, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import reader_study_ratings as examples

from SynthDiffusionLib.cli.study_command import EXPORTS
from SynthDiffusionLib.reader_study import exported
from SynthDiffusionLib.reader_study.write_exports import write_exports

KINDS = [kind for kind in EXPORTS if kind != "grras"]
FORCED = {"measure": "forced_choice", "task": "choice", "item": "side"}


def merged(kind: str = "rated"):
    if kind == "rated":
        ratings = examples.simulated((1.0, 0.5), cases=4, arms=("gen-a", "gen-b"))
        return examples.merged(examples.study([("turing", "single")]), ratings)
    study = examples.study([("choice", "forced_choice")], FORCED)
    study.id, study.sha256 = "another", "a" * 64
    return examples.merged(study, examples.forced((0.7,), units=4))


def names(folder) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_every_file_that_is_written_is_told(tmp_path):
    files, notes = write_exports(merged(), tmp_path, EXPORTS)
    assert {p.name for p in files} == names(tmp_path) and notes == []
    assert {"ratings_mrmcaov.cases.csv", "ratings.cases.csv", "exports.json"} <= names(tmp_path)
    listed = json.loads((tmp_path / "exports.json").read_text())["files"]
    assert {entry["file"] for entry in listed} == names(tmp_path) - {"exports.json"}


def test_files_of_another_study_go(tmp_path):
    write_exports(merged(), tmp_path, KINDS)
    (tmp_path / "mine.csv").write_text("x")
    (tmp_path / "Questionnaire-mine.json").write_text("{}")
    files, notes = write_exports(merged("forced"), tmp_path, KINDS)
    assert names(tmp_path) == {p.name for p in files} | {"mine.csv", "Questionnaire-mine.json"}
    assert not names(tmp_path) & {"ratings.imrmc", "ratings_mrmcaov.csv", "Questionnaire-turing.json"}
    assert len(notes) == 3 and "imrmc: not written" in notes[0] and "'Questionnaire-mine.json' before" in notes[2]


def test_kinds_of_the_same_study_stay_beside_one_another(tmp_path):
    first, _ = write_exports(merged(), tmp_path, ["imrmc", "fhir"])
    second, notes = write_exports(merged(), tmp_path, ["long"])
    assert names(tmp_path) == {p.name for p in (*first, *second)} and notes == []
    empty = replace(merged(), ratings=[r for r in merged().ratings if r.item != "score"])
    _, notes = write_exports(empty, tmp_path, ["imrmc"])
    assert "ratings.imrmc" not in names(tmp_path) and "ratings_long.csv" in names(tmp_path) and len(notes) == 1


def test_what_was_changed_since_is_left_and_told(tmp_path):
    write_exports(merged(), tmp_path, KINDS)
    (tmp_path / "ratings.imrmc").write_text("my own\n")
    _, notes = write_exports(merged("forced"), tmp_path, KINDS)
    assert (tmp_path / "ratings.imrmc").read_text() == "my own\n" and "ratings_mrmcaov.csv" not in names(tmp_path)
    assert any("'ratings.imrmc' is from an export of the study" in n and "left there" in n for n in notes)


def test_a_folder_without_a_list_is_told_and_left(tmp_path):
    write_exports(merged(), tmp_path, KINDS)
    (tmp_path / "exports.json").unlink()
    before = names(tmp_path)
    _, notes = write_exports(merged("forced"), tmp_path, ["long"])
    assert before <= names(tmp_path) and "and 5 more before" in notes[-1]


@pytest.mark.parametrize("name", ["../out.txt", "/etc/passwd", "..", "", "exports.json", "a\\b", "C:x", "sub/x"])
def test_a_list_cannot_remove_what_is_elsewhere(tmp_path, name):
    folder = tmp_path / "exports"
    folder.mkdir()
    (tmp_path / "out.txt").write_text("x")
    entry = {"file": name, "kind": "long", "study": "s", "study_sha256": "b", "sha256": "c"}
    for data in ({"format": exported.FORMAT, "files": [entry, 1, {}]}, {"format": exported.FORMAT}, [], "{"):
        (folder / "exports.json").write_text(data if isinstance(data, str) else json.dumps(data))
        write_exports(merged(), folder, ["long"])
        assert (tmp_path / "out.txt").read_text() == "x"
    assert exported._read(folder / "exports.json").keys() == {"ratings_long.csv"}
