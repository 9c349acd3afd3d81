"""The course of an experiment on disk: what it was begun with, and every network's scores. Interrupted, it goes on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput, RunFailed
from SynthDiffusionLib.evaluation.utility.networks import Recipe, scores, train_network
from SynthDiffusionLib.evaluation.utility.pairs import Data, Pair

PLAN = "plan.json"


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

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Writes what the experiment is, or checks that the folder holds the same one.

        Raises:
            BadInput: it holds another experiment.
        """
        from SynthDiffusionLib.evaluation.cases import description_sha256
        from SynthDiffusionLib.jobs.provenance import write_json

        content = dict(plan) | {"recipe": self.recipe.to_json(), "data_sha256": description_sha256(self.data.folder)}
        content |= {"targets": list(self.data.targets), "intensity_range": list(self.data.intensity_range)}
        content = json.loads(json.dumps(content))
        path = self.out / PLAN
        if path.is_file():
            try:
                earlier = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise BadInput(f"'{path}' is damaged", "Give another --out.") from error
            differing = [k for k in content if earlier.get(k) != content[k]]
            if differing:
                raise BadInput(
                    f"'{self.out}' holds another experiment: its {differing[0]} is {earlier.get(differing[0])!r}",
                    "Give another --out, or the settings that it was begun with.",
                )
            return
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(path, content)

    def check_time(self) -> None:
        """Raises `Unfinished` when the minutes of this call are over."""
        if self.minutes is not None and time.monotonic() - self.began > 60.0 * self.minutes:
            raise Unfinished(
                f"Not finished: the {self.minutes:g} minutes of this call are over, with {self.trained} networks "
                "trained in it",
                "The same command goes on where it ended.",
            )

    def seconds(self) -> float:
        """Of training all networks, in this call and earlier ones."""
        files = sorted((self.out / "networks").glob("*.json"))
        return sum(json.loads(f.read_text(encoding="utf-8")).get("seconds", 0.0) for f in files)

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
        training = [[p.case for p in g] for g in groups if g]
        digest = hashlib.sha256()
        for pair in (p for g in groups for p in g):
            digest.update(pair.image.tobytes())
            digest.update(pair.target.tobytes())
        key = {"training_sha256": digest.hexdigest(), "shares": list(shares) if shares is not None else None}
        path = self.out / "networks" / f"{arm}-fold{fold}-seed{seed}.json"
        earlier = self._earlier(path, key, tests)
        if earlier is not None:
            return earlier
        self.check_time()
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
        found = {
            "arm": arm,
            "fold": fold,
            "seed": seed,
            "steps": self.recipe.steps,
            "seconds": round(time.monotonic() - began, 1),
            "training": training,
            **key,
            "scores": {
                part: scores(network, pairs, self.data.targets, self.recipe, self.device)
                for part, pairs in tests.items()
            },
        }
        from SynthDiffusionLib.jobs.provenance import write_json

        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
        self.trained += 1
        return found

    @staticmethod
    def _earlier(path: Path, key: Mapping[str, Any], tests: Mapping[str, Sequence[Pair]]) -> dict[str, Any] | None:
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            same = all(found[k] == v for k, v in key.items())
            whole = all([s["case"] for s in found["scores"][part]] == [p.case for p in t] for part, t in tests.items())
        except (OSError, ValueError, KeyError, TypeError):
            return None  # damaged: trained again
        return found if same and whole else None
