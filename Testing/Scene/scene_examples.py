"""Terminology and geometry that the scene tests use."""

from __future__ import annotations

import numpy as np

SHAPE = (20, 16, 12)

LUNG = (
    "Segmentation category and type - 3D Slicer General Anatomy list"
    "~SCT^123037004^Anatomical Structure~SCT^39607008^Lung~SCT^7771000^Left"
    "~Anatomic codes - DICOM master list~^^~^^"
)
NODULE = (
    "Segmentation category and type - DICOM master list"
    "~SCT^49755003^Morphologically Altered Structure~SCT^27925004^Nodule~^^"
    "~Anatomic codes - DICOM master list~SCT^39607008^Lung~^^"
)


def oblique_affine() -> np.ndarray:
    """Voxel indices to RAS mm: rotated about two axes, anisotropic, non-integer origin."""
    a, b = np.radians(17), np.radians(-31)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([0.7, 1.25, 2.5])
    affine[:3, 3] = [-101.3, 42.75, 7.125]
    return affine
