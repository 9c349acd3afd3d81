"""What `synthdiffusion study power` refuses, and how."""

from __future__ import annotations

import os
import re

import pytest

from SynthDiffusionLib.cli import main

make_pipe = getattr(os, "mkfifo", None)  # Windows has none
HEAD = "reader,treatment,case,truth,rating\n"


def power(capsys, *arguments: object) -> tuple[int, str]:
    code = main(["study", "power", *map(str, arguments)])
    return code, " ".join(capsys.readouterr()).strip()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("accuracy", "--true", "0.6", "--readers", "0"), "--readers 0 is not between 1 and 1000"),
        (("accuracy", "--true", "0.6", "--readers", "3", "--correlation", "-9"), "correlation of -9 is not between"),
        (("accuracy", "--true", "0.6", "--readers", "3", "--correlation", "nan"), "is not between 0 and 1"),
        (
            ("accuracy", "--true", "0.6", "--correlation", "0.3"),
            "--correlation 0.3 is of the answers of several readers",
        ),
        (("equivalence", "--margin", "0.1", "--readers", "1", "--correlation", "nan"), "several readers"),
        (("equivalence", "--margin", "0.6"), "A lower limit of -0.1 is not"),
        (("accuracy", "--true", "0.6", "--power", "nan"), "between 0 and 1"),
        (("accuracy", "--true", "nan"), "not between 0 and 1"),
        (("accuracy", "--true", "1.5"), "not between 0 and 1"),
        (("accuracy", "--true", "0.5"), "no effect"),
        (("equivalence", "--margin", "nan"), "margin of nan"),
        (("equivalence", "--margin", "1e-9"), "More than 20000"),
        (("mrmc", "--pilot", "x.csv", "--effect", "nan"), "no difference of two areas"),
        (("mrmc", "--pilot", "x.csv", "--effect", "0.1"), "cannot be read"),
    ],
)
def test_what_makes_no_study_is_refused(capsys, arguments, said):
    code, text = power(capsys, *arguments)
    assert code == 2 and said in text and "Traceback" not in text and text.count("\n") == 0


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("R1,a,1,2,3\n", "a truth is 2, neither 0 nor 1"),
        ("R1,a,1,inf,3\n", "a truth is inf"),
        ("R1,a,1,0,nan\n", "a rating is not finite"),
        ("R1,a,1,0,\x1b[2J\n", r"\x1b[2J"),
        ('R1,a,1,0,"' + "x" * 200_000 + '"\n', "is no table of ratings"),
    ],
)
def test_a_pilot_that_is_no_table_of_ratings_is_refused(capsys, tmp_path, rows, said):
    (tmp_path / "pilot.csv").write_text(HEAD + rows)
    code, text = power(capsys, "mrmc", "--pilot", tmp_path / "pilot.csv", "--effect", "0.05")
    assert code == 2 and said in text and text.isprintable() and len(text) < 600


@pytest.mark.skipif(make_pipe is None, reason="no pipes in the file system")
def test_a_pilot_that_never_ends_is_refused(capsys, tmp_path):
    make_pipe(tmp_path / "pilot.csv")
    code, text = power(capsys, "mrmc", "--pilot", tmp_path / "pilot.csv", "--effect", "0.05")
    assert code == 2 and "no regular file" in text


def test_an_effect_for_which_2000_cases_are_too_few_is_told(capsys, tmp_path):
    rows = []
    for reader in range(3):
        for t in "ab":
            for case in range(12):
                rating = (case * 7 + reader * 5 + (3 if t == "b" else 0)) % 11 + case % 2
                rows.append(f"R{reader},{t},{case},{case % 2},{rating}\n")
    (tmp_path / "pilot.csv").write_text(HEAD + "".join(rows))
    code, text = power(capsys, "mrmc", "--pilot", tmp_path / "pilot.csv", "--effect", "1e-6", "--readers", "3")
    assert code == 2 and "More than 2000 cases would be needed with 3 readers" in text
    code, text = power(capsys, "mrmc", "--pilot", tmp_path / "pilot.csv", "--effect", "0.6", "--readers", "30")
    assert code == 0 and re.search(r"\d+ cases with 30 readers", text)


def test_a_power_near_1_is_not_printed_as_1(capsys):
    code, text = power(capsys, "accuracy", "--true", "0.9", "--power", "0.999999999")
    assert code == 0 and "power >0.999 (and at least 0.999999999 for" in text
    code, text = power(capsys, "accuracy", "--true", "0.6")
    assert (
        code == 0 and text.startswith("210 independent answers") and "power 0.8" in text and "at least 0.8 for" in text
    )
