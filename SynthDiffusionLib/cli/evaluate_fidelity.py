"""`synthdiffusion evaluate fidelity` of two folders of volumes."""

from __future__ import annotations

import argparse

from SynthDiffusionLib.cli.evaluate_sets import Event, Measured, add_set_options


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the measure."""
    add_set_options(parser)


def measure(args: argparse.Namespace, on_event: Event) -> Measured:
    """Reads the sets and measures."""
    raise NotImplementedError
