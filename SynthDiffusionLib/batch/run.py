"""`run_batch`: from the options of a batch to volumes, manifest and report."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from SynthDiffusionLib import __version__
from SynthDiffusionLib.batch.items import Item, check_numbers, list_items, model_of, settings_of, shard_of, with_source
from SynthDiffusionLib.batch.lease import only_driver, others_at_work
from SynthDiffusionLib.batch.local_pool import LocalPool, Seat
from SynthDiffusionLib.batch.pool import Pool
from SynthDiffusionLib.batch.report import BatchResult, write_report
from SynthDiffusionLib.batch.schedule import Schedule, Tally
from SynthDiffusionLib.batch.sources import Source
from SynthDiffusionLib.batch.store import Store
from SynthDiffusionLib.errors import BadInput, Cancelled, RunFailed, SynthDiffusionError
from SynthDiffusionLib.jobs.events import OnEvent, ignore
from SynthDiffusionLib.jobs.preparation import resolve_settings
from SynthDiffusionLib.jobs.request import GenerateRequest
from SynthDiffusionLib.models import ModelPackage, load_package
from SynthDiffusionLib.reader_study.locks import host_name

MEMORY_SHARE = 0.8  # of what is free, that CPU workers take together
QUICK_REPORT = 5_000  # items whose report is still written when the batch is cancelled
LOCAL_THREADS = 2  # of a CPU worker, where there are four cores or more


@dataclass(frozen=True)
class BatchRequest:
    """What a batch is asked to do.

    Args:
        template: the request that all volumes have in common; its "out" is the batch's folder.
        sources: segmentations; one without any for volumes without a drawing.
        samples: volumes of each.
        seed: base of the seeds, see `items.first_seed`.
        same_seeds: the same seeds for every segmentation.
        shard: (i, N): only part i of N; (1, 1) is all.
        resume: go on with a batch that is there.
        verify: read the files that are there, and make those anew that have been changed.
        retries: further attempts at a volume after something that may pass.
        workers: how many; None: see `LocalPool` and `RayPool`.
        threads: CPU threads of each; None: as fits.
        ray: address of a Ray cluster, see `ray_pool.connect`; None: this machine alone.
        scratch: folder on each machine's own disk for what is begun; None: in the batch's folder.
    """

    template: GenerateRequest
    sources: Sequence[Source]
    samples: int = 1
    seed: int = 1
    same_seeds: bool = False
    shard: tuple[int, int] = (1, 1)
    resume: bool = False
    verify: bool = False
    retries: int = 2
    workers: int | None = None
    threads: int | None = None
    ray: str | None = None
    scratch: Path | None = None

    def __post_init__(self) -> None:
        number, count = self.shard
        if not 1 <= number <= count <= 100_000:
            raise BadInput(f"There is no shard {number} of {count}", "Give --shard as 1/8 to 8/8.")
        if not 0 <= self.retries <= 100:
            raise BadInput(f"{self.retries} retries were asked for", "Give --retries a number from 0 to 100.")
        check_numbers(self.samples, self.seed)
        for name, value in (("workers", self.workers), ("threads", self.threads)):
            if value is not None and not 1 <= value <= 4096:
                raise BadInput(f"{value} {name} were asked for", f"Give --{name} a number from 1 to 4096.")


def run_batch(
    request: BatchRequest, on_event: OnEvent = ignore, should_cancel: Callable[[], bool] = lambda: False
) -> BatchResult:
    """Makes all volumes of a batch that are not there yet.

    What goes wrong with one volume is recorded, and the others go on.

    Args:
        request: what to make.
        on_event: gets "progress" with the stages "list" and "batch", and warnings.
        should_cancel: asked about twice a second.

    Returns:
        what is there now, with the files of the report.

    Raises:
        BadInput, ModelError: the request cannot be carried out for any volume; or another batch is in the folder.
        Cancelled: in the end, after the report of what is there has been written, if that takes no time.
        RunFailed: the cluster has gone; as with `Cancelled`.
    """
    package = load_package(request.template.model)
    resolve_settings(request.template, package.spec)
    number, count = request.shard
    part = "" if count == 1 else f"-{number}-of-{count}"
    with ExitStack() as stack:
        if request.ray is not None:
            from SynthDiffusionLib.batch.ray_pool import cluster

            stack.enter_context(cluster(request.ray))
        out = stack.enter_context(only_driver(request.template.out, part))
        store = Store(out)
        store.begin(_description(request, package), request.resume, shared=count > 1)
        items, notes = list_items(
            request.sources,
            request.template,
            package.spec,
            request.samples,
            request.seed,
            request.same_seeds,
            lambda done, total: on_event({"event": "progress", "stage": "list", "step": done, "total": total}),
        )
        for note in notes:
            on_event({"event": "warning", "message": note})
        mine = shard_of(items, number, count)
        token = f"{_safe(host_name())}{part}-{uuid.uuid4().hex[:6]}"
        tally = Tally(len(mine))
        missing = _missing(mine, store, request, tally, on_event)
        ended: BaseException | None = None
        try:
            if missing:
                pool = _pool(request, package, store, token, len(missing))
                Schedule(pool, store, tally, request.retries, on_event, should_cancel).carry_out(missing)
        except (Cancelled, KeyboardInterrupt, RunFailed) as error:
            ended = error
        finally:
            store.clear_work(token)
            if not others_at_work(out, part):
                store.clear_work()  # of drivers that were killed
        if isinstance(ended, (Cancelled, KeyboardInterrupt)) and len(mine) > QUICK_REPORT:
            message = "Manifest and report take too long to write now: the same command with --resume writes them"
            on_event({"event": "warning", "message": message})
            raise ended
        if count == 1 and (others := store.count() - sum(store.folder_of(item.key).is_dir() for item in items)):
            notes.append(
                f"{others} further volumes of earlier lists lie in 'volumes', but not in this manifest; 'evaluate' and "
                "'export' take them too"
            )
            on_event({"event": "warning", "message": notes[-1]})
        result = write_report(store, mine, tally, notes, part)
        if ended is not None:
            raise ended
        return result


def _description(request: BatchRequest, package: ModelPackage) -> dict[str, object]:
    return {
        "software": {"name": "SynthDiffusion", "version": __version__},
        "model": model_of(package.spec),
        "settings": settings_of(request.template),
        "seed": request.seed,
        "same_seeds": request.same_seeds,
    }


def _missing(items: Sequence[Item], store: Store, request: BatchRequest, tally: Tally, on_event: OnEvent) -> list[Item]:
    """The items that are not there; what cannot be made is recorded at once."""
    missing = []
    damaged = 0
    for step, item in enumerate(items, 1):
        if request.verify:
            on_event({"event": "progress", "stage": "verify", "step": step, "total": len(items)})
        found, put_aside = store.finished_or_cleared(item, request.verify)
        damaged += put_aside
        if found is not None:
            tally.there += 1
        elif item.problem:
            hint = "Mend the file, then go on with --resume."
            store.fail(item, "bad_input", item.problem, hint, 0)
            tally.failed.append((item, "bad_input", item.problem, hint))
            on_event({"event": "warning", "message": f"{item.case}: {item.problem}"})
        else:
            missing.append(item)
    if damaged:
        message = f"{damaged} volumes were damaged: they lie in 'damaged' now, and are made anew"
        on_event({"event": "warning", "message": message})
    return missing


def _pool(request: BatchRequest, package: ModelPackage, store: Store, token: str, items: int) -> Pool:
    template = request.template.to_json()
    if request.ray is not None:
        from SynthDiffusionLib.batch.ray_pool import RayPool

        return RayPool(request.workers, request.threads, template, store, token, request.scratch)
    return LocalPool(_seats(request, package, items), template, store, token, request.scratch)


def _seats(request: BatchRequest, package: ModelPackage, items: int) -> list[Seat]:
    """One a GPU that may be used, or as many on the CPU as its cores and memory bear; never more than items.

    Raises:
        BadInput: more workers than GPUs.
    """
    import torch

    from SynthDiffusionLib.memory.plan import resolve_device

    device = resolve_device(request.template.device)
    if device != "cpu":
        # A GPU that is named is the only one; "auto" and "cuda" mean all of them.
        named = request.template.device.lower() not in ("auto", "cuda")
        gpus = [device] if named else [f"cuda:{n}" for n in range(torch.cuda.device_count())]
        if (request.workers or 1) > len(gpus):
            raise BadInput(
                f"{request.workers} workers were asked for, but there are {len(gpus)} GPUs for them",
                "Give --workers no more than that: a worker takes a GPU for itself.",
            )
        return [Seat(gpu, request.threads) for gpu in gpus[: request.workers][: max(1, items)]]
    import psutil

    cores = os.cpu_count() or 1
    threads = request.threads or (
        max(1, cores // request.workers) if request.workers else min(LOCAL_THREADS, cores // 2)
    )
    threads = max(1, threads)
    workers = request.workers or max(1, cores // threads)
    workers = min(workers, max(1, items))
    if request.workers is None and workers > 1:
        peak = _peak_bytes(package, request)
        free = MEMORY_SHARE * psutil.virtual_memory().available
        workers = 1 if peak is None else max(1, min(workers, int(free / max(1, peak))))
    memory = None
    if workers > 1 and request.template.vram_limit is None:
        memory = int(psutil.virtual_memory().available / workers)
    return [Seat("cpu", threads, memory)] * workers


def _peak_bytes(package: ModelPackage, request: BatchRequest) -> int | None:
    """Memory that a CPU worker will take at its peak, as predicted for the first segmentation that can be used; None
    if there is none among the first few."""
    from SynthDiffusionLib.jobs.inputs import memory_of
    from SynthDiffusionLib.jobs.preparation import prepare
    from SynthDiffusionLib.memory.plan import resolve_plan
    from SynthDiffusionLib.memory.working_grids import padded

    for source in request.sources[:3]:
        one = replace(with_source(request.template, source.segmentation, source.image), seed=0)
        with suppress(SynthDiffusionError, OSError):
            resolved = resolve_settings(one, package.spec)
            inputs, prepared = prepare(one, package.spec, resolved, Path(one.out))
            held_bytes, files_bytes = memory_of(inputs, one.crop)
            plan = resolve_plan(
                package.spec,
                padded(package.spec, prepared.grid),
                device="cpu",
                precision=one.precision,
                vram_limit=one.vram_limit,
                conditional=prepared.has_drawing,
                strategies=one.strategies,
                held_bytes=held_bytes,
                files_bytes=files_bytes,
            )
            return plan.predicted_bytes
    return None


def _safe(name: str) -> str:
    """A computer's name as part of a file name."""
    return "".join(c if c.isalnum() else "-" for c in name)[:30] or "computer"
