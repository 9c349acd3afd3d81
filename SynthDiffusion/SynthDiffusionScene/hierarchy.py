"""Patient and study of a segmentation and of what is made from it."""

from __future__ import annotations

import slicer

_LEVEL_STUDY = "Study"  # vtkMRMLSubjectHierarchyConstants::GetDICOMLevelStudy, named so since Slicer 4
_LEVEL_PATIENT = "Patient"


def subjectHierarchy(scene) -> slicer.vtkMRMLSubjectHierarchyNode:
    """The subject hierarchy of a scene; made if the scene has none yet."""
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)


def itemOfNode(scene, node) -> int:
    """Item of a data node. Slicer makes one for each node that is added; the slicer-core wheel does not."""
    hierarchy = subjectHierarchy(scene)
    item = hierarchy.GetItemByDataNode(node)
    if item == hierarchy.GetInvalidItemID():
        item = hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
    return item


def studyOfNode(scene, node) -> int | None:
    """The study item above a node, at any depth, or None."""
    hierarchy = subjectHierarchy(scene)
    study = hierarchy.GetItemAncestorAtLevel(itemOfNode(scene, node), _LEVEL_STUDY)
    return None if study == hierarchy.GetInvalidItemID() else study


def ensureStudy(scene, node, caseName: str) -> int:
    """The study item above a node; where it is missing, it is made above the node, and the patient above it likewise.

    Args:
        scene: the MRML scene.
        node: a data node, as a rule the segmentation that a volume is made from.
        caseName: name of a patient item that has to be made. It is the name of the case, never a person's.
    """
    study = studyOfNode(scene, node)
    if study is not None:
        return study
    hierarchy = subjectHierarchy(scene)
    item = itemOfNode(scene, node)
    patient = hierarchy.GetItemAncestorAtLevel(item, _LEVEL_PATIENT)
    if patient == hierarchy.GetInvalidItemID():
        # A folder of the user's stays where it is; the new patient goes into it.
        patient = hierarchy.CreateSubjectItem(hierarchy.GetItemParent(item), caseName)
    study = hierarchy.CreateStudyItem(patient, "SynthDiffusion")
    hierarchy.SetItemParent(item, study)
    return study


def placeInSameStudy(scene, node, beside, caseName: str) -> int:
    """Puts a node into the study of another one.

    Args:
        scene: the MRML scene.
        node: the node to place.
        beside: the node whose study it joins.
        caseName: see `ensureStudy`.

    Returns:
        Item ID of the study.
    """
    study = ensureStudy(scene, beside, caseName)
    subjectHierarchy(scene).SetItemParent(itemOfNode(scene, node), study)
    return study


def comesFromDicom(scene, node) -> bool:
    """Whether a node, or the study or patient above it, was loaded from DICOM: their names may be a person's."""
    hierarchy = subjectHierarchy(scene)
    item = itemOfNode(scene, node)
    while item not in (hierarchy.GetInvalidItemID(), hierarchy.GetSceneItemID()):
        if hierarchy.GetItemUID(item, "DICOM"):
            return True
        item = hierarchy.GetItemParent(item)
    return False
