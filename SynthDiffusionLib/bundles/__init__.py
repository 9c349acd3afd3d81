"""MONAI bundles (https://monai.readthedocs.io/en/stable/mb_specification.html): packages written as bundles that
`monai.bundle` verifies and runs, and bundles of known networks read as data, none of whose expressions are run.

Docs/BUNDLES.md says what is in one.
"""
