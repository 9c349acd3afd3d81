"""What Qt 5.15 has, read from the stubs of types-PySide2: classes, methods, properties, signals, enumerators.

The stubs hold 3 MB of text, so only the classes that are asked for are parsed.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import re
from dataclasses import dataclass, field

MODULES = ("QtCore", "QtGui", "QtWidgets", "QtNetwork", "QtUiTools", "QtTest")
REMOVED_IN_QT_6 = ("QTextCodec", "QRegExp")  # some stubs and some builds have them, Qt 6 builds of Slicer do not


@dataclass
class StubClass:
    """One class of Qt 5.15, without what it inherits.

    Attributes:
        properties: names that the constructor takes as keywords; some are constructor arguments only.
        enums: enumerators by the name of their enumeration.
    """

    name: str
    bases: list[str] = field(default_factory=list)
    methods: set[str] = field(default_factory=set)
    properties: set[str] = field(default_factory=set)
    signals: set[str] = field(default_factory=set)
    enums: dict[str, set[str]] = field(default_factory=dict)


@functools.cache
def _sources() -> dict[str, str]:
    """Source text of each class, by its name."""
    distribution = importlib.metadata.distribution("types-PySide2")
    sources = {}
    for module in MODULES:
        text = distribution.locate_file(f"PySide2-stubs/{module}.pyi").read_text(encoding="utf-8")
        starts = [match.start() for match in re.finditer(r"^(?=\S)", text, re.MULTILINE)]
        for start, end in zip(starts, [*starts[1:], len(text)]):
            name = re.match(r"class (Q\w+)", text[start:end])
            if name:
                sources.setdefault(name[1], text[start:end])  # QtGui repeats Qt, as a class derived from QtCore's
    return sources


@functools.cache
def stub_class(name: str) -> StubClass | None:
    """The class of that name, or None when Qt 5.15 has none."""
    source = _sources().get(name)
    if source is None or name in REMOVED_IN_QT_6:
        return None
    definition = ast.parse(source).body[0]
    stub = StubClass(name, [ast.unparse(base).rpartition(".")[2] for base in definition.bases])
    for node in definition.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            arguments = node.args.args[1:] + node.args.kwonlyargs
            stub.properties |= {
                a.arg for a in arguments if "Callable" not in ast.unparse(a.annotation or ast.Constant(0))
            }
        elif isinstance(node, ast.FunctionDef):
            stub.methods.add(node.name)
        elif isinstance(node, ast.ClassDef):
            members = [n.target.id for n in node.body if isinstance(n, ast.AnnAssign)]
            stub.enums[node.name] = {n for n in members if n not in ("values", "name")}
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).endswith("Signal]"):
            stub.signals.add(node.target.id)
    return stub


@functools.cache
def lineage(name: str) -> tuple[StubClass, ...]:
    """The class and all its bases, nearest first; empty when Qt 5.15 does not have it."""
    stub = stub_class(name)
    if stub is None:
        return ()
    classes = [stub]
    for base in stub.bases:
        classes += [c for c in lineage(base) if c not in classes]
    return tuple(classes)


def has_property(class_name: str, name: str) -> bool:
    """Whether Qt 5.15's class has the property, judging by constructor keywords and getters.

    Constructor arguments that are no properties pass too, so the caller looks at PySide6's meta object as well.
    """
    capital = name[0].upper() + name[1:]
    getters = {name, f"is{capital}", f"has{capital}"}  # abstract classes have no constructor in the stubs
    return any(name in stub.properties or getters & stub.methods for stub in lineage(class_name))


@functools.cache
def kind_of(class_name: str, member: str) -> str | None:
    """What `member` is on a class of Qt 5.15, a property apart: signal, method, enumerator, enumeration; or None."""
    for stub in lineage(class_name):
        if member in stub.signals:
            return "signal"
        if member in stub.methods:
            return "method"
        if any(member in members for members in stub.enums.values()):
            return "enumerator"
        if member in stub.enums:
            return "enumeration"
    return None
