"""Recognising what a segment is by its name or its code."""

from __future__ import annotations

import csv
import json

import pytest

from SynthDiffusionLib.labels import LabelScheme
from SynthDiffusionLib.labels.matching import class_by_code, class_by_name, name_words, says_nothing, side_of
from SynthDiffusionLib.resources import resource_path
from SynthDiffusionLib.volumes import Code, Segment

SCHEME = LabelScheme.from_json(
    json.loads(resource_path("LabelSchemes", "lung-nodule-ct.json").read_text(encoding="utf-8"))
)


def by_name(name):
    found = class_by_name(name, SCHEME)
    return found.name if found else None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lung", "lung"),
        ("  LUNGS ", "lung"),
        ("Left lung", "lung"),
        ("lung_left", "lung"),
        ("LeftLung", "lung"),
        ("Lung, left", "lung"),
        ("left-lung", "lung"),
        ("lung_upper_lobe_left", "lung"),
        ("Nodule", "nodule"),
        ("Nodule 2", "nodule"),
        ("nodule_17", "nodule"),
        ("Nodule2", "nodule"),
        ("Nodule (lung)", "nodule"),
        ("Pulmonary nodules", "nodule"),
        ("rib_left_7", "bone"),
        ("vertebrae_T12", "bone"),
        ("vertebra", "bone"),
        ("Scapulae", "bone"),
        ("body outline", "body"),
        ("Body", "body"),
        ("remove", "remove"),
        ("Remove Nodule", "remove"),
        # Words of a class in the name of something else do not make it that class.
        ("brachiocephalic_trunk", None),
        ("pulmonary_vein", None),
        ("lung vessels", None),
        ("left", None),
        ("heart", None),
        ("Segment_1", None),
        ("T12", None),
        ("3", None),
        ("", None),
        ("___", None),
    ],
)
def test_names(name, expected):
    assert by_name(name) == expected


def test_every_name_and_synonym_of_a_shipped_scheme_leads_to_its_own_class():
    for path in resource_path("LabelSchemes").glob("*.json"):
        scheme = LabelScheme.from_json(json.loads(path.read_text(encoding="utf-8")))
        for c in scheme.classes:
            for name in (c.name, *c.synonyms):
                for spelling in (name, name.upper(), name.replace(" ", "_"), name + " 1"):
                    assert class_by_name(spelling, scheme) is c, (path.name, spelling)
            for code in c.codes:
                found = class_by_code(code, scheme, side_of(c.name), c.region, c.name)
                assert code.value == "85756007" or found is c, (path.name, code)


@pytest.mark.parametrize(
    ("a", "b"),
    [("Masses", "mass"), ("vertebrae", "Vertebra"), ("Bodies", "body"), ("pelvis", "PELVIS"), ("Föten", "foten")],
)
def test_spellings_that_agree(a, b):
    assert name_words(a) == name_words(b)


def test_codes():
    def by_code(*code):
        found = class_by_code(Code(*code), SCHEME)
        return found.name if found else None

    assert by_code("SCT", "39607008", "Lung") == "lung"
    assert by_code("SCT", "44029006", "whatever the meaning says") == "lung"
    assert by_code("SCT", "27925004", "Nodule") == "nodule"
    assert by_code("SCT", "80891009", "Heart") is None
    assert by_code("RADLEX", "39607008", "another scheme") is None
    # Slicer writes this one on every segment whose type nobody has chosen.
    assert by_code("SCT", "85756007", "Tissue") is None
    assert class_by_code(None, SCHEME) is None


def test_codes_of_older_dicom_objects():
    pytest.importorskip("pydicom")
    for value, expected in (("T-28000", "lung"), ("M-03010", "nodule"), ("T-32000", None)):  # the last is the heart
        found = class_by_code(Code("SRT", value, ""), SCHEME)
        assert (found.name if found else None) == expected


def test_a_segment_without_a_telling_name_or_code():
    tissue = Code("SCT", "85756007", "Tissue")
    for name in ("Segment_1", "segment 12", "Label 3", "mask", "7", "", "ROI-2"):
        assert says_nothing(Segment(name, 1)) and says_nothing(Segment(name, 1, type=tissue))
        assert not says_nothing(Segment(name, 1, type=Code("SCT", "80891009", "Heart")))
    for name in ("liver", "Segment of liver", "tumor mask", "s"):
        assert not says_nothing(Segment(name, 1))


def test_names_of_totalsegmentator(shared_data):
    with open(shared_data / "inputs" / "abdomen" / "label_names_total.csv", encoding="utf-8") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    found = {c: [n for n in names if by_name(n) == c] for c in ("body", "lung", "bone", "nodule", "remove")}
    assert sorted(found["lung"]) == sorted(n for n in names if n.startswith("lung_"))
    bones = ("rib_", "vertebrae_", "sternum", "scapula", "clavicula", "sacrum", "skull", "hip_", "femur", "humerus")
    assert found["bone"] and all(n.startswith(bones) for n in found["bone"])
    assert {n for n in names if n.startswith(("rib_", "vertebrae_"))} <= set(found["bone"])
    assert found["body"] == found["nodule"] == found["remove"] == []
