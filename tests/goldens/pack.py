"""Packs golden arrays computed with the original implementations into this folder.

    python tests/goldens/pack.py FIXTURES_FOLDER             # of MGDN
    python tests/goldens/pack.py --refusion FIXTURES_FOLDER

Parameters and inputs were rounded to half precision when the goldens were computed, so storing
them as float16 loses nothing (checked here); outputs and gradients stay float32. Bulky
intermediates are left out. Dead parameters stay: a converter that used them would be caught.
"""

import pathlib
import sys

import numpy as np

DROP = {
    "catb_shift": ("mid:mask",),
    "catb_shift_w8": ("mid:mask",),
    "mgff_mff_random": ("mid:",),
    "mef_random": ("mid:",),
    "gdsr_random": ("mid:",),
    "hdr_random": ("mid:",),
    "mgdf_hdr": (),
    "mgca": ("mid:",),
    "mgdf": ("mid:filtered",),
    "catb_shift0": ("mid:",),
    "block": ("mid:",),
    "mff_grad": (),
    "nmi_project_formulation": (),
}


REFUSION = {
    "restormer_block": ("mid:norm2", "mid:ffn.dwconv"),
    "restormer_block_zero_qk": (),
    "afm": ("mid:project_E_d", "mid:project_E1_d", "mid:project_E2_d"),
    "fusion_random": ("mid:project_",),
    "loss_module": ("mid:",),
    "loss_module_two_branch": ("mid:LPN",),
    "recon_module": ("mid:",),
    "inference_color": (),
}


def refusion(folder: str) -> None:
    """ReFusion's arrays use all bits of float32, so only bulk is cut: some activations are left
    out, those of the whole network are kept at every third row and column.
    """
    for name, drop in REFUSION.items():
        packed = {}
        for key, value in np.load(pathlib.Path(folder) / f"{name}.npz").items():
            if any(key.startswith(prefix) for prefix in drop):
                continue
            thin = name == "fusion_random" and key.startswith("mid:")
            packed[key] = value[:, :, ::3, ::3] if thin else value
        target = pathlib.Path(__file__).parent / f"refusion_{name}.npz"
        np.savez_compressed(target, **packed)
        print(f"{target.name}: {target.stat().st_size / 1e3:.0f} kB")


def main(folder: str) -> None:
    source = pathlib.Path(folder)
    for name, drop in DROP.items():
        packed = {}
        for key, value in np.load(source / f"{name}.npz").items():
            if any(key.startswith(prefix) for prefix in drop):
                continue
            if "index" in key or "attn_mask" in key:
                # Dead buffers: the converter skips them by name alone.
                value = np.zeros(1, value.dtype)
            elif key.startswith(("param:", "in:")) and value.dtype == np.float32:
                half = value.astype(np.float16)
                if np.array_equal(half.astype(np.float32), value):
                    value = half
            packed[key] = value
        target = pathlib.Path(__file__).parent / f"mgdn_{name.removesuffix('_formulation')}.npz"
        np.savez_compressed(target, **packed)
        print(f"{target.name}: {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    refusion(sys.argv[2]) if sys.argv[1] == "--refusion" else main(sys.argv[1])
