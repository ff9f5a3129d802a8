"""Trains a fusion network: `{program} --config=mgdn:mff --workdir=runs/mff`.

--config names a config that comes with the program, as above, or a file: `my/config.py:preset`.
Modules that lie beside the file are found by their names. The same command resumes an interrupted
run. Any field of the config can be set on the command line (`--config.train.batch=16`). On a CPU
--cpu_devices=N, with the number of its cores, spreads each batch over them; N must divide the
batch, or half of it for a learned loss. Several processes: --distributed=auto where Slurm, Open
MPI, Kubernetes or Cloud TPU starts them; elsewhere give each one --coordinator=HOST:PORT,
--processes and its own --process. --quiet prints nothing but errors. Exit codes: 0 complete or
stopped by a signal and saved; 1 diverged, or a file cannot be written; 2 something in the command,
the config, the data or the workdir cannot be used; 3 another process of the run is lost; 130
interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import pathlib
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_flags

from mgdn_jax.errors import InputError, printable

SCRIPT, COMMAND = "python train.py", "mgdn train"


class Options(NamedTuple):
    """What the command line says.

    Attributes:
        config: an `ml_collections.ConfigDict`.
        workdir: the run's folder.
        membership: coordinator, processes and process, None where unset; and devices where it is
            detected.
        is_detected: whether the membership is what the cluster says.
        cpu_devices: devices that a CPU counts as; None for one.
        quiet: nothing but errors on the screen.
    """

    config: Any
    workdir: str
    membership: dict[str, Any]
    is_detected: bool
    cpu_devices: int | None
    quiet: bool


def main(argv: Sequence[str]) -> int:
    """`train.py`: trains, and prints an error in one line.

    Args:
        argv: the command line, the script's name first.

    Returns:
        The exit code.
    """
    return _guarded(argv[1:], SCRIPT, "error: ", shlex.join(["python", *argv]))


def train(arguments: argparse.Namespace) -> int:
    """`mgdn train`: trains; returns the exit code."""
    command = shlex.join(["mgdn", *arguments.argv])
    return _guarded(arguments.argv[1:], COMMAND, "mgdn: error: ", command)


def _guarded(arguments: Sequence[str], program: str, prefix: str, command: str) -> int:
    """Exit code of a run; what goes wrong becomes one line on stderr."""
    # XLA's C++ logs, before JAX is imported. Its alarm about slow compilations is an error among
    # them, and of no use to who waits: the log says what is compiled.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if {"--help", "-h", "-help"} & set(arguments):
        print((__doc__ or "").format(program=program))
        return 0
    try:
        options = parse(arguments, program)
    except InputError as error:
        print(printable(f"{prefix}{error}"), file=sys.stderr)
        return 2
    from mgdn_jax import training
    from mgdn_jax.training import clusters, partners, processes

    def complain(sentence: str) -> None:
        print(printable(f"{prefix}{sentence}"), file=sys.stderr, flush=True)

    def advice() -> str:
        return _advice(options)

    together: partners.Partners | None = None
    try:
        with contextlib.ExitStack() as stack:
            if options.cpu_devices is not None:
                processes.split_cpu(options.cpu_devices)
            if options.is_detected:
                membership = dataclasses.asdict(clusters.detect())
                options = options._replace(membership=membership)
            if options.membership["coordinator"] is not None:
                together = partners.Partners(**options.membership, complain=complain, advice=advice)
                stack.enter_context(together)
            training.fit(options.config, options.workdir, command=command, quiet=options.quiet)
        return 0
    except InputError as error:
        complain(str(error))
        code = 2
    except training.TrainingFailedError as error:
        complain(str(error))
        code = 1
    except partners.PartnerLostError as error:
        complain(f"{error}; {advice()}")
        code = partners.EXIT_LOST
    except KeyboardInterrupt:  # the second one: the first has let the step come to its end
        print(f"{prefix.removesuffix('error: ')}interrupted.", file=sys.stderr)
        code = 130
    except Exception:
        if together is None:
            raise
        traceback.print_exc()
        code = 1
    if together is not None:
        together.leave(code)
    return code


def _advice(options: Options) -> str:
    """What a sentence about a lost process ends with."""
    from mgdn_jax.training.loop import last_good

    if options.membership["process"] != 0:
        return "start all processes again to go on."
    train = options.config.to_dict().get("train") or {}
    good = last_good(options.workdir, train.get("checkpoints") or "")
    return f"{good}; start all processes again to go on."


def parse(arguments: Sequence[str], program: str = COMMAND) -> Options:
    """Reads flags and config; puts the folder of the config file on `sys.path`.

    Args:
        arguments: the command line without the program.
        program: its name, for messages.

    Raises:
        InputError: a flag, the config or one of its fields is not there or cannot be read.
    """
    usage = f"usage: {program} --config=mgdn:mff --workdir=runs/mff"
    argv = [program, *_with_config_file(arguments)]
    values = flags.FlagValues()
    values.append_flag_values(flags.FLAGS)  # --verbosity and the like
    config = config_flags.DEFINE_config_file(
        "config", None, "FILE.py[:preset]", flag_values=values, lock_config=True, sys_argv=argv
    )
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    flags.DEFINE_enum("distributed", None, ["auto"], "detects the cluster", flag_values=values)
    flags.DEFINE_string("coordinator", None, "host:port of process 0", flag_values=values)
    flags.DEFINE_integer("processes", None, "number of processes of the run", flag_values=values)
    flags.DEFINE_integer("process", None, "index of this process, from 0", flag_values=values)
    flags.DEFINE_integer("cpu_devices", None, "devices a CPU counts as", flag_values=values)
    flags.DEFINE_boolean("quiet", False, "print nothing but errors", flag_values=values)
    try:
        words = values(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(_sentence(error, arguments, usage)) from error
    if len(words) > 1:
        raise InputError(f"{words[1]!r} is not a flag; {usage}.")
    if config.value is None or not values.workdir:
        raise InputError(f"--config and --workdir are both needed; {usage}.")
    try:
        config.value.keys()
    except OSError as error:  # ml_collections hands out a stand-in for a file it could not load
        word = next((a for a in arguments if a.startswith("--config")), "--config")
        raise InputError(
            f"{word}: there is no such config file, and none that comes with the program"
            f" ({', '.join(shipped_configs())}); {usage}."
        ) from error
    return Options(
        config.value,
        values.workdir,
        _membership(values),
        values.distributed is not None,
        values.cpu_devices,
        values.quiet,
    )


def shipped_configs() -> dict[str, pathlib.Path]:
    """Configs that come with the program, by name: inside it, or beside it in a checkout."""
    package = pathlib.Path(__file__).parents[1]
    inside, beside = package / "configs", package.parent / "configs"
    folder = inside if inside.is_dir() else beside
    return {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"}


def _with_config_file(arguments: Sequence[str]) -> list[str]:
    """The command line with the config's name as a file, whose folder goes on `sys.path`."""
    words = list(arguments)
    for place, word in enumerate(words):
        match = re.fullmatch(r"(--?config)(?:=(.*))?", word)
        if match is None:
            continue
        start, value = f"{match[1]}=", match[2]
        if value is None:
            if place + 1 == len(words):
                break
            start, value, place = "", words[place + 1], place + 1
        file, colon, preset = value.partition(":")
        name = re.fullmatch(r"(?:configs/)?(\w+)(?:\.py)?", file)
        if name and not os.path.isfile(file):
            file = str(shipped_configs().get(name[1], file))
        folder = os.path.dirname(os.path.abspath(file))
        if os.path.isfile(file) and folder not in sys.path:
            sys.path.append(folder)
        words[place] = f"{start}{file}{colon}{preset}"
    return words


def _membership(values: flags.FlagValues) -> dict[str, Any]:
    """Which of how many processes this is, from flags or the environment."""
    membership = {
        "coordinator": values.coordinator or os.environ.get("MGDN_COORDINATOR"),
        "processes": _count("processes", values.processes),
        "process": _count("process", values.process),
    }
    lacking = [name for name, value in membership.items() if value is None]
    if values.distributed is not None and len(lacking) < len(membership):
        name = next(name for name, value in membership.items() if value is not None)
        raise InputError(
            f"--distributed=auto detects what --{name} (or MGDN_{name.upper()}) says; leave one of"
            " the two out."
        )
    if 0 < len(lacking) < len(membership):
        raise InputError(f"several processes need --{lacking[0]} as well.")
    return membership


def _count(name: str, flag: int | None) -> int | None:
    text = os.environ.get(f"MGDN_{name.upper()}")
    if flag is not None or text is None:
        return flag
    if not text.isdigit():
        raise InputError(f"MGDN_{name.upper()} is {text!r} and must be a whole number.")
    return int(text)


def _sentence(error: BaseException, arguments: Sequence[str], usage: str) -> str:
    """What is wrong with the command line, in one sentence."""
    text = _last_words(error)
    unknown = re.match(r"(\w+)(?: Did you mean (\w+) instead of \w+\?)?$", text)
    if unknown is None:
        return f"{text.rstrip('. ')}; {usage}."
    name, near = unknown.groups()
    flags = [argument.split("=")[0] for argument in arguments]
    word = next((flag for flag in flags if f".{name}." in f"{flag}."), name)
    cure = f"did you mean {near!r}?" if near else "see the config file for its fields."
    return f"{word}: the config has no field {name!r}; {cure}"


def _last_words(error: BaseException) -> str:
    """What a flag error says, without the traceback and quotes that ml_collections packs it in."""
    text = str(error).replace("\\n", "\n").replace("\\", "").strip(" '\n\"")
    if "Traceback" in text:
        text = text.splitlines()[-1].split(": ", 1)[-1]
    return " ".join(text.replace('"', "").replace("'", "").split())
