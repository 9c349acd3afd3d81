"""One page of all results: answers first, nothing claimed about sets that were not the same."""

from __future__ import annotations

import csv
import html
import json
import shutil
import subprocess
import sys
from pathlib import Path

import example_results as examples
import pytest

from SynthDiffusionLib.cli import main
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.sets.overview import (
    combine,
    find_results,
    first_sentence,
    overview_lines,
    render_overview,
    show,
    summary_notes,
    write_overview,
)
from SynthDiffusionLib.evaluation.sets.results import TITLES, read_result, render
from SynthDiffusionLib.reports.headlines import headline_rows

pytest.importorskip("matplotlib")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folders(tmp_path):
    """Three measures of the same sets, in two folders."""
    examples.write_json(tmp_path / "a", "adherence")
    examples.write_json(tmp_path / "b", "fidelity")
    examples.write_json(tmp_path / "b", "utility")
    return tmp_path


def test_the_answers_come_first_and_in_one_order(folders):
    overview = combine(find_results([folders / "a", folders / "b"]))
    assert [r["name"] for r in overview["results"]] == ["Fidelity", "Adherence", "Utility"]
    assert [r["first_sentence"] for r in overview["results"]] == [
        f"The {kind} of the synthetic set is 0.812." for kind in ("fidelity", "adherence", "utility")
    ]
    assert summary_notes(overview) == [
        "Fidelity and Adherence saw the same real and synthetic volumes.",
        "Utility has sets of its own: its networks were tested on 40 volumes of 38 patients of a prepared data set, "
        "and its synthetic images were made for it. Whether these are volumes of the other measures was not compared.",
        "Adherence: 1 file left out (named below).",
        "Not measured: regional volumes and memorisation.",
    ]
    page = render_overview(overview)
    places = [page.index(text) for text in ("<h1>", "The utility of the", "main figures", "<nav>", "<section")]
    assert places == sorted(places)
    assert page.count('class="label"') == 7 and page.count("<img") == 3 and "damaged &lt;b&gt;" in page
    assert overview_lines(overview)[1] == "- Fidelity: The fidelity of the synthetic set is 0.812."


def test_a_folder_of_folders_and_single_files_are_the_same(folders):
    expected = combine(find_results([folders / "a", folders / "b"]))
    assert combine(find_results([folders])) == expected
    files = [folders / "b" / "utility.json", folders / "a" / "adherence.json", folders / "b" / "fidelity.json"]
    assert combine(find_results(files)) == expected
    assert combine(find_results([*files, folders])) == expected  # no result twice


def test_numbers_are_those_of_the_results(folders):
    found = find_results([folders])
    overview = combine(found)
    own = [row for _, result in found.results for row in headline_rows(result["sections"])]
    together = headline_rows(overview["sections"])
    assert [{**row, "measure": ""} for row in together] == [{**row, "measure": ""} for row in own]
    assert [row["measure"] for row in together][::3] == ["Fidelity: Dice", "Adherence: Dice", "Utility: Dice"]
    for _, result in found.results:
        page = render(result)
        assert all(row["value"] in page for row in headline_rows(result["sections"]))


def test_files(folders):
    paths = write_overview(combine(find_results([folders]), "Our <model>"), folders / "out")
    names = {p.name for p in paths.values()}
    assert names == {
        "report.html", "report.json", "sets.csv", "main-figures.csv", "fidelity-scores.csv", "adherence-scores.csv",
        "utility-scores.csv",
    }  # fmt: skip
    content = json.loads(paths["json"].read_text(encoding="utf-8"))
    assert content["title"] == "Our <model>" and "Our &lt;model&gt;" in paths["html"].read_text(encoding="utf-8")
    with paths["sets"].open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["measure"], r["role"], r["set"], r["volumes"]) for r in rows] == [
        *(
            (name, role, letter, volumes)
            for name in ("Fidelity", "Adherence")
            for role, letter, volumes in (("real", "A", "40"), ("synthetic", "B", "60"))
        ),
        *(("Utility", role, letter, "40") for role, letter in zip(("training", "validation", "test"), "CDE")),
    ]
    assert rows[0]["fingerprint"] == "a" * 12 and rows[0]["spacing"] == "1 x 1 x 2.5"
    assert str(folders) not in paths["json"].read_text(encoding="utf-8") + paths["html"].read_text(encoding="utf-8")
    before = {p: p.read_bytes() for p in paths.values()}
    write_overview(combine(find_results([folders]), "Our <model>"), folders / "out")
    assert {p: p.read_bytes() for p in paths.values()} == before


# Sets that are not the same


def test_results_on_different_sets_are_told_apart(tmp_path):
    examples.write_json(tmp_path / "one", "fidelity")
    examples.write_json(tmp_path / "one", "adherence")
    examples.write_json(tmp_path / "two", "volumes", synthetic="c", frame={"spacing_mm": [2.0, 2.0, 2.0]})
    notes = combine(find_results([tmp_path]))["notes"]
    assert notes == [
        "Fidelity, Adherence and Regional volumes saw the same real volumes.",
        "The synthetic volumes are not the same ones in all measures, so the figures are not all about one set: 2 "
        "different sets were measured (Fidelity and Adherence; Regional volumes).",
        "The volumes were not read in the same way in all measures. Fidelity and Adherence: Read as CT at 1 x 1 x 2.5 "
        "mm (their own), intensities clipped to -1000 to 1000 (HU). Regional volumes: Read as CT at 2 x 2 x 2 mm, "
        "intensities clipped to -1000 to 1000 (HU).",
    ]


def test_only_sets_that_are_the_same_thing_are_compared(tmp_path):
    """A training set is the generator's, a segmenter's or a network's; utility sees no real and synthetic sets."""
    training = {"adherence": "c", "volumes": "c", "memorisation": "d"}
    for kind in (*training, "fidelity", "utility"):
        sha = training.get(kind)
        path = examples.write_json(tmp_path / kind, kind)
        made = json.loads(path.read_text(encoding="utf-8"))
        if kind == "memorisation":
            made["sets"][0]["role"] = "validation"  # utility has one too
        made["sets"] += [examples.set_summary("training", sha)] if sha else []
        path.write_text(json.dumps(made), encoding="utf-8")
    notes = combine(find_results([tmp_path]))["notes"]
    assert notes[:-1] == [
        "Fidelity, Adherence and Regional volumes saw the same real volumes.",
        "Fidelity, Adherence, Regional volumes and Memorisation saw the same synthetic volumes.",
        "Adherence and Regional volumes saw the same training volumes.",
    ]
    assert notes[-1].startswith("Utility has sets of its own: its networks were tested on 40 volumes of 38 patients")
    notes = combine(find_results([tmp_path / kind for kind in ("fidelity", "utility")]))["notes"]
    assert len(notes) == 1 and notes[0].startswith("Utility has sets of its own")
    assert combine(find_results([tmp_path / "utility"]))["notes"] == []
    shutil.copytree(tmp_path / "utility", tmp_path / "again" / "utility")
    notes = combine(find_results([tmp_path / "utility", tmp_path / "again" / "utility"]))["notes"]
    assert notes == ["Utility (utility) and Utility (utility), 2 saw the same training, validation and test volumes."]


def test_two_results_of_one_kind_have_names_and_files_of_their_own(tmp_path):
    for name in ("model a", "model-a", "x/model a"):
        examples.write_json(tmp_path / name, "fidelity", synthetic=name[0])
    overview = combine(find_results([tmp_path / n for n in ("model a", "model-a", "x/model a")]))
    assert [r["name"] for r in overview["results"]] == [
        "Fidelity (model a)", "Fidelity (model-a)", "Fidelity (model a), 2"
    ]  # fmt: skip
    ids = [table["id"] for section in overview["sections"] for table in section["tables"]]
    assert len(set(ids)) == len(ids) == 4 and ids[1:] == [f"fidelity{n}-scores" for n in ("", "-2", "-3")]
    sections = [section["id"] for section in overview["sections"]]
    assert len(set(sections)) == len(sections)
    write_overview(overview, tmp_path / "out")


def test_one_result_alone_needs_no_comparison_of_sets(tmp_path):
    path = examples.write_json(tmp_path, "fidelity")
    overview = combine(find_results([path]))
    assert overview["notes"] == [] and summary_notes(overview)[0] == "No file of the sets was left out."


def test_a_set_that_was_compared_with_itself(tmp_path):
    path = examples.write_json(tmp_path, "fidelity", real="a", synthetic="a")
    told = "Fidelity: the real and the synthetic volumes are the very same files."
    assert combine(find_results([path]))["notes"] == [told] and told in show(path).sentences


def test_a_result_without_an_answer():
    assert first_sentence({"sections": [{"label": "data", "sentences": ["x"]}, {"label": "a", "sentences": []}]}) == "x"
    assert first_sentence({"sections": []}) == ""


# Bad input


def test_damaged_files_in_a_folder_are_named(folders):
    (folders / "a" / "volumes.json").write_text("{", encoding="utf-8")
    old = {"format": "synthdiffusion-evaluation-1", "kind": "memorisation"}
    (folders / "b" / "memorisation.json").write_text(json.dumps(old), encoding="utf-8")
    overview = combine(find_results([folders]))
    assert len(overview["results"]) == 3 and len(overview["left_out"]) == 2
    assert overview["left_out"][0].startswith("'a/volumes.json' is damaged: line 1")
    assert "'b/memorisation.json' is no result" in overview["left_out"][1]
    assert str(folders) not in json.dumps(overview)
    assert overview["not_measured"] == ["volumes", "memorisation"]


@pytest.mark.parametrize("plot", [{"kind": "pie"}, {"kind": "picture"}, {"rows": [3]}, {"rows": [{"label": "x"}]}])
def test_a_plot_that_cannot_be_drawn_is_named_and_the_rest_is_written(folders, plot):
    made = json.loads(json.dumps(examples.result("volumes")))
    made["sections"][1]["plots"][0] |= plot
    (folders / "b" / "volumes.json").write_text(json.dumps(made), encoding="utf-8")
    paths = write_overview(combine(find_results([folders])), folders / "out")
    told = "A plot of 'Regional volumes: Are they alike?' cannot be drawn"
    assert told in html.unescape(paths["html"].read_text(encoding="utf-8"))
    content = json.loads(paths["json"].read_text(encoding="utf-8"))
    assert [told in line for line in content["left_out"]] == [True]
    assert paths["volumes-scores"].is_file() and show(paths["json"]).problems == tuple(content["left_out"])


@pytest.mark.parametrize("what", ["missing", "empty", "damaged", "all damaged", "report"])
def test_the_command_refuses_in_one_line(tmp_path, capsys, what):
    path, message = tmp_path / "x", "No result of synthdiffusion evaluate"
    path.mkdir()
    if what == "missing":
        path, message = tmp_path / "nowhere", "does not exist"
    elif what in ("damaged", "all damaged"):
        (path / "fidelity.json").write_text("[", encoding="utf-8")
        path = path / "fidelity.json" if what == "damaged" else path
        message = "is damaged"
    elif what == "report":
        write_overview(combine(find_results([examples.write_json(tmp_path / "r", "fidelity")])), path)
        path, message = path / "report.json", "is no result"
    assert main(["evaluate", "report", str(path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and message in error
    assert not (tmp_path / "out" / "report.html").exists()


def test_the_command(folders, capsys):
    words = ["evaluate", "report", str(folders / "a"), str(folders / "b"), "--out", str(folders / "out"), "--json"]
    assert main(words) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "Evaluation of synthetic volumes" and Path(json.loads(out[-1])["html"]).is_file()
    assert "Not measured: regional volumes and memorisation." in out


# What the panel shows


def test_the_panel_shows_the_same_numbers_whatever_it_is_given(folders):
    examples.write(folders / "alone", "fidelity")
    single = show(folders / "alone" / "fidelity.json")
    assert single.page == folders / "alone" / "fidelity.html" and single.problems == ()
    assert single == show(folders / "alone")
    own = headline_rows(read_result(folders / "alone" / "fidelity.json")["sections"])
    assert [row["value"] for row in single.rows] == [row["value"] for row in own]
    paths = write_overview(combine(find_results([folders / "a", folders / "b"])), folders / "out")
    report = show(paths["json"])
    assert report == show(folders / "out") and report.page == paths["html"]
    assert [row["value"] for row in report.rows] == 3 * [row["value"] for row in single.rows]
    assert report.sentences[0] == "Fidelity: The fidelity of the synthetic set is 0.812."
    assert report.sentences[-1] == "Not measured: regional volumes and memorisation."
    page = paths["html"].read_text(encoding="utf-8")
    assert all(row[key] in page for row in report.rows for key in ("measure", "value", "reference", "cartoon"))


def test_a_result_whose_page_is_gone(tmp_path):
    path = examples.write(tmp_path, "fidelity")
    assert show(path).page == tmp_path / "fidelity.html"
    path.with_suffix(".html").unlink()
    assert show(path).page is None


def test_the_panel_refuses_what_is_no_result(tmp_path):
    for content in ("{", "[]", '{"format": "synthdiffusion-set-evaluation-report-1"}'):
        (tmp_path / "report.json").write_text(content, encoding="utf-8")
        with pytest.raises(BadInput):
            show(tmp_path / "report.json")
        with pytest.raises(BadInput):
            show(tmp_path)
    with pytest.raises(BadInput):
        show(tmp_path / "nowhere")


def test_reading_loads_nothing_heavy(tmp_path):
    """Slicer reads results in its own process: no torch, no matplotlib, no nibabel."""
    path = examples.write_json(tmp_path, "fidelity")
    code = (
        "import sys, pathlib\nfrom SynthDiffusionLib.evaluation.sets.overview import show\n"
        "assert len(show(pathlib.Path(sys.argv[1])).rows) == 3\n"
        "print([m for m in ('torch', 'monai', 'matplotlib', 'nibabel', 'scipy', 'jsonschema', 'pandas', 'psutil')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_every_kind_has_a_name():
    assert set(TITLES) == {"fidelity", "adherence", "volumes", "memorisation", "utility"}
