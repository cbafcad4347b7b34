"""Finds patients in the names of files and folders, `p07_V2/T1.nii.gz`, `20005.png`; takes one
version of an image.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_subjects(items, how):
    """The patient in the names of each image's folders or file, None where these have none;
    UserError if unsure and `how` is "ask".
    """
    from gantk.data.sources.file_names import numbered
    from gantk.data.sources.reader import is_volume
    from gantk_subjects.folders import (
        patient_folders,
        patient_in,
        patient_name,
        shared_folders,
        without_visits,
    )
    from gantk_subjects.reading import reading_of, unsure

    if how in ("folders", "numbered folders"):
        shared = shared_folders({item.place for item in items})
        of = patient_folders if how == "folders" else patient_name
        return without_visits([of(item.place, shared) for item in items])
    if any(is_volume(item.source) for item in items):  # each volume is a patient's
        patients = iter(
            without_visits([patient_in(item.name) for item in items if is_volume(item.source)])
        )
        return [next(patients) if is_volume(item.source) else "" for item in items]
    if any(numbered(item.place) for item in items):
        return None  # folders are named after patients
    reading = reading_of(names := [item.stem for item in items])
    if reading and how == "ask" and not reading.sure:
        raise unsure(names, reading)
    if reading and isinstance(how, list) and not reading.sure:
        how.append(unsure(names, reading))
    return reading.patients if reading and (reading.sure or how == "take") else None


@hookimpl
def gantk_items(items, source):
    """The items with one version of each image: `pre/T1` of `orig/T1` and `pre/T1`; UserError for
    folders of visits that are called T1 and T2.
    """
    from gantk_subjects.versions import one_version, refuse_folders_of_visits

    refuse_folders_of_visits(items, source)
    kept, note = one_version(items, source.root)
    source.notes = [note] if note else []
    return kept
