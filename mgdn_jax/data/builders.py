"""TFDS builders over folders of images, and where prepared sets live on disk.

A prepared set keeps every file's own bytes (nothing is decoded and encoded again) in ArrayRecord
shards that are read at random without TensorFlow.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import io
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mgdn_jax.arguments import shown
from mgdn_jax.data.folders import (
    MANIFEST,
    SETS,
    data_root,
    find_folders,
    is_prepared,
    shard_count,
    shard_name,
)
from mgdn_jax.data.scenes import (
    BRACKET,
    find_brackets,
    find_scenes,
    read_radiance,
    read_steps,
)
from mgdn_jax.errors import FusionWarning, InputError
from mgdn_jax.io import objects, opening, reading
from mgdn_jax.io.depth import ARRAYS, decode_depth
from mgdn_jax.io.disk import encoded
from mgdn_jax.io.pairing import pair_folders

_FORMAT = 1


class _FilesBuilder(tfds.core.GeneratorBasedBuilder):
    """Examples of encoded files, name and size; subclasses say which files."""

    VERSION = tfds.core.Version("1.0.0")
    ROLES: tuple[str, ...] = ()  # the features that hold encoded files
    url_infos = None  # nothing is downloaded, so TFDS need not look for checksums in our folders

    def __init__(self, *, files: Sequence[dict[str, Any]] = (), **kwargs: Any):
        """Takes one `{"name": stem, "height": h, "width": w, role: path, ...}` an example."""
        self._files = files
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict[str, Any] = {
            role: tfds.features.Tensor(shape=(), dtype=np.object_) for role in self.ROLES
        }
        features["name"] = tfds.features.Text()
        features["height"] = features["width"] = tfds.features.Scalar(np.int32)
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for entry in self._files:
            name = encoded(entry["name"]).decode()  # file names may be no Unicode, texts may not
            example = {"name": name, "height": entry["height"], "width": entry["width"]}
            for role in self.ROLES:
                example[role] = opening.read_bytes(entry[role])
            yield name, example


class SegmentedNatural(_FilesBuilder):
    """Pictures with a label image each: `image` and `labels` are encoded files."""

    ROLES: tuple[str, ...] = ("image", "labels")


class FolderPairs(_FilesBuilder):
    """Registered pairs: `a` and `b` are encoded files."""

    ROLES: tuple[str, ...] = ("a", "b")


class FolderPairsWithTarget(_FilesBuilder):
    """Registered pairs and what fusion should give: `a`, `b` and `target` are encoded files."""

    ROLES: tuple[str, ...] = ("a", "b", "target")


class PhotographsWithDepth(_FilesBuilder):
    """Photographs and their depth maps: `rgb` and `depth` are encoded files."""

    ROLES: tuple[str, ...] = ("rgb", "depth")


class RadiancePictures(_FilesBuilder):
    """Scenes with their whole range: `radiance` is an encoded file of linear light."""

    ROLES: tuple[str, ...] = ("radiance",)


class StoredBrackets(_FilesBuilder):
    """Three exposures, their EV steps as text, and the radiance where the middle one is."""

    ROLES: tuple[str, ...] = BRACKET


_BUILDERS: dict[tuple[str, ...], type[_FilesBuilder]] = {
    cls.ROLES: cls
    for cls in (
        *(SegmentedNatural, FolderPairs, FolderPairsWithTarget),
        *(PhotographsWithDepth, RadiancePictures, StoredBrackets),
    )
}
_FINDERS = {"hdr": find_scenes, "brackets": find_brackets}


def prepare(
    set_name: str,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    folders: Sequence[str] | None = None,
    name: str | None = None,
    only: Sequence[str] | None = None,
    shards: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Checks a folder of images and writes it as a TFDS set of ArrayRecord files.

    Running it again does nothing unless the source changed. The set appears under its final name
    only when it is complete.

    Args:
      set_name: one of `SETS`.
      source: folder with the subfolders that the set needs; files belong together by their name
        without suffix, or by rule (`io.pairing.pair_folders`).
      out: folder that receives the set; `data_root()` if None.
      folders: names of the subfolders in the order image, labels or a, b[, target] or rgb,
        depth; found by their usual names if None.
      name: what the set is called under `out`; `set_name` if None.
      only: patterns of names: ``["msrs_*", "mfnet_*"]`` takes what fits one of them,
        ``["!msrs_*"]`` leaves out what fits; None takes all. Capitals matter.
      shards: in how many folders, each of them a set of its own, of which every machine needs a
        part; 0 for one whole set. Example k goes to shard k mod `shards`.
      progress: called with (examples checked, examples in all).

    Returns:
      The set's own folder, `out/name`; of shards what the names of their folders begin with.

    Raises:
      InputError: no such set or folder, a file without partner, no name that fits, sizes that
        differ, a picture that cannot be read, fewer examples than shards, or a target folder in
        the way.
    """
    if set_name not in SETS:
        raise InputError(f"there is no set {set_name!r}; choose one of {', '.join(SETS)}.")
    name = name or set_name
    if Path(name).name != name:
        raise InputError(f"the name {name!r} of a set must not be a path; use --out for the place.")
    source, out = Path(source), Path(out).expanduser() if out is not None else data_root()
    roles, files, rule = _entries(set_name, source, folders)
    files = _fitting(files, only, source)
    fingerprint = _fingerprint(roles, files)
    note: dict[str, Any] = {"set": set_name, "fingerprint": fingerprint, "rule": rule}
    parts = [(out / name, files, note)]
    if shards:
        _check_shards(shards, len(files), source)
        sizes = [len(files[k::shards]) for k in range(shards)]
        parts = [
            (out / shard_name(name, k, shards), files[k::shards], {**note, "shard": k, "of": sizes})
            for k in range(shards)
        ]
    # All of them, for one that is in the way is to be known before anything is written.
    parts = [part for part in parts if not _is_there(part[0], part[2])]
    if parts:
        _check(roles, files, progress)
    for final, some, note in parts:
        try:
            _build(roles, some, final, note)
        except OSError as error:
            raise InputError(
                f"{final} cannot be written ({error.strerror or error}); choose another --out."
            ) from None
    return out / name


def _check_shards(shards: int, examples: int, source: Path) -> None:
    if not 0 < shards < 10**5:
        raise InputError(f"shards is {shards}; give 1 to 99999, or 0 for one whole set.")
    if shards > examples:
        raise InputError(
            f"shards is {shards} and {source} holds {examples} examples; use {examples} at most."
        )


def _is_there(final: Path, note: dict[str, Any]) -> bool:
    """Whether a folder holds this set already; raises InputError where it holds something else."""
    if not (final.is_file() or (final.is_dir() and any(final.iterdir()))):
        return False
    try:
        before = read_manifest(final)
    except InputError:
        raise InputError(
            f"{final} exists and is not a prepared set; move it away or choose another --out."
        ) from None
    return all(before.get(key) == note.get(key) for key in ("fingerprint", "shard", "of"))


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `prepare` noted about a set: set, roles, examples, rule of pairing, fingerprint.

    Raises:
      InputError: the folder holds no prepared set of this version.
    """
    try:
        manifest = objects.read_object(folder / MANIFEST)
    except InputError:
        manifest = {}
    if manifest.get("format") != _FORMAT:
        raise InputError(f"{folder} holds no prepared set; run mgdn data prepare first.")
    name, cure = os.fspath(folder / MANIFEST), "run mgdn data prepare again"
    roles = objects.field(manifest, "roles", list, name, cure)
    if not roles or not all(isinstance(role, str) for role in roles):
        raise InputError(f"{name} has no names of pictures for 'roles'; {cure}.")
    for key, kind in {"set": str, "fingerprint": str, "examples": int}.items():
        objects.field(manifest, key, kind, name, cure)
    return manifest


def open_set(dataset: str | os.PathLike[str], split: str) -> tuple[Any, dict[str, Any]]:
    """Opens a prepared set for random access.

    Args:
      dataset: folder of a set, or the name of one under `data_root()`.
      split: TFDS split, for instance "train", "train[:95%]" or "train[95%:]".

    Returns:
      A sequence of examples (dict of bytes, name, height, width) and the manifest.

    Raises:
      InputError: no such set, or a split that does not exist or is empty.
    """
    folder = Path(dataset).expanduser()
    if not is_prepared(folder):
        named = data_root() / folder
        if not is_prepared(named):
            if count := shard_count(dataset):
                raise InputError(
                    f"the data set {os.fspath(dataset)!r} is in {count} shards, which training "
                    f"alone reads as one; name one of them, as {shard_name(dataset, 0, count)}."
                )
            guess = folder.name if folder.name in SETS else "SET"
            raise InputError(
                f"the data set {os.fspath(dataset)!r} is neither a prepared folder nor found in "
                f"{data_root()}; run: mgdn data prepare {guess} --source FOLDER"
            )
        folder = named
    manifest = read_manifest(folder)
    try:
        builder = tfds.builder_from_directory(folder)
        source: Any = ()
        if builder.info.splits[split].num_examples:
            source = builder.as_data_source(split=split)
    except Exception as error:  # damaged notes of TFDS raise whatever it and protobuf like
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"split {split!r} cannot be read from {folder} ({reason}); "
            'write it like "train[:95%]" or "train[95%:]".'
        ) from None
    if not len(source):
        raise InputError(f"split {split!r} of {folder} is empty; choose a larger share.")
    return source, manifest


def split_size(split: str, examples: int) -> int:
    """Examples of a split of a set that may lie elsewhere.

    Args:
      split: TFDS split.
      examples: of the whole set.

    Raises:
      InputError: the split cannot be read.
    """
    files = tfds.core.ShardedFileTemplate(
        data_dir="", dataset_name="set", split="train", filetype_suffix="array_record"
    )
    info = tfds.core.SplitInfo(
        name="train", shard_lengths=[examples], num_bytes=0, filename_template=files
    )
    try:
        return int(tfds.core.splits.SplitDict([info])[split].num_examples)
    except Exception as error:  # TFDS raises whatever it likes
        raise InputError(
            f"split {split!r} cannot be read ({' '.join(str(error).split())[:120]}); "
            'write it like "train[:95%]" or "train[95%:]".'
        ) from None


def label_ids(array: np.ndarray) -> np.ndarray:
    """Label images as (H, W) integers; colours of palette images become one number each."""
    if array.ndim == 2:
        return array
    packed = array[..., :3].astype(np.int32)
    packed = packed[..., 0] + sum(packed[..., k] << (8 * k) for k in range(1, packed.shape[-1]))
    ids = np.unique(packed, return_inverse=True)[1].reshape(packed.shape)
    return ids.astype(np.uint8 if ids.max() < 256 else np.int32)


def _entries(
    set_name: str, source: Path, folders: Sequence[str] | None
) -> tuple[tuple[str, ...], list[dict[str, Any]], str]:
    """Roles, entries, and the rule that paired files whose names are not equal."""
    if set_name not in _FINDERS:
        roles, where = find_folders(set_name, source, folders)
        return roles, *_match(roles, where)
    if folders:
        raise InputError(f"the set {set_name!r} has no folders to name; leave --folders out.")
    files = _FINDERS[set_name](source)
    return tuple(role for role in files[0] if role != "name"), files, ""


def _fitting(
    files: list[dict[str, Any]], patterns: Sequence[str] | None, source: Path
) -> list[dict[str, Any]]:
    """The entries whose names fit."""
    patterns = () if patterns is None else patterns
    is_list = isinstance(patterns, Sequence) and not isinstance(patterns, str)
    if not is_list or not all(isinstance(pattern, str) for pattern in patterns):
        raise InputError(f"only is {shown(patterns)}; give a list of patterns, as ['msrs_*'].")
    without = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")] or ["*"]
    fitting = [
        entry
        for entry in files
        if any(fnmatch.fnmatchcase(entry["name"], pattern) for pattern in wanted)
        and not any(fnmatch.fnmatchcase(entry["name"], pattern) for pattern in without)
    ]
    if not fitting:
        raise InputError(
            f"{source} has {len(files)} names, {files[0]['name']} to {files[-1]['name']}, and none "
            f"fits {' '.join(map(repr, patterns))}; write patterns like 'msrs_*' or '!msrs_*'."
        )
    return fitting


def _match(roles: Sequence[str], where: Sequence[Path]) -> tuple[list[dict[str, Any]], str]:
    """Entries of files that belong together, and the rule where their names are not equal."""
    pairs = pair_folders(where, ARRAYS if "depth" in roles else ())
    for name, lacking in pairs.gaps.items():
        path = pairs.lonely[name]
        count = sum(other.is_relative_to(path.parent) for other in pairs.lonely.values())
        raise InputError(
            f"{path} has no partner in {', '.join(lacking)} ({count} such files in "
            f"{path.parent.name}); partners have the same name up to the suffix, or one that "
            "differs by a word for each folder."
        )
    # Sorted plainly: the order of a set decides which examples are held out.
    entries = [
        {"name": name, **dict(zip(roles, pairs.groups[name], strict=True))}
        for name in sorted(pairs.groups)
    ]
    return entries, pairs.rule


def _fingerprint(roles: Sequence[str], files: Sequence[dict[str, Any]]) -> str:
    digest = hashlib.sha256(repr((_FORMAT, tuple(roles))).encode())
    for entry in files:
        for role in roles:
            stat = entry[role].stat()
            note = (entry["name"], entry[role].suffix, stat.st_size, stat.st_mtime_ns)
            digest.update(repr(note).encode())
    return digest.hexdigest()


def _check(
    roles: Sequence[str],
    files: Sequence[dict[str, Any]],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Decodes everything once; adds height and width to the entries."""
    for count, entry in enumerate(files):
        for role in roles:
            path = entry[role]
            data = opening.read_bytes(path)
            if role == "times":
                read_steps(data, str(path))
                continue
            height, width = _size(role, data, path)
            if (height, width) != (
                entry.setdefault("height", height),
                entry.setdefault("width", width),
            ):
                raise InputError(
                    f"{path} is {width}x{height}, but {entry[roles[0]]} is "
                    f"{entry['width']}x{entry['height']}; the two must have one size."
                )
        if progress is not None:
            progress(count + 1, len(files))


def _size(role: str, data: bytes, path: Path) -> tuple[int, ...]:
    """Height and width of what a role may be."""
    if role == "depth":
        depth = decode_depth(data, str(path))
        valid = depth[np.isfinite(depth) & (depth != 0)]
        if not valid.size or valid.min() == valid.max():
            raise InputError(f"{path} holds no two depths (0 is missing); leave its pair out.")
        return depth.shape
    if role == "radiance":
        return read_radiance(data, str(path)).shape[:2]
    picture = reading.read(io.BytesIO(data), str(path))
    for remark in picture.remarks:
        warnings.warn(remark, FusionWarning, stacklevel=2)
    array = reading.common(picture)
    if array.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path} has {array.dtype} pixels; convert it to 8 or 16 bits.")
    if array.ndim == 3 and array.shape[-1] != 3 and role != "labels":
        raise InputError(f"{path} has an alpha channel; flatten it first.")
    if array.ndim == 2 and role in BRACKET:
        raise InputError(f"{path} is gray; a bracket has three channels.")
    return array.shape[:2]


def _build(
    roles: tuple[str, ...], files: Sequence[dict[str, Any]], final: Path, note: dict[str, Any]
) -> None:
    """Writes the set beside its place, then renames it."""
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{final.name}.", dir=final.parent) as temporary:
        builder = _BUILDERS[roles](
            data_dir=temporary,
            file_format="array_record",
            files=files,
        )
        with _quiet():
            builder.download_and_prepare()
        made = Path(builder.data_dir)
        manifest = {"format": _FORMAT, "roles": list(roles), "examples": len(files), **note}
        (made / MANIFEST).write_text(json.dumps(manifest, indent=1))
        if final.exists():  # an older state of the same set
            os.replace(final, Path(temporary) / "old")
        os.replace(made, final)
        shutil.rmtree(Path(temporary) / "old", ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS from drawing bars of its own."""
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
