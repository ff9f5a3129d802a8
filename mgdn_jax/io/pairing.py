"""Folders of pictures that belong together, by equal names or by a rule that is said.

The rules for names are those of `io.naming`. Subfolders are mirrored: where a folder holds no
picture itself, the pictures of its subfolders belong together, and so do the results.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from mgdn_jax.errors import FusionWarning, InputError
from mgdn_jax.io import codec, naming

CURE = "give partners one name, or one with a word for each folder (1_ir and 1_vis)"


@dataclasses.dataclass(frozen=True)
class Pairing:
    """Pictures of two or more folders that belong together.

    Attributes:
      groups: name of a result without suffix ("1", or "day/1" of a subfolder) to one path per
        folder, sorted naturally.
      gaps: name of a picture without partner to the folders that lack one (`no_partner` says it).
      lonely: the paths of the pictures in `gaps`, by the same names.
      rule: the sentence about names that are not equal, and about subfolders that are left out;
        empty where there are none.
    """

    groups: dict[str, tuple[Path, ...]]
    gaps: dict[str, tuple[str, ...]]
    lonely: dict[str, Path]
    rule: str = ""

    @property
    def problems(self) -> list[str]:
        """A sentence about each picture without partner."""
        return [no_partner(name, folders) for name, folders in self.gaps.items()]

    def targets(self, folder: str | os.PathLike[str], suffix: str = ".png") -> dict[str, Path]:
        """The file of each result, subfolders mirrored; the suffix is appended to the name."""
        return {name: Path(folder) / f"{name}{suffix}" for name in self.groups}


@dataclasses.dataclass(frozen=True)
class Results:
    """Pictures of one folder, and what they are results of.

    Attributes:
      pictures: name of a group to the path of its result.
      strays: paths of pictures that are a result of none.
      rule: as in `Pairing`.
    """

    pictures: dict[str, Path]
    strays: tuple[Path, ...]
    rule: str = ""


def list_images(
    folder: str | os.PathLike[str], *, nested: bool = False, further: tuple[str, ...] = ()
) -> dict[str, Path]:
    """The image files in a folder, by name, sorted naturally ("shot9" before "shot10").

    Args:
      folder: the folder. Hidden files and folders and other types are passed over.
      nested: whether subfolders are listed too.
      further: suffixes that count beside those of images, lower case.

    Returns:
      Name without suffix ("lytro-01" of "lytro-01.jpg", "day/1" of a subfolder) to path.

    Raises:
      InputError: no such folder, no image in it, or two images of one name.
    """
    images = _images(Path(folder), nested, further)
    if not images:
        raise InputError(
            f"{folder} holds no image ({', '.join(codec.SUFFIXES)}, for instance); name another."
        )
    return images


def pair_folders(
    folders: Sequence[str | os.PathLike[str]], further: tuple[str, ...] = ()
) -> Pairing:
    """Matches the images of two or more folders by name.

    Names are compared by the rules of `naming.match`. Subfolders count where a folder holds no
    image itself; where all do, mirrored subfolders with images are passed over with a warning.

    Args:
      folders: the folders, in the order in which the network takes its inputs.
      further: suffixes that count beside those of images, as (".npz",).

    Returns:
      The groups, what has no partner, and the rule.

    Raises:
      InputError: as `list_images`; no rule pairs the names, or a name could belong to two.
    """
    places = [Path(folder) for folder in folders]
    listings = [_images(place, nested=False, further=further) for place in places]
    is_nested = not all(listings)
    if is_nested:
        listings = [list_images(place, nested=True, further=further) for place in places]
    left_out = [] if is_nested else _left_out(places)
    match = naming.match(listings, [_title(place) for place in places])
    if not match.groups:
        firsts = " and ".join(os.fspath(next(iter(listing.values()))) for listing in listings)
        names = " and ".join(map(str, folders))
        raise InputError(
            f"no image of {names} has the same name in each, and those such as {firsts} do not "
            f"say by a rule that they belong together; {CURE}."
        )
    groups = {
        key: tuple(listing[name] for listing, name in zip(listings, names, strict=True))
        for key, names in match.groups.items()
    }
    gaps = {
        name: tuple(os.fspath(folders[number]) for number in numbers)
        for name, numbers in match.gaps.items()
    }
    lonely = {name: next(x[name] for x in listings if name in x) for name in gaps}
    is_mirrored = is_nested and any("/" in key for key in groups)
    sentences = [_sentence(match, places, groups, is_mirrored)]
    if left_out:
        sentences.append(f"subfolders beside pictures are left out: {', '.join(left_out)}")
        names = " and ".join(map(str, folders))
        warnings.warn(
            f"{names} hold pictures both beside and in subfolders ({', '.join(left_out)}), of "
            "which the subfolders are left out; name these to have them paired.",
            FusionWarning,
            stacklevel=2,
        )
    return Pairing(groups, gaps, lonely, "; ".join(filter(None, sentences)))


def find_results(
    folder: str | os.PathLike[str], groups: Mapping[str, Sequence[str | os.PathLike[str]]]
) -> Results:
    """Matches the images of one folder with groups of pictures that they are results of.

    Args:
      folder: the folder of results, called as the groups or as one of the pictures in them; by
        rule, too.
      groups: name to paths, as `Pairing.groups` has them, or to none.

    Raises:
      InputError: as `list_images`, no picture is a result of a group, or it could be of two.
    """
    pictures = list_images(folder, nested=any("/" in name for name in groups))
    spellings = [{name: name for name in groups}, *_spellings(groups)]
    # Of several ways to call a group the one that most results are called by.
    words = max(spellings, key=lambda spelling: len(spelling.keys() & pictures.keys()))
    match = naming.match([words, pictures], ["", _title(Path(folder))])
    if not match.groups:
        raise InputError(
            f"no picture of {folder} has the name of a pair (such as {next(iter(groups))}); "
            f"name fused pictures (here {next(iter(pictures.values())).name}) as their sources."
        )
    found = {words[word]: pictures[name] for word, name in match.groups.values()}
    taken = set(found.values())
    strays = tuple(path for path in pictures.values() if path not in taken)
    rule = ""
    if match.rule:
        name, path = next((n, p) for n, p in found.items() if _stem(p.name) != n.rpartition("/")[2])
        rule = f"pictures of {folder} are found by name {match.rule} ({path.name} for {name})"
    return Results(found, strays, rule)


def no_partner(name: str, folders: Sequence[str]) -> str:
    """The sentence about a picture that some folders lack."""
    return f"{name} has no partner in {', '.join(folders)}."


def _spellings(
    groups: Mapping[str, Sequence[str | os.PathLike[str]]],
) -> list[dict[str, str]]:
    """Other names of the groups, those of each folder's pictures, to the group's."""
    members = [
        {name.rpartition("/")[0] + "/" * ("/" in name) + _stem(Path(path).name): name}
        for name, paths in groups.items()
        for path in paths
    ]
    count = len(next(iter(groups.values()), ()))
    spellings = [
        {word: name for member in members[k::count] for word, name in member.items()}
        for k in range(count)
    ]
    return [spelling for spelling in spellings if len(spelling) == len(groups)]


def _stem(name: str, further: tuple[str, ...] = ()) -> str:
    """A file's name less its suffix; empty where it is not that of an image."""
    ends = [suffix for suffix in (*codec.READABLE, *further) if name.lower().endswith(suffix)]
    return name[: -len(max(ends, key=len))] if ends else ""


def _title(folder: Path) -> str:
    return Path(os.path.abspath(folder)).name


def _sentence(
    match: naming.Match,
    places: Sequence[Path],
    groups: Mapping[str, tuple[Path, ...]],
    is_mirrored: bool,
) -> str:
    """How pictures were paired, with an example; empty where their names are just equal."""
    if not (match.rule or is_mirrored):
        return ""
    shown = next(
        (key for key, names in match.groups.items() if len(set(names)) > 1), next(iter(groups))
    )
    example = " with ".join(
        path.relative_to(place).as_posix()
        for path, place in zip(groups[shown], places, strict=True)
    )
    parts = ["in mirrored subfolders"] * is_mirrored + [match.rule] * bool(match.rule)
    return f"pictures are paired by name {', '.join(parts)} ({example})"


def _images(folder: Path, nested: bool, further: tuple[str, ...] = ()) -> dict[str, Path]:
    """As `list_images`, but there may be none."""
    images: dict[str, Path] = {}
    _collect(folder, "", images, nested, (), further)
    return dict(sorted(images.items(), key=lambda item: naming.natural(item[0])))


def _collect(
    folder: Path,
    lead: str,
    images: dict[str, Path],
    nested: bool,
    above: tuple[str, ...],
    further: tuple[str, ...],
) -> None:
    """Adds the images of a folder; a link to a folder above is not followed."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for entry in _entries(folder):
        stem = _stem(entry.name, further)
        if nested and not stem and entry.is_dir():
            lower = f"{lead}{entry.name}/"
            _collect(entry, lower, images, nested, (*above, real), further)
        if not stem:
            continue
        name = lead + stem
        if name in images:
            raise InputError(
                f"{folder} holds both {images[name].name} and {entry.name}; "
                "keep one image per name."
            )
        images[name] = entry


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, in order; hidden entries left out."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except FileNotFoundError:
        raise InputError(f"{folder} does not exist; check the path.") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{folder} cannot be listed ({reason}); name a folder.") from None


def _left_out(places: Sequence[Path]) -> list[str]:
    """Subfolders with pictures that all folders have, beside their own pictures."""
    inside = [
        {entry.name: entry for entry in _entries(place) if entry.is_dir()} for place in places
    ]
    shared = sorted(set(inside[0]).intersection(*inside[1:]))
    return [
        name for name in shared if all(_images(folders[name], nested=True) for folders in inside)
    ]
