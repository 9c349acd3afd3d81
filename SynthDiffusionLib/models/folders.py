"""Where model packages live: those that ship with SynthDiffusion, and those that the user has installed."""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from SynthDiffusionLib.errors import ModelError, RunFailed
from SynthDiffusionLib.models.names import id_problem
from SynthDiffusionLib.models.spec import SPEC_NAME
from SynthDiffusionLib.resources import resource_path

USER_FOLDER_VARIABLE = "SYNTHDIFFUSION_MODELS"
_TEMPORARY_PREFIX = ".unfinished-"
_LEFTOVER_S = 24 * 3600.0  # no installation takes that long
_RENAME_ATTEMPTS = 8


def shipped_folder() -> Path:
    """Resources/Models."""
    return resource_path("Models")


def user_folder() -> Path:
    """The user's model folder (it may not exist yet); the environment variable SYNTHDIFFUSION_MODELS overrides it."""
    import platformdirs

    override = os.environ.get(USER_FOLDER_VARIABLE)
    if override:
        return Path(override).expanduser()
    return Path(platformdirs.user_data_dir("SynthDiffusion", appauthor=False)) / "Models"


def package_folders() -> dict[str, tuple[Path, str]]:
    """ID to folder and origin ("shipped" or "user"). A shipped package goes before one of the user's with its ID."""
    found: dict[str, tuple[Path, str]] = {}
    for root, origin in ((shipped_folder(), "shipped"), (user_folder(), "user")):
        try:
            folders = sorted(p for p in root.iterdir() if not p.name.startswith(".") and p.is_dir())
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ModelError(f"Cannot read the model folder '{root}' ({error.strerror})", _where_hint()) from error
        for folder in folders:
            # A shipped folder without a description is a leftover of a checkout, not a model.
            if origin == "user" or (folder / SPEC_NAME).exists():
                found.setdefault(folder.name, (folder, origin))
    return found


def find_folder(model_id: str) -> tuple[Path, str]:
    """Folder and origin of an installed package.

    Raises:
        ModelError: no package has this ID; names the closest and all that there are.
    """
    from SynthDiffusionLib.schemas import closest

    known = package_folders()
    if model_id in known:
        return known[model_id]
    name = model_id if len(model_id) <= 80 else model_id[:77] + "..."
    if id_problem(model_id) is None and resource_path("Catalogue", f"{model_id}.json").is_file():
        raise ModelError(f"The model '{name}' is not installed", f"Run: synthdiffusion models install {model_id}.")
    if id_problem(model_id) is None and resource_path("Presets", f"{model_id}.json").is_file():
        raise ModelError(
            f"'{name}' is a preset, a design without weights",
            "Train it (Docs/TRAINING.md), or import released weights of it (Docs/MODELS.md).",
        )
    near = closest(model_id, known)
    raise ModelError(
        f"There is no model '{name}'",
        (f"Did you mean '{near}'? " if near else "")
        + (f"Installed: {', '.join(sorted(known))}." if known else "No model is installed.")
        + " Others: synthdiffusion models list --available, and models install FOLDER_OR_ZIP.",
    )


def _where_hint() -> str:
    return f"Set {USER_FOLDER_VARIABLE} to a folder that you can write to."


@contextmanager
def new_package_folder() -> Iterator[Path]:
    """A temporary folder in the user's model folder, removed at the end unless `put_in_place` has moved it away.

    Raises:
        ModelError: the user's folder cannot be written to.
        RunFailed: the disk is full.
    """
    root = user_folder()
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(root)
        folder = root / f"{_TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        folder.mkdir()
    except OSError as error:
        raise ModelError(f"Cannot write to the model folder '{root}' ({error.strerror})", _where_hint()) from error
    try:
        yield folder
    except OSError as error:
        # EFBIG: over the largest file that the disk's file system or a limit of the user allows.
        if error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise RunFailed(f"The disk with '{root}' is full", "Free some space, or " + _where_hint()) from error
        raise ModelError(f"Cannot copy the model into '{root}' ({error})", _where_hint()) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(root: Path) -> None:
    """Deletes temporary folders of processes that were killed."""
    for folder in root.glob(f"{_TEMPORARY_PREFIX}*"):
        with suppress(OSError):
            if folder.is_dir() and time.time() - folder.lstat().st_mtime > _LEFTOVER_S:
                shutil.rmtree(folder, ignore_errors=True)


def put_in_place(folder: Path, model_id: str) -> Path:
    """Gives a finished temporary folder its final name; a package of that name goes away in the same move.

    Returns:
        the final folder.
    """
    final = user_folder() / model_id
    with suppress(FileNotFoundError):
        move_away(final)
    rename(folder, final)
    return final


def move_away(folder: Path) -> None:
    """Deletes a package folder so that no half of it is ever seen under its name; of a link, only the link."""
    if folder.is_symlink():
        folder.unlink()
        return
    doomed = folder.with_name(f"{_TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def rename(source: Path, destination: Path) -> None:
    """`os.replace` of a folder, tried again while Windows refuses because a virus scanner has a file in it open."""
    for attempt in range(_RENAME_ATTEMPTS):
        try:
            os.replace(source, destination)
            return
        except PermissionError:
            if os.name != "nt" or attempt == _RENAME_ATTEMPTS - 1:
                raise
            time.sleep(0.05 * 2**attempt)
