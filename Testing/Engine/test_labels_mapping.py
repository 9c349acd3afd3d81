"""From a user's segments to the classes of a model."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels import LabelScheme, map_to_model, match_segments, read_label_map
from SynthDiffusionLib.resources import resource_path
from SynthDiffusionLib.volumes import Code, Segment, Segmentation

SCHEME = LabelScheme.from_json(
    json.loads(resource_path("LabelSchemes", "lung-nodule-ct.json").read_text(encoding="utf-8"))
)
VALUE = {c.name: c.value for c in SCHEME.classes}
LUNG, NODULE = Code("SCT", "39607008", "Lung"), Code("SCT", "27925004", "Nodule")
HEART, TISSUE = Code("SCT", "80891009", "Heart"), Code("SCT", "85756007", "Tissue")


def blocks(*values, dtype=np.uint8, thickness=2):
    """Slabs of `values` along the first axis, in a volume of 4 x 5 voxels across."""
    return np.repeat(np.array(values, dtype), thickness)[:, None, None] * np.ones((1, 4, 5), dtype)


def plain(*values, dtype=np.uint8):
    array = blocks(*values, dtype=dtype)
    return Segmentation((array,), np.eye(4), tuple(Segment(str(v), v) for v in sorted(set(values) - {0})))


def named(*segments):
    """One layer with the given segments as slabs of values 1, 2, ...; a segment is a name or (name, type)."""
    pairs = [s if isinstance(s, tuple) else (s, None) for s in segments]
    array = blocks(0, *range(1, len(pairs) + 1))
    return Segmentation((array,), np.eye(4), tuple(Segment(n, i + 1, type=t) for i, (n, t) in enumerate(pairs)))


def classes_of(mapped):
    """Class name or None per slab, without the empty one at the start."""
    names = {c.value: c.name for c in SCHEME.classes} | {0: None}
    return [names[int(v)] for v in mapped.class_map[::2, 0, 0]][1:]


def targets(mapped):
    return {e.segment: (e.target, e.how) for e in mapped.report.entries}


def test_codes_go_before_names_and_names_before_nothing():
    mapped = map_to_model(
        named(("Left lung", LUNG), ("Right lung", LUNG), "rib 3", ("heart", HEART), ("nodule", TISSUE)), SCHEME
    )
    assert classes_of(mapped) == ["lung", "lung", "bone", None, "nodule"]
    assert targets(mapped) == {
        "Left lung": ("lung", "code"),
        "Right lung": ("lung", "code"),
        "rib 3": ("bone", "name"),
        "heart": (None, None),
        "nodule": ("nodule", "name"),  # the type "Tissue" is what Slicer writes by itself
    }
    assert mapped.given == ("lung", "bone", "nodule")
    assert mapped.class_map.dtype == np.uint8 and mapped.class_map.shape == (12, 4, 5)
    assert mapped.report.merged == {"lung": ["Left lung", "Right lung"]}
    assert mapped.report.left_out == ["heart"]
    assert mapped.report.lines() == [
        "'Left lung' and 'Right lung' -> lung (by SNOMED code)",
        "'rib 3' -> bone (by name)",
        "'nodule' -> nodule (by name)",
        "'heart' left out",
    ]
    assert [e.voxels for e in mapped.report.entries] == [40] * 5


def test_a_code_that_contradicts_the_name_is_followed_and_said():
    mapped = map_to_model(named(("nodule", LUNG)), SCHEME, target="nodule")
    assert classes_of(mapped) == ["lung"]
    assert "its code says lung, its name nodule" in "\n".join(mapped.report.lines())


def test_the_region_of_a_code_does_not_count():
    seg = Segmentation(
        (blocks(0, 1),), np.eye(4), (Segment("x", 1, type=NODULE, region=Code("SCT", "10200004", "Liver")),)
    )
    assert classes_of(map_to_model(seg, SCHEME)) == ["nodule"]


@pytest.mark.parametrize("value", [1, 4, 7, 255])
def test_a_lone_unnamed_label_is_the_target(value):
    mapped = map_to_model(plain(0, value), SCHEME, target="nodule")
    assert classes_of(mapped) == ["nodule"]
    assert mapped.given == ("nodule",)
    assert mapped.report.entries[0].how == "only-segment"
    text = "\n".join(mapped.report.lines())
    assert "one label, taken as nodule" in text and "--labels" in text
    assert ("although 1 is body in this model" in text) == (value == 1)


def test_a_lone_label_with_the_value_of_another_part_of_the_targets_structure_is_that_part():
    scheme = LabelScheme.from_json(json.loads(resource_path("LabelSchemes", "hippocampus-mr.json").read_text("utf-8")))
    for value, name, how in ((2, "posterior hippocampus", "value"), (1, "anterior hippocampus", "only-segment")):
        named = Segmentation((blocks(0, value),), np.eye(4), (Segment(f"Segment_{value}", value),))
        for drawn in (plain(0, value), named):
            mapped = map_to_model(drawn, scheme, target="anterior hippocampus")
            assert (mapped.given, mapped.report.entries[0].how) == ((name,), how)


def test_a_lone_segment_that_nobody_has_named_is_the_target_but_another_organ_is_not():
    assert classes_of(map_to_model(named(("Segment_1", TISSUE)), SCHEME, target="nodule")) == ["nodule"]
    for segment in ("liver", ("Segment_1", HEART), ("1", HEART)):
        with pytest.raises(BadInput, match="only unknown labels"):
            map_to_model(named(segment), SCHEME, target="nodule")
    assert classes_of(map_to_model(named("lung"), SCHEME, target="nodule")) == ["lung"]


def test_a_lone_label_with_the_value_of_remove_removes():
    mapped = map_to_model(plain(0, VALUE["remove"]), SCHEME, target="nodule")
    assert classes_of(mapped) == ["remove"] and mapped.report.entries[0].how == "value"


def test_a_lone_label_without_a_target_goes_by_its_value():
    assert classes_of(map_to_model(plain(0, 2), SCHEME)) == ["lung"]
    with pytest.raises(BadInput):
        map_to_model(plain(0, 9), SCHEME)


def test_a_plain_map_with_the_values_of_the_scheme_is_taken_as_it_stands():
    seg = plain(0, 1, 2, 4)
    mapped = map_to_model(seg, SCHEME, target="nodule")
    np.testing.assert_array_equal(mapped.class_map, seg.layers[0])
    assert mapped.given == ("body", "lung", "nodule")
    assert {e.how for e in mapped.report.entries} == {"value"}
    with pytest.raises(BadInput) as caught:
        map_to_model(plain(0, 1, 2, 6), SCHEME, target="nodule")
    assert "label 6 unknown; the model knows body (1)" in caught.value.message
    assert "lung (2)" in caught.value.message and "--labels" in caught.value.hint


def test_named_segments_never_go_by_value():
    with pytest.raises(BadInput) as caught:
        map_to_model(named("spleen", "liver"), SCHEME)
    assert "'spleen' and 'liver'" in caught.value.message
    assert "body, lung, bone, nodule, remove" in caught.value.message
    assert caught.value.exit_code == 2 and "\n" not in caught.value.one_line()


def test_explicit_by_value_name_and_null():
    seg = named("lesion A", ("Left lung", LUNG), ("heart", HEART), "rib")
    mapped = map_to_model(seg, SCHEME, {"lesion A": "nodule", "2": None, "HEART": "body"})
    assert classes_of(mapped) == ["nodule", None, "body", "bone"]
    assert targets(mapped)["Left lung"] == (None, "explicit")
    assert targets(mapped)["rib"] == ("bone", "name")
    assert "'lesion A' -> nodule (as you said)" in mapped.report.lines()


def test_explicit_on_a_plain_map_leaves_the_rest_out():
    mapped = map_to_model(plain(0, 1, 2), SCHEME, {"1": "nodule"}, target="nodule")
    assert classes_of(mapped) == ["nodule", None]
    assert mapped.report.left_out == ["2"]
    assert "label 2 left out" in mapped.report.lines()
    assert classes_of(map_to_model(plain(0, 1), SCHEME, {"1": "Body"}, target="nodule")) == ["body"]


@pytest.mark.parametrize(
    ("explicit", "said"),
    [
        ({"heart": "nodul"}, "'nodul' (for 'heart' in the label map) is no class of this model"),
        ({"heart": "lesions"}, "Did you mean 'nodule'?"),
        ({"heart": "xyz"}, "Its classes: body, lung, bone, nodule, remove."),
        ({"hart": "nodule"}, "'hart' in the label map is no segment and no value of the segmentation"),
        ({"hart": "nodule"}, "Did you mean 'heart'? It holds 'heart' and 'lung'."),
        ({"3": "nodule"}, "'3' in the label map is no segment"),
        ({"7" * 5000: "nodule"}, "777...' in the label map is no segment"),
        ({"heart": "nodule", "1": "lung"}, "'heart' and '1' in the label map are the same segment"),
        ({"heart": None, "lung": None}, "leaves out everything that is drawn"),
    ],
)
def test_an_explicit_map_that_does_not_fit(explicit, said):
    with pytest.raises(BadInput) as caught:
        map_to_model(named("heart", "lung"), SCHEME, explicit)
    assert said in caught.value.one_line()


def test_a_value_that_two_layers_use_must_be_named():
    seg = Segmentation((blocks(0, 1), blocks(1, 0)), np.eye(4), (Segment("a", 1, 0), Segment("b", 1, 1)))
    with pytest.raises(BadInput, match="stands for 2 segments: 'a' and 'b'"):
        map_to_model(seg, SCHEME, {"1": "nodule"})
    assert map_to_model(seg, SCHEME, {"a": "nodule", "b": "lung"}).given == ("lung", "nodule")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_later_class_of_the_scheme_lies_over_the_earlier_whatever_the_layers(order):
    layers = [blocks(1, 1, 1, 1), blocks(0, 1, 1, 0), blocks(0, 0, 1, 1)]
    segments = [Segment("lung", 1), Segment("bone", 1), Segment("nodule", 1)]
    seg = Segmentation(
        tuple(layers[i] for i in order),
        np.eye(4),
        tuple(Segment(segments[i].name, 1, layer) for layer, i in enumerate(order)),
    )
    mapped = map_to_model(seg, SCHEME)
    assert mapped.class_map[::2, 0, 0].tolist() == [VALUE[c] for c in ("lung", "bone", "nodule", "nodule")]
    found = {(o.over, o.under): (o.voxels, o.nested) for o in mapped.report.overlaps}
    assert found == {("bone", "lung"): (40, False), ("nodule", "lung"): (80, True), ("nodule", "bone"): (40, False)}
    lines = "\n".join(mapped.report.lines())
    assert "bone lies over lung in 40 voxels" in lines and "nodule lies over lung" not in lines


def test_two_segments_of_one_class_overlap_without_a_word():
    seg = Segmentation((blocks(1, 1, 0), blocks(0, 1, 1)), np.eye(4), (Segment("lung left", 1), Segment("lung", 1, 1)))
    mapped = map_to_model(seg, SCHEME)
    assert (mapped.class_map == VALUE["lung"]).all() and mapped.report.overlaps == ()


def test_empty_segments_are_not_given():
    seg = named("lung", "nodule")
    seg = Segmentation((np.where(seg.layers[0] == 2, 0, seg.layers[0]),), seg.affine, seg.segments)
    mapped = map_to_model(seg, SCHEME)
    assert mapped.given == ("lung",)
    assert "'nodule' empty" in mapped.report.lines()
    for nothing in (plain(0, 0), Segmentation((np.zeros((2, 2, 2), np.uint8),), np.eye(4), seg.segments)):
        with pytest.raises(BadInput, match="is empty"):
            map_to_model(nothing, SCHEME, target="nodule")


def test_labels_without_a_segment_are_reported():
    seg = named("lung")
    seg = Segmentation((blocks(0, 1, 9),), seg.affine, seg.segments)
    mapped = map_to_model(seg, SCHEME, target="nodule")
    assert classes_of(mapped) == ["lung", None] and mapped.report.left_out == ["9"]
    assert classes_of(map_to_model(seg, SCHEME, {"9": "nodule"})) == ["lung", "nodule"]


INTEGERS = [np.bool_, np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32, np.int64, np.uint64]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_every_integer_type_and_memory_order(dtype):
    rng = np.random.default_rng(1)
    array = rng.integers(0, 2 if dtype is np.bool_ else 6, (7, 8, 9)).astype(dtype)
    names = {1: "lung", 2: "heart", 3: "nodule", 4: "rib", 5: "body"}
    segments = tuple(Segment(n, v) for v, n in names.items())
    expected = np.zeros(array.shape, np.uint8)
    for value, name in ((1, "lung"), (3, "nodule"), (4, "bone"), (5, "body")):
        expected[array == value] = VALUE[name]
    for variant in (array, np.asfortranarray(array), array[::-1], np.moveaxis(array, 0, 1).copy().swapaxes(0, 1)):
        want = expected[::-1] if variant.base is array else expected
        mapped = map_to_model(Segmentation((variant,), np.eye(4), segments), SCHEME)
        np.testing.assert_array_equal(mapped.class_map, want)
        counts = {e.value: e.voxels for e in mapped.report.entries}
        assert counts == {v: int((array == v).sum()) for v in names}


def test_large_label_values():
    for values in ((70_000, 3), (2_000_000_000, 1)):
        array = blocks(0, *values, dtype=np.int64)
        seg = Segmentation((array,), np.eye(4), (Segment("nodule", values[0]), Segment("lung", values[1])))
        assert classes_of(map_to_model(seg, SCHEME)) == ["nodule", "lung"]


def test_negative_labels_are_refused():
    with pytest.raises(BadInput, match=r"negative label \(-1\)"):
        map_to_model(plain(0, -1, 1, dtype=np.int16), SCHEME)


def test_many_classes_in_a_large_volume_take_little_memory():
    array = np.random.default_rng(0).integers(0, 62, (160, 160, 160), dtype=np.uint8)
    seg = Segmentation(
        (array,), np.eye(4), tuple(Segment("lung" if v == 7 else f"organ {v} of many", v) for v in range(1, 62))
    )
    tracemalloc.start()
    try:
        mapped = map_to_model(seg, SCHEME)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(mapped.class_map == VALUE["lung"], array == 7)
    assert mapped.given == ("lung",)
    assert "and 56 more left out" in mapped.report.lines()[1]
    assert peak < 12 * array.size  # one mask per class would be 61


def test_a_scheme_valued_map_becomes_a_condition_on_the_same_grid():
    affine = np.diag([2.0, 1, 1, 1])
    array = blocks(0, 1, 2, 4)
    seg = Segmentation((array,), affine, tuple(Segment(str(v), v) for v in (1, 2, 4)))
    condition = map_to_model(seg, SCHEME, target="nodule").condition()
    assert condition.given == ("body", "lung", "nodule") and condition.affine is affine
    channels = dict(zip([c.name for c in SCHEME.condition_classes], condition.channels()))
    assert channels["lung"][::2, 0, 0].tolist() == [-1, -1, 1, 1]  # the nodule is part of the lung
    assert not channels["bone"].any()


def test_the_report_as_json_is_complete():
    mapped = map_to_model(named(("Left lung", LUNG), "heart"), SCHEME)
    data = json.loads(json.dumps(mapped.report.as_dict(), allow_nan=False))
    assert data["segments"][0] == {
        "name": "Left lung",
        "value": 1,
        "layer": 0,
        "class": "lung",
        "how": "code",
        "voxels": 40,
    }
    assert data["left_out"] == ["heart"] and data["merged"] == {} and data["overlaps"] == []


def test_the_file_of_labels(tmp_path):
    path = tmp_path / "map.json"
    path.write_text('{"3": "nodule", "Lung": "lung", "heart": null}', encoding="utf-8-sig")
    assert read_label_map(path) == {"3": "nodule", "Lung": "lung", "heart": None}
    for content, said in (
        ('{"3": 4}', "'3' must be text or null, not a number (4)"),
        ('["nodule"]', "must be an object, not a list"),
        ("{}", "at least 1 entries"),
        ('{"3": "nodule"', "not valid JSON: line 1"),
        ('{"3": "nodule", "3": "lung"}', "'3' is there twice"),
        ('{"3": ""}', "must not be empty"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(BadInput) as caught:
            read_label_map(path)
        assert said in caught.value.one_line() and "map.json" in caught.value.message
    with pytest.raises(BadInput, match="Cannot read the label map"):
        read_label_map(tmp_path / "none.json")
    with pytest.raises(BadInput, match="Cannot read the label map"):
        read_label_map(tmp_path)


def test_labels_as_text():
    text = ' {"3": "nodule", "Left \\u0026 right": "lung", "heart": null}'
    assert read_label_map(text) == {"3": "nodule", "Left & right": "lung", "heart": None}
    for content, said in (
        ('{"3": 4}', "'3' must be text or null, not a number (4)"),
        ('{"3": "nodule"', "not valid JSON: line 1"),
        ("{}", "at least 1 entries"),
    ):
        with pytest.raises(BadInput) as caught:
            read_label_map(content)
        assert said in caught.value.one_line() and "The label map in --labels" in caught.value.message


@pytest.mark.parametrize(
    ("segmentation", "explicit"),
    [
        (named(("Left lung", LUNG), "rib 3", ("heart", HEART), ("nodule", TISSUE)), None),
        (named(("Left lung", LUNG), "rib 3", "Segment_4"), {"Segment_4": "nodule", "rib 3": None}),
        (named("Segment_1"), None),
        (named(("lung", NODULE)), None),
        (plain(1, 2, 4), None),
        (plain(9), None),
        (plain(7, 9), {"9": "nodule"}),
        (plain(5), None),
    ],
)
def test_segments_are_matched_without_voxels_as_with_them(segmentation, explicit):
    """The table that the panel shows is what the job will do."""
    mapped = map_to_model(segmentation, SCHEME, explicit, "nodule")
    known = [(s, e.voxels) for s, e in zip(segmentation.segments, mapped.report.entries)]
    assert match_segments(known, SCHEME, "nodule", explicit) == list(mapped.report.entries)
    ones = [e.target for e in match_segments([(s, 1) for s, _ in known], SCHEME, "nodule", explicit)]
    assert ones == [e.target for e in mapped.report.entries], "how many voxels there are does not matter"
    sent = {e.segment: e.target for e in mapped.report.entries}
    again = map_to_model(segmentation, SCHEME, sent, "nodule")
    np.testing.assert_array_equal(again.class_map, mapped.class_map)


def test_matching_of_what_is_not_drawn_yet():
    segments = [(Segment("Lung", 1), 0), (Segment("Segment_2", 2), 50), (Segment("heart", 3), 0)]
    assert [(e.target, e.how) for e in match_segments(segments, SCHEME, "nodule")] == [
        ("lung", "name"),
        ("nodule", "only-segment"),
        (None, None),
    ]
    assert match_segments([], SCHEME, "nodule") == []
    nothing = match_segments([(Segment("heart", 1), 9)], SCHEME, "nodule")
    assert [(e.target, e.voxels) for e in nothing] == [(None, 9)], "that nothing fits is no error here"
    with pytest.raises(BadInput, match="no class of this model"):
        match_segments(segments, SCHEME, "nodule", {"Lung": "lungs and heart"})


def test_real_label_maps(shared_data):
    import nibabel

    folder = shared_data / "inputs" / "abdomen" / "abdomen_pelvis_ct_3mm"
    image = nibabel.load(folder / "example_seg_fast_force_split.nii.gz")
    array = np.asarray(image.dataobj)
    segments = tuple(Segment(str(v), int(v)) for v in np.unique(array) if v)
    seg = Segmentation((array,), image.affine, segments)
    assert len(segments) == 61
    with pytest.raises(BadInput, match="label 11 and 50 more unknown; the model knows body"):
        map_to_model(seg, SCHEME, target="nodule")
    mapped = map_to_model(seg, SCHEME, {"10": "lung", "11": "lung", "14": "lung"}, target="nodule")
    np.testing.assert_array_equal(mapped.class_map == VALUE["lung"], np.isin(array, (10, 11, 14)))

    image = nibabel.load(sorted((shared_data / "lidc_nodules_51" / "labels").glob("*.nii.gz"))[0])
    array = np.asarray(image.dataobj)
    mapped = map_to_model(Segmentation((array,), image.affine, (Segment("1", 1),)), SCHEME, target="nodule")
    np.testing.assert_array_equal(mapped.class_map == VALUE["nodule"], array == 1)
