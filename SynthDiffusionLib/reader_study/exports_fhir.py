"""FHIR R4 (4.0.1): a form as Questionnaire, one reading as QuestionnaireResponse.

Names map one to one: `id` is linkId, `text` text, `required` required, `options` answerOption with the value as Coding
(code = value; scales also carry the ordinalValue extension), `show_if` enableWhen. What FHIR lacks goes the nearest
way, and is marked by an extension of this project (urn:synthdiffusion:fhir), so that nothing is lost:

* a mark (`point`) is a repeating group of volume, R, A, S in mm, and slice;
* `forced_choice` is a choice of "left" and "right";
* an `info` item is of the type display.

Read in HL7 FHIR R4: the resources Questionnaire and QuestionnaireResponse, and the value set
questionnaire-enable-operator.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.forms import Form, Item
from SynthDiffusionLib.reader_study.merge import Merged
from SynthDiffusionLib.reader_study.tables import Rating

VERSION = "4.0.1"
PROFILE_EXTENSION = "http://hl7.org/fhir/StructureDefinition/ordinalValue"
MIN_VALUE = "http://hl7.org/fhir/StructureDefinition/minValue"
MAX_VALUE = "http://hl7.org/fhir/StructureDefinition/maxValue"
MIN_LENGTH = "http://hl7.org/fhir/StructureDefinition/minLength"
MIN_OCCURS = "http://hl7.org/fhir/StructureDefinition/questionnaire-minOccurs"
MAX_OCCURS = "http://hl7.org/fhir/StructureDefinition/questionnaire-maxOccurs"
CONTROL = "http://hl7.org/fhir/StructureDefinition/questionnaire-itemControl"
OWN = "urn:synthdiffusion:fhir"
TYPES = {
    "confidence": "choice",
    "scale": "choice",
    "choice": "choice",
    "multiple_choice": "choice",
    "forced_choice": "choice",
    "text": "text",
    "number": "decimal",
    "boolean": "boolean",
    "point": "group",
    "info": "display",
}
POINT_PARTS = (
    ("volume", "string", "Volume"),
    ("r", "decimal", "R in mm"),
    ("a", "decimal", "A in mm"),
    ("s", "decimal", "S in mm"),
    ("slice", "string", "Slice"),
)


def fhir_questionnaire(form: Form, study_id: str = "") -> dict[str, Any]:
    """A form as a Questionnaire resource (FHIR R4).

    Args:
        form: whose items are to be mapped.
        study_id: makes the address unique to the study.

    Returns:
        the resource as JSON.

    Raises:
        BadInput: an item has the name that a part of another one gets (a mark's "x.r", a help's "x.help").
    """
    resource: dict[str, Any] = {
        "resourceType": "Questionnaire",
        "id": _id(form.id),
        "meta": {"tag": [{"system": f"{OWN}:fhirVersion", "code": VERSION}]},
        "url": questionnaire_url(form, study_id),
        "name": re.sub(r"[^A-Za-z0-9_]", "_", f"Form_{form.id}"),
        "title": form.title,
        "status": "active",
        "subjectType": ["ImagingStudy"],
    }
    if form.description:
        resource["description"] = form.description
    if form.source:
        resource["purpose"] = form.source
    by_id = {item.id: item for item in form.items}
    resource["item"] = [_item(item, by_id) for item in form.items]
    links = [entry["linkId"] for item in resource["item"] for entry in (item, *item.get("item", ()))]
    if len(set(links)) < len(links):
        twice = next(link for link in links if links.count(link) > 1)
        raise BadInput(f"Two items of the form '{form.id}' would get the linkId '{twice}'", "Rename the item.")
    return resource


def questionnaire_url(form: Form, study_id: str = "") -> str:
    """Address (a name, nothing is there to load) of a form's Questionnaire."""
    return f"{OWN}:questionnaire:{_id(f'{study_id}-{form.id}' if study_id else form.id)}"


def fhir_responses(merged: Merged) -> dict[str, Any]:
    """All readings as a Bundle of QuestionnaireResponse resources, training and repeats marked by tags."""
    readings: dict[tuple[str, str, int], list[Rating]] = {}
    for rating in merged.ratings:
        readings.setdefault((rating.reader, rating.task, rating.position), []).append(rating)
    entries = [
        {"resource": fhir_response(merged.study.tasks[task].form, ratings, merged.study.id)}
        for (_, task, _), ratings in readings.items()
    ]
    return {
        "resourceType": "Bundle",
        "id": _id(f"study-{merged.study.id}"),
        "meta": {"tag": [{"system": f"{OWN}:fhirVersion", "code": VERSION}]},
        "type": "collection",
        "entry": entries,
    }


def fhir_response(form: Form, ratings: list[Rating], study_id: str = "") -> dict[str, Any]:
    """One reading as a QuestionnaireResponse resource (FHIR R4).

    Args:
        form: that was filled in.
        ratings: answers of one reader at one position (or once for the study).
        study_id: as for the Questionnaire.

    Raises:
        BadInput: an answer to a question that the form lacks.
    """
    first = ratings[0]
    if lacking := [r.item for r in ratings if not form.has(r.item)]:
        raise BadInput(f"The form '{form.id}' has no question '{lacking[0]}'", "Export with the form that was read.")
    by_item = {r.item: r for r in ratings}
    place = first.unit or "study"
    resource: dict[str, Any] = {
        "resourceType": "QuestionnaireResponse",
        "id": _id(f"{study_id}-{first.reader}-{first.task}-{first.position if first.position >= 0 else 'study'}"),
        "meta": {"tag": [{"system": f"{OWN}:phase", "code": first.phase},
                         {"system": f"{OWN}:presentation", "code": str(first.presentation)}]},
        "identifier": {"system": f"{OWN}:reading", "value": f"{first.reader}/{first.position}"},
        "questionnaire": questionnaire_url(form, study_id),
        "status": "amended" if any(r.changed for r in ratings) else "completed",
        "subject": {"type": "ImagingStudy", "identifier": {"system": f"{OWN}:unit", "value": place}},
        "author": {"type": "Practitioner", "identifier": {"system": f"{OWN}:reader", "value": first.reader}},
    }  # fmt: skip
    if first.answered_utc:
        resource["authored"] = first.answered_utc
    items: list[dict[str, Any]] = []
    for item in form.items:
        if item.id in by_item:
            items += _answered(item, by_item[item.id].value)
    resource["item"] = items
    return resource


def _item(item: Item, by_id: Mapping[str, Item]) -> dict[str, Any]:
    entry: dict[str, Any] = {"linkId": item.id, "text": item.text, "type": TYPES[item.type]}
    extensions: list[dict[str, Any]] = [
        {"url": f"{OWN}:extension:item-type", "valueCode": item.type.replace("_", "-")},
        {"url": f"{OWN}:extension:per", "valueCode": item.per},
    ]
    if item.type != "info":  # FHIR: a display item is never required (que-6)
        entry["required"] = item.required
    if item.code:
        entry["code"] = [dict(item.code)]
    if item.type in ("multiple_choice", "point"):
        entry["repeats"] = True
        for key, url in ((item.min, MIN_OCCURS), (item.max, MAX_OCCURS)):
            if key is not None:
                extensions.append({"url": url, "valueInteger": int(key)})
    elif item.type == "number":
        for key, url in ((item.min, MIN_VALUE), (item.max, MAX_VALUE)):
            if key is not None:
                extensions.append({"url": url, "valueDecimal": key})
    elif item.type == "text":
        if item.max is not None:
            entry["maxLength"] = int(item.max)
        if item.min is not None:
            extensions.append({"url": MIN_LENGTH, "valueInteger": int(item.min)})
    if item.options:
        entry["answerOption"] = [_option(item, i) for i in range(len(item.options))]
    elif item.type == "forced_choice":
        entry["answerOption"] = [{"valueCoding": _side(side)} for side in ("left", "right")]
    if item.type == "point":
        entry["item"] = [
            {"linkId": f"{item.id}.{part}", "text": text, "type": kind, "required": part != "slice"}
            for part, kind, text in POINT_PARTS
        ]
    if item.show_if is not None:
        entry["enableWhen"], behaviour = _enable_when(item, by_id)
        if behaviour:
            entry["enableBehavior"] = behaviour
    entry["extension"] = extensions
    if item.help:
        control = {"coding": [{"system": "http://hl7.org/fhir/questionnaire-item-control", "code": "help"}]}
        shown = {"url": CONTROL, "valueCodeableConcept": control}
        entry.setdefault("item", []).append(
            {"linkId": f"{item.id}.help", "text": item.help, "type": "display", "extension": [shown]}
        )
        if item.type == "info":  # que-1: a display item holds no others
            del entry["item"]
            entry["text"] = f"{item.text}\n{item.help}"
    return entry


def _option(item: Item, index: int) -> dict[str, Any]:
    option = item.options[index]
    coding: dict[str, Any] = _coding(item, option.value)
    if item.type in ("scale", "confidence"):
        coding["extension"] = [{"url": PROFILE_EXTENSION, "valueDecimal": option.value}]
    entry: dict[str, Any] = {"valueCoding": coding}
    if option.code:
        entry["extension"] = [{"url": f"{OWN}:extension:code", "valueCoding": dict(option.code)}]
    return entry


def _coding(item: Item, value: Any) -> dict[str, Any]:
    label = next((o.label for o in item.options if o.value == value and isinstance(o.value, str) == isinstance(value, str)), "")  # fmt: skip  # noqa: E501
    return {"system": f"{OWN}:code-system:{_id(item.id)}", "code": _code(value), "display": label}


def _code(value: Any) -> str:
    """A code may not begin or end with a blank, nor hold two in a row (FHIR R4, datatypes)."""
    return " ".join(str(value).split())


def _side(side: str) -> dict[str, str]:
    return {"system": f"{OWN}:code-system:side", "code": side, "display": side.capitalize()}


def _enable_when(item: Item, by_id: Mapping[str, Item]) -> tuple[list[dict[str, Any]], str]:
    rule = dict(item.show_if or {})
    other = by_id[rule.pop("item")]
    ((condition, wanted),) = rule.items()
    if condition == "answered":
        return [{"question": other.id, "operator": "exists", "answerBoolean": bool(wanted)}], ""
    if condition in ("equals", "in"):
        values = [wanted] if condition == "equals" else list(wanted)
    elif other.options:
        # R4 allows no greater or less than on codes: the options that satisfy the rule are listed.
        values = [
            o.value
            for o in other.options
            if not isinstance(o.value, str) and (o.value >= wanted if condition == "at_least" else o.value <= wanted)
        ]
    else:
        operator = ">=" if condition == "at_least" else "<="
        return [{"question": other.id, "operator": operator, "answerDecimal": wanted}], ""
    if not values:  # the form's condition never holds; FHIR has no empty list
        return [{"question": other.id, "operator": "=", "answerCoding": {"system": OWN, "code": "never"}}], ""
    when = [{"question": other.id, "operator": "=", **_expected(other, value)} for value in values]
    return when, "any" if len(when) > 1 else ""


def _expected(other: Item, value: Any) -> dict[str, Any]:
    if other.type == "boolean":
        return {"answerBoolean": bool(value)}
    if other.type == "number":
        return {"answerDecimal": value}
    if other.type == "text":
        return {"answerString": str(value)}
    if other.type == "forced_choice":
        return {"answerCoding": _side(str(value))}
    return {"answerCoding": _coding(other, value)}


def _answered(item: Item, value: Any) -> list[dict[str, Any]]:
    entry: dict[str, Any] = {"linkId": item.id, "text": item.text}
    match item.type:
        case "multiple_choice":
            if not value:
                return []  # FHIR has no answer of nothing: shown, and nothing ticked
            return [entry | {"answer": [{"valueCoding": _coding(item, v)} for v in value]}]
        case "confidence" | "scale" | "choice":
            return [entry | {"answer": [{"valueCoding": _coding(item, value)}]}]
        case "forced_choice":
            return [entry | {"answer": [{"valueCoding": _side(value)}]}]
        case "boolean":
            return [entry | {"answer": [{"valueBoolean": value}]}]
        case "number":
            return [entry | {"answer": [{"valueDecimal": value}]}]
        case "point":
            return [entry | {"item": _point(item, point)} for point in value]  # a repeating group: one item per mark
        case _:
            return [entry | {"answer": [{"valueString": value}]}]


def _point(item: Item, point: Mapping[str, Any]) -> list[dict[str, Any]]:
    ras = point["ras"]
    parts: list[tuple[str, dict[str, Any]]] = [
        ("volume", {"valueString": point["volume"]}),
        *((axis, {"valueDecimal": ras[i]}) for i, axis in enumerate("ras")),
    ]
    if point.get("slice"):
        parts.append(("slice", {"valueString": str(point["slice"])}))
    return [{"linkId": f"{item.id}.{name}", "answer": [value]} for name, value in parts]


def _id(text: str) -> str:
    """FHIR's id: letters, digits, - and ., at most 64."""
    return re.sub(r"[^A-Za-z0-9.-]", "-", text)[-64:]
