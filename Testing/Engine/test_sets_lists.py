"""Sets that must be apart, lists of training patients, and names of classes."""

from __future__ import annotations

import csv
import json

import pytest
from tiny_sets import affine, ct_array, write_set

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.sets.image_set import (
    Frame,
    ImageSet,
    SetCase,
    check_apart,
    check_unseen,
    parse_classes,
    read_set,
)
from SynthDiffusionLib.volumes import Volume, write_volume

CT = Frame("CT", None, (-1000.0, 1000.0))


@pytest.fixture
def real(tmp_path):
    return write_set(tmp_path / "real")


# Sets apart


def test_a_patient_in_both_sets(real, tmp_path):
    one = read_set("real", real, CT)
    with pytest.raises(BadInput, match="10 patients are in the real and in the training set, first 'p00'"):
        check_apart(one, read_set("training", real, CT))
    other = write_set(tmp_path / "other", 10, names="q{:02d}", first=50)
    check_apart(one, read_set("training", other, CT))
    (other / "copied.nii.gz").write_bytes((real / "p03.nii.gz").read_bytes())
    with pytest.raises(BadInput, match="'copied.nii.gz' of the training set holds the same image as 'p03.nii.gz'"):
        check_apart(one, read_set("training", other, CT))
    (other / "copied.nii.gz").unlink()
    write_volume(Volume(ct_array(3), affine()), other / "saved_again.nrrd")
    with pytest.raises(BadInput, match="'saved_again.nrrd'.*the same image as 'p03.nii.gz'"):
        check_apart(one, read_set("training", other, CT))


@pytest.mark.parametrize("other", ["pat_{:d}", "PAT_{:d}_0000", "pAt_{:d}_some-model_seed4"])
def test_a_patient_in_both_sets_under_another_spelling_is_refused_as_by_a_list(tmp_path, other):
    one = read_set("training", write_set(tmp_path / "one", 10, names="Pat_{:d}"), CT)
    two = read_set("validation", write_set(tmp_path / "two", 10, names=other, first=50), CT)
    assert other.format(50) in {c.name for c in two.cases}
    with pytest.raises(
        BadInput, match="in the training and in the validation set, first 'Pat_5.*in the validation set"
    ):
        check_apart(read_set("training", write_set(tmp_path / "three", 10, names="Pat_{:d}", first=50), CT), two)
    check_apart(one, two)
    (tmp_path / "list.txt").write_text("Pat_52\n")
    with pytest.raises(BadInput, match="1 patient of the validation set is in the training list"):
        check_unseen(two, tmp_path / "list.txt")


@pytest.mark.parametrize(
    "own, listed, same",
    [
        ("Pat-1", "Pat_1", True), ("Pat 1", "Pat_1", True), ("pat_01", "Pat_1", True), ("Pat1", "Pat_1", True),
        ("Pat_1", "Pat_1_CT", True), ("PAT.007", "pat7", True), ("1_2", "12", False), ("Pat_1", "Pat_10", False),
        ("Pat_11", "Pat_1", False), ("a_b", "ab", False), ("p0", "p00", True), ("p1", "q1", False),
    ],
)  # fmt: skip
def test_names_that_may_be_of_one_patient_are_told_by_both_checks(tmp_path, own, listed, same):
    frame, array = CT, ct_array(1)

    def one_case(role: str, name: str, number: int) -> ImageSet:
        case = SetCase(name, name, tmp_path / f"{name}.nii.gz", f"{role}{number}", array + number, None, affine())
        return ImageSet(role, tmp_path, (case,), (), frame, {})

    tested, events = one_case("validation", own, 1), []
    check_apart(one_case("training", listed, 2), tested, events.append)
    (tmp_path / "list.txt").write_text(f"{listed}\n")
    assert [bool(events), bool(check_unseen(tested, tmp_path / "list.txt").perhaps)] == [same, same]
    if same:
        said = f"validation: Perhaps the same patient under another name: '{own}' ('{listed}' in the training set)"
        assert events[0]["message"].startswith(said) and events[0]["report"]


def test_what_is_told_of_two_sets_stands_in_the_report():
    from SynthDiffusionLib.evaluation.sets.results import told_lines

    settings = {"told": ["validation: Perhaps the same."], "trained_on": {"sentences": ["The list."]}}
    assert told_lines({"settings": settings}) == ["validation: Perhaps the same.", "The list."]
    assert told_lines({"settings": {"told": 3}}) == []


def test_files_that_repeat_are_told(real):
    (real / "p09.nii.gz").write_bytes((real / "p03.nii.gz").read_bytes())
    events: list[dict] = []
    found = read_set("synthetic", real, CT, on_event=events.append)
    assert found.summary()["same_files"] == 1 and len(found.cases) == 10
    assert events[-1] == {"event": "warning", "message": "synthetic: 1 file repeat another one exactly"}


MODEL = {"training": {"split": {"train": ["p03"], "validation": ["x"], "test": ["p04"]}}}
PREPARED = {"split": {"train": ["a"], "test": ["p04"]}, "cases": {"a": {"patient": "p03"}, "p04": {"patient": "p04"}}}
DECATHLON = {"training": [{"image": "./imagesTr/p03.nii.gz", "label": "./labelsTr/p03.nii.gz"}]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.json", json.dumps(MODEL)),
        ("dataset.json", json.dumps(PREPARED)),
        ("msd.json", json.dumps(DECATHLON)),
        ("list.json", json.dumps(["q", "p03"])),
        ("list.csv", "patient\nq\np03\n"),
        ("semicolons.csv", "Fold;Case\n1;p03.nii.gz\n"),
        ("list.txt", "q\n\n p03 \n"),
        ("files.txt", "images/q.nii.gz\r\nC:\\data\\p03.nii.gz\r\n"),
        ("objects.json", json.dumps([{"image": "imagesTr/q.nii.gz"}, {"image": "a/p03.nii.gz", "label": "b/p03.nii"}])),
        ("channels.json", json.dumps([{"image": ["i/p03_0000.nii.gz", "i/p03_0001.nii.gz"]}])),
        ("nnunet.txt", "imagesTr/p03_0000.nii.gz\n"),
        ("letters.txt", "Q\nP03\n"),
        ("columns.txt", "# who was trained on\n p03 , train\nq , train\n"),
        ("ids.csv", "id,age\nq,50\np03,60\n"),
        ("cases.csv", "case,patient\nsomething,p03\n"),
    ],
)
def test_every_kind_of_training_list(real, tmp_path, name, content):
    tested = read_set("real", real, CT)
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(BadInput, match=f"1 patient of the real set is in the training list '{name}', first 'p03'"):
        check_unseen(tested, tmp_path / name)
    (tmp_path / name).write_text(content.replace("p03", "z03").replace("P03", "z03"), encoding="utf-8")
    assert check_unseen(tested, tmp_path / name).entries >= 1  # p04 is a test case: no leak


def test_another_scan_of_a_training_patient_is_a_leak(tmp_path):
    """The list names cases; what must not be shared are patients."""
    folder = write_set(tmp_path / "s", 10, names="p{:02d}_scan2")
    tested = read_set("real", folder, CT, patient_pattern="(p\\d+)_")
    (tmp_path / "list.txt").write_text("p03_scan1\n")
    found = check_unseen(tested, tmp_path / "list.txt")
    assert (found.entries, found.perhaps) == (1, (("p03_scan2", "p03_scan1"),))
    with pytest.raises(BadInput, match="first 'p03'"):
        check_unseen(tested, tmp_path / "list.txt", patient_pattern="(p\\d+)_")
    table = tmp_path / "t.csv"
    with table.open("w", newline="") as stream:
        rows = [("case", "patient"), ("p03_scan1", "p03"), *((f"p{i:02d}_scan2", f"p{i:02d}") for i in range(10))]
        csv.writer(stream).writerows(rows)
    with pytest.raises(BadInput, match="first 'p03'"):
        check_unseen(read_set("real", folder, CT, patients=table), tmp_path / "list.txt", patients=table)


def test_upper_case_and_channels_in_the_set_are_the_same_patient_too(tmp_path):
    tested = read_set("real", write_set(tmp_path / "s", 10, names="STS_{:03d}_0000"), CT)
    (tmp_path / "list.txt").write_text("sts_003\n")
    with pytest.raises(BadInput, match="first 'STS_003_0000'"):
        check_unseen(tested, tmp_path / "list.txt")


def test_a_list_that_names_cases_by_their_patient_tells_other_cases_of_it(tmp_path):
    tested = read_set("real", write_set(tmp_path / "s", 10, names="x{}_scan2"), CT)
    (tmp_path / "list.csv").write_text("case,patient\nx3_scan1,x3\n")
    with pytest.raises(BadInput, match="first 'x3_scan2'"):
        check_unseen(tested, tmp_path / "list.csv")
    (tmp_path / "list.csv").write_text("case,patient\nx_scan1,x\n")  # x is not the beginning of x3_scan2 up to a _
    assert check_unseen(tested, tmp_path / "list.csv").perhaps == ()


@pytest.mark.parametrize("names, listed", [("STS_{:03d}_MR", "STS_003"), ("STS_{:03d}", "STS_003_CT")])
def test_what_may_be_the_same_patient_is_told_by_name(tmp_path, names, listed):
    tested = read_set("real", write_set(tmp_path / "s", 10, names=names), CT)
    (tmp_path / "list.txt").write_text(f"{listed}\nother\n")
    events: list[dict] = []
    found = check_unseen(tested, tmp_path / "list.txt", on_event=events.append)
    assert found.perhaps == ((names.format(3), listed),)
    told = " ".join(e["message"] for e in events)
    assert f"Perhaps the same patient under another name: '{names.format(3)}' ('{listed}' on the list)" in told
    # What was compared, so that names of different kinds are seen.
    assert "'list.txt' has 2 entries" in told and f"'{listed}', those of the set like '{names.format(0)}'" in told


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b"{"), ("b.json", b"3"), ("c.json", b"{}"), ("d.json", b'{"training": 3}'), ("e.csv", b"x\n1\n"),
        ("f.txt", b"\n\n"), ("g.txt", b"\xff\xfe\xff"), ("h.csv", b""), ("i.json", b"[" * 100000), ("j.json", b"[]"),
    ],
)  # fmt: skip
def test_no_training_list(real, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match="cannot be read|names no patient"):
        check_unseen(read_set("real", real, CT), tmp_path / name)


def test_class_names(tmp_path):
    assert parse_classes("1=liver, 2 = left kidney") == {1: "liver", 2: "left kidney"}
    table = tmp_path / "classes.csv"
    table.write_text("\ufeffid;name\n1;liver\n2;spleen\n", encoding="utf-8")
    assert parse_classes(str(table)) == {1: "liver", 2: "spleen"}
    for text in ("", "liver", "1=", "x=liver", "²=liver", str(tmp_path), str(tmp_path / "no.csv")):
        with pytest.raises(BadInput, match="names no classes"):
            parse_classes(text)
    with pytest.raises(BadInput, match="value 1 twice"):
        parse_classes("1=liver,1=spleen")
    table.write_text("value,name\n1,a\nx,b\n")
    with pytest.raises(BadInput, match="names no classes"):
        parse_classes(str(table))
