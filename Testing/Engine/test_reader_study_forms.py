"""Forms: what is refused, which questions are shown, which answers fit; and the forms that are shipped."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest

from SynthDiffusionLib.cli import main
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.design import _form
from SynthDiffusionLib.reader_study.forms import TYPES, Form, answer_problem, load_form, shipped_forms
from SynthDiffusionLib.resources import resource_path
from SynthDiffusionLib.schemas import first_problem, read_json

OPTIONS = [{"value": v, "label": str(v)} for v in (1, 2, 3)]
SCALE = {"id": "a", "type": "scale", "text": "How good?", "options": OPTIONS, "required": True}


MANY = {"id": "m", "type": "multiple_choice", "text": "Which?", "options": OPTIONS, "required": True}


def form(*items: dict) -> Form:
    return Form.from_json({"id": "f", "title": "F", "items": list(items)})


def item(item_id: str, **fields) -> dict:
    return {"id": item_id, "type": "text", "text": "Why?", **fields}


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([], "no 'items'"),
        ([{"type": "text", "text": "x"}], "lacks its 'id'"),
        ([{"id": "a", "type": "text"}], "lacks 'text'"),
        ([{"id": "a", "text": "x"}], "type 'None' is unknown"),
        ([item("a", type="slider")], "'slider' is unknown"),
        ([SCALE, item("b"), item("a")], "two items have the id 'a'"),
        ([item("a", per="reader")], "'per' is 'reader'"),
        ([item("a", requird=True)], "Did you mean 'required'"),
        ([item("a", min=3, max=2)], "'min' is larger than 'max'"),
        ([item("a", show_if={"item": "b", "equals": 1})], "'b', which the form does not have"),
        ([SCALE, item("b", show_if={"item": "a"})], "exactly one of"),
        ([SCALE, item("b", show_if={"item": "a", "equals": 1, "at_least": 1})], "exactly one of"),
        ([item("a", show_if={"item": "a", "answered": True})], "in a circle: a -> a"),
        (
            [
                item("a", show_if={"item": "c", "answered": True}),
                item("b", show_if={"item": "a", "answered": True}),
                item("c", show_if={"item": "b", "answered": True}),
            ],
            "in a circle: a -> c -> b -> a",
        ),
        ([SCALE, item("b", per="study", show_if={"item": "a", "equals": 1})], "not asked at the same time"),
        ([{**SCALE, "options": OPTIONS[:1]}], "at least two 'options'"),
        ([{**SCALE, "options": [*OPTIONS, OPTIONS[0]]}], "two options have the value 1"),
        ([{**SCALE, "options": [{"value": "x", "label": "x"}, *OPTIONS]}], "needs a number"),
        ([{**SCALE, "type": "confidence"}], "a signed confidence needs negative values"),
        ([item("a", options=OPTIONS)], "takes no 'options'"),
        *(([{**MANY, "max": n}], "options are counted: give a whole number of at least 1") for n in (0, -1, 0.5, 1.5)),
        *(([item("p", type="point", max=n)], "points are counted") for n in (0, -1, 0.5)),
        *(([item("a", max=n)], "characters are counted") for n in (0, -3, 2.5)),
        *(([item("a", type=t, min=-1)], "at least 0") for t in ("text", "point")),
        ([{**MANY, "min": 0.5}], "'min' is 0.5, but options are counted"),
        ([{**MANY, "min": 4}], "more options than the 3 there are"),
        ([{**MANY, "min": 3, "max": 2}], "'min' is larger than 'max'"),
        ([item("p", type="point", min=2, max=1)], "'min' is larger than 'max'"),
        ([item("p", type="point", per="study")], "a point is marked in a volume"),
        ([item("a", min=20_000)], "a longer text than is allowed"),
        ([item("n", type="number", min=1, max=0)], "'min' is larger than 'max'"),
        ([item("n", type="number", step=0)], "'step' must be greater than 0"),
        ([item("n", type="number", step="1")], "'step' must be a number"),
        ([item("n", type="number", min=0, max=10, step=11)], "'step' is 11, more than from 'min' to 'max'"),
    ],
)
def test_a_form_with_a_fault_is_refused_by_name(items, said):
    with pytest.raises(BadInput) as caught:
        Form.from_json({"id": "f", "title": "F", "items": items})
    assert said in caught.value.one_line()


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"type": "multiple_choice", "options": OPTIONS, "min": 0, "max": 1}, [2]),
        ({"type": "multiple_choice", "options": OPTIONS, "min": 3, "max": 3.0}, [1, 2, 3]),
        ({"type": "point", "max": 1}, [{"volume": "v", "ras": [0, 0, 0]}]),
        ({"type": "text", "min": 1, "max": 1}, "x"),
        ({"type": "number", "min": 2, "max": 2, "step": 1}, 2),
        ({"type": "number", "min": -0.5, "max": 0.5, "step": 1}, 0),
    ],
)
def test_the_tightest_bounds_leave_an_answer(fields, answer):
    f = form({"id": "a", "text": "?", "required": True, **fields})
    assert f.problems({"a": answer}) == {} and f.problems({})


def test_study_form_and_a_design_refuse_a_question_that_cannot_be_answered(tmp_path, capsys):
    path = tmp_path / "form.json"
    path.write_text(json.dumps({"id": "f", "title": "F", "items": [{**MANY, "max": 0}]}))
    assert main(["study", "form", str(path)]) == 2
    assert "item 'm': 'max' is 0, but options are counted" in capsys.readouterr().err
    with pytest.raises(BadInput, match="'max' is 0, but options are counted"):
        _form(read_json(path), tmp_path)


def test_the_form_in_the_documentation_is_one():
    """It shows what a form can have, and each of its questions can be answered."""
    page = (Path(__file__).parents[2] / "Docs" / "READER_STUDIES.md").read_text(encoding="utf-8")
    start = page.index('    {"format": "synthdiffusion-form-1"')
    data = json.loads(page[start : page.index("\n\n", start)])
    assert first_problem(data, "form") is None
    f = Form.from_json(data)
    assert {"confidence", "multiple_choice", "number", "point", "choice", "text"} <= {i.type for i in f.items}
    assert any(i.show_if for i in f.items) and "Resources/Schemas/form.schema.json" in page
    answers = {"score": 2, "flaws": ["noise", "other"], "which": "?", "diameter": 8.5, "margin": "smooth"}
    answers["where"] = [{"volume": "v", "ras": [1, 2, 3]}]
    assert f.problems(answers) == {} and len(f.visible(answers)) == len(answers)
    assert [i.id for i in f.visible({"score": -1})] == ["score", "margin", "diameter"]
    with pytest.raises(BadInput) as caught:
        Form.from_json({})
    assert "Docs/READER_STUDIES.md, Forms, shows one" in caught.value.hint


def test_a_question_is_shown_only_where_its_condition_and_that_of_its_condition_hold():
    f = form(
        SCALE,
        item("b", type="boolean", show_if={"item": "a", "at_least": 2}),
        item("c", show_if={"item": "b", "equals": True}),
    )
    assert [i.id for i in f.visible({})] == ["a"]
    assert [i.id for i in f.visible({"a": 2})] == ["a", "b"]
    assert [i.id for i in f.visible({"a": 2, "b": True})] == ["a", "b", "c"]
    # The answer to b is left over from before a was changed.
    assert [i.id for i in f.visible({"a": 1, "b": True})] == ["a"]
    assert f.cleaned({"a": 1, "b": True, "c": "  "}) == {"a": 1}
    assert f.problems({"a": 1, "b": True}) == {"b": "It is not shown."}


@pytest.mark.parametrize(
    ("rule", "answer", "shown"),
    [
        ({"equals": 2}, 2, True), ({"equals": 2}, 3, False), ({"equals": 1}, None, False),
        ({"in": [1, 3]}, 3, True), ({"in": [1, 3]}, 2, False),
        ({"at_least": 2}, 2, True), ({"at_least": 2}, 1, False), ({"at_most": 2}, 3, False), ({"at_most": 2}, 1, True),
        ({"answered": True}, 1, True), ({"answered": True}, None, False), ({"answered": False}, None, True),
    ],
)  # fmt: skip
def test_conditions(rule, answer, shown):
    f = form(SCALE, item("b", show_if={"item": "a", **rule}))
    assert (len(f.visible({"a": answer})) == 2) is shown


def test_what_is_asked_of_a_study_is_not_asked_of_a_case():
    f = form(SCALE, item("end", per="study", required=True))
    assert f.problems({"a": 1}) == {}
    assert f.problems({}, per=("study",)) == {"end": "An answer is needed."}


@pytest.mark.parametrize(
    ("fields", "good", "bad"),
    [
        ({"type": "scale", "options": OPTIONS}, [1, 3], [4, "1", True]),
        ({"type": "choice", "options": [{"value": "x", "label": "X"}, {"value": 1, "label": "1"}]}, ["x", 1], ["y"]),
        (
            {"type": "multiple_choice", "options": OPTIONS, "min": 1, "max": 2},
            [[1], [1, 3]],
            [1, [1, 1], [4], [1, 2, 3]],
        ),
        ({"type": "forced_choice", "per": "pair"}, ["left", "right"], ["both", 1]),
        ({"type": "text", "max": 5, "min": 2}, ["abc"], ["abcdef", "a", 5, "a\0b", "ab\ud800"]),
        ({"type": "number", "min": 0, "max": 10}, [0, 2.5], [-1, 11, "3", True, float("nan")]),
        ({"type": "boolean"}, [True, False], [1, "yes"]),
        (
            {"type": "point", "max": 1},
            [[{"volume": "v1", "ras": [1, 2.5, -3]}]],
            [[{"volume": "v1", "ras": [1, 2]}], [{"ras": [1, 2, 3]}], [{"volume": "v", "ras": [0, 0, 0]}] * 2],
        ),
        ({"type": "info"}, [None], ["x"]),
    ],
)
def test_answers(fields, good, bad):
    asked = form({"id": "a", "text": "x", **fields}, SCALE | {"id": "other"}).items[0]
    assert [answer_problem(asked, v) for v in good] == [None] * len(good)
    assert all(answer_problem(asked, v) for v in bad)
    assert fields["type"] in TYPES


def test_a_required_question_needs_an_answer_where_it_is_shown():
    f = form(SCALE, item("b", required=True, show_if={"item": "a", "equals": 3}))
    assert set(f.problems({})) == {"a"}
    assert set(f.problems({"a": 3, "b": " "})) == {"b"}
    assert f.problems({"a": 2}) == {}


# The forms that are shipped


def test_the_shipped_forms_are_those_of_the_issue():
    assert set(shipped_forms()) == {
        "turing",
        "forced-choice",
        "volume-appearance-3d",
        "image-quality",
        "mask-adherence",
    }


@pytest.mark.parametrize("name", sorted(shipped_forms()))
def test_shipped_forms_fit_the_schema_and_name_their_source(name):
    path = shipped_forms()[name]
    assert first_problem(read_json(path), "form") is None
    read = load_form(path)
    assert read.id == name and read.source
    # FHIR: a linkId has at most 255 characters, and no blank is a good idea.
    assert all(i.id.isidentifier() for i in read.items)


def test_the_schema_refuses_what_the_module_refuses():
    data = read_json(shipped_forms()["turing"])
    for change in (
        lambda d: d.pop("title"),
        lambda d: d["items"][0].pop("id"),
        lambda d: d["items"][0].update(type="slider"),
        lambda d: d["items"][0].update(colour="red"),
        lambda d: d["items"][1]["show_if"].update(equals=3),
    ):
        bad = copy.deepcopy(data)
        change(bad)
        assert first_problem(bad, "form") is not None
        with pytest.raises(BadInput):
            Form.from_json(bad)


def test_the_turing_form_has_six_signed_levels_and_asks_for_clues_only_of_synthetic_ones():
    f = load_form(shipped_forms()["turing"])
    score = f.item("score")
    assert [o.value for o in score.options] == [-3, -2, -1, 1, 2, 3] and score.required
    assert [i.id for i in f.visible({"score": -1})] == ["score"]
    assert {"clues", "clue_text", "clue_points"} <= {i.id for i in f.visible({"score": 1})}
    wanted = {"texture", "noise", "edges", "anatomy", "slices", "contrast", "other"}
    assert {o.value for o in f.item("clues").options} == wanted


def test_the_appearance_form_has_three_questions_with_four_described_steps():
    f = load_form(shipped_forms()["volume-appearance-3d"])
    scales = [i for i in f.items if i.type == "scale"]
    assert [i.id for i in scales] == ["realistic_appearance", "slice_consistency", "anatomic_correctness"]
    assert all([o.value for o in i.options] == [1, 2, 3, 4] for i in scales)
    assert "Khader" in f.source and "10.1038/s41598-023-34341-2" in f.source


def test_a_damaged_form_file_is_named(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"id": "x", "id": "y"}', encoding="utf-8")
    with pytest.raises(BadInput, match="the key 'id' is there twice"):
        load_form(path)
    path.write_text(json.dumps({"id": "x", "title": "X", "items": [item("a"), item("a")]}), encoding="utf-8")
    with pytest.raises(BadInput, match=r"mine\.json.*two items"):
        load_form(path)


def test_every_schema_of_the_reader_study_is_a_schema():
    from jsonschema import Draft202012Validator

    for name in ("form", "study-design", "study"):
        Draft202012Validator.check_schema(read_json(resource_path("Schemas", f"{name}.schema.json")))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"code": "SCT:1"}, "'code' must be an object"),
        ({"text": "half a character \ud800"}, "holds half a character"),
        ({"text": "a\0b"}, "'items.0..text' holds the character NUL"),
        ({"id": "a" * 81}, "'id' is longer than 80"),
        ({"id": "a\nb"}, "item 'a.nb': .* do not print"),
        ({"type": "info", "required": True}, "'required', but an 'info' takes no answer"),
        ({"type": "info"}, "it asks nothing"),
        ({"help": 3}, "'help' must be text"),
        (
            {"type": "scale", "options": [{"value": 10**400, "label": "a"}, {"value": 1, "label": "b"}]},
            "too large a number",
        ),
        (
            {"type": "scale", "options": [{"value": 1e300, "label": "a"}, {"value": 1, "label": "b"}]},
            "needs a number",
        ),
        (
            {"type": "scale", "options": [{"value": math.inf, "label": "a"}, {"value": 1, "label": "b"}]},
            "must be a finite number",
        ),
        ({"type": "choice", "options": [{"value": "", "label": "a"}, {"value": 1, "label": "b"}]}, "number or text"),
        (
            {"type": "multiple_choice", "min": 5, "options": [{"value": 2, "label": "a"}, {"value": 1, "label": "b"}]},
            "more options than the 2",
        ),
        ({"type": "text", "min": 99_999}, "longer text than is allowed"),
        ({"type": "number", "max": 1e300}, "must be a number"),
    ],
)
def test_what_would_fail_after_reading_is_refused_before(change, says):
    with pytest.raises(BadInput, match=says):
        Form.from_json({"id": "f", "title": "F", "items": [{"id": "a", "type": "text", "text": "?"} | change]})


def test_a_chain_of_conditions_has_an_end():
    items = [{"id": "q0", "type": "boolean", "text": "?"}]
    items += [
        {"id": f"q{i}", "type": "boolean", "text": "?", "show_if": {"item": f"q{i - 1}", "equals": True}}
        for i in range(1, 400)
    ]
    with pytest.raises(BadInput, match="more than 20 conditions"):
        Form.from_json({"id": "f", "title": "F", "items": items[::-1]})
    with pytest.raises(BadInput, match="more than 500"):
        Form.from_json({"id": "f", "title": "F", "items": items * 2})
    assert Form.from_json({"id": "f", "title": "F", "items": items[:20]}).visible({f"q{i}": True for i in range(20)})


def test_a_number_that_other_programs_cannot_hold_is_no_answer():
    form = Form.from_json({"id": "f", "title": "F", "items": [{"id": "a", "type": "number", "text": "?"}]})
    assert form.problems({"a": 10**400}) and form.problems({"a": float("nan")}) and not form.problems({"a": 3})


@pytest.mark.parametrize(
    ("asked", "rule", "says"),
    [
        (SCALE, {"equals": 4}, "4 is no answer to 'a' ('scale')"),
        (SCALE, {"equals": "2"}, '"2" is no answer'),
        (SCALE, {"equals": True}, "true is no answer"),
        (SCALE, {"in": [1, 5]}, "5 is no answer"),
        (SCALE, {"in": []}, "'in' is empty"),
        (SCALE, {"at_least": 4}, "no answer that is 'at_least' 4"),
        (SCALE, {"answered": "no"}, "'answered' must be true or false"),
        (item("a", type="boolean"), {"equals": 1}, "1 is no answer"),
        (item("a", type="boolean"), {"at_least": 0}, "no answer that is 'at_least' 0"),
        (item("a", type="forced_choice", per="pair"), {"equals": "both"}, '"both" is no answer'),
        (item("a", type="number", min=0, max=5), {"equals": 6}, "6 is no answer"),
        (item("a", type="number", min=0, max=5), {"at_most": -1}, "no answer that is 'at_most' -1"),
        (item("a", type="point"), {"equals": "x"}, "is no answer"),
        (item("a", type="multiple_choice", options=OPTIONS), {"at_least": 1}, "no answer that is 'at_least' 1"),
    ],
)
def test_a_condition_that_no_answer_fulfils_is_refused(asked, rule, says):
    with pytest.raises(BadInput) as caught:
        form(asked, item("b", show_if={"item": "a", **rule}))
    assert "can never hold" in caught.value.message or "must be true" in caught.value.message
    assert says in caught.value.message


def test_every_condition_that_is_taken_is_fulfilled_by_some_answer():
    """The other side of the refusal: for each, an answer that the question takes shows the other one."""
    number = item("a", type="number", min=0, max=5)
    several = item("a", type="multiple_choice", options=OPTIONS)
    for asked, rule, answer in (
        (SCALE, {"equals": 1.0}, 1),
        (SCALE, {"at_most": 1}, 1),
        (several, {"in": [1, 3]}, [2, 3]),
        (number, {"equals": 2.5}, 2.5),
        (number, {"at_least": 5}, 5),
        (item("a", type="boolean"), {"equals": False}, False),
        (item("a"), {"equals": "yes"}, "yes"),
        (item("a", type="forced_choice", per="pair"), {"in": ["left"]}, "left"),
    ):
        f = form(asked, item("b", show_if={"item": "a", **rule}))
        assert answer_problem(f.items[0], answer) is None
        assert [i.id for i in f.visible({"a": answer})] == ["a", "b"]


def test_messages_show_long_and_unprintable_values_short_and_escaped():
    with pytest.raises(BadInput) as caught:
        form(item("a", type="\u202e\x1b[31m" + "x" * 10**6))
    said = caught.value.one_line()
    assert len(said) < 600 and said.isprintable() and "\\u202e\\x1b[31m" in said
    assert "Types are" in said
