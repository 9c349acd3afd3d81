"""`python -m SynthDiffusionLib` is the command `synthdiffusion`."""

import os
import sys

if __name__ == "__main__":
    try:
        from SynthDiffusionLib.cli import main

        code = main()
    except KeyboardInterrupt:  # before `main` could look out for it
        os.write(2, b"synthdiffusion: error: Cancelled\n")
        os._exit(130)
    sys.exit(code)
