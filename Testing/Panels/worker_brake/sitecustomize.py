"""Stops real worker processes at a point that a test names. Python imports it when its folder is on PYTHONPATH.

SYNTHDIFFUSION_TEST_STOP names the point: "import NAME", before a module is imported, or a piece of an event, before
that event is printed. The worker then writes the file `stopped` into its working folder, the folder of the job, and
waits until that file is gone. SYNTHDIFFUSION_TEST_DEAF: it waits like a long computation, in which no request to end is
heard. SYNTHDIFFUSION_TEST_LARGEST: no file may be larger than so many bytes, as on a full disk.

SYNTHDIFFUSION_TEST_RECORD, a folder of `endurance.record`: every process of the engine, not only workers, gives the
answer that is recorded there, without the seconds that it takes to import torch. SYNTHDIFFUSION_TEST_ANSWERS, a folder
of `whole_way.write_answers`: the same for the processes that are asked for the engine's state, for what a run takes,
and, with the model folder beside that one, for the models.
"""

import importlib
import os
import shutil
import sys
import time
from pathlib import Path

_POINT = os.environ.get("SYNTHDIFFUSION_TEST_STOP", "")
_LARGEST = int(os.environ.get("SYNTHDIFFUSION_TEST_LARGEST", "0"))


def _stop() -> None:
    stopped = Path("stopped")
    stopped.touch()
    if os.environ.get("SYNTHDIFFUSION_TEST_DEAF"):
        time.sleep(60)
    while stopped.exists():
        time.sleep(0.02)


class _Finder:
    """Finds no module, and stops at one."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == _POINT.removeprefix("import "):
            sys.meta_path.remove(_Finder)
            _stop()
        return None


class _Output:
    """Standard output that stops before a line."""

    def __init__(self, stream) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if _POINT in text:
            _stop()
        return self._stream.write(text)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def _replay(record: Path) -> None:
    """Does what a process of the engine did in the job folder `record / "job"`, in the working folder of this one."""
    module = sys.orig_argv[sys.orig_argv.index("-m") + 1]
    here = Path.cwd()
    if module.endswith(".worker"):
        for name in ("results", "previews"):
            shutil.copytree(record / "job" / name, here / name, dirs_exist_ok=True)
    for line in (record / f"{module}.jsonl").read_text(encoding="utf-8").splitlines():
        print(line.replace("{JOB}", here.as_posix()), flush=True)
        time.sleep(0.01)
    os._exit(0)


def _answer(folder: Path) -> None:
    """Says what is recorded, if that is what this process is asked for."""
    module, *arguments = sys.orig_argv[sys.orig_argv.index("-m") + 1 :]
    if module == "SynthDiffusionLib":
        own = Path(os.environ["SYNTHDIFFUSION_MODELS"]).parent == folder.parent
        module = "models" if own and arguments == ["models", "list", "--json"] else module
    recorded = folder / f"{module}.json"
    if recorded.exists():
        print(recorded.read_text(encoding="utf-8"), flush=True)
        os._exit(0)


if os.environ.get("SYNTHDIFFUSION_TEST_ANSWERS") and "-m" in sys.orig_argv:
    _answer(Path(os.environ["SYNTHDIFFUSION_TEST_ANSWERS"]))
if os.environ.get("SYNTHDIFFUSION_TEST_RECORD") and "-m" in sys.orig_argv:
    _replay(Path(os.environ["SYNTHDIFFUSION_TEST_RECORD"]))
if "SynthDiffusionLib.jobs.worker" in sys.orig_argv:
    if _POINT.startswith("import "):
        sys.meta_path.insert(0, _Finder)
    elif _POINT:
        sys.stdout = _Output(sys.stdout)
    if _LARGEST:
        resource = importlib.import_module("resource")  # POSIX only, as the test that asks for it
        resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST, _LARGEST))
