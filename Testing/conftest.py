"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

_REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def own_state_folder(tmp_path_factory) -> Iterator[Path]:
    """A folder in place of the user's, for what is kept between runs; child processes get it too."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNTHDIFFUSION_STATE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real volumes that are not part of the project; skips the test where it is absent."""
    named = os.environ.get("SYNTHDIFFUSION_SHARED_DATA")
    folder = Path(named) if named else _REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set SYNTHDIFFUSION_SHARED_DATA)")
    return folder


def make_affine(
    codes: str = "RAS",
    spacing: tuple[float, float, float] = (0.7, 1.1, 2.3),
    angles_deg: tuple[float, float, float] = (11.0, -7.0, 19.0),
    origin: tuple[float, float, float] = (-103.37, 45.21, 12.893),
) -> np.ndarray:
    """(4, 4) RAS affine of an oblique, anisotropic grid with a non-integer origin.

    Args:
        codes: where i, j, k point before the rotation.
        spacing: mm along i, j, k.
        angles_deg: rotations about R, A and S, one after the other; zeros for a grid along the patient's axes.
        origin: RAS mm of voxel (0, 0, 0).
    """
    axes = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    rotation = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles_deg)):
        turn = np.eye(3)
        u, v = (axis + 1) % 3, (axis + 2) % 3
        turn[[u, u, v, v], [u, v, u, v]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        rotation = turn @ rotation
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.array([axes[c] for c in codes], float).T @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


@pytest.fixture(scope="session")
def oblique_affine() -> Callable[..., np.ndarray]:
    """`make_affine`: an oblique, anisotropic affine; see there for its arguments."""
    return make_affine
