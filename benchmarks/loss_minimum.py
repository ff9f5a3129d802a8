"""What a fusion loss asks for: the picture at its minimum, found without a network, and scored.

    python benchmarks/loss_minimum.py DIR/a DIR/b --model ReFusion_IVIF.safetensors [--pairs 6]

Adam descends on the pixels of each pair's centre, from the pixelwise maximum, under each of LKC-
FUNet's losses below (`mgdn_jax/recipes/lkc_funet.py`); the scores are those of docs/benchmarks.md,
beside the rules without learning and the given networks. A network cannot reach all of it, but what
scores badly at its minimum is no loss to train by. Give pictures to train on, not to test on. The
mean rank of a loss is that among the rules, the networks and itself.
"""

import argparse
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mgdn_jax
from mgdn_jax import files, losses
from mgdn_jax.baselines import BASELINES
from mgdn_jax.evaluation import Pair, evaluate_methods
from mgdn_jax.metrics import luminance
from mgdn_jax.scores import mean_ranks

METRICS = ("EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM_dr255")
RULES = ("base_mean", "base_max", "base_laplacian")
# Name -> coefficients of intensity, gradient and SSIM, gradient rule, values that SSIM sees.
LOSSES = {
    "released": (1.0, 1.0, 1.0, "strength", "network"),
    "SSIM of [0, 1]": (1.0, 1.0, 1.0, "strength", "unit"),
    "that, gradient 4": (1.0, 4.0, 1.0, "strength", "unit"),
    "that, signed": (1.0, 4.0, 1.0, "signed", "unit"),
    "signed, gradient 1": (1.0, 1.0, 1.0, "signed", "unit"),
    "signed, both 4": (4.0, 4.0, 1.0, "signed", "unit"),
}


def loss(name: str, fused: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """One of `LOSSES` for one picture, of (1, h, w, 1) in [0, 1]."""
    intensity, gradient, ssim, rule, seen = LOSSES[name]
    unit = (fused, a, b)
    own = tuple(2 * x - 1 for x in unit)
    slopes = 2 * losses.gradient_signed_max(*unit) if rule == "signed" else losses.sobel_max(*own)
    value = intensity * losses.intensity(*own) + gradient * slopes
    return (value + ssim * losses.ssim_both(*(unit if seen == "unit" else own)))[0]


@functools.partial(jax.jit, static_argnames=("name", "steps"))
def minimise(name: str, a: jax.Array, b: jax.Array, steps: int) -> jax.Array:
    """The picture after so many steps of Adam on a cosine from 0.02, clipped to [0, 1]."""
    rule = optax.adam(optax.cosine_decay_schedule(0.02, steps))

    def step(carry, _):
        fused, state = carry
        # Times the number of pixels, so that epsilon is as small beside it at any size.
        slope = fused.size * jax.grad(loss, 1)(name, fused, a, b)
        update, state = rule.update(slope, state)
        return (fused + update, state), None

    start = jnp.maximum(a, b)
    (fused, _), _ = jax.lax.scan(step, (start, rule.init(start)), None, steps)
    return jnp.clip(fused, 0.0, 1.0)


def centre(path: pathlib.Path, side: int) -> np.ndarray:
    """Luminance of a picture's centre, uint8, sides of at most `side`."""
    picture = luminance(files.read_image(path))
    top, left = (max(0, n - side) // 2 for n in picture.shape)
    return picture[top : top + side, left : left + side].astype(np.uint8)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("a", type=pathlib.Path, help="folder of infrared, CT, PET or SPECT")
    parser.add_argument("b", type=pathlib.Path, help="folder of visible or MRI, equal names")
    parser.add_argument("--model", nargs="*", default=[], help="networks to set beside")
    parser.add_argument("--pairs", type=int, default=6, help="as many, evenly spread (6)")
    parser.add_argument("--side", type=int, default=256, help="of the centre (256)")
    parser.add_argument("--steps", type=int, default=400, help="of Adam (400)")
    args = parser.parse_args()
    names = sorted(path.name for path in args.a.iterdir() if (args.b / path.name).is_file())
    names = names[:: max(1, len(names) // args.pairs)][: args.pairs]
    pairs = [Pair(n, *(centre(f / n, args.side) for f in (args.a, args.b))) for n in names]

    def optimum(name: str):
        def fuse(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            a, b = (x[None, ..., None].astype(np.float32) / 255 for x in (a, b))
            return np.rint(255 * np.asarray(minimise(name, a, b, args.steps)))[0, ..., 0]

        return fuse

    beside = {name: BASELINES[name] for name in RULES}
    beside |= {pathlib.Path(str(m)).stem: mgdn_jax.load(m) for m in args.model}
    tables = evaluate_methods(
        beside | {name: optimum(name) for name in LOSSES}, pairs, metrics=METRICS
    )
    means = {name: table.mean() for name, table in tables.items()}
    print(f"{len(pairs)} pairs, the minimum after {args.steps} steps\n")
    print("| | " + " | ".join(METRICS) + " | mean rank |")
    print("|---" * (len(METRICS) + 2) + "|")
    for name, mean in means.items():
        ranks = mean_ranks({key: means[key] for key in (*beside, name)}, METRICS)
        rank = f"{ranks[name]:.2f}" if name in LOSSES else ""
        print(f"| {name} | " + " | ".join(f"{mean[m]:.3f}" for m in METRICS) + f" | {rank} |")


if __name__ == "__main__":
    main()
