"""Contrasts (T1, FLAIR, CT, ...): their usual names in file names and headers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, product, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from gantk.formats.files import split_suffix

# The ends of words, also behind 3D and a plane: `3DT1`, `AXT2`. A group, so that `split` returns
# word, end, word, ...
WORD_ENDS = re.compile(
    r"([^A-Za-z0-9*]+|(?<=[a-z])(?=[A-Z])|(?i:(?=t[12]|flair|pd)(?:(?<=[23]d|ax)|(?<=sag|cor))))"
)
SYNONYMS = {
    "t1": ("t1w", "t1wi", "t1dual", "t1n", "t1pre", "t1wpre", "mprage", "spgr", "fspgr", "bravo"),
    "t1ce": (
        "cet1",
        "ct1",  # of HD-GLIO
        *(
            x + y
            for x in ("t1", "t1w", "t1wi")
            for y in ("c", "ce", "ca", "gd", "gad", "gado", "km", "post")
        ),
    ),
    "t2": ("t2w", "t2wi", "t2spir"),
    "flair": ("t2flair", "t2f", "fla", "darkfluid", "darkfl"),
    "pd": ("pdw", "pdwi"),
    "mr": ("mri",),
    "ct": ("cct", "ldct", "ndct", "ncct", "cect"),
    "t2star": ("t2*", "t2w*", "t2hemo"),
    "stir": ("t2stir", "stirt2"),
    "t1map": ("t1mapping",),
    "t2map": ("t2mapping", "t2relaxation"),
    "subtraction": ("t1subtraction",),
    **dict.fromkeys(("dwi", "adc", "swi", "cbct", "pet"), ()),
}
# How data sets call the files of a patient, where this differs from the contrasts' names: BIDS, and
# BraTS since 2023.
NAMINGS = (
    {"t1": "T1w", "t2": "T2w", "flair": "FLAIR", "pd": "PDw"},
    {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"},
)
# Words for a contrast agent, and for its absence.
AGENT = re.compile(
    r" (?:gd|gad|gado\w*|km|ce|(?:post)?contrast|(?<! ses )post(?! op| surg| treat))(?= )"
)
PLUS_C = re.compile(r"(?i)\+ ?c\b|\bc ?\+")  # `T1 +C`
NATIVE = re.compile(
    r" (?:no|none?|without|ohne|wo|w o|pre(?! op| surg| treat)|precontrast|native?)(?= )"
)
# a name of BIDS, which ends in its contrast: sub-01_acq-mprage_T2w
BIDS_NAME = re.compile(r"sub-[^_/]+(?:_[a-z]+-[^_/]+)*_[A-Za-z0-9]+")
AGENT_OF_BIDS = " ce gad"  # the entity ce-gadolinium, also in a session that is called pre
# ms: the longest echo of T1 and PD, the shortest of T2, and the shortest inversion that darkens fluid
MAX_SHORT_ECHO = 60
MIN_T2_ECHO = 45
MIN_FLUID_INVERSION = 1500
# usual name -> contrast
CONTRASTS = {word: name for name, words in SYNONYMS.items() for word in (name, *words)}
# CT of one dose or with an agent, which words tell from other CT
KINDS_OF_CT = {"ldct", "ndct", "ncct", "cect"}
CONTRASTS_OF_MODALITIES = {"CT": "ct", "PT": "pet"}  # those that DICOM's Modality says
# Order of preference among several contrasts, where the user has chosen none.
USUAL = ("T1", "CT", "T2", "MR", "FLAIR", "T1CE", "PD", "PET")


def in_usual_order(names: Collection[str]) -> list[str]:
    """Names of contrasts, the most usual first, others by the alphabet."""
    return [name for name in dict.fromkeys([*USUAL, *sorted(names)]) if name in names]


def contrast_names(domain: str) -> tuple[str, ...]:
    """The contrasts in a domain's name, one channel each: `"T1+FLAIR"` is `("T1", "FLAIR")`."""
    return tuple(name.strip() for name in domain.split("+") if name.strip()) or (domain,)


def words_of(name: str) -> list[str]:
    """The words of a name: `brainT1_slice` -> brain, T1, slice."""
    return [word for word in WORD_ENDS.split(name)[::2] if word]


class ContrastWords:
    """The words by which names say contrasts: the usual ones and a recipe's own.

    Args:
        contrasts: the recipe's contrasts, which the usual words of their kind mean too: `t1w` is T1.
        own: contrast -> further words of it, as of `[data.words]`.
        usual: whether the usual words are known too.
    """

    def __init__(
        self,
        contrasts: Iterable[str] = (),
        own: Mapping[str, Sequence[str]] | None = None,
        *,
        usual: bool = True,
    ):
        self.own = own or {}
        named = list(dict.fromkeys([*contrasts, *self.own]))
        contrast_of_kind: dict[str, str] = {}
        for contrast in named:
            kind = CONTRASTS.get(one_word(contrast))
            if kind:
                # of two contrasts of one kind, its usual words mean neither
                contrast_of_kind[kind] = "" if kind in contrast_of_kind else contrast

        self.contrast_of = {
            word: contrast_of_kind.get(kind, kind.upper())
            for word, kind in CONTRASTS.items()
            if usual
        }
        for contrast in named:
            for word in (contrast, *self.own.get(contrast, ())):
                self.contrast_of[one_word(word)] = contrast
        # the contrasts that a text says; MR only where it says no other
        self.said = lru_cache(maxsize=2**16)(self._said)

    def meant(self, text: str) -> frozenset[str]:
        """The contrast of a text that is nothing but a word for it, such as `0000`; else as `said`."""
        whole = self.contrast_of.get(one_word(text), "")
        return frozenset([whole]) if whole else self.said(text)

    def _said(self, text: str) -> frozenset[str]:
        if BIDS_NAME.fullmatch(text):
            has_agent = "_ce-" in text
            text = text.rpartition("_")[2] + (" gd" if has_agent else "")
        words = find_contrasts(text, self.contrast_of)
        found = frozenset(self.contrast_of[each.word] for each in words) - {""}
        return found - {self.contrast_of.get("mr")} or found


USUAL_WORDS = ContrastWords()


def only(said: Collection[str], otherwise: str = "") -> str:
    """The contrast that is said; `otherwise` where none is, or several are."""
    return next(iter(said)) if len(said) == 1 else otherwise


class FoundContrast(NamedTuple):
    """A contrast that words of a name say."""

    word: str  # in lower case, of several words joined: t2flair
    begin: int  # of its words in the name
    end: int


def find_contrasts(name: str, known: Mapping[str, str] = CONTRASTS) -> list[FoundContrast]:
    """The contrasts that a name says, in order; `known`: word -> contrast.

    Words that name one together are one: `T2_FLAIR`. T1 beside a word for a contrast agent is t1ce,
    and T2 beside FLAIR, without T1, flair. The contrast that an image was registered to
    (`regtoFLAIR`, `T1_to_T2`, `space-T1w_FLAIR`) is not its own.
    """
    pieces = WORD_ENDS.split(name)
    starts = [0, *accumulate(map(len, pieces))]
    places = [place for place in range(0, len(pieces), 2) if pieces[place]]
    words = [pieces[place].lower() for place in places]
    found = []
    first = 0
    while first < len(words):
        last = first
        joined = words[first]
        while last + 1 < len(words) and joined + words[last + 1] in known:
            last += 1
            joined += words[last]
        if joined in known and not _is_of_target(words, first):
            begin = starts[places[first]]
            end = starts[places[last]] + len(pieces[places[last]])
            found.append(FoundContrast(joined, begin, end))
        first = last + 1

    said = {CONTRASTS.get(each.word) for each in found}
    return [each._replace(word=_meant(each.word, said, name)) for each in found]


def _is_of_target(words: Sequence[str], place: int) -> bool:
    """Whether a word is the contrast that an image was registered to, not its own: after `to`; after
    BIDS's `space` if a contrast follows; after `reg` if one precedes.
    """
    before = words[place - 1] if place else ""
    others = {"space": words[place + 1 :], "reg": words[: max(place - 1, 0)]}.get(before, ())
    return before.endswith("to") or any(word in CONTRASTS for word in others)


def _meant(word: str, said: set[str | None], name: str) -> str:
    """A word of a name that says these contrasts: t1ce for T1 beside a contrast agent, flair for T2
    beside FLAIR.
    """
    contrast = CONTRASTS.get(word)
    words = [each.lower() for each in words_of(name)]
    text = f" {' '.join(words)} "
    is_native = NATIVE.search(text) and AGENT_OF_BIDS not in text
    has_agent = AGENT.search(text) or PLUS_C.search(name)
    if contrast == "t1" and has_agent and not is_native:
        return "t1ce"
    if contrast == "t2" and "flair" in said and "t1" not in said:
        return "flair"
    if contrast == "t2" and "hemo" in words:
        return "t2star"
    return word


@lru_cache(maxsize=2**10)  # a table repeats few names for all its images
def one_word(contrast: str) -> str:
    """A contrast's name as one word in lower case: `T1-Gd` is t1gd."""
    return "".join(words_of(contrast)).lower()


def same_contrast(word: str, wanted: str) -> bool:
    """Whether two words in lower case are usual names of one contrast."""
    return CONTRASTS.get(word, word) == CONTRASTS.get(wanted, wanted)


def known_contrast(name: str, contrasts: Iterable[str]) -> str | None:
    """The contrast of a model that a name means: by its own name, a usual synonym, or several words
    (`T1 post contrast`); None for others.
    """
    contrasts = list(contrasts)
    said = only(ContrastWords(contrasts).meant(name))
    return said if said in contrasts else None


def _own_contrast(name: str) -> FoundContrast | None:
    """The contrast of a name: the first, MR only if there is no other; of a name of BIDS the last."""
    found = find_contrasts(name)
    if not found:
        return None
    if BIDS_NAME.fullmatch(name) and found[-1].end == len(name):
        return found[-1]
    specific = (each for each in found if CONTRASTS[each.word] != "mr")
    return next(specific, found[0])


def contrast_in(name: str) -> tuple[str | None, str]:
    """The word, or several joined, that says the contrast of a name, and the name without it; None
    and the whole name without a contrast.
    """
    found = _own_contrast(name)
    if found is None:
        return None, name
    rest = name[: found.begin] + name[found.end :]
    one_gap = re.sub(r"([_\-. ])[_\-. ]+", r"\1", rest)
    return found.word, one_gap.strip("_-. ")


def named_after(names: Sequence[str], contrast: str) -> str:
    """The name of an image of a contrast that is made of images with these names, in their style:
    `007_t2f` of `007_t1n`; with the contrast at its end where they name none: `p01_T2` of `p01`.
    """
    found = [(name, own) for name in names if (own := _own_contrast(name))]
    if not found:
        return f"{names[0]}_{contrast}" if names[0] else contrast
    words = [name[own.begin : own.end] for name, own in found]
    word = contrast.lower() if all(map(str.islower, words)) else contrast
    usual = CONTRASTS.get(one_word(contrast), "")
    telling = {each for each in words if each.lower() not in SYNONYMS}
    for naming in reversed(NAMINGS):
        if usual in naming and telling & set(naming.values()):
            word = naming[usual]
    name, own = found[0]
    return name[: own.begin] + word + name[own.end :]


def _rename_to_contrast(name: str, contrast: str) -> str:
    """A name that says `contrast` where it says another one; unchanged where it says none, or MR of
    one of MR's.
    """
    said = {each.lower() for each in USUAL_WORDS.said(name)}
    meant = CONTRASTS.get(one_word(contrast))
    if meant in said or not any(exclude(each, meant) for each in said):
        return name
    return named_after([name], contrast)


def result_paths(folder: Path, name: str, contrasts: Sequence[str]) -> dict[str, Path]:
    """The paths of results in a folder, made of the image with this name: their contrast takes the
    place of another one, also in names of folders. Where the input says none, its name stays; of
    several results it gets the contrast at its end.
    """
    place = Path(name)
    stem, suffix = split_suffix(place)
    if len(contrasts) > 1:
        beside = folder / place.parent
        return {each: beside / f"{named_after([stem], each)}{suffix}" for each in contrasts}
    (contrast,) = contrasts
    for part in place.parts[:-1]:
        folder /= _rename_to_contrast(part, contrast)
    return {contrast: folder / f"{_rename_to_contrast(stem, contrast)}{suffix}"}


def usual_contrast(name: str) -> str | None:
    """The usual contrast that a name contains: `T1w` and `x_t1n` are t1; None if it contains none."""
    found = _own_contrast(name)
    return CONTRASTS[found.word] if found else None


def says_agent(*names: str) -> bool:
    """Whether one of these names is of T1 with a contrast agent."""
    return "t1ce" in map(usual_contrast, names)


def names_with_contrast(
    facts: Mapping[str, Any], path: Path | None, meant: str | None
) -> list[str]:
    """Of an image's header (`facts`), the name of its file and that of its folder those that state a
    contrast; "MR" states none of MR's, such as a `meant` T1.
    """
    vague = (None,) if meant in ("ct", "pet", "mr") else (None, "mr")
    return [name for name in _names_of(facts, path) if usual_contrast(name) not in vague]


def _names_of(facts: Mapping[str, Any], path: Path | None) -> tuple[str, str, str]:
    header = str(facts.get("contrast") or facts.get("modality") or "").lower()
    path = (path or Path("/")).absolute()
    return header, path.name, path.parent.name


def possible_contrasts(
    facts: Mapping[str, Any], path: Path | None, contrasts: Collection[str]
) -> frozenset[str]:
    """Which of these contrasts an image can show, by its header, else the name of its file or folder:
    all where these say nothing, none where they say another one. T2 may be meant by MR, and T1
    with a contrast agent by T1.
    """
    possible = frozenset(contrasts)
    words = ContrastWords(contrasts)
    for name in _names_of(facts, path):
        said = words.said(name)
        meant = said & possible or frozenset(
            each
            for each, kind in product(contrasts, map(usual_contrast, said))
            if not contradict(kind, usual_contrast(each))
        )
        if said and meant != possible:
            return meant
    return possible


def contrast_of_series(modality: str, texts: Iterable[str]) -> str:
    """The contrast of a DICOM series by its Modality, or of MR by the first text that says one: T1
    FLAIR is T1; "" where none does.
    """
    if modality in CONTRASTS_OF_MODALITIES:
        return CONTRASTS_OF_MODALITIES[modality]
    for text in texts:
        words = [CONTRASTS[each.word] for each in find_contrasts(text)]
        said = [contrast for contrast in words if contrast not in ("ct", "mr", "pet")]
        usual = [contrast for contrast in ("t1ce", "t1", "flair") if contrast in said]
        if said:
            return (usual or said)[0]
    return ""


def shown_by_series(
    modality: str, texts: Sequence[str], asked: Iterable[str], *, agent: bool = False
) -> str:
    """Which of the contrasts `asked` a DICOM series shows: an unusual name by the first text with one,
    before any that says a contrast; MR by its modality; others as of `contrast_of_series`, of which
    T1 with an `agent` is T1CE; else what that says, in capitals.
    """
    usual_of = {}
    for name in asked:
        wanted = one_word(name)
        usual_of[name] = "" if wanted in KINDS_OF_CT else CONTRASTS.get(wanted, "")

    for text in takewhile(lambda text: not contrast_of_series("MR", [text]), texts):
        words = {one_word(text), *map(str.lower, words_of(text))}
        for name, usual in usual_of.items():
            if not usual and one_word(name) in words:
                return name

    said = contrast_of_series(modality, texts)
    if said == "t1" and agent:
        said = "t1ce"
    for name, usual in usual_of.items():
        if usual and usual in (said, modality.lower()):
            return name
    return said.upper()


def times_contradict(facts: Mapping[str, Any], meant: str | None) -> bool:
    """Whether the echo and inversion times (ms) of a header are not those of a contrast of MR: T1 and
    PD have short echoes; T2 has long ones, and no inversion that darkens fluid, as FLAIR has.
    """
    echo = facts.get("echo_time")
    if echo is None:
        return False
    inversion = facts.get("inversion_time") or 0
    if meant == "t2":
        is_flair = echo > MAX_SHORT_ECHO and inversion > MIN_FLUID_INVERSION
        return is_flair or (echo < MIN_T2_ECHO and not inversion)
    return meant in ("t1", "t1ce", "pd") and echo > MAX_SHORT_ECHO


def times_in_words(facts: Mapping[str, Any]) -> str:
    """The times of a header: `TR 9000, TE 100, TI 2500 ms`."""
    times = {"TR": "repetition_time", "TE": "echo_time", "TI": "inversion_time"}
    said = [f"{name} {facts[key]:g}" for name, key in times.items() if facts.get(key) is not None]
    return f"{', '.join(said)} ms"


def exclude(one: str | None, other: str | None) -> bool:
    """Whether two usual contrasts exclude each other, as T1 and CT do; MR excludes CT and PET only."""
    if not one or not other or one == other:
        return False
    both = {one, other}
    return "mr" not in both or not both.isdisjoint({"ct", "pet"})


def contradict(stated: str | None, meant: str | None) -> bool:
    """As `exclude`, of what an image states; an image with a contrast agent may be meant by T1."""
    return exclude(stated, meant) and {stated, meant} != {"t1", "t1ce"}
