"""Patterns of images and their masks, as the names of files suggest them.

Masks lie beside their images, with a word at the end of their names, or in a folder of their own.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from loaders.datasets.pairs.patterns import ending_of, folder_of, stem_of
from loaders.datasets.tabular.labels import PARTS
from loaders.formats.pictures import SUFFIXES
from loaders.formats.volumes.open import volume_stem

# Words for a mask in the name of a folder or at the end of a file's.
_MASK = (
    "mask|masks|msk|seg|segm|segs|segmentation|segmentations|label|labels|gt|groundtruth|truth|"
    "manual|annotation|annotations|roi"
)
# Those of PASCAL VOC's folders, and of labelme's in that layout; they are of two words in one.
_VOC = "segmentationclass(?:png)?|segmentationobject(?:png)?"
# Words for an image at the end of a file's name whose mask has another word there.
_IMAGE = "image|images|img|im|scan|vol|volume|ct|cta|mr|mri|orig|original|raw|input"
_MASK_FOLDER = re.compile(rf"(?:.*[^a-z])?(?:{_MASK}|{_VOC})(?:[^a-z].*)?", re.IGNORECASE)
# Folders of readers who drew the same masks: `reader 1`, `annotator_B`.
_READER_FOLDER = re.compile(
    r"((?:.*[^a-z])?(?:reader|rater|grader|annotator|observer|expert)[ _.-]?)\w{1,3}",
    re.IGNORECASE,
)
# What it is of, the word, and a number where an image has several: `n1_mask_2`.
_MASK_FILE = re.compile(rf"(.+?)([ _.-](?:{_MASK}))((?:[ _.-]?\d{{1,3}})?)", re.IGNORECASE)
# The number of one of several masks, behind another word or alone: `_mask2`, `_mask_2`, `_2`.
_NUMBERED = re.compile(r"(.*?)([ _.-]\d{1,3}|(?<=[a-z])\d{1,3})", re.IGNORECASE)
_IMAGE_FILE = re.compile(rf"(.+?)([ _.-](?:{_IMAGE}))", re.IGNORECASE)
# Images whose masks are looked for, to tell how these are named (assumption).
_PROBES = 50
# Share of a folder's names that another one of masks has, where it holds their masks (assumption).
_SHARED = 1 / 2

# The settings of kind pairs, and why they are thought of.
Patterns = tuple[dict[str, str], str]


def patterns_seen(names: Collection[str]) -> Iterator[Patterns]:
    """Give patterns of images and masks: in one folder by their ends, else in two folders."""
    readable = [name for name in names if _ending(name)]
    found = _one_folder(readable) or _two_folders(readable)
    if found:
        yield found


def is_of_masks(folder: str) -> bool:
    """Tell whether a folder is called as one of masks."""
    return bool(_MASK_FOLDER.fullmatch(folder) or _READER_FOLDER.fullmatch(folder))


def masks_among(folders: Mapping[str, Collection[str]]) -> tuple[str, str] | None:
    """Return a folder of images and that of their masks, given each folder's files; None: none."""
    stems = {
        folder: {stem_of(name).casefold() for name in files} for folder, files in folders.items()
    }
    for masks in filter(is_of_masks, folders):
        for images in folders:
            shared = len(stems[images] & stems[masks])
            if not is_of_masks(images) and shared and shared >= _SHARED * len(stems[images]):
                return images, masks
    return None


# ---- one folder -------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Beside:
    """Masks that are called alike: of whom there are which, and the endings of both."""

    image_word: str
    mask_word: str
    numbers: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    endings: set[tuple[str, str]] = field(default_factory=set)
    count: int = 0

    def patterns(self) -> Patterns:
        """Return the patterns that fit them all."""
        name = "{case}" if self.image_word else "{stem}"
        before = f"{{case}}{self.image_word}" if self.image_word else "*"
        number = _one_of(self.numbers, self.mask_word)
        end = f"{self.mask_word}{number}{_of_masks(self.endings)}"
        options = {
            "images": f"**/{before}{_of_images(self.endings)}",
            "masks": f"{{folder}}/{name}{end}",
        }
        if any(len(mine) > 1 for mine in self.numbers.values()):
            options["several"] = "union"
        instead = f"in place of {self.image_word}" if self.image_word else "behind it"
        return options, f"{self.count} files are called as another one with {end} {instead}"


def _one_folder(readable: Collection[str]) -> Patterns | None:
    there = {(folder_of(name), stem_of(name).casefold()): ("", name) for name in readable}
    for name in readable:
        # An image that is called as the case alone goes before one with a word behind it.
        if match := _IMAGE_FILE.fullmatch(stem_of(name)):
            there.setdefault((folder_of(name), match[1].casefold()), (match[2], name))
    found: dict[tuple[str, str], _Beside] = {}
    for name in readable:
        match = _MASK_FILE.fullmatch(stem_of(name))
        case = (folder_of(name), match[1].casefold()) if match else None
        if not match or case not in there:
            continue
        assert case is not None
        word, image = there[case]
        key = word.casefold(), match[2].casefold()
        one = found.setdefault(key, _Beside(image_word=word, mask_word=match[2]))
        one.numbers[case].add(match[3])
        one.endings.add((_ending(image).casefold(), _ending(name).casefold()))
        one.count += 1
    most = max(found.values(), key=lambda one: one.count, default=None)
    return most.patterns() if most else None


# ---- two folders ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Apart:
    """How masks in another folder are called: `image_word` gives way to `rest`, or it is added.

    `rest` is without the number that one of several has behind it.
    """

    place: str
    images: str
    masks: str
    image_word: str
    rest: str


def _two_folders(readable: Collection[str]) -> Patterns | None:
    folders: dict[str, list[str]] = defaultdict(list)
    for name in readable:
        folders[folder_of(name)].append(name)
    found: Counter[_Apart] = Counter()
    # Folders of images and of masks that are called so, in the order in which they were met.
    beside: dict[_Apart, dict[tuple[str, str], None]] = defaultdict(dict)
    for masks, files in folders.items():
        place, _, folder = masks.rpartition("/")
        if not is_of_masks(folder):
            continue
        stems = {stem_of(name).casefold(): stem_of(name) for name in files}
        reader = _READER_FOLDER.fullmatch(folder)
        for images in folders:
            above, _, other = images.rpartition("/")
            if above != place or images == masks or is_of_masks(other):
                continue
            for image in folders[images][:_PROBES]:
                if end := _end_of_mask(stem_of(image), stems):
                    one = _Apart(
                        place=_as_part(place),
                        images=other,
                        masks=f"{reader[1]}*" if reader else folder,
                        image_word=end[0],
                        rest=end[1],
                    )
                    found[one] += 1
                    beside[one][images, masks] = None
    if not found:
        return None
    ((most, _),) = found.most_common(1)
    # Of several such places side by side, a class or a hospital each, all are meant.
    wide = _wide(most)
    alike = [one for one in beside if _wide(one) == wide]
    every = [both for one in alike for both in beside[one]]
    return _patterns_apart(most if len(alike) == 1 else wide, every, folders)


def _wide(how: _Apart) -> _Apart:
    """Return it for any folder beside its place."""
    above, slash, last = how.place.removesuffix("/").rpartition("/")
    if not last or last.startswith("{"):
        return how
    return replace(how, place=f"{above}{slash}{{part}}/")


def _patterns_apart(
    how: _Apart, beside: Collection[tuple[str, str]], folders: Mapping[str, Collection[str]]
) -> Patterns | None:
    """Return the patterns that fit all files of these folders, None where letters are too odd."""
    endings: set[tuple[str, str]] = set()
    numbers: dict[tuple[str, str], set[str]] = defaultdict(set)
    for images, masks in beside:
        cases = {_case(image, how): image for image in folders[images]}
        for mask in folders[masks]:
            if seen := _case_and_number(stem_of(mask), how.rest, cases):
                case, number = seen
                endings.add((_ending(cases[case]).casefold(), _ending(mask).casefold()))
                numbers[masks, case].add(number)
    if not endings:
        return None
    name = "{case}" if how.image_word else "{stem}"
    before = f"{{case}}{how.image_word}" if how.image_word else "*"
    end = f"{how.rest}{_one_of(numbers, how.rest)}{_of_masks(endings)}"
    options = {
        "images": f"{how.place}{how.images}/{before}{_of_images(endings)}",
        "masks": f"{how.place}{how.masks}/{name}{end}",
    }
    drawn = sorted({masks.rpartition("/")[2] for _, masks in beside})
    if len(drawn) > 1:
        options["several"] = "majority"
    elif any(len(mine) > 1 for mine in numbers.values()):
        options["several"] = "union"
    lie = "lies" if len(drawn) == 1 else "lie"
    why = f"{' and '.join(drawn[:2])} {lie} beside {how.images}, with files of the same names"
    return options, why


def _end_of_mask(stem: str, masks: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the word behind an image's name that a mask's has not, and what its mask has there.

    The word is empty where a mask is called as the whole image, with more behind it or not. `masks`
    are the names of masks by themselves in lower case.
    """
    plain = stem.casefold()
    if plain in masks:
        return "", ""
    if longer := [one for one in masks if one.startswith(plain)]:
        return "", _without_number(masks[min(longer, key=len)][len(stem) :])
    if match := _IMAGE_FILE.fullmatch(stem):
        case = match[1].casefold()
        for one in (one for one in masks if one.startswith(case)):
            end = _MASK_FILE.fullmatch(one)
            if one == case or (end and end[1] == case):
                return match[2], _without_number(masks[one][len(case) :])
    return None


def _without_number(rest: str) -> str:
    found = _NUMBERED.fullmatch(rest)
    return found[1] if found else rest


def _case(image: str, how: _Apart) -> str:
    return stem_of(image).casefold().removesuffix(how.image_word.casefold())


def _case_and_number(mask: str, rest: str, cases: Collection[str]) -> tuple[str, str] | None:
    """Return which case a mask is of and its number, empty where it has none; None: of no case.

    `case_1` is of the case of that name before it is the first of `case`.
    """
    plain, end = mask.casefold(), rest.casefold()
    found = _NUMBERED.fullmatch(plain)
    for called, number in ((plain, ""), *([(found[1], found[2])] if found else [])):
        case = called.removesuffix(end)
        if called.endswith(end) and case in cases:
            return case, number
    return None


# ---- both -------------------------------------------------------------------------------------


def _one_of(numbers: Mapping[tuple[str, str], Collection[str]], word: str) -> str:
    """Return a pattern of the numbers of masks behind a word.

    Without a word an asterisk would take the masks of 10 for those of 1.
    """
    every = sorted({number for mine in numbers.values() for number in mine})
    if len(every) == 1:
        return every[0]
    return "*" if word else f"{{number:{'|'.join(every)}}}"


def _of_images(endings: Collection[tuple[str, str]]) -> str:
    """Return a pattern of endings; cameras and people mix .JPG, .jpeg and .png."""
    of_images = sorted({image for image, _ in endings})
    return of_images[0] if len(of_images) == 1 else f"{{ending:{'|'.join(of_images)}}}"


def _of_masks(endings: Collection[tuple[str, str]]) -> str:
    """Return a pattern of the masks' endings, which may each be that of the image."""
    of_masks = sorted({mask for _, mask in endings})
    if len(of_masks) == 1:
        return of_masks[0]
    if all(image == mask for image, mask in endings):
        return "{ending}"
    return f"{{of_mask:{'|'.join(of_masks)}}}"


def _as_part(place: str) -> str:
    """Return the folders above both as a pattern begins; a part of train and test has its name."""
    if not place:
        return ""
    above, slash, last = place.rpartition("/")
    return f"{above}{slash}{{split}}/" if last.lower() in PARTS else f"{place}/"


def _ending(name: str) -> str:
    """Return the ending of a picture or a volume, empty where it is neither."""
    end = ending_of(name)
    return end if volume_stem(PurePosixPath(name).name) or end.lower() in SUFFIXES else ""
