"""Where a slice lies in a patient or a volume."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Geometry:
    """What is needed to write a result where its source lies.

    Attributes:
        kind: "dicom" or "nifti".
        header: what the library of that kind read, without pixels.
        affine: (4, 4), from (column, row, slice, 1) of the stored array to millimetres, in the
            axes of `kind` (DICOM: left, posterior, superior; NIfTI: right, anterior, superior);
            None if the file does not say.
        shape: rows and columns as shown, then the further axes of the volume.
        frame: name of the frame of reference; "" if the file has none.
        page: the slice or frame, from 0.
        personal: whether the patient's tags may be written too.
    """

    kind: str
    header: Any
    affine: np.ndarray | None
    shape: tuple[int, ...]
    frame: str = ""
    page: int = 0
    personal: bool = False

    def agrees(self, other: Geometry) -> bool:
        """Whether another picture lies in the same place, as far as both files say."""
        if self.shape[:2] != other.shape[:2]:
            return False
        if self.frame and other.frame and self.frame != other.frame:
            return False
        if self.affine is None or other.affine is None or self.kind != other.kind:
            return True
        # Half a millimetre at the far corner, or a hundredth of a voxel.
        return bool(np.allclose(self.affine, other.affine, rtol=1e-3, atol=1e-2))
