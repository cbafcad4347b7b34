"""The types of words in names: people, visits, sites and splits; and the words of files that show
no patient. `layouts` says where they count.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from gantk.catalog.contrasts import ContrastWords
from gantk.formats.files import stem_of

DATE = (
    r"(?:(?:19|20)\d\d[-_.]?[01]\d[-_.]?[0-3]\d"
    r"(?:[0-2]\d[0-5]\d[0-5]\d(?:_\d{1,3}[a-z]?)?)?"  # dcm2niix: time and number of the series
    r"|[0-3]\d[-.][01]\d[-.](?:(?:19|20)\d\d|\d\d))"
)
VISIT = (
    rf"(?:{DATE}|(?:sess?(?:ion)?|visit|week|month|year|day|time[-_ ]?point|tp)[-_ ]?\d[\d-]*[a-z]?"
    r"|ses-[a-z0-9]+|baseline|follow[-_ ]?up\d*|(?:pre|post)(?:[-_ ]?op\w*)?)"
)
VISITS = re.compile(rf"(?i)(?<![^\W_]){VISIT}(?![^\W_])")  # in a name
PERSON = (
    r"(?:(?:sub|subject|patient|pat|case|p)[-_ ]?\d+|sub-[a-z0-9]+|\d{3}_S_\d{4}"
    r"|BraTS-[a-z]+-\d{5}|TCGA-\w\w-\w{4})"
)
SITE = r"(?:site|cent(?:er|re)|hospital|fold)[-_ ]?(?:\d+|[a-z])"
# where images are from, which is no patient
PLACE = rf"(?:{SITE}|(?:clinic|institut(?:e|ion)|scanner|vendor)[-_ ]?(?:\d+|[a-z]))"
# where or of whom they are, by a letter that is no domain
PLACE_OR_PERSON = (
    rf"(?:{PLACE}|(?:patient|pat|subject|sub|case|session|visit|reader|rater|observer)[-_ ]?[a-z])"
)
SPLIT = (
    r"(?:images(?=t[rs]|va))?"
    r"(?:training(?:data)?|train|testing(?:data)?|test|validation|valid|val|dev|tr|ts)"
)
# what follows a split that a folder starts with: TrainT1 and TRAINT1, but not TSE_T2
SPLIT_END = r"(?=[-_ ]|(?:(?<=[a-z])|(?<=\w{3}))[A-Z]|[a-z]\d|[ab]?$)"
SLICE_WORDS = ("slice", "slc", "sl", "z")  # before the number of a slice
SLICE_END = re.compile(rf"(?i)[-_. ](?:{'|'.join(SLICE_WORDS)})[-_ ]?\d+$")
# folders of classes of images, which are no patients
CLASS = (
    r"(?:yes|no|normal|healthy|no[-_ ]?tumou?r|tumou?r|positive|negative|benign|malignant|ill|well)"
)
# folders of versions of the same images, of which one is used
VERSION = r"(?:raw|orig(?:inal)?s?|unprocessed|(?:pre[-_]?)?processed|preproc|native|mni\w*)"
# first two letters of such a word -> the split
SPLITS = {"tr": "train", "te": "test", "ts": "test", "va": "validation", "de": "validation"}
# how was scanned: words that differ between the series of a patient and say nothing of whom
SERIES_WORDS = {
    *("ax", "axial", "tra", "trans", "sag", "sagittal", "cor", "coronal", "2d", "3d", "iso"),
    *("se", "tse", "fse", "ffe", "tfe", "gre", "tirm", "mprage", "flash", "space", "spc", "blade"),
    *("vibe", "cube", "ns", "fs", "fl", "p2", "image", "images", "scan", "series"),
}

# Files that show no patient, or another image once more; each is counted and named.
MASK = re.compile(
    r"(?i)(?:mask|seg|segm|segmentation|label|parc|lesion|annotation"
    r"|maske|masken|segmentierung(?:en)?|läsion(?:en)?|laesion(?:en)?|annotationen|markierung(?:en)?"
    r"|masque|lésion|[eé]tiquette"
    r"|m[aá]scara|segmentaci[oó]n|segmentaciones|lesión|lesiones|anotaci[oó]n|anotaciones|etiqueta"
    r"|mascher[ae]|segmentazion[ei]|lesion[ei]|annotazion[ei]|etichett[ae])s?(?:tr|ts|for|\d+)?$"
    r"|^(?:gt|truth|gold|ribbon|aseg|wmparc|dseg|standard)$"
)
# of a volume beside the contrasts of the same name; alone it may be a class of images
TUMOUR = re.compile(r"(?i)(?<![^\W_])tumou?rs?$")
TEMPLATE = re.compile(r"(?i)^(?:mni|icbm|avg)[-_]?(?:152|305)|template|(?<![a-z])atlas(?![a-z])")
LOCALIZER = re.compile(
    r"(?i)(?<![a-z])(?:locali[sz]er|scout|survey|3[-_ ]?plane[-_ ]?loc)(?![a-z])"
)
RESULT_FOLDER = re.compile(r"(?i)derivatives|sourcedata|mninonlinear")
# of an image beside it: by FSL and others behind its name, by SPM before it; and copies
PROCESSED = re.compile(r"(?i)[-_](?:brain|bet|bias|restore|norm)$")
OF_SPM = re.compile(r"(?:i?y_|u_)?[smwrau]*(?:c[1-6]|p[0-6])?")
COPY = re.compile(r"(?i)(?: ?\(\d+\)| - copy|[-_. ]+(?:copy|old|backup|bak))$")

COPY_FOLDER = re.compile(r"(?i)_?(?:old|copy|copies|backup|bak|trash)")

LAST_NUMBER = re.compile(r"(.*?)(\d+)(\D*)")  # with what is before and behind it
NAME_WORDS = re.compile(r"[-_. +]|(?<=[a-z])(?=[A-Z])")


def whole(kind: str, text: str) -> bool:
    """Whether a text is a word of a kind, such as `VISIT`."""
    return re.fullmatch(rf"(?i:{kind})", text) is not None


def left_out(
    paths: Sequence[str], words: ContrastWords, *, stripped: bool = False
) -> dict[str, str]:
    """Path -> what it is, of the images that show no patient or another image once more: "mask",
    "template", "localizer", "copy by name", "of _brain" (made of the image beside it), "derivative".

    `stripped`: an image without skull is used, and the whole head beside it left out. {} where no
    image would be left.
    """
    stems_in: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        stems_in[path.rpartition("/")[0]].add(stem_of(path))

    found = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        stem = stem_of(name)
        kind = _kind_by_name(stem, folder.split("/"), words)
        above, _, last = folder.rpartition("/")
        if COPY_FOLDER.fullmatch(last) and stem in stems_in[above]:
            kind = kind or "copy by name"
        kind = kind or _kind_beside(stem, stems_in[folder], words, stripped)
        if kind:
            found[path] = kind
    return found if len(found) < len(paths) else {}


def _kind_by_name(stem: str, folders: Sequence[str], words: ContrastWords) -> str:
    """What a name, or a folder of it, says that an image is: "mask", "template", ...; or ""."""
    parts = NAME_WORDS.split(SLICE_END.sub("", stem))
    for part in (parts[0], parts[-1], *folders):
        if MASK.search(part) and not words.said(part):
            return "mask"
    if any(map(RESULT_FOLDER.fullmatch, folders)):
        return "derivative"
    for kind, pattern in (("template", TEMPLATE), ("localizer", LOCALIZER)):
        if pattern.search(stem) or pattern.search(folders[-1]):
            return kind
    return ""


def _kind_beside(stem: str, beside: set[str], words: ContrastWords, stripped: bool) -> str:
    """What an image is by the names of those beside it: "copy by name", "of _brain" or "of SPM",
    which made it of one of them; as of `left_out`, "with skull"; or "".
    """
    start = TUMOUR.sub("", stem)
    own = [each for each in beside if start != stem and each.startswith(start)]
    if not words.said(stem) and any(map(words.said, own)):
        return "mask"
    copied = COPY.sub("", stem)
    if copied != stem and copied in beside:
        return "copy by name"
    if stripped and words.said(stem):
        bare = beside & {f"{stem}{end}" for end in ("_brain", "_bet", "-brain")}
        return "with skull" if bare else ""
    original = PROCESSED.sub("", stem)
    if original != stem and original in beside and words.said(original):
        return f"of {stem.removeprefix(original)}"
    for end in range(1, len(stem)):
        original = stem[end:]
        if original in beside and OF_SPM.fullmatch(stem[:end]) and words.said(original):
            return "of SPM"
    return ""


def patient_and_visit(text: str) -> tuple[str, str]:
    """The patient and the visit of a text: a word for a person, else all but words of visits."""
    person = re.search(rf"(?i)(?<![a-z0-9]){PERSON}(?![a-z0-9])", text)
    if person:
        rest = text[: person.start()] + text[person.end() :]
        return person[0], rest.strip("-_. ")
    return without_visits(text).strip("-_. "), "_".join(VISITS.findall(text))


def without_visits(text: str) -> str:
    """A text without its words of visits."""
    return re.sub(rf"(?i)[-_. ]*(?<![^\W_]){VISIT}(?![^\W_])", "", text)


def visit_words(text: str) -> str:
    """The words of visits in what surrounds a contrast, dates without times; `post` and `pre` are
    said of agents there.
    """
    found = VISITS.findall(text)
    return "_".join(day_of(word) for word in found if word.lower() not in ("post", "pre"))


def day_of(visit: str) -> str:
    """A visit without the time behind its date."""
    return visit[:8] if visit[:8].isdigit() else visit


def take_split(path: str) -> tuple[str, str]:
    """A path without the split that a folder names, or starts or ends with; and the split, or ""."""
    *folders, name = path.split("/")
    kept = []
    split = ""
    for folder in folders:
        match = re.match(rf"(?i:{SPLIT}){SPLIT_END}", folder)
        match = match or re.search(rf"(?i)(?<=[-_ ]){SPLIT}$", folder)
        rest = folder
        if match:
            rest = (folder[: match.start()] + folder[match.end() :]).strip("-_ ")
            split = split or split_named(match[0])
        if rest:
            kept.append(rest)
    return "/".join([*kept, name]), split


def split_named(word: str) -> str:
    """The split that a word such as `imagesTr` names; "" for another word."""
    return SPLITS.get(word.lower().removeprefix("images")[:2], "")


def are_channels(paths: Sequence[str]) -> bool:
    """Whether names end in numbers of channels, as nnU-Net writes them: p1_0000, p1_0001."""
    ends = {stem_of(path)[-5:] for path in paths}
    return len(ends) > 1 and all(re.fullmatch(r"_000\d", end) for end in ends)


def are_running_numbers(names: Sequence[str]) -> bool:
    """Whether names are one number behind what all share: counted without gaps, or of three digits at
    most.
    """
    found = [*filter(None, map(LAST_NUMBER.fullmatch, names))]
    if len(found) < len(names):
        return False
    begins = {(re.sub(r"[\W_]+", "", match[1]).lower(), match[3]) for match in found}
    if len(begins) != 1 or re.search(r"\d", next(iter(begins))[0]):
        return False
    numbers = {int(match[2]) for match in found}
    has_no_gaps = max(numbers) - min(numbers) <= len(numbers)
    return has_no_gaps or max(len(match[2]) for match in found) <= 3


def may_be_people_with_visits(patients: set[str]) -> bool:
    """Whether the first words of names group them otherwise than the whole names do: `Meier_1` and
    `Meier_2` may be one person.
    """
    names = [name for name in sorted(patients) if not whole(PERSON, name.rpartition("/")[2])]
    words = [re.split(r"[-_. ]+", name) for name in names]
    while len(words) > 1 and all(len(own) > 1 for own in words) and len({w[0] for w in words}) == 1:
        words = [own[1:] for own in words]
    firsts = [re.sub(r"(?<=\d)[a-zA-Z]$", "", own[0]) for own in words]
    if len(set(firsts)) < len(firsts):
        return True
    # Meier of Meier2 and Meier_hin, P1 of P1b
    ends = re.compile(r"(?=[-_. ])|(?<=\D)(?=\d)|(?<=\d)(?=[a-zA-Z]$)")
    return any(name[: end.start()] in patients for name in patients for end in ends.finditer(name))
