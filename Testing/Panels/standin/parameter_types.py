"""How values of each type are kept in a parameter node: in the text that Slicer 5.12 writes, so that scenes agree."""

from __future__ import annotations

import enum
import pathlib
import types
import typing

from .parameter_containers import ObservedDict, ObservedList


class Validator:
    """Base of the annotations that check a value."""

    def validate(self, value) -> None:
        raise NotImplementedError


class NotNone(Validator):
    def validate(self, value) -> None:
        if value is None:
            raise ValueError("Value must not be None")


class IsInstance(Validator):
    def __init__(self, classtype) -> None:
        self.classtype = classtype

    def validate(self, value) -> None:
        if value is not None and not isinstance(value, self.classtype):
            raise TypeError(f"Value must be of type '{self.classtype}', is '{value}' of type '{type(value)}'")


class WithinRange(Validator):
    def __init__(self, minimum, maximum) -> None:
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within [{self.minimum}, {self.maximum}], is {value}")


class Minimum(Validator):
    def __init__(self, minimum) -> None:
        self.minimum = minimum

    def validate(self, value) -> None:
        if value < self.minimum:
            raise ValueError(f"Value must be {self.minimum} or more, is {value}")


class Maximum(Validator):
    def __init__(self, maximum) -> None:
        self.maximum = maximum

    def validate(self, value) -> None:
        if value > self.maximum:
            raise ValueError(f"Value must be {self.maximum} or less, is {value}")


class Choice(Validator):
    def __init__(self, choices) -> None:
        self.choices = choices

    def validate(self, value) -> None:
        if value not in self.choices:
            raise ValueError(f"Value is {value}, must be one of {self.choices}")


class Exclude(Validator):
    def __init__(self, excludedValues) -> None:
        self.excludedValues = excludedValues

    def validate(self, value) -> None:
        if value in self.excludedValues:
            raise ValueError(f"Value must not be {value}")


class Default:
    """Annotation: the value that a parameter begins with."""

    def __init__(self, value=None, *, generator=None) -> None:
        self._value, self._generator = value, generator

    @property
    def value(self):
        return self._generator() if self._generator else self._value


def split_annotations(annotated) -> tuple[object, tuple]:
    """The plain type and its annotations."""
    kind, *annotations = typing.get_args(typing.Annotated[annotated, "stub"])
    return kind, tuple(annotations[:-1])


class Kind:
    """Reads and writes values of one type under a name.

    Args:
        validators: run before a value is written.
    """

    def __init__(self, validators=()) -> None:
        self.validators = list(validators)

    def default(self):
        return None

    def validate(self, value) -> None:
        for validator in self.validators:
            validator.validate(value)

    def is_in(self, node, name: str) -> bool:
        return bool(node.HasParameter(name))

    def remove(self, node, name: str) -> None:
        node.UnsetParameter(name)


class Scalar(Kind):
    """int, float, str and pathlib paths: the text of str()."""

    def __init__(self, kind: type) -> None:
        super().__init__([NotNone(), IsInstance((int, float) if kind is float else kind)])
        self.kind = kind

    def default(self):
        return 0 if self.kind in (int, float) else self.kind()

    def write(self, node, name: str, value) -> None:
        node.SetParameter(name, str(value))

    def read(self, node, name: str):
        return self.kind(node.GetParameter(name))


class Boolean(Kind):
    def __init__(self) -> None:
        super().__init__([NotNone(), IsInstance(bool)])

    def default(self) -> bool:
        return False

    def write(self, node, name: str, value: bool) -> None:
        node.SetParameter(name, "True" if value else "False")

    def read(self, node, name: str) -> bool:
        return node.GetParameter(name) == "True"


class Enumeration(Kind):
    """By the name of the member."""

    def __init__(self, kind: type[enum.Enum]) -> None:
        super().__init__([IsInstance(kind)])
        self.kind = kind

    def default(self):
        return next(iter(self.kind))

    def write(self, node, name: str, value) -> None:
        node.SetParameter(name, value.name)

    def read(self, node, name: str):
        key = node.GetParameter(name)
        if key not in self.kind.__members__:
            raise ValueError(f"Found '{key}' in the parameter node, which is not a name in {self.kind}")
        return self.kind[key]


class Node(Kind):
    """A node reference, beside an empty text that says that there is a value."""

    def __init__(self, kind: type) -> None:
        super().__init__([IsInstance(kind)])

    def write(self, node, name: str, value) -> None:
        node.SetParameter(name, "")
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, node, name: str):
        return node.GetNodeReference(name)

    def remove(self, node, name: str) -> None:
        node.UnsetParameter(name)
        node.RemoveNodeReferenceIDs(name)


class Nothing(Kind):
    """None, as one of the types of a union."""

    def validate(self, value) -> None:
        if value is not None:
            raise ValueError("Value must be None")

    def write(self, node, name: str, value) -> None:
        node.SetParameter(name, "True")

    def read(self, node, name: str) -> None:
        return None


class Tuple(Kind):
    def __init__(self, kinds) -> None:
        super().__init__()
        self.kinds = kinds

    def default(self):
        return tuple(kind.default() for kind in self.kinds)

    def validate(self, values) -> None:
        super().validate(values)
        if len(tuple(values)) != len(self.kinds):
            raise ValueError("Unexpected number of tuple values")
        for kind, value in zip(self.kinds, values):
            kind.validate(value)

    def is_in(self, node, name: str) -> bool:
        return self.kinds[0].is_in(node, f"{name}.0")

    def write(self, node, name: str, values) -> None:
        for index, (kind, value) in enumerate(zip(self.kinds, values)):
            kind.write(node, f"{name}.{index}", value)

    def read(self, node, name: str):
        return tuple(kind.read(node, f"{name}.{index}") for index, kind in enumerate(self.kinds))

    def remove(self, node, name: str) -> None:
        for index, kind in enumerate(self.kinds):
            kind.remove(node, f"{name}.{index}")


class List(Kind):
    """`name.len` and `name.0`, `name.1`, ..."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind

    def default(self):
        return []

    def validate(self, values) -> None:
        super().validate(values)
        for value in values:
            self.kind.validate(value)

    def is_in(self, node, name: str) -> bool:
        return bool(node.HasParameter(f"{name}.len"))

    def write(self, node, name: str, values) -> None:
        before = int(node.GetParameter(f"{name}.len")) if self.is_in(node, name) else 0
        for index, value in enumerate(values):
            self.kind.write(node, f"{name}.{index}", value)
        node.SetParameter(f"{name}.len", str(len(values)))
        for index in range(len(values), before):
            self.kind.remove(node, f"{name}.{index}")

    def plain(self, node, name: str) -> list:
        return [self.kind.read(node, f"{name}.{i}") for i in range(int(node.GetParameter(f"{name}.len")))]

    def read(self, node, name: str):
        return ObservedList(node, self, name, self.plain(node, name))

    def remove(self, node, name: str) -> None:
        if self.is_in(node, name):
            List.write(self, node, name, [])
            node.UnsetParameter(f"{name}.len")


class Dict(List):
    """A list of pairs, in order."""

    def __init__(self, key: Kind, value: Kind) -> None:
        super().__init__(Tuple([key, value]))

    def default(self):
        return {}

    def validate(self, values) -> None:
        super().validate(list(values.items()))

    def write(self, node, name: str, values) -> None:
        super().write(node, name, values.items())

    def read(self, node, name: str):
        return ObservedDict(node, self, name, dict(self.plain(node, name)))


class Union(Kind):
    """`name.0` for a value of the first type, `name.1` for one of the second, ..."""

    def __init__(self, kinds) -> None:
        super().__init__()
        self.kinds = kinds

    def default(self):
        optional = len(self.kinds) == 2 and isinstance(self.kinds[1], Nothing)
        return None if optional else self.kinds[0].default()

    def is_in(self, node, name: str) -> bool:
        return any(kind.is_in(node, f"{name}.{index}") for index, kind in enumerate(self.kinds))

    def _index(self, value) -> int:
        problem: Exception = TypeError(f"Unable to write value '{value}' of type '{type(value)}'")
        # None goes to the type that is None, even where a node type would take it, too.
        for index, kind in enumerate(self.kinds):
            if (value is None) != isinstance(kind, Nothing):
                continue
            try:
                kind.validate(value)
                return index
            except (TypeError, ValueError) as error:
                problem = error
        raise problem

    def validate(self, value) -> None:
        super().validate(value)
        self._index(value)

    def write(self, node, name: str, value) -> None:
        index = self._index(value)
        self.remove(node, name)
        self.kinds[index].write(node, f"{name}.{index}", value)

    def read(self, node, name: str):
        for index, kind in enumerate(self.kinds):
            if kind.is_in(node, f"{name}.{index}"):
                return kind.read(node, f"{name}.{index}")
        raise KeyError(name)

    def remove(self, node, name: str) -> None:
        for index, kind in enumerate(self.kinds):
            kind.remove(node, f"{name}.{index}")


def kind_of(annotated) -> tuple[Kind, list]:
    """What keeps values of a type, and the annotations that are not validators.

    Raises:
        TypeError: parameterNodeWrapper has no serializer for the type, or the stand-in has not.
    """
    kind, annotations = split_annotations(annotated)
    made = _make(kind)
    made.validators += [a for a in annotations if isinstance(a, Validator)]
    return made, [a for a in annotations if not isinstance(a, Validator)]


def _make(kind) -> Kind:
    import slicer

    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in (int, float, str, pathlib.Path, pathlib.PurePath):
        return Scalar(kind)
    if kind is bool:
        return Boolean()
    if kind is type(None):
        return Nothing()
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return Enumeration(kind)
    if isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode):
        return Node(kind)
    if origin is list and len(arguments) == 1:
        return List(kind_of(arguments[0])[0])
    if origin is dict and len(arguments) == 2:
        return Dict(*(kind_of(argument)[0] for argument in arguments))
    if origin is tuple and arguments:
        return Tuple([kind_of(argument)[0] for argument in arguments])
    if origin is typing.Union or isinstance(kind, types.UnionType):
        return Union([kind_of(argument)[0] for argument in arguments])
    raise TypeError(f"parameterNodeWrapper: no serializer in the stand-in for {kind}")
