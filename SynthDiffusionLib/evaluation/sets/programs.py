"""Segmenters that are programs of their own: any command, TotalSegmentator, nnU-Net.

The arguments are a list and no shell reads them. The program is given a file with a name that says nothing about the
patient, and writes a label map. Whatever it leaves running is ended with it.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from SynthDiffusionLib.errors import BadInput, SynthDiffusionError, escaped, shortened
from SynthDiffusionLib.evaluation.sets.image_set import ORIENTATION
from SynthDiffusionLib.evaluation.sets.segmenters import Event, SegmenterFailed
from SynthDiffusionLib.volumes import Volume, read_volume, reorient, same_grid, write_volume

if TYPE_CHECKING:
    import psutil

TIMEOUT_S = 3600.0
POLL_S = 0.2
END_S = 2.0  # that a program has to end by itself before it is ended
TAIL = 200  # characters of what a program said last
HASHED_BYTES = 64 << 20  # files among the arguments up to this size are part of the identity as a whole
END_BYTES = 1 << 20  # of the beginning and of the end of larger ones, beside their size and the time of their change
MOST_FILES = 10_000  # of a folder among the arguments
MARK = "SYNTHDIFFUSION_PROGRAM"  # variable of the environment that all processes of a program inherit
LARGEST_VALUE = np.iinfo(np.uint16).max


class ProgramSegmenter:
    """A program that maps a file to a file.

    Args:
        name: for people.
        arguments: program and arguments. {input} and {output} stand for the two files, {input_folder} and
            {output_folder} for the folders that they lie in.
        values: label values that the masks have; others that it writes are refused, or with `others_dropped` left out.
        timeout_s: for one volume.
        input_name: of the file that it is given.
        output_name: of the file that it writes.
        others_dropped: see `values`.

    Raises:
        BadInput: no such program.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        values: Sequence[int] | None,
        timeout_s: float = TIMEOUT_S,
        *,
        input_name: str = "image.nii.gz",
        output_name: str = "labels.nii.gz",
        others_dropped: bool = False,
        hint: str = "Check its name, or give its whole path.",
    ) -> None:
        if not (np.isfinite(timeout_s) and timeout_s > 0):
            raise BadInput(f"A time limit of {timeout_s:g} s is none", "Give --segmenter-timeout seconds above 0.")
        program = shutil.which(arguments[0])
        if program is None:
            raise BadInput(f"The program '{shortened(arguments[0])}' is not there or cannot be run", hint)
        self._arguments = [program, *arguments[1:]]
        self._known = None if values is None else frozenset(values)
        self._timeout_s, self._input, self._output, self._dropped = timeout_s, input_name, output_name, others_dropped
        self.name = name
        self.values: tuple[int, ...] | None = None
        self.identity = f"program {list(arguments)} {_contents(self._arguments)}"

    def __call__(self, image: Volume, on_event: Event) -> tuple[np.ndarray, ...]:
        with tempfile.TemporaryDirectory(prefix="synthdiffusion-", ignore_cleanup_errors=True) as folder:
            given, made = Path(folder) / "input", Path(folder) / "output"
            given.mkdir()
            made.mkdir()
            files = {
                "{input}": given / self._input,
                "{output}": made / self._output,
                "{input_folder}": given,
                "{output_folder}": made,
            }
            write_volume(image, files["{input}"])
            arguments = [_filled(a, files) for a in self._arguments]
            said = Path(folder) / "said.txt"
            code = run_program(arguments, said, self._timeout_s)
            if code is None:
                raise SegmenterFailed(
                    f"the program took longer than {self._timeout_s:g} s and was ended{_last_words(said)}",
                    "Give more with --segmenter-timeout.",
                )
            if code != 0:
                raise SegmenterFailed(f"the program ended with the exit code {code}{_last_words(said)}")
            if not files["{output}"].is_file():
                raise SegmenterFailed(f"the program ended well but wrote no output file{_last_words(said)}")
            return (self._read(files["{output}"], image),)

    def _read(self, path: Path, image: Volume) -> np.ndarray:
        try:
            labels = reorient(read_volume(path, "label"), ORIENTATION)
        except (SynthDiffusionError, OSError, ValueError, MemoryError) as error:
            reason = error.message if isinstance(error, SynthDiffusionError) else f"{type(error).__name__}: {error}"
            raise SegmenterFailed(f"what the program wrote is no label map: {reason}") from error
        if not same_grid(image.shape, image.affine, labels.shape, labels.affine):
            raise SegmenterFailed(
                f"the program wrote a label map on another grid: {_grid(labels)}, the image has {_grid(image)}"
            )
        found = [int(v) for v in np.unique(labels.array)]
        if found[-1] > LARGEST_VALUE:
            raise SegmenterFailed(f"the program wrote the label value {found[-1]}; the largest possible one is 65535")
        others = [v for v in found if v and self._known is not None and v not in self._known]
        if others and not self._dropped:
            raise SegmenterFailed(
                f"the program wrote the label values {shortened(others)}, which no mask has; the masks have "
                f"{shortened(sorted(self._known or ()))} (--segmenter-values says what its values stand for)"
            )
        array = labels.array.astype(np.uint16)
        if others:
            array[np.isin(array, others)] = 0
        return array


def command_segmenter(
    text: str, values: Sequence[int] | None, timeout_s: float = TIMEOUT_S, *, others_dropped: bool = False
) -> ProgramSegmenter:
    """`command:PROGRAM ARGUMENTS`; quotes hold arguments with blanks together, and nothing else is special.

    Raises:
        BadInput: it lacks {input} or {output}, quotes do not close, or there is no such program.
    """
    arguments = split_arguments(text)
    for placeholder in ("{input}", "{output}"):
        if not any(placeholder in a for a in arguments[1:]):
            raise BadInput(
                f"The command '{shortened(text)}' has no {placeholder}",
                'Give --segmenter "command:PROGRAM {input} {output}"; both are replaced by paths.',
            )
    name = f"the program {Path(arguments[0]).name}"
    return ProgramSegmenter(name, arguments, values, timeout_s, others_dropped=others_dropped)


def totalsegmentator(task: str, values: Sequence[int], modality: str, timeout_s: float = TIMEOUT_S) -> ProgramSegmenter:
    """`totalsegmentator[:TASK]`: the program TotalSegmentator, one label map of all its classes (`--ml`).

    Args:
        task: of its `--task`, or "fast", which is its 3 mm model; "" stands for total, or for MR total_mr.

    Raises:
        BadInput: it is not installed.
    """
    base = "total_mr" if modality == "MR" else "total"
    words = ["--fast"] if task == "fast" else []
    words = ["--task", base if task in ("", "fast") else task, *words]
    return ProgramSegmenter(
        f"TotalSegmentator ({' '.join(words[1:])})",
        ["TotalSegmentator", "-i", "{input}", "-o", "{output}", "--ml", *words],
        values,
        timeout_s,
        others_dropped=True,
        hint="Install it with: pip install TotalSegmentator (in an environment of its own, with its programs on the "
        "PATH), or use another --segmenter.",
    )


def nnunet(text: str, values: Sequence[int], timeout_s: float = TIMEOUT_S) -> ProgramSegmenter:
    """`nnunet:FOLDER` (of a trained model, with plans.json and fold_*), or `nnunet:DATASET` (its number or name; the
    configuration 3d_fullres, from the folder that nnUNet_results names).

    Raises:
        BadInput: nnU-Net is not installed, or the folder holds no model.
    """
    folder = Path(text)
    ends = ["-i", "{input_folder}", "-o", "{output_folder}"]
    if folder.is_dir():
        folds = sorted(p.name.removeprefix("fold_") for p in folder.glob("fold_*") if p.is_dir())
        if not folds or not (folder / "plans.json").is_file():
            raise BadInput(
                f"'{folder}' is no folder of a trained nnU-Net model",
                "Give the folder that holds plans.json, dataset.json and fold_0 or fold_all.",
            )
        used = ["all"] if "all" in folds else folds
        arguments = ["nnUNetv2_predict_from_modelfolder", *ends, "-m", str(folder.resolve()), "-f", *used]
    else:
        arguments = ["nnUNetv2_predict", *ends, "-d", text, "-c", "3d_fullres"]
    return ProgramSegmenter(
        f"nnU-Net ({folder.name})",
        arguments,
        values,
        timeout_s,
        input_name="image_0000.nii.gz",
        output_name="image.nii.gz",
        others_dropped=True,
        hint="Install nnU-Net with: pip install nnunetv2 (in an environment of its own, with its programs on the "
        "PATH), or use another --segmenter.",
    )


def split_arguments(text: str, windows: bool = os.name == "nt") -> list[str]:
    """Program and arguments. On Windows a backslash is a part of a path, and stays.

    Raises:
        BadInput: there is none, or quotes do not close.
    """
    try:
        words = shlex.split(text, posix=not windows)
    except ValueError as error:
        raise BadInput(f"The command '{shortened(text)}' cannot be read: {error}", "Close its quotes.") from error
    if windows:
        words = [w[1:-1] if len(w) > 1 and w[0] == w[-1] and w[0] in "\"'" else w for w in words]
    if not words:
        raise BadInput("The command is empty", "Give --segmenter command:PROGRAM {input} {output}.")
    return words


def run_program(
    arguments: Sequence[str], said: Path, timeout_s: float, clock: Callable[[], float] = time.monotonic
) -> int | None:
    """Runs a program, what it says going to a file; its exit code, or None where it took too long and was ended.

    However this ends (by itself, time, an interrupt), all processes that the program has started are gone afterwards,
    also those that it left in the background: they are known by a mark in their environment.

    Raises:
        SegmenterFailed: it cannot be started.
    """
    mark = uuid.uuid4().hex
    with said.open("wb") as stream:
        try:
            process = subprocess.Popen(  # the arguments are a list: no shell
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, MARK: mark},
            )
        except OSError as error:
            raise SegmenterFailed(f"the program could not be started ({error.strerror or error})") from error
        began = clock()
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(POLL_S)
                if clock() - began > timeout_s:
                    return None
        finally:
            end_tree(process, mark)


def end_tree(process: subprocess.Popen, mark: str) -> None:
    """Ends a process with all that it has started.

    Args:
        process: running or not.
        mark: value of `MARK` in the environment of those whose parent has ended already.
    """
    import psutil

    for _ in range(3):  # what was started while the others were being ended
        tree = set(marked(mark))
        with suppress(psutil.Error):
            tree |= set(psutil.Process(process.pid).children(recursive=True))
            if process.poll() is None:
                tree.add(psutil.Process(process.pid))
        if not tree:
            break
        for one in tree:
            with suppress(psutil.Error):
                one.terminate()
        for one in _still_running(tree):
            with suppress(psutil.Error):
                one.kill()
        _still_running(tree)
    if process.poll() is None:
        process.kill()
    process.wait()


def _still_running(tree: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended after `END_S`. One whose parent has gone may stay in the system's list as ended."""
    import psutil

    until = time.monotonic() + END_S
    running = list(tree)
    while True:
        left = []
        for one in running:
            with suppress(psutil.Error):
                if one.is_running() and one.status() != psutil.STATUS_ZOMBIE:
                    left.append(one)
        running = left
        if not running or time.monotonic() > until:
            return running
        time.sleep(END_S / 100)


def marked(mark: str) -> Iterator[psutil.Process]:
    """The processes whose environment has the mark; those that do not show theirs are of others."""
    import psutil

    for one in psutil.process_iter():
        with suppress(psutil.Error, OSError, ValueError):
            if one.environ().get(MARK) == mark and one.status() != psutil.STATUS_ZOMBIE:
                yield one


def _filled(argument: str, files: dict[str, Path]) -> str:
    for placeholder, path in files.items():
        argument = argument.replace(placeholder, str(path))
    return argument


def _contents(arguments: Sequence[str]) -> list[str]:
    """Checksums of the files and folders among the arguments, also in `--weights=PATH`: a script or weights that were
    changed are another segmenter."""
    sums = []
    for argument in arguments:
        for text in dict.fromkeys((argument, argument.partition("=")[2])):
            path = Path(text)
            with suppress(OSError, ValueError):
                if text and path.is_file():
                    sums.append(_sum_of_file(path))
                elif text and path.is_dir() and text != os.sep:
                    sums.append(_sum_of_folder(path))
    return sums


def _sum_of_file(path: Path) -> str:
    """Of its content; of a large file, of its size, the time of its change, its beginning and its end."""
    about = path.stat()
    if about.st_size <= HASHED_BYTES:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256(f"{about.st_size} {about.st_mtime_ns}".encode())
    with path.open("rb") as stream:
        digest.update(stream.read(END_BYTES))
        stream.seek(-END_BYTES, os.SEEK_END)
        digest.update(stream.read())
    return digest.hexdigest()


def _sum_of_folder(folder: Path) -> str:
    """Of the names, sizes and times of change of all files below a folder, such as that of a trained model."""
    digest = hashlib.sha256()
    paths = (Path(root) / name for root, folders, names in _walked(folder) for name in sorted(names))
    for _, path in zip(range(MOST_FILES), paths):
        with suppress(OSError):
            about = path.stat()
            digest.update(f"{path.relative_to(folder).as_posix()} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _walked(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` in the order of the names; what Python and the system write by themselves is left out."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if f != "__pycache__" and not f.startswith("."))
        yield root, folders, [n for n in names if not n.startswith(".")]


def _last_words(said: Path) -> str:
    with suppress(OSError):
        text = said.read_bytes()[-4 * TAIL :].decode("utf-8", "replace").strip()
        if text:
            return f"; it said last: {escaped(' '.join(text.split())[-TAIL:])}"
    return ""


def _grid(volume: Volume) -> str:
    size = " x ".join(map(str, volume.shape))
    spacing = " x ".join(f"{mm:.3g}" for mm in volume.spacing)
    origin = ", ".join(f"{mm:.1f}" for mm in volume.affine[:3, 3])
    return f"{size} voxels of {spacing} mm at ({origin})"
