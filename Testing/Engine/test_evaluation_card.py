"""Reports and the model card: every number is one of the results', and the commands run as a user runs them."""

from __future__ import annotations

import copy
import csv
import json
import re
from dataclasses import replace

import pytest
from PIL import Image, ImageDraw
from test_evaluation_samples import Job, write_prepared
from tiny_package import make_working_package

from SynthDiffusionLib import cli
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation import adherence, card, memorisation, performance, report, samples
from SynthDiffusionLib.evaluation.cases import load_evaluation_data
from SynthDiffusionLib.evaluation.picture import fitted
from SynthDiffusionLib.schemas import first_problem


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder with prepared data, a package, samples, and the outputs of `evaluate card`."""
    folder = tmp_path_factory.mktemp("card")
    prepared = write_prepared(folder / "prepared")
    split = json.loads((prepared / "dataset.json").read_text(encoding="utf-8"))["split"]
    training = {"dataset": "phantoms", "license": "CC0-1.0", "split": split, "citation": "Nobody"}
    package = make_working_package(folder / "tiny-ct", training=training)
    data = load_evaluation_data(prepared, package.spec)
    samples.make_samples(package, data, folder / "samples", run=Job())
    patch = pytest.MonkeyPatch()
    patch.setattr(adherence, "package_segmenter", lambda package: lambda hu: hu > -550.0)
    patch.setattr(memorisation, "CORES_VOXELS", {"whole": 16, "region": 10})
    code = cli.main(
        ["evaluate", "card", "--model", str(package.folder), "--data", str(prepared), "--samples"]
        + [str(folder / "samples"), "--out", str(folder / "results"), "--auc-steps", "1"]
    )
    patch.undo()
    assert code == 0
    return folder, package, card.read_results(folder / "results")


def numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", text)


def every(value, change):
    """A copy with every number changed; switches, counts of list places and texts stay."""
    if isinstance(value, dict):
        return {k: every(v, change) for k, v in value.items()}
    if isinstance(value, list):
        return [every(v, change) for v in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return change(value)
    return value


def test_the_card_has_no_number_of_its_own(made):
    """With every number of the results and the description set to 7, no other number is left in the card."""
    _, package, results = made
    sevens = {kind: every(result, lambda v: 7) for kind, result in results.items()}
    for result in sevens.values():  # texts may hold numbers: they are results too, but cannot be told apart here
        result["definitions"] = {"name": "text"}
        result["command"] = "command"
        result["software"] = {}
    sevens["adherence"]["samples"]["command"] = "command"
    sevens["adherence"]["samples"]["skipped_reasons"] = {}
    spec = replace(
        package.spec,
        version="v",
        grid=replace(package.spec.grid, spacing_mm=(7, 7, 7)),
        sampling=replace(package.spec.sampling, default_guidance=7.0),
        intensity=replace(package.spec.intensity, range=(7.0, 7.0)),
        license=replace(package.spec.license, spdx="licence"),
        training=replace(package.spec.training, license="licence"),
    )
    text = card.render_card(spec, sevens)
    # Names of features hold numbers, such as "p95"; one name may begin another.
    for feature in sorted(results["fidelity"]["rows"][0]["feature_differences"], key=len, reverse=True):
        text = text.replace(feature, "feature")
    text = text.replace("| L1 |", "| name |")
    assert set(numbers(text)) <= {"7", "7.0", "7.00", "7.000", "700"}
    assert len(numbers(text)) > 100


def test_changing_a_result_changes_the_card(made):
    _, package, results = made
    before = card.render_card(package.spec, results)
    for kind, key in (("adherence", "dice_mean"), ("memorisation", "median")):
        changed = copy.deepcopy(results)
        changed[kind]["rows"][-1][key] = 0.1234567
        assert "0.12" in "".join(set(card.render_card(package.spec, changed).splitlines()) - set(before.splitlines()))
    changed = copy.deepcopy(results)
    changed["fidelity"]["rows"][-1]["mmd2"]["value"] = 0.987
    assert "0.987" in card.render_card(package.spec, changed)


def test_the_card_says_what_it_must(made):
    folder, package, results = made
    text = (folder / "results" / "MODEL_CARD.md").read_text(encoding="utf-8")
    for needed in (
        "Not for diagnosis",
        "CC0-1.0",
        "Somebody",
        "Nobody",
        "no-skill",
        "synthdiffusion evaluate samples",
        "![Real and synthetic",
        "exactly one annotated nodule",
        "No training image has a voxel that its class map puts outside",
    ):
        assert needed in text, needed
    for row in results["adherence"]["rows"] + results["fidelity"]["rows"] + results["memorisation"]["rows"]:
        assert f"| {row['label']} |" in text
    assert str(folder) not in text


def test_moved_masks_have_rows_of_their_own(made):
    folder, _, results = made
    text = (folder / "results" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| nodule alone, moved off centre |" in text and "- nodule alone, moved off centre: ratio" in text
    rows = {r["row"]: r for r in results["adherence"]["rows"]}
    assert rows["moved"]["kind"] == "ours" and rows["ball_moved"]["dice_mean"] < rows["ball"]["dice_mean"]
    rivals = results["adherence"]["verdicts"]["moved"]["against_no_skill"]
    assert "ball_moved" in rivals and "ball" not in rivals
    assert "ball_moved" not in results["adherence"]["verdicts"]["nodule"]["against_no_skill"]


def test_the_card_names_every_classifier_and_how_they_were_chosen(made):
    folder, _, results = made
    text = (folder / "results" / "MODEL_CARD.md").read_text(encoding="utf-8")
    for needed in (
        "| AUC, features | AUC, large crops | AUC, small crops |",
        "samples of validation masks",
        "too weak",
    ):
        assert needed in text, needed
    ours = next(r for r in results["fidelity"]["rows"] if r["row"] == "nodule")
    assert set(ours["auc"]) == {"features", "large", "small"}
    assert {f"auc_{n}_below_all" for n in ours["auc"]} <= set(results["fidelity"]["verdicts"]["nodule"])
    # The networks see no class map, so other real images are the same to them under any; the features see the nodule.
    rows = {r["row"]: r["auc"] for r in results["fidelity"]["rows"] if r["view"] == "whole"}
    assert rows["real_reference"]["small"] == rows["unrelated_real"]["small"]
    assert rows["real_reference"]["features"] != rows["unrelated_real"]["features"]
    assert "deformed copies" in text and "| warped copies (control) |" in text


def test_weaknesses_follow_the_results(made):
    _, package, results = made
    flawless = copy.deepcopy(results)
    for v in flawless["adherence"]["verdicts"].values():
        v["ratio_within_limits"] = True
    for r in flawless["fidelity"]["rows"]:
        r["feature_differences"] = dict.fromkeys(r["feature_differences"], 0.0)
        r["auc"] = {n: {"value": 0.5, "low": 0.4, "high": 0.6} for n in r["auc"]}
        for c in r["classes"].values():
            if c:
                c["difference"] = {"value": 0.0, "low": -1.0, "high": 1.0}
    for r in flawless["memorisation"]["rows"]:
        r["suspected"] = False
    found = card.weaknesses(package.spec, flawless)
    assert not any("suspected" in f or "Dice" in f or "AUC" in f or "off by" in f for f in found)
    copied = copy.deepcopy(flawless)
    next(r for r in copied["memorisation"]["rows"] if r["kind"] == "ours")["suspected"] = True
    assert any("copying of training cases is suspected" in f for f in card.weaknesses(package.spec, copied))
    told = copy.deepcopy(flawless)
    next(r for r in told["fidelity"]["rows"] if r["kind"] == "ours")["auc"]["small"]["value"] = 0.91
    assert any("AUC 0.91" in f for f in card.weaknesses(package.spec, told))


def test_measures_fit_the_schema_of_a_package(made):
    folder, package, results = made
    raw = copy.deepcopy(package.spec.raw)
    raw["measured"] = {
        "quality": json.loads((folder / "results" / "quality.json").read_text(encoding="utf-8")),
        "performance": {},
    }
    assert first_problem(raw, "model") is None
    assert raw["measured"]["quality"]["adherence"]["nodule"]["dice"] == pytest.approx(
        next(r for r in results["adherence"]["rows"] if r["row"] == "nodule")["dice_mean"], abs=1e-4
    )


def test_files_hold_the_same_rows(made):
    folder, _, results = made
    for kind, result in results.items():
        with (folder / "results" / f"{kind}.csv").open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert [r["row"] for r in rows] == [r["row"] for r in result["rows"]]
    with (folder / "results" / "adherence.csv").open(encoding="utf-8", newline="") as stream:
        first = next(csv.DictReader(stream))
    assert float(first["dice_mean"]) == results["adherence"]["rows"][0]["dice_mean"]


def test_console_prints_no_skill_rows_beside_ours(made):
    _, _, results = made
    text = "\n".join(report.summary_lines(results["adherence"]))
    assert "5 patients of 'test'" in text and "Definitions" in text and "95%" in text
    for label in (
        "ball, blind to the image",
        "unrelated real image",
        "class means plus noise",
        "blob in flat lung",
        "nodule alone",
        "inpainting",
    ):
        assert label in text


def test_the_picture_has_a_row_per_mask_and_the_outline(made):
    folder, _, _ = made
    picture = Image.open(folder / "results" / "real_and_synthetic.png").convert("RGB")
    from SynthDiffusionLib.evaluation import picture as module

    colors = dict((c, n) for n, c in picture.getcolors(1 << 20))
    assert colors[module.OUTLINE] > 4 * 5 * 20  # four columns, five masks
    assert picture.width == module.SIDE + 4 * (24 * module.SCALE + module.GAP) + module.GAP


def test_results_of_different_models_are_not_joined(made, tmp_path):
    folder, _, results = made
    for result in results.values():
        report.write_result(result, tmp_path)
    other = copy.deepcopy(results["fidelity"])
    other["model"]["version"] = "9.9.9"
    report.write_result(other, tmp_path)
    with pytest.raises(BadInput, match="different model"):
        card.read_results(tmp_path)
    (tmp_path / "fidelity.json").unlink()
    with pytest.raises(BadInput, match="cannot be read"):
        card.read_results(tmp_path)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["adherence", "--data", "none", "--samples", "s"], "does not exist"),
        (["fidelity", "--data", "{prepared}", "--samples", "{prepared}"], "holds no samples"),
        (["fidelity", "--data", "{prepared}", "--samples", "{samples}", "--auc-repeats", "0"], "out of range"),
        (["samples", "--data", "{prepared}", "--arms", "nodules"], "'nodules' is no arm"),
        (["performance", "--size", "51"], "is no size"),
        (["performance", "--threads", "0"], "0 threads"),
        (["memorisation", "--data", "{prepared}", "--samples", "{samples}", "--split", "train"], "to make models"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(made, tmp_path, capsys, arguments, says):
    folder, package, _ = made
    names = {"prepared": folder / "prepared", "samples": folder / "samples"}
    filled = [a.format(**names) for a in arguments]
    code = cli.main(
        ["evaluate", filled[0], "--model", str(package.folder), "--out", str(tmp_path / "out"), *filled[1:]]
    )
    error = capsys.readouterr().err
    assert code == 2 and says in error and error.strip().count("\n") == 0 and "Traceback" not in error


def test_time_and_memory_are_those_of_a_fresh_process(made):
    _, package, _ = made
    result = performance.measure_performance(package, threads=1, steps=1, size=(16, 16, 16), repeats=1)
    (row,) = result["rows"]
    assert row["seconds_process"] > row["seconds_job"] > 0
    assert row["guidance"] == 1.0 and row["precision"] == result["settings"]["precision"] != "auto"
    assert 100e6 < row["peak_bytes"] < 4e9  # Python with torch, and a tiny network
    measures = performance.performance_measures(result | {"command": "x"})
    raw = copy.deepcopy(package.spec.raw)
    raw["measured"]["performance"] = measures
    assert first_problem(raw, "model") is None and measures["threads"] == 1


def test_peak_memory_sees_an_allocation():
    import subprocess
    import sys

    code = "import time; b = bytearray(200_000_000); time.sleep(0.5)"
    process = subprocess.Popen([sys.executable, "-c", code])
    watch = performance.PeakMemory(process.pid)
    process.wait()
    assert watch.stop() > 200_000_000


@pytest.mark.parametrize(
    "value, text", [(None, "-"), (0.005, "0.01"), (-0.001, "0.00"), (-0.2, "-0.20"), (1.0, "1.00")]
)
def test_numbers_are_written_plainly(value, text):
    assert report.number(value) == text


def test_what_a_mean_ratio_hides_is_said():
    """One of three is missed and the others do better than real: 1.0 on average, 1.5 where it is there."""
    volumes = [
        {"row": row, "case": case, "dice": dice, "found": float(dice > 0)}
        for row, scores in (("real", (0.6, 0.6, 0.6)), ("anatomy", (0.0, 0.9, 0.9)), ("nodule", (0.6, 0.6, 0.6)))
        for case, dice in zip("abc", scores)
    ]
    (said,) = card._missed("Anatomy", "anatomy", volumes, "nodule")
    assert "in 1 of 3 volumes the segmenter does not find the nodule" in said and "is 1.50 times" in said
    assert card._missed("Nodule", "nodule", volumes, "nodule") == []


def test_a_real_image_is_no_rival_of_whole_volumes_and_the_verdict_says_so(made):
    _, _, results = made
    lines = report.verdict_lines(results["fidelity"])
    whole = [line for line in lines if line.startswith("nodule alone")]
    region = [line for line in lines if line.startswith("inpainting")]
    assert whole and all("but 'unrelated real image', which is real" in line for line in whole)
    assert region and all(line.endswith("every no-skill row.") for line in region)


def test_long_names_of_cases_keep_their_end():
    draw = ImageDraw.Draw(Image.new("L", (10, 10)))
    assert fitted(draw, "STS_003", 200) == "STS_003"
    short = fitted(draw, "hippocampus_177", 60)
    assert short.startswith("...") and short.endswith("177") and draw.textlength(short) <= 60
