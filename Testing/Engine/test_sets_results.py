"""Results of measures of sets as files: JSON, CSV, page, console; and what is refused when they are read again."""

from __future__ import annotations

import csv
import html.parser
import json

import example_results as examples
import numpy as np
import pytest
from tiny_sets import write_set

from SynthDiffusionLib.cli import evaluate_command, evaluate_sets, main
from SynthDiffusionLib.errors import BadInput, MissingExtra
from SynthDiffusionLib.evaluation.sets import results
from SynthDiffusionLib.evaluation.sets.results import TITLES, console_lines, read_result, render, write_result
from SynthDiffusionLib.reports.headlines import COLUMNS, headline_rows
from SynthDiffusionLib.reports.sections import Section, headline

pytest.importorskip("matplotlib")

EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)">'


class Page(html.parser.HTMLParser):
    """Text, tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


# Headlines


def test_a_headline_as_people_read_it():
    rows = headline_rows([s.to_json() for s in examples.sections("fidelity")])
    assert [row["value"] for row in rows] == ["0.812 (0.750 to 0.863)", "not defined", "2.1 %"]
    assert rows[0]["reference"] == "0.900 (same segmenter on real images)"
    assert rows[0]["cartoon"] == "0.250 (flat classes)" and rows[0]["n"] == "38" and rows[0]["better"] == "higher"
    assert rows[0]["sentence"] == "The fidelity of the synthetic set is 0.812." and rows[1]["sentence"] == "No."
    assert rows[1]["reference"] == rows[1]["n"] == ""
    (unit,) = headline_rows([{"headlines": [{"measure": "HD95", "row": "", "value": 3.25, "unit": "mm"}]}])
    assert unit["value"] == "3.250 mm" and unit["sentence"] == ""


def test_headlines_are_plain_numbers_in_the_json():
    section = Section("a", "b", "c", headlines=({"measure": "x", "row": "y", "value": np.float32(np.nan)},))
    assert section.to_json()["headlines"][0] == headline("x", "y", None)
    json.dumps(section.to_json(), allow_nan=False)
    assert Section("a", "b", "c").to_json()["headlines"] == []


@pytest.mark.parametrize("wrong", [{"better": "more"}, {"kind": "text2"}, {"colour": "red"}])
def test_no_headline(wrong):
    with pytest.raises((ValueError, TypeError)):
        Section("a", "b", "c", headlines=({"measure": "x", "row": "y", "value": 1.0, **wrong},)).to_json()


# Files


def test_everything_is_written_and_read_again(tmp_path):
    made = examples.result("adherence")
    paths = write_result(made, tmp_path)
    assert read_result(paths["json"]) == json.loads(json.dumps(made))
    with paths["main-figures"].open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["value"] for row in rows] == ["0.8125", "", "0.0213"] and rows[0]["cartoon_name"] == "flat classes"
    assert paths["scores"].read_text(encoding="utf-8") == "what,value\na,0.81\n"
    page = paths["html"].read_text(encoding="utf-8")
    text = " ".join(Page(page).texts)
    for part in (
        TITLES["adherence"], "0.812 (0.750 to 0.863)", "same segmenter on real images", "2.1 %", "p05.nii.gz",
        "damaged <b>", "1 left out", "60 volumes of 58 patients", "Read as CT at 1 x 1 x 2.5 mm (their own)",
        "2 |A and B| / (|A| + |B|), ours", "adherence-tables/main-figures.csv", "not for diagnosis",
    ):  # fmt: skip
        assert part.replace("\n", " ") in text.replace("\n", " "), part
    assert {t for t, _ in Page(page).tags} & {"script", "link", "iframe", "form"} == set()
    assert str(tmp_path) not in page and write_result(made, tmp_path)["html"].read_text(encoding="utf-8") == page


def test_a_page_without_headlines_has_no_table_of_them(tmp_path):
    made = examples.result("fidelity")
    for section in made["sections"]:
        del section["headlines"]  # as an older version wrote
    paths = write_result(made, tmp_path)
    assert "main-figures" not in paths and "main figures" not in paths["html"].read_text(encoding="utf-8")
    assert read_result(paths["json"])["sections"] == made["sections"]


def test_names_from_outside_are_text():
    made = examples.result("fidelity")
    made["sets"][0]["skipped"] = [{"file": EVIL, "reason": EVIL}]
    made["sections"][1]["headlines"][0] |= {"row": EVIL, "sentence": EVIL, "reference_name": EVIL}
    made["definitions"] = {EVIL: EVIL}
    page = Page(render(made))
    assert not {t for t, _ in page.tags} & {"script"} and not any("onerror" in attrs for _, attrs in page.tags)
    assert sum(EVIL in text for text in page.texts) >= 4


def test_the_console_says_the_same_numbers():
    lines = console_lines(examples.result("adherence"))
    text = "\n".join(lines)
    for row in headline_rows(examples.result("adherence")["sections"]):
        assert all(row[c.key] in text for c in COLUMNS)
    assert "  left out: p05.nii.gz: damaged <b>" in lines and "real: 40 volumes of 38 patients" in lines


# What is refused


def changed(change) -> dict:
    made = json.loads(json.dumps(examples.result("fidelity")))
    change(made)
    return made


BAD = {
    "no sets": lambda r: r.pop("sets"),
    "sets of text": lambda r: r.update(sets="x"),
    "volumes as text": lambda r: r["sets"][0].update(volumes="40"),
    "no sections": lambda r: r.update(sections=None),
    "section without title": lambda r: r["sections"][1].pop("title"),
    "sentence is a number": lambda r: r["sections"][1].update(sentences=[1]),
    "plot without kind": lambda r: r["sections"][1]["plots"][0].pop("kind"),
    "path as table": lambda r: r["sections"][1]["tables"][0].update(id="../../evil"),
    "drive as table": lambda r: r["sections"][1]["tables"][0].update(id="C:evil"),
    "hidden table": lambda r: r["sections"][1]["tables"][0].update(id=".x"),
    "name of our own table": lambda r: r["sections"][1]["tables"][0].update(id="main-figures"),
    "table twice": lambda r: r["sections"][1]["tables"].append(r["sections"][1]["tables"][0]),
    "headline of text": lambda r: r["sections"][1]["headlines"][0].update(value="0.9"),
    "headline that is true": lambda r: r["sections"][1]["headlines"][0].update(value=True),
    "headline with a list": lambda r: r["sections"][1]["headlines"][0].update(row=[1]),
    "headline without a measure": lambda r: r["sections"][1]["headlines"][0].pop("measure"),
    "headline of another kind": lambda r: r["sections"][1]["headlines"][0].update(better="bigger"),
    "headlines of numbers": lambda r: r["sections"][1].update(headlines=[1]),
}


@pytest.mark.parametrize("name", BAD)
def test_a_result_that_somebody_changed_is_refused(tmp_path, name):
    path = tmp_path / "fidelity.json"
    path.write_text(json.dumps(changed(BAD[name])), encoding="utf-8")
    with pytest.raises(BadInput, match="is damaged") as caught:
        read_result(path)
    assert len(caught.value.one_line()) < 600 + len(str(path))
    if name != "no sections":
        with pytest.raises(ValueError, match="result of fidelity is wrong"):
            write_result(changed(BAD[name]), tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged"), (b"{", "is damaged"), (b"[1]", "is no result"), (b"\xff\xfe", "is damaged"),
        (b'{"format": "synthdiffusion-evaluation-1", "kind": "fidelity"}', "is no result"),
        (b'{"format": "synthdiffusion-set-evaluation-1", "kind": "beauty"}', "is no result"),
        (b'{"format": NaN}', "is damaged"),
    ],
)  # fmt: skip
def test_files_that_are_no_results(tmp_path, content, message):
    (tmp_path / "fidelity.json").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_result(tmp_path / "fidelity.json")


def test_a_missing_result(tmp_path):
    for path in (tmp_path / "no.json", tmp_path):
        with pytest.raises(BadInput, match="cannot be read"):
            read_result(path)


# The command


@pytest.fixture
def measured(monkeypatch):
    """`evaluate volumes` with a measure that only reads."""

    def measure(args, on_event):
        folders = {"real": args.real, "synthetic": args.synthetic}
        frame = evaluate_sets.frame_from(args, folders)
        sets = [evaluate_sets.read_role(args, role, frame, on_event) for role in folders]
        return evaluate_sets.Measured(examples.sections("volumes"), {"seed": args.seed}, {"Share": "ours"}, sets)

    monkeypatch.setattr(evaluate_command.evaluate_volumes, "measure", measure)


def run(*words) -> int:
    return main(["evaluate", "volumes", *map(str, words)])


def test_a_measure_from_the_command_line(tmp_path, measured, capsys, monkeypatch):
    real, synthetic = write_set(tmp_path / "real ü"), write_set(tmp_path / "made", 11, names="q{}_m_seed1")
    (synthetic / "q3_m_seed1.nii.gz").write_bytes(b"x")
    words = ["evaluate", "volumes", f"--real={real}", "--synthetic", str(synthetic), "--out", str(tmp_path / "out")]
    words += ["--patient-pattern", r"([a-z]\d+)", "--json"]
    monkeypatch.setattr("sys.argv", ["synthdiffusion", *words])
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "left out: q3_m_seed1.nii.gz: " in out and "synthetic: 10 volumes of 10 patients, 1 left out" in out
    paths = json.loads(out.splitlines()[-1])
    made = read_result(paths["json"])
    assert made["settings"]["frame"]["modality"] == "CT" and made["settings"]["seed"] == 2026
    expected = r"synthdiffusion evaluate volumes '--real=real ü' --synthetic made --out out --patient-pattern "
    assert made["command"] == expected + r"'([a-z]\d+)' --json"
    assert str(tmp_path) not in (tmp_path / "out" / "volumes.json").read_text(encoding="utf-8")


def test_a_role_that_was_not_given(tmp_path, measured, capsys):
    real = write_set(tmp_path / "real")
    assert run("--real", real, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "--synthetic must be given" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--spacing", "2x2"], "is no spacing"), (["--spacing", "0"], "above 0"), (["--range", "5"], "no intensity"),
        (["--range", "5,1"], "no intensity"), (["--patients", "no.csv"], "table of patients"),
        (["--trained-on", "no.json"], "cannot be read"), (["--patient-pattern", "("], "no regular expression"),
    ],
)  # fmt: skip
def test_bad_options_are_one_line(tmp_path, measured, capsys, options, message):
    real, synthetic = write_set(tmp_path / "real"), write_set(tmp_path / "made", names="q{}")
    assert run("--real", real, "--synthetic", synthetic, "--out", tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and message in error


def test_a_training_patient_is_refused(tmp_path, measured, capsys):
    real, synthetic = write_set(tmp_path / "real"), write_set(tmp_path / "made", names="q{}")
    (tmp_path / "list.txt").write_text("p03\n")
    options = ("--trained-on", tmp_path / "list.txt")
    assert run("--real", real, "--synthetic", synthetic, "--out", tmp_path / "out", *options) == 2
    assert "1 patient of the real set is in the training list 'list.txt', first 'p03'" in capsys.readouterr().err


def test_what_a_training_list_was_compared_with_is_in_console_and_report(tmp_path, measured, capsys):
    real, synthetic = write_set(tmp_path / "real"), write_set(tmp_path / "made", names="q{}")
    (tmp_path / "list.txt").write_text("sub-17\nsub-18\n")
    options = ("--trained-on", tmp_path / "list.txt")
    assert run("--real", real, "--synthetic", synthetic, "--out", tmp_path / "out", *options) == 0
    told = "The training list 'list.txt' has 2 entries; by their names none is in the real set."
    result = read_result(tmp_path / "out" / "volumes.json")
    assert told in capsys.readouterr().out and result["settings"]["trained_on"]["entries"] == 2
    page = (tmp_path / "out" / "volumes.html").read_text(encoding="utf-8")
    assert "Names on the list are like &#x27;sub-17&#x27;, those of the set like &#x27;p00&#x27;" in page


@pytest.mark.parametrize("measure", ["volumes", "adherence"])
@pytest.mark.parametrize("by", ["--patient-pattern", "--patients"])
def test_another_scan_of_a_training_patient_is_refused_by_measures_with_labels(tmp_path, capsys, measure, by):
    real = write_set(tmp_path / "real", names="p{:02d}_scan2", labels=tmp_path / "labels")
    table = tmp_path / "table.csv"
    table.write_text("case,patient\np03_scan1,A3\n" + "".join(f"p{i:02d}_scan2,A{i}\n" for i in range(10)))
    (tmp_path / "list.txt").write_text("p03_scan1\n")
    words = ["evaluate", measure, "--real", real, "--real-labels", tmp_path / "labels", "--synthetic", real]
    words += ["--synthetic-labels", tmp_path / "labels", "--out", tmp_path / "out", "--trained-on"]
    words += [tmp_path / "list.txt", by, r"(p\d+)_" if by == "--patient-pattern" else table]
    words += ["--segmenter", "package:lung-nodule-ct"] if measure == "adherence" else []
    assert main(list(map(str, words))) == 2
    first = "p03" if by == "--patient-pattern" else "A3"
    assert f"1 patient of the real set is in the training list 'list.txt', first '{first}'" in capsys.readouterr().err


@pytest.mark.parametrize("measure", ["fidelity", "adherence", "volumes", "memorisation"])
@pytest.mark.parametrize("seed", ["-1", "1.5", "4294967296", "x"])
def test_a_seed_that_is_none_is_refused_when_it_is_read(capsys, measure, seed):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", measure, "--out", "x", "--seed", seed])
    assert ended.value.code == 2 and f"'{seed}' is no seed: give a whole number from 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [("--range", "-1000,400"), ("--range=-1000,400",), ("--range", "-1e3,4e2"), ("--range", "-1000,-400.5")]
)
def test_a_range_that_begins_below_0_is_written_as_the_help_says(tmp_path, measured, words):
    real, synthetic = write_set(tmp_path / "real"), write_set(tmp_path / "made", names="q{}")
    assert run("--real", real, "--synthetic", synthetic, "--out", tmp_path / "out", *words) == 0
    low, high = read_result(tmp_path / "out" / "volumes.json")["settings"]["frame"]["intensity_range"]
    assert (low, high) == (-1000, -400.5 if "-400.5" in words[-1] else 400)


def test_the_help_names_the_default_of_the_embedding(capsys):
    from SynthDiffusionLib.evaluation.sets.embedding import EmbeddingSettings

    with pytest.raises(SystemExit):
        main(["evaluate", "memorisation", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"training steps of the embedding (default {EmbeddingSettings().steps})" in text


def test_a_cancelled_measure_says_that_it_can_go_on(tmp_path, capsys, monkeypatch):
    kept = []

    def interrupted(args, on_event):
        for name in kept:
            (args.out / name).write_text("x")
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate_command.evaluate_volumes, "measure", interrupted)
    assert run("--real", tmp_path, "--out", tmp_path / "out") == 130
    assert capsys.readouterr().err == "synthdiffusion: error: Cancelled\n" and not (tmp_path / "out").exists()
    kept.append("features")
    assert run("--real", tmp_path, "--out", tmp_path / "out") == 130
    error = capsys.readouterr().err
    assert error == (
        "synthdiffusion: error: Cancelled. What was done is kept in --out: the same command goes on where it stopped.\n"
    )
    assert [p.name for p in (tmp_path / "out").iterdir()] == kept


def test_what_would_drive_a_terminal_is_spelled_in_csv_files_and_on_the_console(tmp_path):
    name = "new\x1b[31m\u202ename"
    result = examples.result("volumes")
    result["sections"][1]["tables"][0]["rows"] = [{"what": name, "value": 1.0}]
    result["sets"][0]["skipped"] = [{"file": name, "reason": "x"}]
    paths = results.write_result(result, tmp_path)
    text = paths["scores"].read_text(encoding="utf-8")
    console = "\n".join(results.console_lines(result))
    assert "new\\x1b[31m\\u202ename" in text and "new\\x1b[31m\\u202ename" in console
    assert "\x1b" not in text + console and "\u202e" not in text + console
    assert read_result(paths["json"])["sections"][1]["tables"][0]["rows"][0]["what"] == name  # the JSON has it all


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    import errno

    from SynthDiffusionLib.errors import RunFailed
    from SynthDiffusionLib.volumes import atomic

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.tempfile, "mkdtemp", full)
    with pytest.raises(RunFailed, match="No space left"):
        results.write_result(examples.result("volumes"), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_to_install_is_said_before_the_work(tmp_path, measured, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    real = write_set(tmp_path / "real")
    assert run("--real", real, "--synthetic", real, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "packages that are not installed" in error and "reading" not in error
    assert issubclass(MissingExtra, Exception) and results.LARGEST_BYTES > 16 * 1024 * 1024
