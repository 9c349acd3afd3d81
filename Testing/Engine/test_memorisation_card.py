"""What the measure of folders found enters a model card from its JSON, the same way whichever command puts it in; and
`Testing/Benchmarks/memorisation_cards.py` does it for a package, whose checksums stay right."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from test_evaluation_card import made  # noqa: F401  (a fixture)
from test_evaluation_samples import Job, write_prepared
from tiny_package import make_working_package

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation import card, memorisation_card, report, samples
from SynthDiffusionLib.evaluation.cases import load_evaluation_data
from SynthDiffusionLib.evaluation.sets import copies, memorisation
from SynthDiffusionLib.models import load_package
from SynthDiffusionLib.schemas import first_problem

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Benchmarks"))

SYNTHETIC = (
    "| synthetic volumes | registered voxels | 20 | 20 | 0.100 | 0.300 | 1 | 1 | 5% [0%, 25%] | 5% | 1.000 | 0 | 1 |"
)


def row(name: str, kind: str, space: str, **named) -> dict:
    fields = {"row": name, "label": f"{name} volumes", "kind": kind, "space": space, "volumes": 20, "patients": 20}
    fields |= {"smallest": 0.1, "median": 0.3, "flagged": 1, "rate": 0.05, "low": 0.00127, "high": 0.2487}
    fields |= {"patients_flagged": 1}
    return fields | {"expected": 0.0476, "p": 0.61, "p_holm": 1.0, "far_below": 0, "copies": 1, "right": None} | named


@pytest.fixture(scope="module")
def results(made):  # noqa: F811
    """The results of a card, with those of the measure of folders."""
    _, package, found = made
    sentences = {"copies": ["One of 20 is flagged."], "controls": ["Twenty of 20 are found."], "limits": ["Of 20."]}
    rows = [row("validation", "reference", "voxels"), row("synthetic", "synthetic", "voxels")]
    rows += [row("training", "real", "voxels"), row("mean", "no skill", "embedding", low=None, high=None, p_holm=None)]
    tests = [{"space": "voxels", "own_mask": "kept", "auc": 0.5, "low": 0.4, "high": 0.6, "p": 0.9, "p_holm": 1.0,
              "smallest_found": 0.69}]  # fmt: skip
    measured = {"kind": memorisation_card.KIND, "rows": rows, "membership": tests, "sentences": sentences}
    measured |= {"settings": {}, "definitions": {"Limit": "text"}}
    command = "python Testing/Benchmarks/memorisation_cards.py --model tiny-ct --data PREPARED --samples S --out R"
    data, described = (found["adherence"][k] for k in ("data", "samples"))
    one = report.complete(measured, package, data=data, samples=described, seconds=1.0, command=command)
    return package, found, one


def test_both_ways_into_a_card_give_the_same_text(results):
    package, found, one = results
    plain = card.render_card(package.spec, found)
    whole = card.render_card(package.spec, found | {memorisation_card.KIND: one})
    # In the order in which a folder of results is read.
    kinds = [*card.NEEDED, *card.OPTIONAL]
    ordered = {
        k: (found | {memorisation_card.KIND: one})[k] for k in kinds if k in found or k == memorisation_card.KIND
    }
    assert memorisation_card.with_section(plain, one) == card.render_card(package.spec, ordered)
    assert memorisation_card.TITLE in whole and memorisation_card.TITLE not in plain
    assert SYNTHETIC in whole
    assert "| training volumes |" not in whole and "One of 20 is flagged." in whole


def test_a_section_replaces_an_older_one(results):
    package, found, one = results
    plain = card.render_card(package.spec, found)
    newer = copy.deepcopy(one)
    newer["rows"][1]["flagged"] = 17
    newer["command"] += " --embedding-steps 3"
    again = memorisation_card.with_section(memorisation_card.with_section(plain, one), newer)
    assert again == memorisation_card.with_section(plain, newer)
    assert again.count(memorisation_card.TITLE) == 1 and again.count("memorisation_cards.py") == 1


def test_a_text_that_is_no_card_is_refused(results):
    with pytest.raises(BadInput, match="has no section 'Memorisation' with its command"):
        memorisation_card.with_section("# Card\n\nNothing has been measured.\n", results[2])


def test_results_are_read_from_the_folder_and_enter_the_figures(results, made, tmp_path):  # noqa: F811
    folder, package, found = made
    _, _, one = results
    for kind in found:
        (tmp_path / f"{kind}.json").write_bytes((folder / "results" / f"{kind}.json").read_bytes())
    report.write_result(one, tmp_path)
    read = card.read_results(tmp_path)
    assert list(read)[:4] == ["adherence", "fidelity", "memorisation", memorisation_card.KIND]
    quality = card.quality_measures(read)[memorisation_card.KIND]
    assert quality["synthetic_voxels"]["rate_interval"] == [0.0013, 0.2487]
    assert quality["synthetic_voxels"]["patients_flagged"] == quality["synthetic_voxels"]["probable_copies"] == 1
    assert quality["membership_voxels_own_mask_kept"]["auc"] == 0.5 and "training_voxels" not in quality
    spec = json.loads(json.dumps(package.spec.raw)) | {"measured": {"quality": {"x": quality}, "performance": {}}}
    assert first_problem(spec, "model") is None
    other = copy.deepcopy(one)
    other["samples"]["settings"]["steps"] = 999
    report.write_result(other, tmp_path)
    with pytest.raises(BadInput, match="different samples"):
        card.read_results(tmp_path)


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    """A package with a card, its data and its samples, and what the script made of them."""
    import memorisation_cards

    folder = tmp_path_factory.mktemp("cards")
    prepared = write_prepared(folder / "prepared", (12, 6, 10))
    split = json.loads((prepared / "dataset.json").read_text(encoding="utf-8"))["split"]
    training = {"dataset": "phantoms", "license": "CC0-1.0", "split": split, "citation": "Nobody"}
    package = make_working_package(folder / "tiny-ct", training=training)
    data = load_evaluation_data(prepared, package.spec)
    samples.make_samples(package, data, folder / "samples", samples.Settings(("anatomy",)), run=Job())
    from SynthDiffusionLib.training.pack import update_package

    text = "# Tiny\n\n### Memorisation\n\nSomething.\n\n## How to make these figures again\n\n```\n"
    text += "synthdiffusion evaluate memorisation --model tiny-ct\n```\n"
    update_package(package.folder, {"other": 1}, {"seconds": 2}, text)
    patch = pytest.MonkeyPatch()
    patch.setattr(memorisation, "MOST_PLANTED", 2)
    patch.setattr(copies.mean_images, "__defaults__", (2,))
    words = ["--model", str(package.folder), "--data", str(prepared), "--samples", str(folder / "samples")]
    words += ["--out", str(folder / "results"), "--embedding-steps", "2", "--into-package"]
    assert memorisation_cards.main(words) == 0
    patch.undo()
    return folder, package


def test_the_script_puts_figures_and_section_into_a_package(packaged):
    folder, package = packaged
    again = load_package(package.folder)  # compares every file with its checksum
    text = (package.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    result = report.read_result(folder / "results" / f"{memorisation_card.KIND}.json")
    assert "\n".join(memorisation_card.section_lines(result)) in text and result["command"] in text
    quality = again.spec.raw["measured"]["quality"]
    assert quality["other"] == 1 and quality[memorisation_card.KIND] == memorisation_card.quality(result)
    assert again.spec.raw["measured"]["performance"] == {"seconds": 2}
    assert quality[memorisation_card.KIND]["synthetic_voxels"]["volumes"] == 10
    assert str(folder) not in text + json.dumps(result)
    # No name of a training case, and no picture, leaves in the card.
    names = json.loads((folder / "prepared" / "dataset.json").read_text(encoding="utf-8"))["split"]["train"]
    assert not any(name in text for name in names)


def test_the_script_compares_with_the_models_own_parts(packaged):
    folder, _ = packaged
    split = json.loads((folder / "prepared" / "dataset.json").read_text(encoding="utf-8"))["split"]
    staged = folder / "results" / "memorisation-folders"
    for role, part in (("training", "train"), ("validation", "validation"), ("real", "test")):
        assert {p.name.removesuffix(".nii.gz") for p in (staged / role).iterdir()} == set(split[part])
    assert len(list((staged / "synthetic").iterdir())) == 10
    result = report.read_result(folder / "results" / f"{memorisation_card.KIND}.json")
    # 6 validation patients are too few for a limit at 5 %: the test patients join them.
    assert result["settings"]["reference"] == "held-out"
    assert {t["patients"] for t in result["thresholds"]} == {16, 28}
    assert np.isfinite([r["median"] for r in result["rows"]]).all()
