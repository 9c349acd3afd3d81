"""The synthetic volumes of an arm, made through `jobs.run` as everybody's are; what is there already is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.utility.pairs import Data, Pair, read_pair
from SynthDiffusionLib.jobs.request import GenerateRequest

if TYPE_CHECKING:
    from SynthDiffusionLib.models import ModelPackage

INDEX = "synthetic.json"
MOST_EMPTY = 3  # draws for each pair that is wanted, until a joint model counts as one that makes no target


@dataclass(frozen=True)
class Sampling:
    """How volumes are made; None: the model's default."""

    steps: int | None = None
    sampler: str | None = None
    guidance: float | None = None
    device: str = "auto"
    precision: str = "auto"

    def to_request(self) -> dict[str, Any]:
        """As arguments of a request."""
        return {k: v for k, v in vars(self).items()}


def make_for_masks(
    package: ModelPackage,
    data: Data,
    wanted: Sequence[tuple[str, int]],
    part: str,
    out: Path,
    sampling: Sampling,
    on_event: Callable[[dict], None] = lambda event: None,
    check_time: Callable[[], None] = lambda: None,
) -> list[Pair]:
    """One volume for every (case, seed), from the whole class map of the case.

    Args:
        part: of the data set that the cases are in.
        out: folder of the volumes and of their index.
        check_time: called before each volume; raises when there is no time left.
    """
    cases = {c.name: c for c in data.parts[part]}
    index = _read(out, package)
    pairs = []
    for number, (name, seed) in enumerate(wanted):
        entry = index["made"].get(f"{name}-{seed}")
        if entry is None or not _intact(out, entry):
            # Those that are there are counted, and not told one by one.
            on_event({"event": "progress", "stage": f"synthetic {part} volumes", "step": number, "total": len(wanted)})
            check_time()
            values = {str(v): n for n, v in data.description["classes"].items()}
            drawn = {str(int(v)) for v in set(cases[name].classes.array.ravel().tolist())}
            request = GenerateRequest(
                segmentation=data.folder / "classes" / f"{name}.nii.gz",
                model=str(package.folder),
                out=_folder(out),
                labels={v: n for v, n in values.items() if v in drawn},
                seed=seed,
                case=name,
                **sampling.to_request(),
            )
            entry = _entry(_run(request), out)
            index["made"][f"{name}-{seed}"] = entry
            _write(out, index)
        pairs.append(
            read_pair(data, entry["file"], cases[name].patient, out / entry["file"], None, cases[name].classes.array)
        )
    return pairs


def make_jointly(
    package: ModelPackage,
    data: Data,
    number: int,
    first_seed: int,
    out: Path,
    sampling: Sampling,
    on_event: Callable[[dict], None] = lambda event: None,
    check_time: Callable[[], None] = lambda: None,
) -> tuple[list[Pair], int]:
    """Pairs of image and mask, with characteristics drawn from the generator's own training cases.

    Returns:
        `number` pairs whose mask is not empty, and how many were made in vain.

    Raises:
        BadInput: the model makes hardly anything but empty masks.
    """
    index = _read(out, package)
    pairs: list[Pair] = []
    empty = 0
    seed = first_seed
    while len(pairs) < number:
        if empty > MOST_EMPTY * number:
            raise BadInput(
                f"The model '{package.id}' left {empty} of {empty + len(pairs)} masks empty",
                "Train it longer, or on more patients.",
            )
        key = f"joint-{seed}"
        entry = index["made"].get(key)
        if entry is None or not _intact(out, entry):
            on_event({"event": "progress", "stage": "synthetic pairs", "step": len(pairs), "total": number})
            check_time()
            request = GenerateRequest(
                segmentation=None,
                model=str(package.folder),
                out=_folder(out),
                mode="joint",
                seed=seed,
                case="pair",
                **sampling.to_request(),
            )
            entry = _entry(_run(request), out)
            index["made"][key] = entry
            _write(out, index)
        pair = read_pair(data, entry["file"], "", out / entry["file"], out / entry["segmentation"], None)
        if pair.target.any():
            pairs.append(pair)
        else:
            empty += 1
        seed += 1
    return pairs, empty


def _run(request: GenerateRequest) -> dict[str, Any]:
    from SynthDiffusionLib.jobs import run

    return run(request).outputs[0]


def _folder(out: Path) -> Path:
    Path(out).mkdir(parents=True, exist_ok=True)
    return Path(out)


def _entry(made: dict[str, Any], out: Path) -> dict[str, str]:
    from SynthDiffusionLib.jobs.provenance import sha256_of

    entry = {}
    for key, name in (("volume", "file"), ("segmentation", "segmentation")):
        if made.get(key):
            path = Path(made[key])
            entry[name] = path.relative_to(out).as_posix()
            entry[f"{name}_sha256"] = sha256_of(path)
    return entry


def _intact(out: Path, entry: dict[str, str]) -> bool:
    from SynthDiffusionLib.jobs.provenance import sha256_of

    files = [(Path(out) / entry[n], entry[f"{n}_sha256"]) for n in ("file", "segmentation") if n in entry]
    return bool(files) and all(path.is_file() and sha256_of(path) == digest for path, digest in files)


def _read(out: Path, package: ModelPackage) -> dict[str, Any]:
    from SynthDiffusionLib.evaluation.samples import generator_identity

    identity = generator_identity(package)
    path = Path(out) / INDEX
    if not path.is_file():
        return {"model": identity, "made": {}}
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        same = index["model"] == identity and isinstance(index["made"], dict)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"'{path}' is damaged", "Remove it; the volumes are made again.") from error
    if not same:
        raise BadInput(f"The volumes in '{out}' were made by another model", "Give another --out.")
    return index


def _write(out: Path, index: dict[str, Any]) -> None:
    from SynthDiffusionLib.jobs.provenance import write_json

    write_json(Path(out) / INDEX, index)
