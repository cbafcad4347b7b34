"""Finds patients in the names of pictures in one folder: `patient07_slice012.png`, `20005.png` of patient 20."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_subjects(items, how):
    """The patient in each picture's name, None where names have none; UserError if unsure and `how` is "ask"."""
    from gantk.data.sources.file_names import numbered
    from gantk.data.sources.reader import is_volume
    from gantk_subjects.reading import reading_of, unsure

    if any(is_volume(item.source) or numbered(item.place) for item in items):
        return None  # each volume is a patient, or folders are named after patients
    found = reading_of(names := [item.stem for item in items])
    if found and how == "ask" and not found.sure:
        raise unsure(names, found)
    if found and isinstance(how, list) and not found.sure:
        how.append(unsure(names, found))
    return found.patients if found and (found.sure or how == "take") else None
