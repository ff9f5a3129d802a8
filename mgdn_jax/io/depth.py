"""Depth maps as files: 16-bit and 8-bit pictures, float TIFF, NumPy arrays."""

from __future__ import annotations

import io
import zipfile

import numpy as np

from mgdn_jax.errors import InputError
from mgdn_jax.io import guard, reading

ARRAYS = (".npy", ".npz")
"""How files of arrays end, which are no pictures."""

_KEY = "depth"  # of several arrays in one file


def decode_depth(data: bytes, name: str) -> np.ndarray:
    """Decodes one depth map.

    Args:
      data: the whole file: a gray picture of 8, 16 or 32 bits, float TIFF, or NumPy's .npy or .npz
        (with one array, or one called "depth").
      name: what messages call it, normally its path.

    Returns:
      (H, W) float32, values as stored; holes (0, NaN) are kept.

    Raises:
      InputError: no such file, no single channel, or numbers that are not real.
    """
    is_array = data.startswith((b"\x93NUMPY", b"PK\x03\x04"))
    depth = _decode_array(data, name) if is_array else reading.read(io.BytesIO(data), name).pixels
    if depth.ndim == 3 and depth.shape[-1] == 3 and (depth == depth[..., :1]).all():
        depth = depth[..., 0]  # gray that was saved as colour
    if depth.ndim != 2 or depth.dtype.kind not in "uif":
        raise InputError(
            f"{name} is no depth map (shape {depth.shape}, {depth.dtype}); give one channel of "
            "whole or real numbers."
        )
    guard.check_size(depth.shape[0], depth.shape[1], name)
    return depth.astype(np.float32)


def _decode_array(data: bytes, name: str) -> np.ndarray:
    with guard.decoding(name):
        if data.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = {entry.filename: entry.file_size for entry in archive.infolist()}
            keys = [key.removesuffix(".npy") for key in members]
            key = keys[0] if len(keys) == 1 else _KEY
            if key not in keys:
                raise InputError(
                    f"{name} holds the arrays {', '.join(keys)}; call the depth map {_KEY!r}."
                )
            if members[f"{key}.npy"] > 8 * guard.MAX_PIXELS:
                raise guard.too_large(name)
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return arrays[key]
        return np.load(io.BytesIO(data), allow_pickle=False)
