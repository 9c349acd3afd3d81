"""What each method is best for: the shipped file, what reads it, and what `models` says of it."""

from __future__ import annotations

import json

import pytest
import tiny_package
from test_models_command import command  # noqa: F401
from tiny_package import make_package

from SynthDiffusionLib.backends import BACKENDS
from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.models.methods import NEEDS, best_for, load_methods, method_info, recommended
from SynthDiffusionLib.models.presets import load_preset, preset_ids
from SynthDiffusionLib.resources import resource_path
from SynthDiffusionLib.schemas import first_problem

model_folders = tiny_package.model_folders


def shipped():
    return json.loads(resource_path("Methods", "methods.json").read_text(encoding="utf-8"))


def written(tmp_path, content):
    path = tmp_path / "methods.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_every_backend_has_an_entry_and_no_other():
    assert set(load_methods()) == set(BACKENDS)
    assert first_problem(shipped(), "methods") is None


def test_what_a_method_is_given_is_what_its_preset_can_be_given():
    for preset in map(load_preset, preset_ids()):
        if preset.backend == "maisi":  # some of its networks take no drawing at all
            continue
        assert method_info(preset.backend).needs_drawing == ("whole" in preset.modes), preset.id
    inpainting = {p.backend for p in map(load_preset, preset_ids()) if "inpaint" in p.modes}
    assert inpainting == {"patch_ddpm"}  # "the only method here that changes a part"
    assert "only method here" in best_for("patch_ddpm")


def test_wins_go_to_one_method_each_and_only_with_figures():
    methods = load_methods()
    won = [need for info in methods.values() for need in info.wins]
    assert len(won) == len(set(won)) and set(won) <= set(NEEDS)
    assert all(info.figures for info in methods.values() if info.wins)
    if not shipped()["comparison"]["measured"]:
        assert not won


def test_a_backend_that_the_file_does_not_name():
    assert method_info("unheard_of") is None
    assert best_for("unheard_of") == ""


def test_recommends_the_winner_only_where_it_can_be_had(tmp_path):
    content = shipped()
    for entry in content["methods"].values():
        entry["wins"] = []
    content["methods"]["medlord"] |= {"wins": ["fastest"], "figures": {"seconds": 1.0}}
    methods = load_methods(written(tmp_path, content))
    assert recommended(["patch_ddpm", "medlord"], "fastest", methods) == "medlord"
    assert recommended(["patch_ddpm"], "fastest", methods) is None
    assert recommended(["patch_ddpm", "medlord"], "looks_real", methods) is None
    with pytest.raises(ValueError, match="'prettiest' is none of"):
        recommended(["medlord"], "prettiest", methods)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda c: c["methods"]["medlord"].pop("best_for"), "best_for"),
        (lambda c: c["methods"]["medlord"].update(wins=["prettiest"]), "wins"),
        (lambda c: c["methods"]["medlord"].update(input="thoughts"), "input"),
    ],
)
def test_a_damaged_file_says_where(tmp_path, change, said):
    content = shipped()
    change(content)
    with pytest.raises(ModelError, match=said):
        load_methods(written(tmp_path, content))
    (tmp_path / "methods.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="damaged"):
        load_methods(tmp_path / "methods.json")
    with pytest.raises(ModelError, match="Cannot read"):
        load_methods(tmp_path / "none.json")


def test_models_says_it(model_folders, command):  # noqa: F811
    package = make_package(model_folders[0] / "tiny-ct")
    info = method_info(package.spec.backend)
    header, row = command("list")
    assert row[header.index("BEST FOR") :].startswith(info.in_short)
    assert any(line.startswith("Best for") and info.best_for in line for line in command("show", "tiny-ct"))
    (listed,) = json.loads(command("list", "--json")[-1])["models"]
    assert listed["best_for"] == info.best_for


def test_nothing_is_promised_that_the_shipped_models_do_not_keep(command):  # noqa: F811
    """By their cards, limb-tumour-ct follows tumours badly, and limb-tumour-mr does not clearly heed the shape."""
    assert "drawing" not in method_info("medlord").in_short
    assert "limb-tumour-ct follows tumours badly" in best_for("medlord")
    said = command("show", "limb-tumour-mr")
    assert said[1].endswith("the shape (sphericity) not clearly.")
    assert any(line.startswith("Best for") and line.endswith("the shape not clearly.") for line in said)
    assert "follows_drawing" not in method_info("patch_ddpm").wins  # not clearly ahead of Med-LSDM
