"""Packs golden arrays computed with the original implementations into this folder.

    python tests/goldens/pack.py FIXTURES_FOLDER             # of MGDN
    python tests/goldens/pack.py --refusion FIXTURES_FOLDER

Parameters and inputs were rounded to half precision when the goldens were computed, so storing
them as float16 loses nothing (checked here); outputs and gradients stay float32. Bulky
intermediates are left out. Dead parameters stay: a converter that used them would be caught.

    python tests/goldens/pack.py --refusion-training FIXTURES_FOLDER

packs ReFusion's losses and meta steps. Float64 arrays are stored as integers of 32 bits over their
largest magnitude in the file's group (an error of 2.4e-10 of it), marked by a "scale:" entry.

    python tests/goldens/pack.py --cddfuse FIXTURES_FOLDER

packs CDDFuse's. The weights of its four networks, all bits of them used, go into one vector in
pieces below 1 MB; `cddfuse_networks.npz` names the keys and shapes. See `cddfuse_state` in
tests/test_cddfuse.py.

    python tests/goldens/pack.py --lkc-funet FIXTURES_FOLDER

packs LKC-FUNet's, the weights of its reduced network in the same way.

    python tests/goldens/pack.py --defusion FIXTURES_FOLDER

packs DeFusion's: blocks without their activations, losses, draws of its data and a pair of
pictures. The weights of its networks follow from their names (tests/helpers_defusion.py).

    python tests/goldens/pack.py --emma FIXTURES_FOLDER

packs EMMA's: its blocks, the sensing network at reduced width (its weights follow from their names,
`helpers_systems.by_rule`), losses, views and the preparation of its data.
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
    "hdr_metrics": (),
    "nmi_project_formulation": (),
    "gdsr_preproc": ("scalar:ssim",),
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


def refusion_training(folder: str) -> None:
    source, here = pathlib.Path(folder), pathlib.Path(__file__).parent

    def save(name: str, arrays: dict) -> None:
        np.savez_compressed(here / f"{name}.npz", **arrays)
        print(f"{name}.npz: {(here / f'{name}.npz').stat().st_size / 1e3:.0f} kB")

    save("refusion_losses", dict(np.load(source / "losses.npz")))
    for form, name in (("t", "meta_step"), ("r", "meta_step_release")):
        file = np.load(source / f"{name}.npz")
        nets = {k: v for k, v in file.items() if k.startswith("param:")}
        rest = {
            k: v
            for k, v in file.items()
            if k.startswith(("in:train", "in:test", "scalar:", "out:fast", "out:outer_update"))
        }
        for group in ("grad:meta_k1_f64/", "grad:meta_k3_f64/"):
            keys = [k for k in file if k.startswith(group)]
            scale = max(float(np.abs(file[k]).max()) for k in keys) / (2**31 - 1)
            rest[f"scale:{group}"] = np.float64(scale)
            rest |= {k: np.rint(file[k] / scale).astype(np.int32) for k in keys}
        save(f"refusion_meta_{form}_nets", nets)
        save(f"refusion_meta_{form}", rest)
        if form == "t":
            keys = [k for k in file if k.startswith("in:fd_dir")]
            save("refusion_meta_t_directions", {k: file[k] for k in keys})


CDDFUSE = {
    "restormer_block": ("mid:norm2", "mid:ffn.dwconv", "mid:attn.qkv"),
    "base_extractor": ("mid:norm2", "mid:mlp.dwconv"),
    "detail_extractor": (),
    "coupling_node": (),
    "inference_121x163": ("out:mif_noskip", "out:ivf/scaled", "out:mif_sumskip/scaled"),
    "losses": (),
}
PIECES = 5


def cddfuse(folder: str) -> None:
    """Activations of whole networks are kept for one example, at every second row and column."""
    source, here = pathlib.Path(folder), pathlib.Path(__file__).parent

    def save(name: str, arrays: dict) -> None:
        np.savez_compressed(here / f"cddfuse_{name}.npz", **arrays)
        print(f"cddfuse_{name}.npz: {(here / f'cddfuse_{name}.npz').stat().st_size / 1e3:.0f} kB")

    for name, drop in CDDFUSE.items():
        arrays = np.load(source / f"{name}.npz")
        save(name, {k: v for k, v in arrays.items() if not k.startswith(drop or ("\n",))})
    file = dict(np.load(source / "encoder_decoder_random.npz"))
    weights = {k[6:]: v for k, v in file.items() if k.startswith("param:")}
    vector = np.concatenate([v.ravel() for v in weights.values()])
    for i, piece in enumerate(np.array_split(vector, PIECES)):
        save(f"weights_{i}", {"piece": piece})
    rest = {
        k: v[:1, :, ::2, ::2] if k.endswith(".ch8") else v
        for k, v in file.items()
        if not k.startswith("param:")
    }
    inputs = np.load(source / "train_steps.npz")
    steps = {k: v for k, v in inputs.items() if k.startswith("in:")}
    steps |= {
        k: v
        for k, v in np.load(source / "train_steps_f64.npz").items()
        if k.startswith(
            ("scalar:", "grad:step0", "grad:step3", "out:step1/param", "out:step3/param")
        )
    }
    save("train_steps", steps)
    shapes = [" ".join(map(str, v.shape)) for v in weights.values()]
    save("networks", {**rest, "keys": np.array(list(weights)), "shapes": np.array(shapes)})


LKC_PIECES = 3


def lkc_funet(folder: str) -> None:
    """Activations inside blocks are left out, and the largest gradients of the two widest."""
    source, here = pathlib.Path(folder), pathlib.Path(__file__).parent

    def save(name: str, arrays: dict) -> None:
        target = here / f"lkc_funet_{name}.npz"
        np.savez_compressed(target, **arrays)
        print(f"{target.name}: {target.stat().st_size / 1e3:.0f} kB")

    def load(name: str) -> dict:
        return dict(np.load(source / f"{name}.npz"))

    for name in ("losses", "reparam"):
        save(name, load(name))
    save("maf", {k: v for k, v in load("maf").items() if not k.startswith("mid:")})
    for name, cases in (("replk_block", ("k15", "k5")), ("resnet_block", ("same", "proj", "odd"))):
        for case in cases:
            arrays = {
                k.replace(f":{case}.", ":"): v
                for k, v in load(name).items()
                if f":{case}." in k
                and not k.startswith("mid:")
                and k not in ("grad:odd.block2.block.3.weight", "grad:proj.block2.block.3.weight")
            }
            save(f"{name}_{case}", arrays)
    weights = {k[6:]: v for k, v in load("unet_params").items() if k.startswith("param:")}
    weights = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    vector = np.concatenate([v.ravel() for v in weights.values()])
    for i, piece in enumerate(np.array_split(vector, LKC_PIECES)):
        save(f"weights_{i}", {"piece": piece})
    shapes = [" ".join(map(str, v.shape)) for v in weights.values()]
    network = {"keys": np.array(list(weights)), "shapes": np.array(shapes)}
    drop = ("in:main", "out:batch.main", "out:instance.main", "scalar:main")
    network |= {k: v for k, v in load("unet_random_eval").items() if not k.startswith(drop)}
    save("network", network)
    train = {k: v for k, v in load("unet_random_train").items() if "num_batches" not in k}
    save("train", train | load("unet_grads"))
    full = load("unet_full_recipe")
    save("full", {k: v for k, v in full.items() if not k.startswith("scalar:model.")})


def defusion(folder: str) -> None:
    source, here = pathlib.Path(folder), pathlib.Path(__file__).parent
    drop = {
        "splat": ("mid:",),
        "layer_first": ("mid:",),
        "layer_stride2_odd": ("mid:",),
        "layer_decoder": ("mid:",),
        "losses": (),
        "data_recipe": ("in:s64_noaa_c", "out:s64_noaa_c", "in:s256/normal", "out:jitter"),
        "inference": ("out:common", "out:upper", "out:lower"),
    }
    for name, prefixes in drop.items():
        file = np.load(source / f"{name}.npz")
        kept = {k: v for k, v in file.items() if not k.startswith(prefixes or "-")}
        target = here / f"defusion_{name}.npz"
        np.savez_compressed(target, **kept)
        print(f"{target.name}: {target.stat().st_size / 1e3:.0f} kB")


EMMA = {
    "block_16_8": ("mid:",),
    "block_1_16": ("mid:",),
    "losses": (),
    "transforms": ("out:square/rot", "grad_in:", "in:square/rot", "out:wide/", "in:wide/"),
    "unet5_narrow": (
        *("mid:", "param:", "grad:", "in:cot", "grad_in:", "out:train/down", "out:train/up"),
    ),
    "data_prep": (),
}


def emma(folder: str) -> None:
    """Weights are powers of two times sixteenths: half precision loses nothing (checked here)."""
    for name, drop in EMMA.items():
        packed = {}
        for key, value in np.load(pathlib.Path(folder) / f"{name}.npz").items():
            if key.startswith(drop or ("\n",)) and key != "out:train/down5.conv.4.running_var":
                continue
            if key.startswith("param:"):
                half = value.astype(np.float16)
                assert np.array_equal(half.astype(np.float32), value), key
                value = half
            packed[key] = value
        target = pathlib.Path(__file__).parent / f"emma_{name}.npz"
        np.savez_compressed(target, **packed)
        print(f"{target.name}: {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    if sys.argv[1] == "--defusion":
        defusion(sys.argv[2])
    elif sys.argv[1] == "--emma":
        emma(sys.argv[2])
    elif sys.argv[1] == "--lkc-funet":
        lkc_funet(sys.argv[2])
    elif sys.argv[1] == "--cddfuse":
        cddfuse(sys.argv[2])
    elif sys.argv[1] == "--refusion-training":
        refusion_training(sys.argv[2])
    elif sys.argv[1] == "--refusion":
        refusion(sys.argv[2])
    else:
        main(sys.argv[1])
