"""The items of a batch: one volume each, named by the checksum of all that it depends on."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from SynthDiffusionLib.batch.sources import Source
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.jobs.provenance import sha256_of
from SynthDiffusionLib.jobs.request import GenerateRequest
from SynthDiffusionLib.models.spec import ModelSpec

MOST_SAMPLES = 1_000_000  # of one segmentation
_SEEDS = 2**31 - 1 - MOST_SAMPLES  # so that all of a segmentation follow each other
KEY_DIGITS = 20
_STAND_IN = "unreadable:"  # begins what stands in a key for a checksum that cannot be had
# What an item's voxels do not depend on, or what stands in the key in another form.
_NOT_IN_KEY = (
    "schema",
    "model",
    "segmentation",
    "image",
    "out",
    "case",
    "seed",
    "samples",
    "device",
    "vram_limit",
    "strategies",
)


@dataclass(frozen=True)
class Item:
    """One volume of a batch.

    Args:
        key: hexadecimal digits, see `key_of`.
        case: what the names of its files begin with.
        number: of the volume among those of its segmentation, from 0.
        seed: of its noise.
        segmentation: its file, absolute; None without a drawing.
        image: the real volume to inpaint into, absolute, or None.
        checksums: SHA-256 of these files, as in the provenance; without those that cannot be read.
        problem: why it cannot be made, where that is known already; else "".
    """

    key: str
    case: str
    number: int
    seed: int
    segmentation: Path | None
    image: Path | None
    checksums: Mapping[str, str]
    problem: str = ""

    def request(self, template: GenerateRequest, out: Path, **changes: Any) -> GenerateRequest:
        """The request that makes this item; see `with_source`."""
        made = with_source(template, self.segmentation, self.image)
        return replace(made, case=self.case, seed=self.seed, samples=1, out=out, **changes)

    def to_json(self) -> dict[str, Any]:
        paths = {
            name: None if (path := getattr(self, name)) is None else str(path) for name in ("segmentation", "image")
        }
        return asdict(self) | paths

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Item:
        paths = {n: None if content[n] is None else Path(content[n]) for n in ("segmentation", "image")}
        return cls(**{**content, **paths})


def with_source(template: GenerateRequest, segmentation: Path | None, image: Path | None) -> GenerateRequest:
    """A batch's request for one segmentation."""
    return replace(template, segmentation=segmentation, image=image)


def model_of(spec: ModelSpec) -> dict[str, Any]:
    """What a volume depends on of a model: its ID, its version and the checksums of its weights."""
    files = {f.path: f.sha256 for f in spec.files if f.role not in ("card", "figure")}
    return {"id": spec.id, "version": spec.version, "files": files}


def settings_of(template: GenerateRequest) -> dict[str, Any]:
    """What a volume depends on of a request beside model, segmentation and seed; JSON values."""
    settings = json.loads(json.dumps(template.to_json()))
    return {name: value for name, value in settings.items() if name not in _NOT_IN_KEY}


def key_of(model: Mapping[str, Any], settings: Mapping[str, Any], checksums: Mapping[str, str], seed: int) -> str:
    """The name of an item: `KEY_DIGITS` hexadecimal digits of the SHA-256 of all that its voxels depend on.

    The file names of the inputs and the case are not part of it, nor the device: a volume that another device has made
    stands for the same item, although its voxels differ a little.

    Args:
        model: see `model_of`.
        settings: see `settings_of`.
        checksums: of the inputs.
        seed: of the noise.
    """
    content = {"model": model, "settings": settings, "inputs": dict(checksums), "seed": seed}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


def first_seed(base: int, checksums: Mapping[str, str]) -> int:
    """The first of the consecutive seeds of a segmentation, so that segmentations hardly ever get the same noise.

    It depends on the base and on the content of the segmentation alone, so that a batch can grow. As there are 2^31
    seeds, two of many segmentations may get overlapping ones: `list_items` counts that.
    """
    text = json.dumps([base, sorted(checksums.items())])
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) % _SEEDS


def list_items(
    sources: Sequence[Source],
    template: GenerateRequest,
    spec: ModelSpec,
    samples: int,
    seed: int,
    same_seeds: bool = False,
    on_read: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Item], list[str]]:
    """The items of a batch.

    Args:
        sources: segmentations; one without any for volumes without a drawing.
        template: the request that all have in common.
        spec: of its model.
        samples: volumes of each segmentation.
        seed: base of all seeds, see `first_seed`.
        same_seeds: give each segmentation the seeds `seed`, `seed` + 1, ... instead.
        on_read: is told how many segmentations of how many have been read.

    Returns:
        the items, ordered by case and number; and sentences on segmentations that were left out, as their content is
        that of another, and on volumes that share their noise.
    """
    model, settings = model_of(spec), settings_of(template)
    items: dict[str, Item] = {}
    notes: list[str] = []
    for done, source in enumerate(sources, 1):
        checksums, problem = _checksums(source)
        known = {name: value for name, value in checksums.items() if not value.startswith(_STAND_IN)}
        drawn = source.segmentation is not None and not same_seeds
        first = first_seed(seed, checksums) if drawn else seed
        for number in range(samples):
            key = key_of(model, settings, checksums, first + number)
            item = Item(key, source.case, number, first + number, source.segmentation, source.image, known, problem)
            other = items.setdefault(key, item)
            if other.case != item.case:
                notes.append(
                    f"'{source.case}' has the content of '{other.case}': its volumes are made once, as of that"
                )
                break
        on_read(done, len(sources))
    shared = sum(number - 1 for number in Counter(item.seed for item in items.values()).values())
    if shared and not same_seeds:
        notes.append(
            f"{shared} of {len(items)} volumes have by chance the seed of another segmentation's, and so its noise"
        )
    return list(items.values()), notes


def check_numbers(samples: int, seed: int) -> None:
    """Refuses numbers that no list can be made with.

    Raises:
        BadInput: out of range.
    """
    if not 1 <= samples <= MOST_SAMPLES:
        raise BadInput(f"{samples} samples were asked for", f"Give --samples a number from 1 to {MOST_SAMPLES}.")
    if not 0 <= seed < _SEEDS:
        raise BadInput(f"The seed {seed} is out of range", f"Give --seed a number from 0 to {_SEEDS - 1}.")


def shard_of(items: Sequence[Item], number: int, count: int) -> list[Item]:
    """Part `number` of `count` (from 1) of the items: every one belongs to just one part.

    A part follows from the keys alone, so that drivers on several machines need not agree on more than the list.
    """
    return [item for item in items if int(item.key, 16) % count == number - 1]


def _checksums(source: Source) -> tuple[dict[str, str], str]:
    """SHA-256 of the inputs; and why they cannot be had, with a stand-in by the file's name."""
    checksums: dict[str, str] = {}
    for name, path in (("segmentation_sha256", source.segmentation), ("image_sha256", source.image)):
        if path is None:
            continue
        try:
            # A pipe, say, would be waited for.
            if not path.is_file() and not (name == "image_sha256" and path.is_dir()) and path.exists():
                raise OSError(0, "it is no file")
            checksums[name] = sha256_of(path)
        except OSError as error:
            stand_in = hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()
            return checksums | {name: f"{_STAND_IN}{stand_in}"}, f"'{path}' cannot be read ({error.strerror or error})"
    return checksums, ""
