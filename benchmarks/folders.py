"""How much of a network's own pace a folder of pictures keeps: files, colour and threads included.

    python benchmarks/folders.py [--model NAME|FILE] [--count 50] [--size 128x160] [--json]
    python benchmarks/folders.py --many-sizes [--model mgdn-mff] [--ways own multiples shared]

Makes `--count` pairs of gray and colour in folders of ten, fuses these with `mgdn_jax.fuse_folders`
and runs the bare network on the same pictures, already decoded, folder by folder in turns, so that
other work on the machine meets both; programs are compiled before. The result is the ratio of
pictures a second, folders over network. Without a model it is a freshly drawn `cddfuse:ivf_small`.

With `--many-sizes` it makes 30 pairs in 15 sizes, once near those of three data sets (`usual`) and
once drawn from 200 to 700 (`random`). It fuses them from a cold start: each size in a program of
its own (`own`), padded to multiples of 64 (`multiples`), and padded to few shared sizes (`shared`,
what folders do unless told otherwise). It tells wall time, processor time, compiled programs and
how much of what went through the network was padding.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import mgdn_jax
from mgdn_jax import image
from mgdn_jax.fusing import stream
from mgdn_jax.io import files
from mgdn_jax.io.pixels import to_float
from mgdn_jax.systems import registry

PART = 10
KINDS = ("usual", "random")
WAYS = {"own": 0, "multiples": stream.BUCKET, "shared": None}
"""Names to what `bucket` is."""


def main() -> None:
    """Prints the ratio, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="name or .safetensors file of a network of luminance")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--size", default="128x160", help="HEIGHTxWIDTH")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--many-sizes", action="store_true", help="30 pairs in 15 sizes, cold")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    told = parser.parse_args()
    if told.many_sizes:
        many_sizes(told.model or "mgdn-mff", told.kinds, told.ways, told.json)
        return
    if told.model:
        fuser = mgdn_jax.load(told.model)
    else:
        config, _, params, _ = registry.create("cddfuse", "ivf_small")
        fuser = mgdn_jax.Fuser("cddfuse", config, params)
    height, width = map(int, told.size.split("x"))
    rng = np.random.default_rng(0)
    batch = stream.default_batch()
    seconds: dict[str, list[float]] = {"folder": [], "network": []}
    work: dict[str, list[float]] = {"folder": [], "network": []}
    with tempfile.TemporaryDirectory() as root:
        names = [(Path(root, str(i // PART)), f"{i}.png") for i in range(told.count)]
        parts: dict[Path, list[list[np.ndarray]]] = {}
        for folder, name in names:
            smooth = blocks(rng, height, width)
            for source, picture in (("ir", smooth[..., 0]), ("vi", smooth)):
                files.write_image(folder / source / name, picture)
            pair = [smooth[..., :1], smooth]
            parts.setdefault(folder, []).append(
                [np.asarray(image.luminance(to_float(x))) for x in pair]
            )

        def network(folder: Path) -> None:
            planes = parts[folder]
            for start in range(0, len(planes), batch):
                some = zip(*planes[start : start + batch], strict=True)
                np.asarray(fuser.network(*map(np.stack, some)))

        def whole(folder: Path) -> None:
            mgdn_jax.fuse_folders(
                folder / "ir", folder / "vi", output=folder / "out", model=fuser, bucket=0
            )

        for turn in range(told.rounds + 1):
            spent = {name: [0.0, 0.0] for name in seconds}
            for folder in parts:
                for name, function in (("network", network), ("folder", whole)):
                    started = time.perf_counter(), time.process_time()
                    function(folder)
                    spent[name][0] += time.perf_counter() - started[0]
                    spent[name][1] += time.process_time() - started[1]
            for name, (wall, cpu) in spent.items():
                if turn:  # the first compiles
                    seconds[name].append(wall)
                    work[name].append(cpu)
    found = {
        name: {
            "median_images_per_s": told.count / statistics.median(values),
            "fastest_images_per_s": told.count / min(values),
            "median_cpu_s": statistics.median(work[name]),
        }
        for name, values in seconds.items()
    }
    ratios = {
        key: found["folder"][key] / found["network"][key] for key in list(found["folder"])[:2]
    }
    ratios["cpu"] = found["network"]["median_cpu_s"] / found["folder"]["median_cpu_s"]
    if told.json:
        print(json.dumps({"ratio": ratios, "load": os.getloadavg()[0], **found}))
        return
    print(f"a folder of {told.count} pairs of {told.size}, batches of {batch}:")
    for name, values in found.items():
        print(f"  {name}: {values['median_images_per_s']:.2f} images/s (median)")
    print(
        f"  folder over network: {ratios['median_images_per_s']:.3f} (medians), "
        f"{ratios['fastest_images_per_s']:.3f} (fastest), {ratios['cpu']:.3f} (processor time)"
    )


def blocks(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A colour picture of blocks of 8 pixels."""
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[:height, :width]


def sizes_of(kind: str) -> list[tuple[int, int]]:
    """Sizes of 30 pictures, 15 different ones."""
    rng = np.random.default_rng(0)
    if kind == "random":
        some = [(int(h), int(w)) for h, w in rng.integers(200, 701, (15, 2))]
    else:
        usual = [(480, 640), (640, 480), (520, 520), (321, 481), (481, 321)]
        some = [(h - cut, w - more) for cut, more in ((0, 0), (5, 0), (2, 9)) for h, w in usual]
    assert len(set(some)) == 15
    return some * 2


def many_sizes(model: str, kinds: list[str], ways: list[str], as_json: bool) -> None:
    """Prints how long folders of 15 sizes take from a cold start, or JSON."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind in kinds:
        sizes, rng = sizes_of(kind), np.random.default_rng(1)
        with tempfile.TemporaryDirectory() as root:
            folders = Path(root, "a"), Path(root, "b")
            for number, size in enumerate(sizes):
                for folder in folders:
                    files.write_image(folder / f"{number}.png", blocks(rng, *size))
            for way in ways:
                fuser = mgdn_jax.load(model)
                started = time.perf_counter(), time.process_time()
                results = mgdn_jax.fuse_folders(
                    *folders, output=Path(root, way), model=fuser, bucket=WAYS[way]
                )
                assert all(isinstance(path, Path) for path in results.values())
                wall, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
                padding = fuser if WAYS[way] is not None else fuser.for_sizes(sizes)
                plans = [padding.plan(*size, bucket=WAYS[way]) for size in sizes]
                through = sum(plan.padded[0] * plan.padded[1] for plan in plans)
                found.setdefault(kind, {})[way] = {
                    "wall_s": wall,
                    "cpu_s": cpu,
                    "programs": fuser.programs,
                    "padding": 1 - sum(h * w for h, w in sizes) / through,
                }
    if as_json:
        print(json.dumps({"model": model, "load": os.getloadavg()[0], **found}))
        return
    for kind, rows in found.items():
        print(f"30 pairs in 15 sizes ({kind}), {model}, cold:")
        for way, row in rows.items():
            print(
                f"  {way:9} {row['programs']:2} programs, {row['wall_s']:.0f} s"
                f" ({row['cpu_s']:.0f} s of processor), {row['padding']:.0%} padding"
            )


if __name__ == "__main__":
    main()
