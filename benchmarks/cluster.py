"""Folders through a cluster on this machine beside `fuse_folders`, with the same cores.

    python benchmarks/cluster.py [--model NAME|FILE] [--count 96] [--size 240x320] [--rounds 5]
                                 [--workers N] [--json]

Makes `--count` pairs of gray and colour and fuses them in turns, each way once a round, so that
other work on the machine meets both: with `mgdn_jax.fuse_folders` in this process, and with
`mgdn_jax.serving.ray.fuse_folders` on a cluster of this machine's cores (`--workers` of them, one
core each). The cluster is started once, before; a call of either way has all that a user's has,
which for the cluster is the start of its workers. Two sizes of the data set, the whole and a sixth
of it, tell that start from the pace: `steady` is the ratio of pictures a second over what the whole
has more, `whole` that of the complete calls. Programs are on the disk after the first round, which
does not count. Without a model it is a freshly drawn `cddfuse:ivf_small`.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import ray
from folders import blocks

import mgdn_jax
from mgdn_jax.fusing.compile_cache import enable_compilation_cache
from mgdn_jax.io import files
from mgdn_jax.serving import ray as cluster
from mgdn_jax.systems import registry


def main() -> None:
    """Prints the ratios, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="name or .safetensors file of a network")
    parser.add_argument("--count", type=int, default=96)
    parser.add_argument("--size", default="240x320", help="HEIGHTxWIDTH")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    enable_compilation_cache()
    if wanted.model:
        fuser = mgdn_jax.load(wanted.model)
    else:
        config, _, params, _ = registry.create("cddfuse", "ivf_small")
        fuser = mgdn_jax.Fuser("cddfuse", config, params)
    height, width = map(int, wanted.size.split("x"))
    few = max(1, wanted.count // 6)
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    seconds: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as root:
        parts = {"few": (Path(root, "few"), few), "whole": (Path(root, "whole"), wanted.count)}
        rng = np.random.default_rng(0)
        for folder, count in parts.values():
            for number in range(count):
                picture = blocks(rng, height, width)
                files.write_image(folder / "ir" / f"{number}.png", picture[..., 0])
                files.write_image(folder / "vi" / f"{number}.png", picture)
        for turn in range(wanted.rounds + 1):
            for part, (folder, count) in parts.items():
                for way in ("folders", "cluster")[:: 1 if turn % 2 else -1]:
                    started = time.perf_counter()
                    assert fuse(way, folder, fuser, wanted.workers, turn) == count
                    if turn:
                        spent = time.perf_counter() - started
                        seconds.setdefault((way, part), []).append(spent)
    ray.shutdown()
    show(wanted, seconds, few)


def fuse(way: str, folder: Path, fuser: mgdn_jax.Fuser, workers: int | None, turn: int) -> int:
    """Pictures that one way writes."""
    pair, output = (folder / "ir", folder / "vi"), folder / f"{way}{turn}"
    if way == "folders":
        done = mgdn_jax.fuse_folders(*pair, output=output, model=fuser)
        return sum(isinstance(path, Path) for path in done.values())
    return len(cluster.fuse_folders(*pair, output=output, model=fuser, workers=workers).written)


def show(wanted: argparse.Namespace, seconds: dict[tuple[str, str], list[float]], few: int) -> None:
    """Prints what was measured."""
    middle = {key: statistics.median(values) for key, values in seconds.items()}
    more = wanted.count - few
    pace = {
        way: more / (middle[way, "whole"] - middle[way, "few"]) for way in ("folders", "cluster")
    }
    rounds = [
        (fw - ff) / (cw - cf)
        for fw, ff, cw, cf in zip(
            *(seconds[key] for key in (("folders", "whole"), ("folders", "few"))),
            *(seconds[key] for key in (("cluster", "whole"), ("cluster", "few"))),
            strict=True,
        )
    ]
    content = {
        "pairs": wanted.count,
        "size": wanted.size,
        "steady": pace["cluster"] / pace["folders"],
        "steady_by_round": rounds,
        "whole": middle["folders", "whole"] / middle["cluster", "whole"],
        "pictures_per_s": pace,
        "seconds": {f"{way} {part}": values for (way, part), values in seconds.items()},
        "load": os.getloadavg(),
        "cores": len(os.sched_getaffinity(0)),
    }
    if wanted.json:
        print(json.dumps(content))
        return
    print(
        f"{wanted.count} pairs of {wanted.size}, {content['cores']} cores, {wanted.rounds} rounds:"
    )
    for way in pace:
        whole = middle[way, "whole"]
        print(f"  {way}: {whole:.1f} s in all, {pace[way]:.2f} pictures a second (medians)")
    print(f"  cluster over folders: {content['steady']:.2f} steady, {content['whole']:.2f} in all")


if __name__ == "__main__":
    main()
