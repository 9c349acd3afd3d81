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

EDITED = "SynthDiffusion.Edited"
"""Name of the attribute that is "YES" in the metadata of a volume made here that says in its header that it, or an
image that it was inpainted into, was edited afterwards."""

EDITED_WORDS = "changed after the model had made them"
"""In the Derivation Description of a DICOM series of such a volume."""

_OWN = re.compile(
    r"PARTLY SYNTHETIC"
    r"|\bSYNTHETIC [a-z0-9]+(?:-[a-z0-9]+)* [0-9A-Za-z.+-]+ seed [0-9]"
    r"|\bSYNTHETIC\. (?:Partly s|S)ynthetic"
    r"|\bSYNTHETIC\^SYN-"
    r"|ynthetic image for research[,.] [Nn]ot for diagnosis"
)
_OWN_EDIT = re.compile(r"\bSYNTHETIC\b.* seed [0-9]+, EDITED\b")
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


def own_edit(texts: Mapping[str, str]) -> bool:
    """Whether a text says that an image made here was edited afterwards.

    Args:
        texts: of a header, by the names of their fields.
    """
    return any(
        (name.lower() == EDITED.lower() and text.strip().upper() == "YES")
        or _OWN_EDIT.search(text)
        or EDITED_WORDS in text
        for name, text in texts.items()
    )


def mention(texts: Mapping[str, str]) -> str | None:
    """The name of the first text that says "synthetic" at all; None if none does."""
    return next((name for name, text in texts.items() if "synthetic" in f"{name} {text}".lower()), None)
