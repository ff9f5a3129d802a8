"""Frames of a video as arrays and back: matrix and range of their colours, depth, rotation.

Needs PyAV (extra `video`). Numbers of matrices, ranges, primaries and curves are those of ITU-T
H.273, which files carry.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation

RGB, BT709, UNSPECIFIED, FCC, BT601, SMPTE170M, SMPTE240M, BT2020 = 0, 1, 2, 4, 5, 6, 7, 9
LIMITED, FULL = 1, 2
HD_LINES = 720
"""Rows from which on a video without a matrix is read by BT.709; smaller ones by BT.601."""
NEUTRAL = 2.0
"""Levels of 8 bits within which the chroma of a gray video lies."""
COLOURED = 16.0
"""Levels of chroma that no coder puts into a gray video."""

# What the library calls the matrices; others are read by that of the size.
_MATRICES = {
    BT709: Colorspace.ITU709,
    FCC: Colorspace.FCC,
    BT601: Colorspace.ITU601,
    SMPTE170M: Colorspace.ITU601,
    SMPTE240M: Colorspace.SMPTE240M,
    BT2020: Colorspace.BT2020,
}
_EXACT = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)


@dataclasses.dataclass(frozen=True)
class Tags:
    """What a file says about its colours.

    Attributes:
        matrix: from RGB to luma and chroma; `UNSPECIFIED` where nobody says.
        range: `LIMITED` (16 to 235 of 8 bits), `FULL`, or 0 where nobody says.
        primaries: which colours the three are.
        transfer: the curve from light to values.
    """

    matrix: int = UNSPECIFIED
    range: int = 0
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Tags:
        """Those of a decoded frame."""
        is_full = frame.format.name.startswith("yuvj")
        return cls(
            int(frame.colorspace),
            FULL if is_full else int(frame.color_range),
            int(frame.color_primaries),
            int(frame.color_trc),
        )

    def for_encoding(self, height: int) -> Tags:
        """These tags for luma and chroma, with matrix and range said: RGB has none of its own.

        Args:
            height: rows of the picture, which decide where nobody says.
        """
        usual = BT709 if height >= HD_LINES else SMPTE170M
        if self.matrix in _MATRICES:
            return dataclasses.replace(self, range=self.range or LIMITED)
        is_luma = self.matrix == UNSPECIFIED
        return dataclasses.replace(
            self, matrix=usual, range=(self.range or LIMITED) if is_luma else LIMITED
        )

    def library_matrix(self, height: int) -> Colorspace:
        """The matrix in the library's words.

        Args:
            height: rows of the picture, which decide where nobody says.
        """
        usual = BT709 if height >= HD_LINES else BT601
        return _MATRICES.get(self.matrix, _MATRICES[usual])


def bits(format: av.VideoFormat) -> int:
    """Bits of a value: 8, 10, 12 or 16."""
    return max(component.bits for component in format.components)


def is_luma_alone(format: av.VideoFormat) -> bool:
    """Whether a format has no colour at all."""
    return format.name.startswith(("gray", "ya8", "ya16", "monow", "monob"))


def has_matrix(format: av.VideoFormat) -> bool:
    """Whether a format has luma and chroma, and no palette."""
    return not (format.is_rgb or format.has_palette or is_luma_alone(format))


# --------------------------------------------------------------------------------- decoding


def pixels(frame: av.VideoFrame, tags: Tags, *, is_gray: bool) -> np.ndarray:
    """A decoded frame as a picture, upright.

    Args:
        frame: as it was decoded.
        tags: of its video.
        is_gray: whether the video has no colour: its luma is handed out.

    Returns:
        (H, W) or (H, W, 3), uint8 up to 8 bits, else uint16 over its whole range.
    """
    is_deep = bits(frame.format) > 8
    if is_gray:
        array = _luma(frame, tags)
    elif has_matrix(frame.format):
        array = frame.reformat(
            format="rgb48le" if is_deep else "rgb24",
            src_colorspace=tags.library_matrix(frame.height),
            src_color_range=tags.range or LIMITED,
            dst_color_range=FULL,
            interpolation=_EXACT,
        ).to_ndarray()
    else:
        array = frame.reformat(format="rgb48le" if is_deep else "rgb24").to_ndarray()
    return np.ascontiguousarray(_upright(array, frame))


def _luma(frame: av.VideoFrame, tags: Tags) -> np.ndarray:
    """(H, W) of a gray video, over the whole range of its type."""
    if frame.format.is_rgb or frame.format.has_palette:
        deep = bits(frame.format) > 8
        return frame.reformat(format="rgb48le" if deep else "rgb24").to_ndarray()[..., 1]
    if is_luma_alone(frame.format):
        format = "gray16le" if bits(frame.format) > 8 else "gray"
        values = np.asarray(frame.reformat(format=format).to_ndarray())
        is_limited = tags.range == LIMITED  # gray without a word is full
    else:
        values, is_limited = _planes(frame)[0], tags.range != FULL
    if not is_limited:
        return values.copy()
    step, white = (1, 255) if values.dtype == np.uint8 else (256, 65535)
    levels = np.arange(white + 1, dtype=np.float64)
    table = np.rint((levels - 16 * step) / (219 * step) * white).clip(0, white)
    return table.astype(values.dtype)[values]


def _planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """Luma and both chromas: uint8, or uint16 with the values in the high bits."""
    is_deep = bits(frame.format) > 8
    if is_deep or frame.format.name not in ("yuv420p", "yuvj420p", "yuv422p", "yuv444p"):
        frame = frame.reformat(format="yuv444p16le" if is_deep else "yuv444p")
    return [_plane(plane, np.uint16 if is_deep else np.uint8) for plane in frame.planes]


def _plane(plane: av.VideoPlane, dtype: type) -> np.ndarray:
    """A view of a plane, (h, w)."""
    values: np.ndarray = np.frombuffer(plane, dtype).reshape(plane.height, -1)
    return values[:, : plane.width]


def chroma(frame: av.VideoFrame) -> float:
    """How far the colours of a frame are from gray, in levels of 8 bits.

    A thousandth of the pixels does not count.
    """
    if is_luma_alone(frame.format):
        return 0.0
    if not has_matrix(frame.format):
        rgb = frame.reformat(format="rgb24").to_ndarray().astype(np.int16)
        return float(np.percentile(np.ptp(rgb, axis=-1), 99.9))
    step = 256 if bits(frame.format) > 8 else 1
    planes = _planes(frame)[1:]
    return max(
        float(np.percentile(abs(plane.astype(np.float32) / step - 128), 99.9)) for plane in planes
    )


def display_matrix(frame: av.VideoFrame) -> np.ndarray:
    """What is to be done to the pixels of a frame to see it upright.

    Returns:
        (2, 2) int, the place (x, y) of a pixel to its place on the screen: quarter turns and
        mirrors, entries 0, 1 and -1; the identity where the file says nothing or any other turn.
    """
    parts: Any = frame.side_data  # a mapping by its type, a sequence by its deeds
    for part in parts:
        if part.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = (int(x) for x in np.frombuffer(part, np.int32)[:5])
            matrix = np.array([[a, c], [b, d]], np.float64) / 65536.0
            whole = np.rint(matrix).astype(int)
            is_exact = bool((abs(matrix - whole) < 1e-3).all())
            if is_exact and abs(whole).sum() == 2 and abs(np.linalg.det(whole)) > 0.5:
                return whole
    return np.eye(2, dtype=int)


def _upright(array: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """The array turned and mirrored as its file says."""
    (a, c), (b, d) = display_matrix(frame)
    if a == 0:  # x comes from y: rows and columns change places
        array = array.swapaxes(0, 1)
        a, d = c, b
    array = array[:, ::-1] if a < 0 else array
    return array[::-1] if d < 0 else array


# --------------------------------------------------------------------------------- encoding


def encodable(array: np.ndarray, format: str, tags: Tags) -> av.VideoFrame:
    """A picture as a frame for an encoder.

    Args:
        array: (H, W), (H, W, 1) or (H, W, 3), uint8 or uint16.
        format: of the encoder: "yuv420p" or "yuv420p10le" (even sizes, or odd ones for encoders
            that can), "gray", "gray16le", "bgr0" or "gbrp16le".
        tags: of the file; `Tags.for_encoding`.
    """
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    if format in ("gray", "gray16le"):
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format)
    if array.ndim == 2:
        frame = _neutral(array, format, tags)
    else:
        layout = "rgb48le" if array.dtype == np.uint16 else "rgb24"
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), layout)
        if not format.startswith("yuv"):
            return rgb.reformat(format=format)
        frame = rgb.reformat(
            format=format,
            src_color_range=FULL,
            dst_colorspace=tags.library_matrix(array.shape[0]),
            dst_color_range=tags.range,
            interpolation=_EXACT,
        )
    frame.colorspace, frame.color_range = tags.matrix, tags.range
    frame.color_primaries, frame.color_trc = tags.primaries, tags.transfer
    return frame


def _neutral(array: np.ndarray, format: str, tags: Tags) -> av.VideoFrame:
    """Luma with neutral chroma."""
    height, width = array.shape
    frame = av.VideoFrame(width, height, format)
    depth = bits(frame.format)
    dtype: type = np.uint8 if depth == 8 else np.uint16
    step = 1 << (depth - 8)
    values = array.astype(np.float64) / np.iinfo(array.dtype).max
    limits = (0, 256 * step - 1) if tags.range == FULL else (16 * step, 235 * step)
    luma = np.rint(limits[0] + (limits[1] - limits[0]) * values)
    _plane(frame.planes[0], dtype)[:] = luma.astype(dtype)
    for plane in frame.planes[1:]:
        _plane(plane, dtype)[:] = 128 * step
    return frame
