"""What marks a volume as synthetic in its header, in whichever field it has ended up.

Programs move text about: ITK writes NIfTI's `descrip` as NRRD's `ITK_FileNotes`, dcm2niix DICOM's Image Comments as
`aux_file`, cut to 23 characters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MARK = "SynthDiffusion.Synthetic"
"""Name of the attribute that is "YES" in the metadata of a volume that says in its header that it comes from here."""

SYNTHETIC_DATA = "SyntheticData"
"""Name of the attribute that is "YES" in the metadata of a DICOM series with Synthetic Data (0008,001C)."""

_OWN = re.compile(
    r"PARTLY SYNTHETIC"
    r"|\bSYNTHETIC [a-z0-9]+(?:-[a-z0-9]+)* [0-9A-Za-z.+-]+ seed [0-9]"
    r"|\bSYNTHETIC\. (?:Partly s|S)ynthetic"
    r"|\bSYNTHETIC\^SYN-"
    r"|ynthetic image for research[,.] [Nn]ot for diagnosis"
)
_CUT = re.compile(r"SYNTHETIC [a-z0-9]+(?:-[a-z0-9]+)* ")  # a long model ID leaves no room for the seed in 79 bytes
_FULL_FIELD = 78  # bytes of NIfTI's descrip


def own_mark(texts: Mapping[str, str]) -> str | None:
    """The name of the text that marks an image as made here; None if none does.

    Other people's "synthetic" (a contrast computed by SyMRI, say) is not meant.

    Args:
        texts: of a header, by the names of their fields.
    """
    for name, text in texts.items():
        if name.lower() == MARK.lower() and text.strip().upper() == "YES":
            return name
        if _OWN.search(text) or (_CUT.match(text) and len(text.encode()) >= _FULL_FIELD):
            return name
    return None


def mention(texts: Mapping[str, str]) -> str | None:
    """The name of the first text that says "synthetic" at all; None if none does."""
    return next((name for name, text in texts.items() if "synthetic" in f"{name} {text}".lower()), None)
