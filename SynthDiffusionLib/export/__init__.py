"""Synthetic volumes in the form that others take them: marked, with what their record says, and with nothing of a
patient's headers. Needs a volume that `generate` has written and its record; never torch."""
