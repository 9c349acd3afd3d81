"""What the options of `generate` for grid and controls become in the request, and which values are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from SynthDiffusionLib import cli
from SynthDiffusionLib.errors import Cancelled
from SynthDiffusionLib.jobs import GenerateRequest, runner


@pytest.fixture
def asked(monkeypatch):
    """Runs `generate` up to the request, which it returns."""

    def ask(*arguments: str, segmentation: str | None = "drawn.nii.gz") -> GenerateRequest:
        seen: list[GenerateRequest] = []

        def stop(request: GenerateRequest, line: Any) -> None:
            seen.append(request)
            raise Cancelled()

        monkeypatch.setattr(runner, "run", stop)
        command = ["generate", *([] if segmentation is None else [segmentation]), "--model", "m", "--out", "out"]
        assert cli.main([*command, *arguments]) == Cancelled.exit_code
        (request,) = seen
        return request

    return ask


@pytest.mark.parametrize(
    ("option", "value", "field", "expected"),
    [
        ("--size", "256x256x128", "size", (256, 256, 128)),
        ("--size", "1x2x4096", "size", (1, 2, 4096)),
        ("--size", "nearest", "size", "nearest"),
        ("--spacing", "1.5", "spacing_mm", (1.5, 1.5, 1.5)),
        ("--spacing", "2", "spacing_mm", (2.0, 2.0, 2.0)),
        ("--spacing", "0.8x0.8x2.5", "spacing_mm", (0.8, 0.8, 2.5)),
        ("--spacing", f"{2 / 3!r}x{0.1 + 0.2!r}x1", "spacing_mm", (2 / 3, 0.1 + 0.2, 1.0)),
        ("--region", "chest,abdomen", "region", ("chest", "abdomen")),
        ("--region", "Head", "region", ("head", "head")),
        ("--region", " chest , pelvis ", "region", ("chest", "pelvis")),
        ("--condition-scale", "0.5", "condition_scale", 0.5),
        ("--condition-scale", "0", "condition_scale", 0.0),
        ("--modality", "T1", "modality", "T1"),
    ],
)
def test_what_the_option_means(asked, option, value, field, expected):
    request = asked(option, value)
    assert getattr(request, field) == expected
    rest = GenerateRequest(Path("drawn.nii.gz"), "m", Path("out"), **{field: expected})
    assert request == rest, "nothing else has changed"


def test_without_a_segmentation_it_is_unconditional(asked):
    plain = GenerateRequest(None, "m", Path("out"), mode="unconditional", size=(96, 96, 48))
    assert asked("--size", "96x96x48", segmentation=None) == plain
    assert asked("--size", "96x96x48", "--mode", "unconditional", segmentation=None) == plain
    assert asked().mode == "whole"


@pytest.mark.parametrize(
    ("option", "value", "cause", "mend"),
    [
        ("--size", "256", "'256' is no size", "256x256x128, or nearest"),
        ("--size", "256x256", "'256x256' is no size", "256x256x128"),
        ("--size", "256x256x128x1", "is no size", "256x256x128"),
        ("--size", "256,256,128", "is no size", "256x256x128"),
        ("--size", "256x256x1e2", "is no size", "256x256x128"),
        ("--size", "-4x4x4", "is no size", "256x256x128"),
        ("--size", "closest", "'closest' is no size", "nearest"),
        ("--size", "", "'' is no size", "nearest"),
        ("--size", "0x4x4", "A size of 0x4x4 was asked for", "256x256x128"),
        ("--size", "5000x4x4", "A size of 5000x4x4 was asked for", "256x256x128"),
        ("--spacing", "1,5", "'1,5' is no spacing", "as 1.5"),
        ("--spacing", "1x2", "'1x2' is no spacing", "0.8x0.8x2.5"),
        ("--spacing", "nan", "'nan' is no spacing", "as 1.5"),
        ("--spacing", "1e1", "is no spacing", "as 1.5"),
        ("--spacing", "-1", "'-1' is no spacing", "as 1.5"),
        ("--spacing", "1mm", "is no spacing", "as 1.5"),
        ("--spacing", "0", "A spacing of 0x0x0 mm was asked for", "--spacing as 1.5"),
        ("--spacing", "1x1x200", "A spacing of 1x1x200 mm was asked for", "--spacing as 1.5"),
        ("--region", "chest,", "'chest,' is no region", "chest,abdomen"),
        ("--region", "head,chest,abdomen", "is no region", "chest,abdomen"),
        ("--region", "", "'' is no region", "chest,abdomen"),
        ("--condition-scale", "nan", "A condition scale of nan", "from 0 to 10"),
        ("--condition-scale", "-1", "A condition scale of -1.0", "from 0 to 10"),
        ("--condition-scale", "much", "invalid float value: 'much'", "--help"),
    ],
)
def test_what_is_refused(option, value, cause, mend, capsys):
    try:
        code = cli.main(["generate", "drawn.nii.gz", "--model", "m", "--out", "out", f"{option}={value}"])
    except SystemExit as end:  # of the parser
        code = end.code
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("synthdiffusion: error: ") and cause in line and mend in line, line


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (("--mode=whole",), "The mode 'whole' needs a segmentation"),
        (("--mode=inpaint", "--image=ct.nii.gz"), "The mode 'inpaint' needs a segmentation"),
        (("--labels", '{"1": "lung"}'), "--labels was given, but the mode 'unconditional' has no drawing"),
        (("--classes", "lung"), "--classes was given"),
        (("--crop",), "--crop was given"),
        (("--adherence",), "--adherence was given"),
        (("--condition-scale=0.5",), "--condition-scale was given"),
        (("--size=nearest",), "There is no segmentation that a size could be nearest to"),
        (("--image=ct.nii.gz",), "--image was given, but the mode is 'unconditional'"),
        (("--margin=3",), "--margin was given, but the mode is 'unconditional'"),
    ],
)
def test_what_needs_a_drawing(options, cause, capsys):
    assert cli.main(["generate", "--model", "m", "--out", "out", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert cause in line


def test_a_drawing_or_none(capsys):
    assert cli.main(["generate", "drawn.nii.gz", "--model", "m", "--out", "out", "--mode", "unconditional"]) == 2
    assert "A segmentation was given, but the mode 'unconditional' has no drawing" in capsys.readouterr().err
    inpaint = ["generate", "drawn.nii.gz", "--model", "m", "--out", "out", "--mode", "inpaint", "--image", "a.nii.gz"]
    for option in ("--size=64x64x64", "--spacing=1"):
        assert cli.main([*inpaint, option]) == 2
        assert "An inpainted volume has the grid of its image" in capsys.readouterr().err
