"""What `synthdiffusion evaluate` refuses before any work: options that contradict each other, folders that are none, an
output folder that another command, or the input, is in."""

from __future__ import annotations

import json
import os

import psutil
import pytest

from SynthDiffusionLib.cli import evaluate_command, main
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.output_folders import LOCK, only_writer
from SynthDiffusionLib.reader_study.locks import host_name

UTILITY = ["utility", "gap", "--data", "nowhere", "--model", "none"]


@pytest.fixture
def said(tmp_path, capsys, monkeypatch):
    """Calls a command in a folder that has the folders `real`, `made` and a file; returns the line of its error."""
    for name in ("real", "made"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> str:
        try:
            code = main(["evaluate", *words])
        except SystemExit as ended:
            code = ended.code
        error = capsys.readouterr().err
        assert code == 2 and len(error.splitlines()) == 1
        return error

    return call


# Options


@pytest.mark.parametrize("measure", ["fidelity", "adherence", "memorisation"])
def test_a_model_and_folders_exclude_each_other(said, tmp_path, measure):
    folders = ("--real", "real", "--synthetic", "made")
    for words, told in (
        ((*folders, "--model", "lung-nodule-ct"), "--model cannot go with --real, --synthetic. Measure folders"),
        (("--real", "real", "--data", "d", "--samples", "s"), "--data, --samples cannot go with --real"),
        ((*folders, "--split", "train"), "--split cannot go with --real, --synthetic"),
    ):
        assert told in said(measure, "--out", "out", *words)
    assert not (tmp_path / "out").exists()


def test_without_a_model_and_folders_both_are_named(said):
    assert "--model, --data, --samples must be given. Or measure any two folders" in said("fidelity", "--out", "out")
    assert "--synthetic must be given" in said("fidelity", "--out", "out", "--real", "real", "--modality", "CT")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["fidelity", "--real", "a", "--real-labels", "b", "--out", "o"],
            "unrecognized arguments: --real-labels b. fidelity has no such option; adherence and volumes have it. See "
            "synthdiffusion evaluate fidelity --help.",
        ),
        (["memorisation", "--resnet2d", "b", "--out", "o"], "memorisation has no such option; fidelity has it. See"),
        ([*UTILITY, "--out", "o", "--folds", "2"], "gap has no such option; augmentation and scarcity have it. See"),
        (["fidelity", "--out", "o", "--sed", "3"], "--sed 3. Did you mean --seed? See"),
        (["--json", "fidelity", "--out", "o"], "Give it after the command: synthdiffusion evaluate fidelity --json."),
        (["fidelity", "--out", "o", "--versio"], "Did you mean --version?"),
        (["fidelity", "--out", "o", "--version"], "unrecognized arguments: --version. See synthdiffusion evaluate"),
    ],
)
def test_an_option_of_another_command_is_never_its_own_mend(said, words, told):
    assert told in said(*words)


# Folders


@pytest.mark.parametrize("option", ["--real", "--synthetic", "--reference", "--training", "--real-labels"])
def test_what_is_no_folder_is_named_with_its_option(said, tmp_path, option):
    measure = {"--reference": "fidelity", "--training": "memorisation"}.get(option, "adherence")
    assert f"{option}: 'file' is a file, not a folder" in said(measure, "--out", "out", option, "file")
    assert f"The folder of {option}, 'none', does not exist" in said(measure, "--out", "out", option, "none")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("measure", ["fidelity", "volumes"])
def test_results_never_lie_among_the_volumes(said, tmp_path, measure):
    ways = ["made", "real/../made/"]
    if os.name != "nt":  # where links need permission
        (tmp_path / "link").symlink_to(tmp_path / "made", target_is_directory=True)
        ways.append("link")
    for out in ways:
        assert "--out is the folder of --synthetic, 'made'" in said(
            measure, "--real", "real", "--synthetic", "made", "--out", out
        )
    assert list((tmp_path / "made").iterdir()) == []


def test_results_may_lie_above_and_below_the_volumes(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(evaluate_command.evaluate_volumes, "measure", lambda args, _: seen.append(args.out) or 1 / 0)
    (tmp_path / "real").mkdir()
    for out in (tmp_path, tmp_path / "real" / "results"):
        assert main(["evaluate", "volumes", "--real", str(tmp_path / "real"), "--out", str(out)]) == 1
    assert seen == [tmp_path, tmp_path / "real" / "results"]


# One command at a time


def test_a_second_command_in_one_folder_is_refused(said, tmp_path):
    """Whether it measures sets or trains networks; it names the process of the first and changes nothing."""
    sets = ["fidelity", "--real", "real", "--synthetic", "made"]
    with only_writer(tmp_path / "out"):
        for words in (sets, UTILITY):
            error = said(*words, "--out", "out")
            assert f"Another command is at work in 'out': process {os.getpid()}, since 20" in error
            assert "Wait until it has ended, or choose another folder" in error and "delete" not in error
        assert [p.name for p in (tmp_path / "out").iterdir()] == [LOCK]
    assert (tmp_path / "out").is_dir() and list((tmp_path / "out").iterdir()) == []
    assert "There is no model 'none'" in said(*UTILITY, "--out", "out")


def test_the_lock_of_another_process_counts_while_it_runs(tmp_path):
    """Told apart by number and start: that of a killed process is taken over, also when its number is in use again."""
    parent = psutil.Process(os.getppid())
    holder = {"pid": parent.pid, "host": host_name(), "utc": "2026-01-01T00:00:00Z", "token": "x"}

    def refused(**changes) -> str:
        (tmp_path / LOCK).write_text(json.dumps(holder | {"started": parent.create_time()} | changes))
        with pytest.raises(BadInput) as caught, only_writer(tmp_path):
            pass
        return caught.value.one_line()

    assert f"process {parent.pid}, since 2026-01-01T00:00:00Z. Wait" in refused()
    assert "on the computer 'elsewhere'" in refused(host="elsewhere") and LOCK in refused(host="elsewhere")
    assert f"delete '{LOCK}'" in refused(pid="damaged")
    for gone in ({"started": parent.create_time() - 100}, {"pid": 2**31 - 2, "started": 1.0}):
        (tmp_path / LOCK).write_text(json.dumps(holder | gone))
        with only_writer(tmp_path):
            assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
        assert not (tmp_path / LOCK).exists()


def test_a_failure_gives_the_folder_back(tmp_path):
    for folder in (tmp_path / "made" / "here", tmp_path):
        with pytest.raises(KeyboardInterrupt), only_writer(folder):
            raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
