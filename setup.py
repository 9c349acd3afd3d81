"""Which folders are installed as packages; everything else about the project is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["SynthDiffusionLib", "SynthDiffusionLib.*"]),
        *find_packages("SynthDiffusion", include=["SynthDiffusionScene", "SynthDiffusionScene.*"]),
        "SynthDiffusionResources",
    ],
    package_dir={
        "SynthDiffusionScene": "SynthDiffusion/SynthDiffusionScene",
        # "Resources" would be too common a name in site-packages.
        "SynthDiffusionResources": "Resources",
    },
    package_data={"SynthDiffusionResources": ["**/*"]},
    include_package_data=False,
)
