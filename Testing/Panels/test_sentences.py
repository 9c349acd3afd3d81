"""What the panel says: numbers in words, and the engine's messages without options of the command line."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ENGINE = Path(__file__).resolve().parents[2] / "SynthDiffusionLib"
ERRORS = {"BadInput", "ModelError", "OutOfMemory", "RunFailed", "MissingExtra"}
# Not reached from the panel: batches, a folder that a user of the command line names, files of training, training sets,
# arguments of processes, volumes that are not said to be edited (the panel's always may be), verifying a study and
# joining the readers' answers with the key.
ELSEWHERE = {"batch", "cli", "training", "evaluation"}
TRAINING_SETS = (
    *("bids", "decathlon", "generators", "groups", "manifest", "nnunet"),
    *("set_cases", "set_classes", "set_files", "set_form", "splits", "training_set"),
)
ELSEWHERE_FILES = {
    "bundles/metadata.py",
    "bundles/write.py",
    "export/own_voxels.py",
    "reader_study/merge.py",
    "reader_study/verify.py",
    *(f"export/{name}.py" for name in TRAINING_SETS),
}
PROCESS_OPTIONS = re.compile(r"--(end-with-stdin|previews|like|scene)")


def engine_messages() -> list[str]:
    """All texts in what the engine raises or notes, where a job can meet it; "{...}" for what is filled in."""
    found = set()
    for path in ENGINE.rglob("*.py"):
        inside = path.relative_to(ENGINE)
        if inside.parts[0] in ELSEWHERE or inside.as_posix() in ELSEWHERE_FILES:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "{}" for p in node.values]
                found.add("".join(str(part) for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    # Sentences, not names of options, and not docstrings of several lines.
    return sorted(
        t for t in found if "--" in t and " " in t.strip() and "\n" not in t and not PROCESS_OPTIONS.search(t)
    )


@pytest.fixture
def sentences(slicer_python):
    from SynthDiffusionPanels import sentences

    return sentences


def test_no_message_of_the_engine_keeps_an_option_of_the_command_line(sentences):
    messages = engine_messages()
    assert len(messages) > 20
    left = {text: sentences.panelWords(text) for text in messages if re.search(r"--[a-z]", sentences.panelWords(text))}
    assert left == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Add --crop to cut it, or use --mode inpaint --image to draw into a real volume.",
            "Add 'Cut to fit the model' to cut it, or use 'Into the real volume' to draw into a real volume.",
        ),
        (
            "The largest cube that fits is 40 voxels a side: make the segmentation or region smaller, or raise"
            " --vram-limit.",
            "The largest cube that fits is 40 voxels a side: make the segmentation or region smaller, or raise 'Memory"
            " limit' under Advanced.",
        ),
        (
            "The segmentation and --image lie in different places",
            "The segmentation and the real volume lie in different places",
        ),
        ("Give the image with --image and --mode inpaint.", "Give the image with 'Into the real volume'."),
        ("Try --precision fp32; if", "Try 'Precision' under Advanced: fp32; if"),
        ("a -- b and <b>", "a -- b and <b>"),
    ],
)
def test_options_are_called_as_the_panel_calls_them(sentences, text, expected):
    assert sentences.panelWords(text) == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (8.4, "8 s"),
        (89, "89 s"),
        (91, "2 min"),
        (3540, "59 min"),
        (3600, "1 h 0 min"),
        (4830, "1 h 20 min"),
    ],
)
def test_durations(sentences, seconds, text):
    assert sentences.durationText(seconds) == text
