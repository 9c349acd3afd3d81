"""Faults of the system while the command runs: folders, disks and interrupts. Nothing half-written stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import command_process
import pytest
from command_process import ERROR, PROGRESS, environment
from tiny_package import Stopwatch

from SynthDiffusionLib.cli import main, models_command

place, refused = command_process.place, command_process.refused


def test_output_folder_is_a_file(refused, tmp_path):
    file = tmp_path / "results"
    file.write_text("mine")
    refused(out=file, cause=f"The output folder '{file}' cannot be written to", mend="--out")
    refused(out=file / "below", cause="cannot be written to", mend="--out")
    assert file.read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc, where nobody can make a folder")
def test_output_folder_not_writable(refused):
    refused(out=Path("/proc/synthdiffusion"), cause="'/proc/synthdiffusion' cannot be written to", mend="--out")


WITH_SMALL_FILES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))  # larger files: EFBIG, which is treated like a full disk
from SynthDiffusionLib.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_disk_full(place, tmp_path):
    pytest.importorskip("resource")
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    arguments = ["generate", "seg.nii.gz", "--model", "tiny-ct", "--out", str(out), "--steps", "1"]
    done = subprocess.run(
        [sys.executable, "-c", WITH_SMALL_FILES, *arguments],
        cwd=place,
        env=environment(place),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    said = done.stderr.splitlines()
    assert said[-1].startswith(ERROR) and "No space left on the disk" in said[-1] and "Free some space" in said[-1]
    assert all(line.startswith(PROGRESS) for line in said[:-1]), said
    assert [p.name for p in out.iterdir()] == ["mine.txt"]


# Python as it starts in the background of a shell ignores interrupts; a terminal's does not.
INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from SynthDiffusionLib.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT can be sent to a single process")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_interrupted_run(place, tmp_path, name):
    if signal.getsignal(getattr(signal, name)) == signal.SIG_IGN:
        pytest.skip("under nohup the signal is ignored, here and in the child, as it should be")
    out = tmp_path / "out"
    out.mkdir()
    earlier = out / "seg_tiny-ct_seed1.nii.gz"
    earlier.write_bytes(b"an earlier result")
    arguments = ["generate", "seg.nii.gz", "--model", "tiny-ct", "--out", str(out), "--steps", "1000", "--seed", "1"]
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *arguments],
        cwd=place,
        env=environment(place),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        said = []
        for line in child.stderr:
            said.append(line.rstrip("\n"))
            if line.startswith("synthesising: step 1 "):
                break
        stopwatch = Stopwatch(child)
        child.send_signal(getattr(signal, name))
        code = stopwatch.wait()
        rest, errors = child.stdout.read(), child.stderr.read()
    finally:
        child.kill()
        child.communicate()
    said += errors.splitlines()
    assert code == 130, said
    assert stopwatch.seconds < 2.0, f"{stopwatch.seconds:.1f} s from the signal to the end"
    assert said[-1].startswith(f"{ERROR}Cancelled") and "Traceback" not in "".join(said) and rest == ""
    assert [p.name for p in out.iterdir()] == [earlier.name]
    assert earlier.read_bytes() == b"an earlier result"


INTERRUPT = """
import os, signal
def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
"""
# As the script that pip makes for the command.
SCRIPT = """
import atexit, signal, sys
from interrupting import interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
from SynthDiffusionLib.cli import main
{before}
code = main()
{after}
sys.exit(code)
"""


def ended(place: Path, folder: Path, *command: str) -> tuple[int, list[str], str]:
    """Exit code, standard error and output of Python with modules of `folder` in front of its own."""
    (folder / "interrupting.py").write_text(INTERRUPT, encoding="utf-8")
    own = environment(place)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=place,
        env=own | {"PYTHONPATH": os.pathsep.join((str(folder), own["PYTHONPATH"]))},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    return done.returncode, done.stderr.splitlines(), done.stdout


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT can be sent to a single process")
@pytest.mark.parametrize("module", ["argparse", "SynthDiffusionLib.cli", "SynthDiffusionLib.errors"])
@pytest.mark.parametrize("way", ["module", "script"])
def test_interrupted_while_it_starts(way, module, place, tmp_path):
    """Ctrl+C as a module is about to be imported."""
    if way == "script" and module == "SynthDiffusionLib.cli":
        pytest.skip("nothing of ours has run yet")
    finder = f"""
import sys
from interrupting import interrupt
import signal
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            interrupt()
sys.meta_path.insert(0, Finder())
"""
    run = "import runpy\nrunpy.run_module('SynthDiffusionLib', run_name='__main__', alter_sys=True)"
    command = finder + (run if way == "module" else SCRIPT.format(before="", after=""))
    assert ended(place, tmp_path, "-c", command, "models", "list") == (130, [f"{ERROR}Cancelled"], "")


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT can be sent to a single process")
def test_interrupted_while_python_runs_a_text(place, tmp_path):
    """Python then remembers the interrupt although it was caught, and would end itself with the signal."""
    stub = "import signal\nfrom interrupting import interrupt\nexec('interrupt()')\n"
    (tmp_path / "argparse.py").write_text(
        stub.replace("exec", "signal.signal(signal.SIGINT, signal.default_int_handler)\nexec"), encoding="utf-8"
    )
    command = ("-m", "SynthDiffusionLib", "models", "list")
    assert ended(place, tmp_path, *command) == (130, [f"{ERROR}Cancelled"], "")


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT can be sent to a single process")
def test_interrupted_while_it_ends(place, tmp_path):
    arguments = ("models", "show", "tiny-ct")
    code, said, out = ended(place, tmp_path, "-c", SCRIPT.format(before="", after=""), *arguments)
    assert code == 0 and "tiny-ct" in out
    command = SCRIPT.format(before="", after="interrupt()")
    assert ended(place, tmp_path, "-c", command, *arguments) == (130, [*said, f"{ERROR}Cancelled"], out)
    command = SCRIPT.format(before="atexit.register(interrupt)", after="")  # the last of all to be called
    assert ended(place, tmp_path, "-c", command, *arguments) == (0, said, out), "all is done: its own exit code"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_interrupted_while_a_module_is_loaded(monkeypatch, capsys, name):
    """Python makes an ImportError of what a signal raises within the start of a module written in C."""
    number = getattr(signal, name)

    def run(args):
        if args.models_action == "list":
            try:
                signal.raise_signal(number)
            except KeyboardInterrupt:
                raise ImportError("initialization failed") from None
        raise ImportError("no such module")

    monkeypatch.setattr(models_command, "run", run)
    before = signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)
    try:
        assert main(["models", "list"]) == 130
        assert capsys.readouterr().err == f"{ERROR}Cancelled\n"
        assert main(["models", "show", "x"]) == 1  # the signal was of the command before
        assert "ImportError: no such module" in capsys.readouterr().err
    finally:
        signal.signal(number, before)


def test_debug_shows_the_traceback_too(place, tmp_path):
    arguments = ["generate", "nothing.nii.gz", "--model", "tiny-ct", "--out", str(tmp_path / "out"), "--debug"]
    done = subprocess.run(
        [sys.executable, "-m", "SynthDiffusionLib", *arguments],
        cwd=place,
        env=environment(place),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"{ERROR}nothing.nii.gz does not exist")
