"""Where sets and image pairs lie on disk; light to import, unlike the builders."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from mgdn_jax.errors import InputError

SETS = {
    "natural": "pictures and their segmentations (train/ and train_seg/, or image/ and labels/), "
    "for synthetic multi-focus pairs",
    "natural-test": "the same from test/ and test_seg/: pairs with ground truth to evaluate on",
    "pairs": "registered pictures of one scene in two folders, optionally a third with targets",
    "rgbd": "photographs and their depth maps (rgb/ and depth/), for guided super-resolution",
    "hdr": "radiance pictures (.hdr, .exr) in one folder, for synthetic brackets",
    "brackets": "a folder a scene: three exposures, exposure.txt and HDRImg.hdr",
}
MANIFEST = "prepared.json"
"""The note that makes a folder a prepared set."""

_BY_NAME = {
    "natural": (("train", "train_seg"), ("image", "labels"), ("images", "labels")),
    "natural-test": (("test", "test_seg"),),
    "rgbd": tuple((photo, "depth") for photo in ("rgb", "RGB", "color", "image", "images")),
}
# Slot a is the picture that the published systems take first.
_PAIRS = (
    *(("a", "b"), ("ir", "vi"), ("near", "far"), ("under", "over")),
    *((kind, "MRI") for kind in ("CT", "PET", "SPECT")),
    *((kind, "mri") for kind in ("ct", "pet", "spect")),
)
_TARGETS = ("target", "gt")


def data_root() -> Path:
    """Where sets are kept: $MGDN_DATA_DIR, else mgdn_jax/data in the user's data folder."""
    if chosen := os.environ.get("MGDN_DATA_DIR"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "mgdn_jax" / "data"


def is_prepared(folder: Path) -> bool:
    """Whether a folder was written by `prepare`."""
    return (folder / MANIFEST).is_file()


def shard_name(name: str | os.PathLike[str], number: int, count: int) -> str:
    """What the folder of one shard of a set is called: NAME-00000-of-00004."""
    return f"{os.fspath(name)}-{number:05d}-of-{count:05d}"


def shard_count(dataset: str | os.PathLike[str]) -> int:
    """How many shards a set is in, by the names of those that are here; 0 where there are none.

    Args:
      dataset: folder of a set without the ending of its shards, or the name under `data_root()`.

    Raises:
      InputError: shards of several numbers have the name, or a whole set has it as well.
    """
    for folder in (Path(dataset).expanduser(), data_root() / dataset):
        pattern = re.compile(re.escape(folder.name) + r"-\d{5}-of-(\d{5})")
        inside = folder.parent.iterdir() if folder.parent.is_dir() else ()
        matches = [(match[1], path) for path in inside if (match := pattern.fullmatch(path.name))]
        counts = sorted({int(count) for count, path in matches if is_prepared(path)})
        if len(counts) > 1:
            raise InputError(
                f"{folder} is there in {' and in '.join(map(str, counts))} shards; move those away "
                "that are not wanted."
            )
        if counts and is_prepared(folder):
            raise InputError(
                f"{folder} is there as a whole and in {counts[0]} shards; move one of the two away."
            )
        if counts or is_prepared(folder):
            return counts[0] if counts else 0
    return 0


def find_pair_folders(source: str | os.PathLike[str]) -> list[Path]:
    """The subfolders of a folder of image pairs, found by their usual names.

    Args:
      source: e.g. a folder with `ir/` and `vi/`, `near/` and `far/`, or any two subfolders.

    Returns:
      The folders a and b, and that of the targets if there is one.

    Raises:
      InputError: not a folder, or no two subfolders that make pairs.
    """
    return find_folders("pairs", Path(source), None)[1]


def find_folders(
    set_name: str, source: Path, folders: Sequence[str] | None
) -> tuple[tuple[str, ...], list[Path]]:
    """Roles of a set and the folder of each.

    Args:
      set_name: one of `SETS`.
      source: folder with the subfolders.
      folders: their names; found by their usual ones if None.

    Raises:
      InputError: not a folder, or it does not hold what the set needs.
    """
    if not source.is_dir():
        raise InputError(f"the source {source} is not a folder; give the one with the images.")
    inside = sorted(p.name for p in source.iterdir() if p.is_dir() and p.name[0] != ".")
    paired = set_name == "pairs"
    if folders is None:
        known = _PAIRS if paired else _BY_NAME[set_name]
        found = [list(pair) for pair in known if set(pair) <= set(inside)]
        targets = [t for t in _TARGETS if t in inside] if paired else []
        others = [n for n in inside if n not in _TARGETS]
        if not found and paired and len(others) == 2:
            found = [others]
        if len(found) != 1:
            wanted = "two subfolders" if paired else " or ".join(f"{i}/ and {k}/" for i, k in known)
            raise InputError(
                f"{source} should hold {wanted}, but it holds "
                f"{', '.join(inside) or 'no subfolder'}; give the folder that does, "
                "or name the two (folders=, --folders, --data A B)."
            )
        folders = found[0] + targets[:1]
    if len(folders) not in ((2, 3) if paired else (2,)):
        raise InputError(f"folders {list(folders)} must name two folders, or three for pairs.")
    for folder in folders:
        if not (source / folder).is_dir():
            raise InputError(f"{source / folder} is not a folder; correct folders=.")
    roles = {"pairs": ("a", "b", "target")[: len(folders)], "rgbd": ("rgb", "depth")}
    return roles.get(set_name, ("image", "labels")), [source / folder for folder in folders]
