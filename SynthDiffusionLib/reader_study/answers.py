"""Answers on their way into a record: complete, fitting the form, and not too early."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.forms import Form

PER_CASE = ("case", "pair")
PER_STUDY = ("study",)


class AnswersIncomplete(BadInput):
    """Answers do not fit the form.

    Attributes:
        problems: item id to one sentence.
    """

    def __init__(self, problems: dict[str, str]) -> None:
        named = "; ".join(f"{item}: {problem}" for item, problem in problems.items())
        super().__init__(f"The answers cannot be stored yet ({named.rstrip('.')})", "Complete them and try again.")
        self.problems = problems


class TooEarly(BadInput):
    """The study asks for a longer look before answering.

    Attributes:
        remaining_s: how much longer.
    """

    def __init__(self, remaining_s: float) -> None:
        super().__init__(f"This case must be looked at for {remaining_s:.0f} s more", "Look on, then answer.")
        self.remaining_s = remaining_s


def fitting_answers(form: Form, answers: Mapping[str, Any], per: Sequence[str]) -> dict[str, Any]:
    """Answers as they are stored: without empty ones and those to items that are not shown.

    Args:
        form: of the task.
        answers: by item id.
        per: what is asked for now, of `forms.PER`.

    Raises:
        AnswersIncomplete: with a sentence for each item.
    """
    fitting = form.cleaned(answers, per)
    problems = form.problems(fitting, per)
    problems.update({item: "The form has no such question." for item in answers if not form.has(item)})
    if problems:
        raise AnswersIncomplete(problems)
    return fitting
