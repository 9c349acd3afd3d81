"""The networks of a model while a volume is made: which are on the device, and how they are set up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from SynthDiffusionLib.memory.execution import CHUNK, CHUNK_ELEMENTS, WHOLE
from SynthDiffusionLib.memory.gpu import release
from SynthDiffusionLib.networks.chunked_convolution import chunk_convolutions
from SynthDiffusionLib.networks.small_grids import exact_on_small_grids

if TYPE_CHECKING:
    from SynthDiffusionLib.memory.plan import Plan

T = TypeVar("T")


class Stages:
    """Brings the networks of a stage to the device as it begins, and sets them up as the plan says.

    Args:
        plan: how the stages are computed. In a stage that is not computed as `WHOLE`, networks of other stages go to
            host memory.
        networks: by their role.
        used: roles of the networks that each stage computes with, by the names of `memory.execution`.
        alone: networks of other stages always leave a GPU.
    """

    def __init__(
        self,
        plan: Plan,
        networks: Mapping[str, nn.Module],
        used: Mapping[str, Sequence[str]],
        alone: bool = False,
    ) -> None:
        self.plan, self._networks, self._used, self._alone = plan, networks, used, alone

    def begin(self, stage: str) -> None:
        """A stage begins, perhaps not for the first time.

        Args:
            stage: of those in `used`.
        """
        strategy, device = self.plan.execution.of(stage), torch.device(self.plan.device)
        used = self._used[stage]
        if device.type != "cpu" and (self._alone or strategy != WHOLE):
            for role, network in self._networks.items():
                if role not in used:  # first, so that there is room
                    network.to("cpu")
        for role in used:
            network = self._networks[role]
            chunk_convolutions(network, CHUNK_ELEMENTS if strategy == CHUNK else None)
            if device.type == "cpu":
                exact_on_small_grids(network)
            network.to(device)
            lay_out(network, self.plan.execution.channels_last)

    def attempt(self, stage: str, work: Callable[[], T]) -> T:
        """A piece of a stage's work; once more, in the next exact way, if the device runs out of memory.

        That happens in spite of a plan where other programs fill the device meanwhile. `plan` is then another.

        Args:
            stage: that has begun.
            work: may be done twice; looks at `plan`.

        Raises:
            torch.OutOfMemoryError: no way is left, or the device runs out again.
        """
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            reason = str(error)
        # Out here, where nothing holds the tensors of what failed any more.
        following = self.plan.after_running_out(stage)
        if following is None:
            raise torch.OutOfMemoryError(reason)
        release()
        self.plan = following
        following.tell(stage, following)
        self.begin(stage)
        return work()

    def attempting(self, stage: str, work: Callable[..., T]) -> Callable[..., T]:
        """A function that is attempted whenever it is called; see `attempt`."""
        return lambda *arguments: self.attempt(stage, lambda: work(*arguments))


def ran_out(error: BaseException) -> bool:
    """Whether a device has no memory left; PyTorch's allocator for CPUs has no error of its own for that."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def lay_out(network: nn.Module, channels_last: bool) -> None:
    """Lays out the weights of three-dimensional convolutions, from which their results take their own layout.

    Args:
        network: its weights keep their values.
        channels_last: with the channels innermost, or outermost as PyTorch has them.
    """
    layout = torch.channels_last_3d if channels_last else torch.contiguous_format
    for module in network.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)) and not weight.is_contiguous(memory_format=layout):
            weight.data = weight.data.contiguous(memory_format=layout)
