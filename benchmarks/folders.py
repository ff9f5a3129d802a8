"""How much of a network's own pace a folder of pictures keeps: files, colour and threads included.

    python benchmarks/folders.py [--model NAME|FILE] [--count 50] [--size 128x160] [--json]

Makes `--count` pairs of gray and colour in folders of ten, fuses these with `mgdn_jax.fuse_folders`
and runs the bare network on the same pictures, already decoded, folder by folder in turns, so that
other work on the machine meets both; programs are compiled before. The result is the ratio of
pictures a second, folders over network. Without a model it is a freshly drawn `cddfuse:ivf_small`.
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


def main() -> None:
    """Prints the ratio, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="name or .safetensors file of a network of luminance")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--size", default="128x160", help="HEIGHTxWIDTH")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    told = parser.parse_args()
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
            coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
            smooth = coarse.repeat(8, 0).repeat(8, 1)[:height, :width]
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


if __name__ == "__main__":
    main()
