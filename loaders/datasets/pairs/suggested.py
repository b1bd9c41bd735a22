"""Patterns of images and their masks that the file names suggest.

Masks are beside their images, with a word at the end of their names, or in a folder of their own.
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

# Words for a mask in a folder's name or at the end of a file's name.
_MASK = (
    "mask|masks|msk|seg|segm|segs|segmentation|segmentations|label|labels|gt|groundtruth|truth|"
    "manual|annotation|annotations|roi"
)
# Names of PASCAL VOC's mask folders, and of labelme's in that layout: two words in one.
_VOC = "segmentationclass(?:png)?|segmentationobject(?:png)?"
# Words for an image at the end of a file's name, where its mask has another word.
_IMAGE = "image|images|img|im|scan|vol|volume|ct|cta|mr|mri|orig|original|raw|input"
_MASK_FOLDER = re.compile(rf"(?:.*[^a-z])?(?:{_MASK}|{_VOC})(?:[^a-z].*)?", re.IGNORECASE)
# Folders of readers who drew the same masks: `reader 1`, `annotator_B`.
_READER_FOLDER = re.compile(
    r"((?:.*[^a-z])?(?:reader|rater|grader|annotator|observer|expert)[ _.-]?)\w{1,3}",
    re.IGNORECASE,
)
# The case, the word for a mask, and a number if an image has several masks: `n1_mask_2`.
_MASK_FILE = re.compile(rf"(.+?)([ _.-](?:{_MASK}))((?:[ _.-]?\d{{1,3}})?)", re.IGNORECASE)
# The number of one of several masks, after another word or alone: `_mask2`, `_mask_2`, `_2`.
_NUMBERED = re.compile(r"(.*?)([ _.-]\d{1,3}|(?<=[a-z])\d{1,3})", re.IGNORECASE)
_IMAGE_FILE = re.compile(rf"(.+?)([ _.-](?:{_IMAGE}))", re.IGNORECASE)
# Images whose masks are looked for, to find how masks are named (assumption).
_PROBES = 50
# The share of a folder's file names that recur in the folder of its masks (assumption).
_SHARED = 1 / 2

# Settings of kind pairs, and why they are suggested.
Patterns = tuple[dict[str, str], str]


def patterns_seen(names: Collection[str]) -> Iterator[Patterns]:
    """Yield patterns of images and masks: in one folder by the ends of names, else in two."""
    readable = [name for name in names if _ending(name)]
    found = _one_folder(readable) or _two_folders(readable)
    if found:
        yield found


def is_of_masks(folder: str) -> bool:
    """Tell whether a folder is named like one of masks."""
    return bool(_MASK_FOLDER.fullmatch(folder) or _READER_FOLDER.fullmatch(folder))


def masks_among(folders: Mapping[str, Collection[str]]) -> tuple[str, str] | None:
    """Return a folder of images and that of their masks, given the files of each; else None."""
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
    """Masks with names of one form: the mask numbers of each case, and the endings of both."""

    image_word: str
    mask_word: str
    numbers: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    endings: set[tuple[str, str]] = field(default_factory=set)
    count: int = 0

    def patterns(self) -> Patterns:
        """Return the patterns that match them all."""
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
        instead = f"in place of {self.image_word}" if self.image_word else "added"
        files = "1 file is" if self.count == 1 else f"{self.count} files are"
        return options, f"{files} named like another file with {end} {instead}"


def _one_folder(readable: Collection[str]) -> Patterns | None:
    there = {(folder_of(name), stem_of(name).casefold()): ("", name) for name in readable}
    for name in readable:
        # An image named by the case alone is preferred to one with a word after it.
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
    """How masks in another folder are named: `rest` replaces `image_word`, or is added.

    `rest` excludes the number at the end of one of several masks.
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
    # The folders of images and masks with names of this form, in the order found.
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
    # If several such places are side by side, such as one per class or hospital, all are meant.
    wide = _wide(most)
    alike = [one for one in beside if _wide(one) == wide]
    every = [both for one in alike for both in beside[one]]
    return _patterns_apart(most if len(alike) == 1 else wide, every, folders)


def _wide(how: _Apart) -> _Apart:
    """Return it with a place that matches its sibling folders too."""
    above, slash, last = how.place.removesuffix("/").rpartition("/")
    if not last or last.startswith("{"):
        return how
    return replace(how, place=f"{above}{slash}{{part}}/")


def _patterns_apart(
    how: _Apart, beside: Collection[tuple[str, str]], folders: Mapping[str, Collection[str]]
) -> Patterns | None:
    """Return the patterns that match all files of these folders, None if there are none."""
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
    lie, hold = ("is", "holds") if len(drawn) == 1 else ("are", "hold")
    why = f"{' and '.join(drawn[:2])} {lie} beside {how.images} and {hold} files of the same names"
    return options, why


def _end_of_mask(stem: str, masks: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the word at the end of an image's name, and what replaces it in its mask's name.

    The word is empty if a mask's name begins with the image's whole name. `masks` maps names of
    masks in lower case to the names themselves.
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
    """Return a mask's case and its number, empty if it has none; None: it belongs to no case.

    `case_1` is the mask of a case of that name, if there is one, else mask 1 of `case`.
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
    """Return a pattern for the numbers of masks after a word.

    Without a word, an asterisk would match the masks of case 10 for case 1.
    """
    every = sorted({number for mine in numbers.values() for number in mine})
    if len(every) == 1:
        return every[0]
    return "*" if word else f"{{number:{'|'.join(every)}}}"


def _of_images(endings: Collection[tuple[str, str]]) -> str:
    """Return a pattern for endings; cameras and people mix .JPG, .jpeg and .png."""
    of_images = sorted({image for image, _ in endings})
    return of_images[0] if len(of_images) == 1 else f"{{ending:{'|'.join(of_images)}}}"


def _of_masks(endings: Collection[tuple[str, str]]) -> str:
    """Return a pattern for the masks' endings, which may each be that of the image."""
    of_masks = sorted({mask for _, mask in endings})
    if len(of_masks) == 1:
        return of_masks[0]
    if all(image == mask for image, mask in endings):
        return "{ending}"
    return f"{{of_mask:{'|'.join(of_masks)}}}"


def _as_part(place: str) -> str:
    """Return the folders above both as the beginning of a pattern; train and test are {split}."""
    if not place:
        return ""
    above, slash, last = place.rpartition("/")
    return f"{above}{slash}{{split}}/" if last.lower() in PARTS else f"{place}/"


def _ending(name: str) -> str:
    """Return the ending of a picture or a volume, empty if it is neither."""
    end = ending_of(name)
    return end if volume_stem(PurePosixPath(name).name) or end.lower() in SUFFIXES else ""
