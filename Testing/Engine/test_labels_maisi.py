"""MAISI's label scheme and the map from TotalSegmentator's classes to it.

The oracles are MAISI's published ids (spelled out below where they count) and TotalSegmentator's own table of names.
"""

from __future__ import annotations

import csv
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels import map_to_model, read_label_map
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.resources import resource_path
from SynthDiffusionLib.schemas import first_problem
from SynthDiffusionLib.volumes import Code, Segment, Segmentation, read_segmentation

DATA = Path(__file__).resolve().parents[3] / "shared/data/inputs/abdomen"
NAME = "totalsegmentator-v2-to-maisi"
MAP = json.loads(resource_path("LabelMaps", f"{NAME}.json").read_text(encoding="utf-8"))
SCHEME = load_scheme("maisi-ct")
LEFT, RIGHT = Code("SCT", "7771000", "Left"), Code("SCT", "24028007", "Right")

# TotalSegmentator's name, its number in the task "total", MAISI's id.
KNOWN = [
    ("spleen", 1, 3),
    ("kidney_right", 2, 5),
    ("kidney_left", 3, 14),
    ("gallbladder", 4, 10),
    ("liver", 5, 1),
    ("pancreas", 7, 4),
    ("adrenal_gland_right", 8, 8),
    ("adrenal_gland_left", 9, 9),
    ("lung_upper_lobe_left", 10, 28),
    ("lung_lower_lobe_right", 14, 32),
    ("trachea", 16, 57),
    ("small_bowel", 18, 19),
    ("urinary_bladder", 21, 15),
    ("kidney_cyst_left", 23, 116),
    ("kidney_cyst_right", 24, 117),
    ("sacrum", 25, 97),
    ("vertebrae_S1", 26, 127),
    ("vertebrae_L5", 27, 33),
    ("vertebrae_C1", 50, 56),
    ("heart", 51, 115),
    ("iliac_vena_left", 67, 60),
    ("clavicula_right", 74, 92),
    ("hip_left", 77, 95),
    ("autochthon_right", 87, 105),
    ("brain", 90, 22),
    ("skull", 91, 120),
    ("rib_left_1", 92, 63),
    ("rib_left_12", 103, 74),
    ("rib_right_12", 115, 86),
    ("costal_cartilages", 117, 114),
]


def segmentation(*segments):
    array = np.zeros((len(segments), 2, 2), np.uint8)
    for i, segment in enumerate(segments):
        array[i] = segment.value
    return Segmentation((array,), np.eye(4), tuple(segments))


def ids(*segments, labels=None):
    found = map_to_model(segmentation(*segments), SCHEME, labels).class_map[:, 0, 0]
    return [int(v) for v in found]


def test_the_ids_are_maisis():
    dummies = {2, 16, 18, 20, 21, 129, 130, 131}
    assert {c.value for c in SCHEME.classes} == (set(range(1, 133)) - dummies) | {200}
    lesions = {"lung tumor": 23, "pancreatic tumor": 24, "hepatic tumor": 26, "colon cancer primaries": 27}
    lesions |= {"left kidney cyst": 116, "right kidney cyst": 117, "bone lesion": 128, "airway": 132}
    assert {name: SCHEME[name].value for name in lesions} == lesions
    assert all(c.optional for c in SCHEME.classes)
    assert len({c.color for c in SCHEME.classes}) == len(SCHEME.classes)


def test_the_body_lies_under_everything_and_lesions_over_their_organs():
    assert SCHEME.classes[0].name == "body"
    assert [c.name for c in SCHEME.classes if c.derive == "outline"] == ["body"]
    order = [c.name for c in SCHEME.classes]
    for c in SCHEME.classes:
        assert all(order.index(outer) < order.index(c.name) for outer in c.within)


def test_the_shipped_map_has_its_form_and_leads_to_classes_of_the_scheme():
    assert first_problem(MAP, "named-label-map") is None
    assert set(MAP["classes"].values()) <= {c.name for c in SCHEME.classes}
    assert set(MAP["values"].values()) <= set(MAP["classes"])
    assert len(MAP["values"]) == 117
    assert not set(MAP["classes"]) & set(MAP["unmapped"])


@pytest.mark.parametrize(("name", "value", "maisi"), KNOWN)
def test_by_name_by_value_and_as_slicer_writes_it(name, value, maisi):
    labels = read_label_map(NAME)
    assert MAP["values"][str(value)] == name
    assert SCHEME[MAP["classes"][name]].value == maisi
    assert ids(Segment(name, 7)) == [maisi]
    assert ids(Segment(name, 7), labels=labels) == [maisi]
    assert ids(Segment(str(value), value), labels=labels) == [maisi]
    assert ids(Segment(name.replace("_", " ").upper(), 7)) == [maisi]


def test_every_class_of_the_task_total_goes_by_its_name_where_the_map_says():
    names = list(MAP["values"].values())
    assert ids(*(Segment(name, i + 1) for i, name in enumerate(names))) == [
        SCHEME[MAP["classes"][name]].value for name in names
    ]


@pytest.mark.parametrize(
    ("segment", "maisi"),
    [
        (Segment("a", 1, type=Code("SCT", "10200004", "Liver")), 1),
        (Segment("a", 1, type=Code("SCT", "64033007", "Kidney"), type_modifier=LEFT), 14),
        (Segment("a", 1, type=Code("SCT", "64033007", "Kidney"), type_modifier=RIGHT), 5),
        (Segment("Left kidney", 1, type=Code("SCT", "64033007", "Kidney")), 14),
        (Segment("kidney R", 1, type=Code("SCT", "64033007", "Kidney")), 5),
        (Segment("a", 1, type=Code("SCT", "24915002", "Seventh rib"), type_modifier=RIGHT), 81),
        (Segment("a", 1, type=Code("SCT", "45653009", "Upper lobe of lung"), type_modifier=LEFT), 28),
        (Segment("a", 1, type=Code("SCT", "23215003", "T12 vertebra")), 38),
        (
            Segment(
                "a",
                1,
                type=Code("SCT", "367643001", "Cyst"),
                region=Code("SCT", "64033007", "Kidney"),
                region_modifier=LEFT,
            ),
            116,
        ),
        (Segment("a", 1, type=Code("SCT", "108369006", "Neoplasm"), region=Code("SCT", "10200004", "Liver")), 26),
        (Segment("a", 1, type=Code("SCT", "4147007", "Mass"), region=Code("SCT", "39607008", "Lung")), 23),
        (Segment("liver tumour", 1, type=Code("SCT", "108369006", "Neoplasm")), 26),
    ],
)
def test_by_code_side_and_region(segment, maisi):
    assert ids(segment) == [maisi]


@pytest.mark.parametrize(
    ("name", "maisi"),
    [
        ("Lung nodule", 23),
        ("pulmonary nodules", 23),
        ("liver tumour", 26),
        ("hepatic lesion", 26),
        ("pancreatic cancer", 24),
        ("bone metastases", 128),
        ("left renal cyst", 116),
        ("bronchi", 132),
        ("liver vessels", 25),
        ("T12", 38),
        ("kidney_l", 14),
        ("trunk", 200),
    ],
)
def test_words_of_users(name, maisi):
    assert ids(Segment(name, 1)) == [maisi]


@pytest.mark.parametrize(
    "name", ["kidney", "rib", "left rib", "vertebra", "left rib 13", "femur 2", "left lung middle lobe"]
)
def test_a_name_that_leaves_the_choice_is_not_guessed(name):
    found = map_to_model(segmentation(Segment("liver", 1), Segment(name, 2)), SCHEME)
    assert found.report.left_out == [name]
    if name in ("kidney", "rib", "femur 2"):
        assert "it may be" in found.report.entries[1].note


def test_a_code_without_a_side_is_not_guessed():
    kidney = Segment("a", 2, type=Code("SCT", "64033007", "Kidney"))
    mass = Segment("b", 3, type=Code("SCT", "4147007", "Mass"), region=Code("SCT", "12738006", "Brain"))
    assert map_to_model(segmentation(Segment("liver", 1), kidney, mass), SCHEME).report.left_out == ["a", "b"]


def test_what_maisi_lacks_is_left_out_with_the_reason():
    labels = read_label_map(NAME)
    found = map_to_model(segmentation(Segment("heart_myocardium", 1), Segment("patella", 2)), SCHEME, labels)
    assert found.report.left_out == ["patella"]
    assert "no class for this bone" in found.report.entries[1].note


def test_several_to_one_keep_their_voxels():
    chambers = [Segment(f"heart_{n}", i + 1) for i, n in enumerate(("myocardium", "atrium_left", "ventricle_right"))]
    found = map_to_model(segmentation(*chambers), SCHEME, read_label_map(NAME))
    assert (found.class_map == 115).all()
    assert list(found.report.merged) == ["heart"]


def test_values_do_not_count_where_segments_have_names():
    liver_first = [Segment("liver", 1), Segment("something else", 5)]
    found = map_to_model(segmentation(*liver_first), SCHEME, read_label_map(NAME))
    assert [e.target for e in found.report.entries] == ["liver", None]


def test_the_map_is_refused_by_another_model():
    with pytest.raises(BadInput, match="not for this model"):
        map_to_model(segmentation(Segment("liver", 1)), load_scheme("lung-nodule-ct"), read_label_map(NAME))


def test_many_classes_are_told_in_few_lines():
    names = list(MAP["values"].values())
    found = map_to_model(segmentation(*(Segment(n, i + 1) for i, n in enumerate(names))), SCHEME)
    lines = found.report.lines()
    assert len(lines) == 1
    assert lines[0].startswith("117 segments -> 117 classes (by name), such as 'spleen' -> spleen")


def test_117_segments_are_matched_at_once():
    segments = [Segment(f"unknown thing {i}" if i % 2 else n, i + 1) for i, n in enumerate(MAP["values"].values())]
    start = time.perf_counter()
    map_to_model(segmentation(*segments), SCHEME)
    assert time.perf_counter() - start < 5  # 0.1 s when this was written


@pytest.fixture
def abdomen():
    file = DATA / "abdomen_pelvis_ct_3mm/example_seg_fast_force_split.nii.gz"
    if not file.is_file():
        pytest.skip(f"the abdomen CT's segmentation is not at {file}")
    return read_segmentation(file)


def _names():
    with open(DATA / "label_names_total.csv", encoding="utf-8", newline="") as file:
        return {int(row["value"]): row["name"] for row in csv.DictReader(file)}


def test_real_abdomen_nothing_is_lost(abdomen):
    names = _names()
    assert {int(v): n for v, n in MAP["values"].items()} == names
    found = map_to_model(abdomen, SCHEME, read_label_map(NAME))
    source = abdomen.layers[0]
    values = [int(v) for v in np.unique(source) if v]
    assert len(values) == 61
    assert len(found.given) == 61
    for value in values:
        target = SCHEME[MAP["classes"][names[value]]].value
        assert (found.class_map[source == value] == target).all()
        assert (found.class_map == target).sum() == (source == value).sum()
    assert (found.class_map[source == 5] == 1).all()
    assert ((found.class_map == 0) == (source == 0)).all()


def test_real_abdomen_with_names_needs_no_map(abdomen):
    names = _names()
    named = replace(abdomen, segments=tuple(replace(s, name=names[s.value]) for s in abdomen.segments))
    by_map = map_to_model(abdomen, SCHEME, read_label_map(NAME))
    assert np.array_equal(map_to_model(named, SCHEME).class_map, by_map.class_map)


def test_real_abdomen_without_names_or_map_is_refused_and_not_guessed(abdomen):
    with pytest.raises(BadInput, match="no names"):
        map_to_model(abdomen, SCHEME)
