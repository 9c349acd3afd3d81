"""`python -m SynthDiffusionLib` is the command `synthdiffusion`."""

import sys

from SynthDiffusionLib.cli import main

if __name__ == "__main__":
    sys.exit(main())
