"""The course of an experiment on disk: what it was begun with, and every network's weights and scores. Interrupted, it
goes on.

A network is kept by a checksum of what it learnt from, its scores by one of what it was tested on: where test images or
class maps were changed, the kept weights are scored again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.errors import BadInput, RunFailed
from SynthDiffusionLib.evaluation.utility.networks import Recipe, scores, train_network
from SynthDiffusionLib.evaluation.utility.pairs import Data, Pair
from SynthDiffusionLib.output_folders import LOCK

if TYPE_CHECKING:
    import torch

PLAN = "plan.json"
GENERATOR = "generator"  # of the plan: checksums of the configurations, by stage
TESTED = "tests_sha256"
GONE, DAMAGED = "gone", "damaged"


class Unfinished(RunFailed):
    """The time of this call is over; the same command goes on."""

    kind = "unfinished"


@dataclass
class Store:
    """Networks of one experiment, each trained once.

    Args:
        out: folder of the experiment.
        data: the data set.
        recipe: of all networks.
        device: they are trained on.
        minutes: of this call; None: to the end.
        on_event: called with progress events.
    """

    out: Path
    data: Data
    recipe: Recipe
    device: str = "cpu"
    minutes: float | None = None
    on_event: Callable[[dict], None] = lambda event: None
    began: float = field(default_factory=time.monotonic)
    trained: int = 0
    _new: bool = False  # the plan is of this call

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Writes what the experiment is, or checks that the folder holds the same one.

        Raises:
            BadInput: it holds another experiment.
        """
        from SynthDiffusionLib.jobs.provenance import write_json
        from SynthDiffusionLib.training.dataset import description_sha256

        content = dict(plan) | {"recipe": self.recipe.to_json(), "data_sha256": description_sha256(self.data.folder)}
        content |= {"targets": list(self.data.targets), "intensity_range": list(self.data.intensity_range)}
        content = json.loads(json.dumps(content))
        path = self.out / PLAN
        if path.is_file():
            try:
                earlier = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                raise BadInput(f"'{path}' is damaged: it cannot be read", "Give another --out.") from error
            if not isinstance(earlier, dict):
                raise BadInput(f"'{path}' is damaged: it is no plan of an experiment", "Give another --out.")
            differing = [k for k in content if earlier.get(k) != content[k]]
            if differing:
                its = f"its {differing[0]} is {earlier.get(differing[0])!r}"
                if differing[0] == GENERATOR and earlier.get(GENERATOR) is not None:
                    its = "its generators were trained by other settings than --generator now has"
                elif differing[0] == GENERATOR:
                    its = "its plan does not say by which settings its generators were trained"
                raise BadInput(
                    f"'{self.out}' holds another experiment: {its}",
                    "Give another --out, or the settings that it was begun with.",
                )
            return
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
        self._new = True

    def undo(self) -> None:
        """Takes the plan back where nothing was done by it, so that a corrected command finds the folder free."""
        files = [p for p in self.out.rglob("*") if not p.is_dir() and p.name != LOCK]
        if self._new and files == [self.out / PLAN]:
            (self.out / PLAN).unlink()
            for folder in (*sorted((p for p in self.out.rglob("*")), reverse=True), self.out):
                with suppress(OSError):  # not of this experiment
                    folder.rmdir()

    def check_time(self) -> None:
        """Raises `Unfinished` when the minutes of this call are over."""
        if self.minutes is not None and time.monotonic() - self.began > 60.0 * self.minutes:
            raise Unfinished(
                f"Not finished: the {self.minutes:g} minutes of this call are over, with {self.trained} networks "
                "trained in it",
                "The same command goes on where it ended.",
            )

    def seconds(self) -> float:
        """Of training all networks, in this call and earlier ones; damaged files do not count."""
        total = 0.0
        for file in sorted((self.out / "networks").glob("*.json")):
            with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                total += float(json.loads(file.read_text(encoding="utf-8"))["seconds"])
        return total

    def network(
        self,
        arm: str,
        fold: int,
        seed: int,
        groups: Sequence[Sequence[Pair]],
        tests: Mapping[str, Sequence[Pair]],
        shares: Sequence[float] | None = None,
    ) -> dict[str, Any]:
        """The scores of one network, trained now or earlier.

        Args:
            arm, fold, seed: which.
            groups, shares: what it learns from, see `train_network`.
            tests: examples that it is scored on, by the name of their part.

        Returns:
            {"arm", "fold", "seed", "training": [[cases], ...], "scores": {part: [{"case", "patient", "dice"}]}}.
        """
        key = {
            "training_sha256": _digest(p for g in groups for p in g),
            "shares": list(shares) if shares is not None else None,
        }
        tested = {part: _digest(pairs, named=True) for part, pairs in tests.items()}
        path = self.out / "networks" / f"{arm}-fold{fold}-seed{seed}.json"
        weights = path.with_suffix(".safetensors")
        earlier, reason = self._earlier(path, arm, key, tests)
        network = None
        if earlier is not None:
            changed = [f"'{part}'" for part, digest in tested.items() if earlier[TESTED].get(part) != digest]
            wrong = _wrong_weights(weights, earlier)
            if not changed:
                if wrong == DAMAGED:
                    self._warn(path, f"the kept weights are {wrong}: the scores from before are used")
                return earlier
            reason = f"test images or masks have changed (set {', '.join(changed)})"
            network = self._kept(weights) if not wrong else None
            if network is not None:
                self._warn(path, f"{reason}: scored again")
            else:
                reason += f", and the kept weights are {wrong or DAMAGED}"
        if network is None:
            self.check_time()
            if reason:
                self._warn(path, f"{reason}: trained and scored again")
            began = time.monotonic()
            name = f"network {arm}, fold {fold}, seed {seed}"
            network = train_network(
                groups,
                shares,
                len(self.data.targets),
                self.recipe,
                seed,
                self.device,
                lambda event: self.on_event(event | {"stage": name}),
            )
            earlier = {
                "arm": arm,
                "fold": fold,
                "seed": seed,
                "steps": self.recipe.steps,
                "recipe": json.loads(json.dumps(self.recipe.to_json())),
                "seconds": round(time.monotonic() - began, 1),
                "training": [[p.case for p in g] for g in groups if g],
                **key,
                "weights_sha256": _keep(network, weights),
            }
            self.trained += 1
        found = earlier | {
            TESTED: tested,
            "scores": {
                part: scores(network, pairs, self.data.targets, self.recipe, self.device)
                for part, pairs in tests.items()
            },
        }
        from SynthDiffusionLib.jobs.provenance import write_json

        write_json(path, found)
        return found

    def _warn(self, path: Path, message: str) -> None:
        self.on_event({"event": "warning", "message": f"{path.stem}: {message}"})

    def _earlier(
        self, path: Path, arm: str, key: Mapping[str, Any], tests: Mapping[str, Sequence[Pair]]
    ) -> tuple[dict[str, Any] | None, str]:
        """What the folder has of a network that learnt the same, by the same recipe; or None, and why what it has is
        not taken, "" where it has nothing.

        Raises:
            BadInput: it has no checksums of what it was tested on, and files of the data set are newer than it.
        """
        if not path.is_file():
            return None, ""
        damaged = None, "the kept scores are damaged"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            recipe = json.loads(json.dumps(self.recipe.to_json()))
            differing = [k for k, v in key.items() if found[k] != v]
            same = found["steps"] == self.recipe.steps and found.get("recipe", recipe) == recipe
            cases = {part: [s["case"] for s in found["scores"][part]] for part in tests}
            if not isinstance(found.get(TESTED, {}), dict):
                return damaged
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return damaged
        if "training_sha256" in differing:
            return None, f"training images or masks of arm '{arm}' have changed"
        if differing or not same:
            return None, "it was trained by another recipe"
        if TESTED in found:
            return found, ""
        if any([p.case for p in t] != cases[part] for part, t in tests.items()):
            return None, "it was tested on other cases"
        newer = self._newer_file(path.stat().st_mtime)
        if newer is not None:
            raise BadInput(
                f"'{path.name}' does not say which images the network was tested on, and '{newer.name}' of the data "
                "set is newer",
                f"Remove '{path}' to have it trained again, or give another --out.",
            )
        from SynthDiffusionLib.jobs.provenance import write_json

        found[TESTED] = {part: _digest(pairs, named=True) for part, pairs in tests.items()}
        write_json(path, found)  # from now on, changes are seen
        return found, ""

    def _newer_file(self, moment: float) -> Path | None:
        """A file of the data set that was written after a moment (s since 1970)."""
        for path in case_files(self.data, ("train", "validation", "test")):
            if path.is_file() and path.stat().st_mtime > moment:
                return path
        return None

    def _kept(self, path: Path) -> torch.nn.Module | None:
        """The network of these weights; None where they are none of it."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        from SynthDiffusionLib.networks.segmenter import build_segmenter
        from SynthDiffusionLib.networks.small_grids import exact_on_small_grids

        try:
            network = exact_on_small_grids(build_segmenter(self.recipe.channels, len(self.data.targets)))
            network.load_state_dict(load(path.read_bytes()))
        except (OSError, SafetensorError, RuntimeError):
            return None
        return network.to(self.device).eval()


def case_files(data: Data, parts: Sequence[str]) -> list[Path]:
    """Images and class maps of parts of a prepared data set."""
    names = [c.name for part in parts for c in data.parts[part]]
    return [data.folder / kind / f"{name}.nii.gz" for name in names for kind in ("images", "classes")]


def sets_of(data: Data) -> list[dict[str, Any]]:
    """The parts of the data set, as results have the sets that they are of (`ImageSet.summary`)."""
    told = []
    for part, role in (("train", "training"), ("validation", "validation"), ("test", "test")):
        cases = data.parts[part]
        sums = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in case_files(data, [part]))
        told.append(
            {
                "role": role,
                "volumes": len(cases),
                "patients": len({c.patient for c in cases}),
                "skipped": [],
                "spacing_mm": [round(float(mm), 4) for mm in cases[0].image.spacing] if cases else None,
                "sha256": hashlib.sha256("".join(sums).encode()).hexdigest(),
            }
        )
    return told


def _digest(pairs: Sequence[Pair] | Iterator[Pair], named: bool = False) -> str:
    digest = hashlib.sha256()
    for pair in pairs:
        if named:
            digest.update(f"{pair.case} {pair.patient} {pair.image.shape}".encode())
        digest.update(pair.image.tobytes())
        digest.update(pair.target.tobytes())
    return digest.hexdigest()


def _wrong_weights(path: Path, entry: Mapping[str, Any]) -> str:
    """What is the matter with the weights of an entry; "" where they are as they were written."""
    if not path.is_file() or "weights_sha256" not in entry:
        return GONE
    try:
        same = hashlib.sha256(path.read_bytes()).hexdigest() == entry["weights_sha256"]
    except OSError:
        same = False
    return "" if same else DAMAGED


def _keep(network: torch.nn.Module, path: Path) -> str:
    """Writes the weights; returns the checksum of the file."""
    from safetensors.torch import save

    from SynthDiffusionLib.volumes.atomic import atomic_file

    content = save({name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as stream:
        stream.write(content)
    return hashlib.sha256(content).hexdigest()
