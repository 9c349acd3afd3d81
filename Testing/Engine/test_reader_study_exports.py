"""Exports are read back by the rules of the programs that take them, and checked against the answers."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace

import pytest
import reader_study_ratings as examples

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study import exports
from SynthDiffusionLib.reader_study.codebook import HEADER, codebook_csv
from SynthDiffusionLib.reader_study.exports_fhir import (
    POINT_PARTS,
    VERSION,
    fhir_questionnaire,
    fhir_response,
    fhir_responses,
)
from SynthDiffusionLib.reader_study.forms import Form, load_form, shipped_forms
from SynthDiffusionLib.reader_study.grras import BLANK, grras
from SynthDiffusionLib.reader_study.tables import COLUMNS, read_ratings

ITEMS = ("score", "quality", "organ", "flaws", "sure", "size", "why", "marks")
TASKS = [("turing", "single"), ("choice", "forced_choice")]


@pytest.fixture(scope="module")
def merged():
    ratings = examples.simulated((1.0, 0.5), cases=6, arms=("gen-a", "gen-b"), items=ITEMS, repeats=3)
    ratings += examples.forced((0.7, 0.8), units=5)
    ratings.append(examples.rating("R1", 900, "score", "confidence", 3, phase="training", unit="ut"))
    end = {"unit": "", "arm": "", "truth": None, "pair": "", "patient": "", "volume_left": "", "position": -1}
    ratings.append(replace(examples.rating("R1", 0, "end", "text", "+good"), **end))
    return examples.merged(examples.study(TASKS), ratings)


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_imrmc(path):
    """By the manual's rules: any text, the line BEGIN DATA:, then rows of four cells with commas only."""
    text = path.read_text(encoding="ascii")
    head, _, body = text.partition("BEGIN DATA:\n")
    assert body and "BEGIN DATA:" not in head
    sizes = {k: int(v) for k, v in re.findall(r"^(N0|N1|NR|NM): (\d+)$", head, re.MULTILINE)}
    truth, scores = {}, {}
    for line in body.splitlines():
        assert re.fullmatch(r"[^\s,;]+,[^\s,;]+,[^\s,;]+,-?[0-9.]+", line), line
        reader, case, modality, score = line.split(",")
        if reader == "-1":
            assert case not in truth and score in "01"
            truth[case] = int(score)
        else:
            assert (reader, case, modality) not in scores
            scores[reader, case, modality] = float(score)
    assert {case for _, case, _ in scores} == set(truth)
    return sizes, truth, scores


def test_imrmc(merged, tmp_path):
    sizes, truth, scores = read_imrmc(exports.imrmc(merged, tmp_path / "study.imrmc"))
    assert sizes == {"N0": 6, "N1": 12, "NR": 2, "NM": 2}
    assert all(case.isdigit() for case in truth)
    volumes = {row["case"]: row["volume"] for row in table(tmp_path / "study.cases.csv")}
    found = {(r, volumes[c], m): s for (r, c, m), s in scores.items()}
    first = [r for r in merged.ratings if r.is_first and r.item == "score"]
    expected = {
        (r.reader, r.volume_left, arm): float(r.value)
        for r in first
        for arm in (("gen-a", "gen-b") if r.arm == "real" else (r.arm,))
    }
    assert found == expected
    assert {volumes[c]: t for c, t in truth.items()} == {r.volume_left: r.truth for r in first}


def test_imrmc_refuses_names_that_it_cannot_hold(merged, tmp_path):
    bad = [replace(r, arm="gen a") if r.arm == "gen-a" else r for r in merged.ratings]
    with pytest.raises(BadInput, match="cannot be written to an iMRMC file"):
        exports.imrmc(examples.merged(merged.study, bad), tmp_path / "study.imrmc")


def test_mrmcaov(merged, tmp_path):
    rows = table(exports.mrmcaov_csv(merged, tmp_path / "study.csv"))
    assert list(rows[0]) == ["reader", "treatment", "case", "truth", "rating"]
    _, truth, scores = read_imrmc(exports.imrmc(merged, tmp_path / "study.imrmc"))
    assert {(r["reader"], r["case"], r["treatment"]): float(r["rating"]) for r in rows} == scores
    assert {r["case"]: int(r["truth"]) for r in rows} == truth


@pytest.mark.skipif(not (examples.VAN_DYKE / "vandyke.csv").is_file(), reason="no Van Dyke table here")
def test_van_dyke_goes_through_the_export(tmp_path):
    """One test of the table: out to the columns that it came from."""
    first = [r for r in examples.van_dyke() if r.task == "first"]
    study = examples.van_dyke_study(measure="auc", arm2=None)
    rows = table(exports.mrmcaov_csv(examples.merged(study, first), tmp_path / "out.csv"))
    cases = {row["case"]: row["volume"].split("-")[-1].removeprefix("v") for row in table(tmp_path / "out.cases.csv")}
    with open(examples.VAN_DYKE / "vandyke.csv", encoding="utf-8", newline="") as file:
        original = {
            (f"R{r['reader']}", r["case"], int(r["truth"]), float(r["rating"]))
            for r in csv.DictReader(file)
            if r["treatment"] == "0"
        }
    assert {(r["reader"], cases[r["case"]], int(r["truth"]), float(r["rating"])) for r in rows} == original


def test_the_question_must_be_clear(merged):
    assert {row.rating for row in exports.mrmc_rows(merged, item="quality")} <= {1, 2, 3, 4}
    study = examples.study(TASKS, {"task": "choice", "item": "side"})
    assert exports.mrmc_rows(examples.merged(study, merged.ratings))[0].rating in examples.LEVELS  # the only confidence
    no_score = [r for r in merged.ratings if r.item != "score"]
    with pytest.raises(BadInput, match="More than one rated question") as caught:
        exports.mrmc_rows(examples.merged(study, no_score))
    assert "turing/quality" in caught.value.hint
    with pytest.raises(BadInput, match="No rated question"):
        exports.mrmc_rows(merged, item="side")


def test_long_and_wide(merged, tmp_path):
    assert read_ratings(exports.long_csv(merged, tmp_path / "long.csv")) == list(merged.ratings)
    rows = table(exports.wide_csv(merged, tmp_path / "wide.csv"))
    assert len(rows) == len({(r.reader, r.task, r.position) for r in merged.ratings})
    by_reading = {(row["reader"], row["task"], int(row["position"])): row for row in rows}
    for r in merged.ratings:
        text = by_reading[r.reader, r.task, r.position][r.item]
        if isinstance(r.value, bool):
            assert text == str(r.value).lower()
        elif isinstance(r.value, list):
            assert json.loads(text) == r.value
        elif isinstance(r.value, str):
            assert text.removeprefix("'") == r.value and not text.startswith(("=", "+"))
        else:
            assert float(text) == r.value


def test_two_tasks_with_one_item_get_columns_of_their_own(tmp_path):
    ratings = examples.simulated((1.0,), cases=3) + [
        replace(r, position=r.position + 50) for r in examples.simulated((1.0,), cases=3, task="again", seed=1)
    ]
    study = examples.study([("turing", "single"), ("again", "single")])
    rows = table(exports.wide_csv(examples.merged(study, ratings), tmp_path / "wide.csv"))
    assert {"turing.score", "again.score"} <= set(rows[0]) and "score" not in rows[0]
    assert all(bool(row["turing.score"]) != bool(row["again.score"]) for row in rows)


def test_codebook_explains_every_column_and_option(merged, tmp_path):
    rows = table(codebook_csv(merged, tmp_path / "codebook.csv"))
    assert tuple(rows[0]) == HEADER
    assert set(COLUMNS) <= {row["column"] for row in rows if row["explanation"]}
    wide = set(table(exports.wide_csv(merged, tmp_path / "wide.csv"))[0])
    assert wide <= {row["column"] for row in rows}
    for task in merged.study.tasks.values():
        for item in task.form.items:
            own = [row for row in rows if row["item"] == item.id and row["task"] == task.id]
            assert len(own) == (item.type != "info") * (1 + len(item.options) + 2 * (item.type == "forced_choice"))
            assert {row["label"] for row in own if row["value"]} >= {option.label for option in item.options}


# FHIR R4: the rules of the resources' pages, checked by hand


def fhir_items(items):
    for item in items:
        yield item
        yield from fhir_items(item.get("item", []))


def check_questionnaire(resource):
    assert resource["resourceType"] == "Questionnaire" and resource["status"] == "active"
    assert re.fullmatch(r"[A-Za-z0-9.-]{1,64}", resource["id"])
    links = [item["linkId"] for item in fhir_items(resource["item"])]
    assert len(links) == len(set(links))  # que-2
    by_link = {item["linkId"]: item for item in fhir_items(resource["item"])}
    for item in fhir_items(resource["item"]):
        assert item["type"] in {"group", "display", "boolean", "decimal", "text", "string", "choice"}
        if item["type"] == "display":
            assert not {"required", "repeats", "item", "code"} & set(item)  # que-1, que-3, que-6
        if item["type"] == "group":
            assert item["item"] and "answerOption" not in item  # que-1, que-5
        if "answerOption" in item:
            assert item["type"] == "choice"  # que-5
            for option in item["answerOption"]:
                assert re.fullmatch(r"\S+( \S+)*", option["valueCoding"]["code"])
        if "maxLength" in item:
            assert item["type"] == "text"  # que-10
        for when in item.get("enableWhen", []):
            assert when["question"] in by_link and len([k for k in when if k.startswith("answer")]) == 1
            if when["operator"] == "exists":
                assert "answerBoolean" in when  # que-7
            if "answerCoding" in when and when["answerCoding"]["code"] != "never":
                codes = [o["valueCoding"]["code"] for o in by_link[when["question"]]["answerOption"]]
                assert when["answerCoding"]["code"] in codes
        if len(item.get("enableWhen", [])) > 1:
            assert item["enableBehavior"] == "any"  # que-12
        assert all(value not in ([], {}, "", None) for value in item.values())  # FHIR has nothing empty


def check_response(response, questionnaire):
    by_link = {item["linkId"]: item for item in fhir_items(questionnaire["item"])}
    value_of = {"boolean": "valueBoolean", "decimal": "valueDecimal", "text": "valueString", "string": "valueString"}
    assert response["resourceType"] == "QuestionnaireResponse" and response["status"] in ("completed", "amended")
    assert response["questionnaire"] == questionnaire["url"]
    for item in fhir_items(response["item"]):
        question = by_link[item["linkId"]]
        assert item.get("text", question["text"]) == question["text"]
        if question["type"] == "group":
            assert "answer" not in item and item["item"]
            continue
        assert len(item["answer"]) == 1 or question.get("repeats")
        for answer in item["answer"]:
            (kind,) = answer
            if question["type"] == "choice":
                options = [o["valueCoding"] for o in question["answerOption"]]
                assert answer["valueCoding"] in [{k: v for k, v in o.items() if k != "extension"} for o in options]
            else:
                assert kind == value_of[question["type"]]


def test_fhir_questionnaire_maps_one_to_one(merged):
    form = merged.study.tasks["turing"].form
    resource = fhir_questionnaire(form, merged.study.id)
    check_questionnaire(resource)
    assert [item["linkId"] for item in resource["item"]] == [item.id for item in form.items]
    by_link = {item["linkId"]: item for item in resource["item"]}
    for item in form.items:
        entry = by_link[item.id]
        assert entry["text"] == item.text and entry.get("required", False) == item.required
    score = by_link["score"]["answerOption"]
    assert [o["valueCoding"]["extension"][0]["valueDecimal"] for o in score] == list(examples.LEVELS)
    assert all(o["valueCoding"]["extension"][0]["url"].endswith("/ordinalValue") for o in score)
    assert [w["answerCoding"]["code"] for w in by_link["why"]["enableWhen"]] == ["1", "2", "3"]
    assert by_link["marks"]["enableWhen"] == [{"question": "flaws", "operator": "exists", "answerBoolean": True}]
    assert VERSION == "4.0.1" and resource["meta"]["tag"][0]["code"] == VERSION


def test_fhir_responses_fit_their_questionnaires(merged):
    bundle = fhir_responses(merged)
    assert len(bundle["entry"]) == len({(r.reader, r.task, r.position) for r in merged.ratings})
    questionnaires = [fhir_questionnaire(t.form, merged.study.id) for t in merged.study.tasks.values()]
    by_url = {q["url"]: q for q in questionnaires}
    ids = [entry["resource"]["id"] for entry in bundle["entry"]]
    assert len(ids) == len(set(ids))
    for entry in bundle["entry"]:
        check_response(entry["resource"], by_url[entry["resource"]["questionnaire"]])
    # Nothing is lost: every answer can be read out again.
    found = sum(
        len(item.get("answer", [])) if "item" not in item else 1
        for entry in bundle["entry"]
        for item in entry["resource"]["item"]
    )
    assert found == sum(len(r.value) if isinstance(r.value, list) else 1 for r in merged.ratings)
    mark = next(i for e in bundle["entry"] for i in e["resource"]["item"] if i["linkId"] == "marks")
    assert [i["linkId"] for i in mark["item"]] == [f"marks.{part}" for part, _, _ in POINT_PARTS]
    assert [i["answer"][0].get("valueDecimal") for i in mark["item"]][1:4] == [1.0, -2.5, 3.0]


def test_fhir_of_the_shipped_forms():
    for name, path in shipped_forms().items():
        check_questionnaire(fhir_questionnaire(load_form(path), name))


def test_fhir_by_another_library(merged):
    """fhir.resources (BSD) has R4B, whose Questionnaire is R4's."""
    questionnaire = pytest.importorskip("fhir.resources.R4B.questionnaire").Questionnaire
    bundle = pytest.importorskip("fhir.resources.R4B.bundle").Bundle
    forms = [t.form for t in merged.study.tasks.values()] + [load_form(p) for p in shipped_forms().values()]
    for form in forms:
        questionnaire.model_validate(fhir_questionnaire(form))
    bundle.model_validate(fhir_responses(merged))


def test_fhir_refuses_what_would_be_lost(merged):
    items = [
        {"id": "m", "type": "point", "text": "Where?"},
        {"id": "m.r", "type": "text", "text": "Why?"},
    ]
    with pytest.raises(BadInput, match="linkId 'm.r'"):
        fhir_questionnaire(Form.from_json({"id": "f", "title": "f", "items": items}))
    with pytest.raises(BadInput, match="no question 'score'"):
        fhir_response(merged.study.tasks["choice"].form, [merged.ratings[0]])


def test_grras(merged):
    text = grras(merged)
    rows = [line for line in text.splitlines() if re.match(r"\| \w.* \| \d+ \|", line)]
    assert [int(re.match(r"\| [^|]+ \| (\d+) \|", row).group(1)) for row in rows] == list(range(1, 16))
    assert "2 readers" in rows[10] and BLANK in rows[4] and BLANK in rows[13]
    assert "not given to this export" in rows[12]
    nasty = examples.study(TASKS, title="a|b\n<script>")
    assert "<script>" not in grras(examples.merged(nasty, merged.ratings))


def test_grras_with_results(merged):
    pytest.importorskip("statsmodels")
    pytest.importorskip("matplotlib")
    from SynthDiffusionLib.reader_study.analysis import analyse

    result = analyse(merged)
    text = grras(merged, result)
    estimates = next(line for line in text.splitlines() if "| 13 |" in line)
    kappa = next(s for x in result["sections"] if x["id"] == "agreement" for s in x["tables"][0]["rows"])
    assert f"{kappa['value']:.3f}" in estimates and "95 % interval" in estimates and "hidden repeat" in estimates
