"""What a model.json may say, and how each fault in it is named."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
from tiny_package import DESCRIPTION, make_package

from SynthDiffusionLib.errors import ModelError
from SynthDiffusionLib.labels import LabelScheme
from SynthDiffusionLib.models import ModelSpec, read_spec
from SynthDiffusionLib.resources import resource_path
from SynthDiffusionLib.schemas import first_problem

FILES = [{"path": "denoiser.safetensors", "sha256": "0" * 64, "bytes": 1, "role": "denoiser"}]


def description(**changes):
    data = {"format": "synthdiffusion-model-1", **copy.deepcopy(DESCRIPTION), "files": copy.deepcopy(FILES)}
    del data["segmenter"]
    return data | changes


def put(data, place, value):
    *parents, last = place
    for key in parents:
        data = data[key]
    data[last] = value


def test_every_field_is_read(tmp_path):
    spec = make_package(tmp_path / "tiny-ct").spec
    assert read_spec(tmp_path / "tiny-ct") == spec
    assert (spec.network.name, spec.network.parameters) == ("PatchUNet", {"channels": [8, 16], "blocks_per_level": 1})
    assert dataclasses.asdict(spec.diffusion) == DESCRIPTION["diffusion"] | {"shift_numel": None}
    assert (spec.grid.spacing_mm, spec.grid.min_size, spec.grid.divisor) == ((1.0, 1.0, 1.0), (16, 16, 16), 2)
    assert spec.intensity.range == (-1000.0, 400.0)
    assert spec.label_scheme == LabelScheme.from_json(DESCRIPTION["label_scheme"])
    assert (spec.inpaint.margin_mm, spec.inpaint.max_region_mm) == (4.0, 40.0)
    assert (spec.sampling.default_sampler, spec.sampling.samplers) == ("ddim", ("ddpm", "ddim"))
    assert spec.segmenter.measured == {"dice": 0.7}
    assert spec.license.spdx == "CC-BY-4.0"
    assert spec.training.split == {"train": ("1", "2"), "validation": ("3",), "test": ("4",)}
    assert spec.quality["ratio"]["interval"] == [0.9, 1.1]
    assert spec.performance["peak_bytes"] == 2**31
    assert [f.role for f in spec.files] == ["denoiser", "segmenter", "card"]
    assert spec.total_bytes == sum((tmp_path / "tiny-ct" / f.path).stat().st_size for f in spec.files)


def test_the_diffusion_section_fits_the_samplers_class():
    torch_side = pytest.importorskip("SynthDiffusionLib.sampling.schedule")
    spec = ModelSpec.from_json(description())
    assert torch_side.DiffusionSpec(**dataclasses.asdict(spec.diffusion)).train_steps == 1000


def test_the_shipped_label_schemes_satisfy_the_schema():
    schemes = sorted(resource_path("LabelSchemes").glob("*.json"))
    assert schemes
    for path in schemes:
        scheme = json.loads(path.read_text(encoding="utf-8"))
        ModelSpec.from_json(description(label_scheme=scheme, target_class=scheme[-1]["name"]))


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("grid", "divisor"), "8", "'grid.divisor' must be a whole number, not text"),
        (("grid", "spacing_mm", 1), 0, "'grid.spacing_mm[1]' must be at least 0.001, not 0"),
        (("grid", "min_size"), [16, 16], "'grid.min_size' must have at least 3 entries, not 2"),
        (("grid", "max_size"), [8, 64, 64], "'grid.min_size' is larger"),
        (("grid", "orientation"), "LRS", "names an axis twice"),
        (("grid", "orientation"), "lps", "such as LPS"),
        (("modality",), "CTA", "must be one of CT, MR"),
        (("modality",), None, "'modality'"),
        (("id",), "Tiny CT", "'id' must be lower-case"),
        (("id",), "../tiny", "'id' must be lower-case"),
        (("id",), "tiny\n", "'id' cannot be"),
        (("id",), "com1", "Windows reserves"),
        (("version",), "one", "a version such as 1.0.0"),
        (("diffusion", "prediction"), "epsilom", "did you mean 'epsilon'?"),
        (("diffusion", "beta_end"), 1e-5, "'diffusion.beta_start' is larger"),
        (("diffusion", "beta_start"), True, "must be a number, not true or false"),
        (("diffusion", "beta_strat"), 0.1, "unknown entry 'beta_strat' (did you mean 'beta_start'?)"),
        (("intensity", "range"), [400, -1000], "must rise"),
        (("label_scheme", 1, "value"), 1, "has a value twice"),
        (("label_scheme", 1, "value"), 256, "must be at most 255"),
        (("label_scheme", 1, "name"), "lung", "'label_scheme' has a name twice"),
        (("label_scheme", 0, "within"), ["nodule"], "must be listed before it"),
        (("label_scheme", 1, "color"), [0, 0, 2], "'label_scheme[1].color[2]' must be at most 1"),
        (("target_class",), "tumour", "'target_class' tumour is not in the label scheme"),
        (("sampling", "default_sampler"), "unipc", "not among its samplers"),
        (("sampling", "default_steps"), 2000, "larger than 'diffusion.train_steps'"),
        (("modes",), ["whole", "whole"], "'modes' names something twice"),
        (("modes",), ["hole"], "did you mean 'whole'?"),
        (("training", "split", "test"), ["2"], "'2' in both train and test"),
        (("measured", "quality"), {"dice": "good"}, "'measured.quality.dice'"),
        (("files",), [], "must have one denoiser, not 0"),
        (("files", 0, "sha256"), "ABC", "64 lower-case hexadecimal digits"),
        (("files", 0, "role"), "weights", "must be one of denoiser"),
        (("files", 0, "role"), "segmenter", "must have one denoiser, not 0"),
        (("files", 0, "path"), "denoiser.pt", "which is a .safetensors file"),
        (("format",), "synthdiffusion-model-2", "this version reads synthdiffusion-model-1"),
        (("format",), "else", "'format' must be"),
    ],
)
def test_each_fault_is_named(place, value, said):
    data = description()
    ModelSpec.from_json(data)
    put(data, place, value)
    with pytest.raises(ModelError) as caught:
        ModelSpec.from_json(data, "x/model.json")
    assert said in caught.value.one_line()
    assert "x/model.json" in caught.value.message
    assert "\n" not in caught.value.one_line() and len(caught.value.one_line()) < 400
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("intensity_range", [250, -150], "'segmenter.intensity_range' must rise"),
        ("patch", 24.5, "'segmenter.patch' must be a whole number"),
        ("context_voxels", -1, "'segmenter.context_voxels' must be at least 0"),
        ("ball_radius_mm", 0, "'segmenter.ball_radius_mm' must be greater than 0"),
    ],
)
def test_faults_of_the_segmenter_are_named(name, value, said):
    data = description(segmenter=DESCRIPTION["segmenter"] | {name: value})
    data["files"].append({"path": "segmenter.safetensors", "sha256": "0" * 64, "bytes": 1, "role": "segmenter"})
    with pytest.raises(ModelError) as caught:
        ModelSpec.from_json(data)
    assert said in caught.value.one_line()


OPTIONAL = {"segmenter", "target_class", "provenance", "inpaint"}


@pytest.mark.parametrize("name", [*(name for name in DESCRIPTION if name not in OPTIONAL), "files"])
def test_a_missing_section_is_named(name):
    data = description()
    del data[name]
    with pytest.raises(ModelError, match=f"lacks '{name}'"):
        ModelSpec.from_json(data)


def test_inpainting_needs_its_section_and_betas_are_needed_where_they_are_used():
    data = description()
    del data["inpaint"]
    with pytest.raises(ModelError, match="'inpaint' is missing"):
        ModelSpec.from_json(data)
    data = description()
    del data["diffusion"]["beta_start"]
    with pytest.raises(ModelError, match="lacks beta_start"):
        ModelSpec.from_json(data)
    data["diffusion"]["beta_schedule"] = "squaredcos_cap_v2"
    assert ModelSpec.from_json(data).diffusion.beta_schedule == "squaredcos_cap_v2"


@pytest.mark.parametrize("data", [None, [], "x", 3, {}])
def test_anything_else_than_a_description_is_refused(data):
    with pytest.raises(ModelError, match="not a valid model description"):
        ModelSpec.from_json(data)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "line 1, column 1"),
        (b'{"format": "synthdiff', "line 1"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"id": "a", "id": "b"}', "'id' is there twice"),
        (b"[" * 200_000, "nested too deeply"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, said):
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(ModelError, match="is damaged") as caught:
        read_spec(tmp_path)
    assert said in caught.value.message and "model.json" in caught.value.message


def test_every_truncation_of_a_description_is_refused(tmp_path):
    make_package(tmp_path)
    whole = (tmp_path / "model.json").read_bytes().rstrip()
    for length in range(0, len(whole), 97):
        (tmp_path / "model.json").write_bytes(whole[:length])
        with pytest.raises(ModelError):
            read_spec(tmp_path)


def test_a_byte_order_mark_does_no_harm(tmp_path):
    make_package(tmp_path)
    path = tmp_path / "model.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_spec(tmp_path).id == "tiny-ct"


def test_plain_words_for_the_top_level():
    assert first_problem({"3": 4}, "label-map") == "'3' must be text or null, not a number (4)"
    assert first_problem([], "label-map") == "the top level must be an object, not a list ([])"
    assert first_problem({"3": "nodule", "x": None}, "label-map") is None


@pytest.mark.parametrize(
    "place, value",
    [
        *((("network", "norm_groups"), v) for v in (0, -1, True, 1.5)),
        *((("network", "channels"), v) for v in ([], "", {}, [0], [1e30])),
        *(
            (("network", name), 0)
            for name in ("characteristics_width", "heads", "head_channels", "spade_hidden", "mask_channels")
        ),
        *((("network", "blocks_per_level"), v) for v in (0, 1e30)),
        (("grid", "spacing_mm", 0), 1e30),
        (("inpaint", "max_region_mm"), 1e308),
    ],
)
def test_numbers_that_no_network_or_grid_can_have(place, value):
    data = description()
    put(data, place, value)
    with pytest.raises(ModelError, match=f"'{place[0]}.{place[1]}"):
        ModelSpec.from_json(data)
