"""Trains a fusion network: `python train.py --config=configs/mgdn.py:mff --workdir=runs/mff`.

The same command resumes an interrupted run. Any field of the config can be set on the command
line (`--config.train.batch=16`). On a CPU --cpu_devices=N, with the number of its cores, spreads
each batch over them; N must divide the batch, or half of it for a learned loss. Several processes:
give each one --coordinator=HOST:PORT, --processes and its own --process. Exit codes: 0 complete or
stopped by a signal and saved, 1 diverged or failed, 2 something in the command, the config or the
data cannot be used.
"""

import os
import re
import shlex
import sys

from absl import flags
from ml_collections import config_flags

from mgdn_jax.errors import InputError

_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE.py[:preset]", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; made, or resumed from")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0", short_name=None)
_PROCESSES = flags.DEFINE_integer("processes", None, "number of processes of the run")
_PROCESS = flags.DEFINE_integer("process", None, "index of this process, from 0")
_CPU_DEVICES = flags.DEFINE_integer("cpu_devices", None, "devices a CPU counts as; default 1")
_QUIET = flags.DEFINE_boolean("quiet", False, "print nothing but errors")

USAGE = "usage: python train.py --config=configs/mgdn.py:mff --workdir=runs/mff"


def _parse(argv: list[str]) -> None:
    """Reads flags and config; every mistake becomes one sentence."""
    try:
        rest = flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        text = _last_words(error)
        unknown = re.match(r"(\w+)(?: Did you mean (\w+) instead of \w+\?)?$", text)
        if unknown:
            name, near = unknown.groups()
            given = next((a for a in argv if f".{name}" in a), name).split("=")[0]
            cure = f"did you mean {near!r}?" if near else "see the config file for its fields."
            raise InputError(f"{given}: the config has no field {name!r}; {cure}") from error
        raise InputError(f"{text.rstrip('. ')}; {USAGE}.") from error
    if len(rest) > 1:
        raise InputError(f"{rest[1]!r} is not a flag; {USAGE}.")
    if _CONFIG.value is None or not _WORKDIR.value:
        raise InputError(f"--config and --workdir are both needed; {USAGE}.")
    try:
        _CONFIG.value.keys()
    except OSError as error:  # ml_collections hands out a stand-in for a file it could not load
        given = next((a for a in argv if a.startswith("--config")), "--config")
        raise InputError(f"{given}: there is no such config file; {USAGE}.") from error


def _last_words(error: BaseException) -> str:
    """What a flag error says, without the traceback and quotes that ml_collections packs it in."""
    text = str(error).replace("\\n", "\n").replace("\\", "").strip(" '\n\"")
    if "Traceback" in text:
        text = text.splitlines()[-1].split(": ", 1)[-1]
    return " ".join(text.replace('"', "").replace("'", "").split())


def main(argv: list[str]) -> int:
    """Parses, joins the other processes if there are any, trains; returns the exit code."""
    if {"--help", "-h", "-help"} & set(argv):
        print(__doc__)
        return 0
    try:
        _parse(argv)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from mgdn_jax import training
    from mgdn_jax.training import processes

    try:
        told = {
            "coordinator": _COORDINATOR.value or os.environ.get("MGDN_COORDINATOR"),
            "processes": _count("processes", _PROCESSES.value),
            "process": _count("process", _PROCESS.value),
        }
        lacking = [name for name, value in told.items() if value is None]
        if 0 < len(lacking) < len(told):
            raise InputError(f"several processes need --{lacking[0]} as well.")
        if _CPU_DEVICES.value is not None:
            processes.split_cpu(_CPU_DEVICES.value)
        if not lacking:
            processes.connect(**told)
        command = shlex.join(["python", *argv])
        training.fit(_CONFIG.value, _WORKDIR.value, command=command, quiet=_QUIET.value)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except training.TrainingDivergedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _count(name: str, flag: int | None) -> int | None:
    text = os.environ.get(f"MGDN_{name.upper()}")
    if flag is not None or text is None:
        return flag
    if not text.isdigit():
        raise InputError(f"MGDN_{name.upper()} is {text!r} and must be a whole number.")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
