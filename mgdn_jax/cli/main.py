"""The command `mgdn`: arguments, errors and exit codes; the work is in its siblings.

Nothing heavy is imported before a command runs, so that help, version and complaints are quick.
"""

from __future__ import annotations

import _thread
import argparse
import contextlib
import dataclasses
import errno
import importlib
import io
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from mgdn_jax.arguments import shown
from mgdn_jax.cli.demo import add_demo
from mgdn_jax.cli.export import add_export
from mgdn_jax.cli.measures import add_eval_depth, add_eval_hdr, add_trust
from mgdn_jax.errors import FusionWarning, InputError, printable
from mgdn_jax.fusing.options import FuseOptions
from mgdn_jax.fusing.tasks import TASKS

# Options whose value may start with a minus.
_NUMBERS = ("--range", "--window", "--tone", "--limits", "--ev")
EXIT_OK, EXIT_SOME_FAILED, EXIT_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """Complains in one line, like every other error of the program."""

    def error(self, message: str) -> NoReturn:
        message = message if len(message) <= 400 else f"{message[:400]}..."
        self.exit(EXIT_INPUT, printable(f"mgdn: error: {message}; see {self.prog} --help.") + "\n")


class _Version(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        from importlib import metadata

        try:
            version = metadata.version("mgdn-jax")
        except metadata.PackageNotFoundError:
            version = "unknown (not installed)"
        print(f"mgdn {version}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(prog="mgdn", description="Fuses pictures of one scene with neural networks.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_fuse(commands)
    _add_hdr(commands)
    _add_depth(commands)
    add_demo(commands)
    join = commands.add_parser(
        "join",
        help="put parts of a video together, as mgdn fuse --frames writes them",
        description="Videos that were written with the same settings become one, without coding "
        "anything again.",
    )
    join.add_argument("parts", nargs="+", metavar="PART", help="videos, in order")
    join.add_argument("-o", "--output", required=True, metavar="OUT", help="file of the same kind")
    join.add_argument("--json", action="store_true", help="one JSON object on stdout")
    join.set_defaults(run="video:join")

    models = commands.add_parser("models", help="list the bundled networks, or describe some")
    models.add_argument(
        "models", nargs="*", metavar="NAME|FILE", help="bundled names, or weight files"
    )
    models.add_argument(
        "--task", choices=tuple(TASKS), help="only the networks for one kind of pictures"
    )
    models.add_argument("--json", action="store_true", help="one JSON object on stdout")
    models.set_defaults(run="tools:models")

    convert = commands.add_parser(
        "convert", help="turn a published PyTorch checkpoint into a weight file"
    )
    convert.add_argument("source", metavar="SRC.pth")
    convert.add_argument("target", metavar="DST.safetensors")
    convert.add_argument("--system", required=True, help="for instance mgdn")
    convert.add_argument("--preset", required=True, help="for instance mff")
    convert.add_argument("--json", action="store_true", help="one JSON object on stdout")
    convert.set_defaults(run="tools:convert")

    add_export(commands)

    data = commands.add_parser("data", help="data sets for training")
    steps = data.add_subparsers(dest="step", metavar="STEP", required=True)
    prepare = steps.add_parser("prepare", help="write a folder of images as a data set")
    prepare.add_argument("set", metavar="SET", help="name of the builder, e.g. pairs")
    prepare.add_argument("--source", required=True, metavar="DIR", help="folder of the images")
    prepare.add_argument("--out", metavar="DIR", help="where to put it (the user's data folder)")
    prepare.add_argument("--name", metavar="NAME", help="what configs call it (default: SET)")
    prepare.add_argument(
        "--folders",
        nargs="+",
        metavar="SUB",
        help="subfolders in order: image labels, a b [target] or rgb depth (else by usual names)",
    )
    prepare.add_argument(
        "--only",
        nargs="+",
        metavar="PATTERN",
        help="only names that fit, as 'msrs_*'; '!PATTERN' leaves out those that fit",
    )
    prepare.add_argument(
        "--shards",
        type=int,
        default=0,
        metavar="N",
        help="write N folders NAME-00000-of-0000N, of which each machine needs its own alone",
    )
    prepare.add_argument("--json", action="store_true", help="one JSON object on stdout")
    prepare.set_defaults(run="tools:prepare")
    _add_eval(commands)
    add_eval_depth(commands)
    add_eval_hdr(commands)
    # Its flags are absl's; `main` hands them on.
    commands.add_parser("train", help="train a network (see mgdn train --help)", add_help=False)
    return parser


def _add_fuse(commands) -> None:
    fuse = commands.add_parser(
        "fuse",
        help="fuse two pictures, a focus stack, folders of pictures, or videos",
        description="Two or more files become one picture (more than two: a focus stack, near to "
        "far, or a bracket). One folder, or one file of several pages, is a stack. Two or more "
        "folders are matched by file name, and -o is a folder. Two or more videos are matched by "
        "time, and -o is a video.",
    )
    fuse.add_argument("inputs", nargs="+", metavar="INPUT", help="files, or folders")
    fuse.add_argument("-o", "--output", required=True, metavar="OUT", help="file, or folder")
    fuse.add_argument(
        "--task",
        choices=tuple(TASKS),
        help="what is fused: chooses the network and the preparation (alignment, tone, ranges)",
    )
    fuse.add_argument("--model", metavar="NAME|FILE", help="see mgdn models (mgdn-mff)")
    add_trust(fuse)
    _add_options(fuse)
    fuse.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="of folders: pictures of one size fused at once (1 on a CPU, else 8)",
    )
    fuse.add_argument(
        "--frames", metavar="FIRST:END", help="of videos and folders: this part alone, from 0"
    )
    fuse.add_argument(
        "--offset",
        metavar="SECONDS",
        action="append",
        help="the first video began so much later than the second; A:SECONDS for any",
    )
    fuse.add_argument(
        "--quality",
        type=int,
        default=95,
        metavar="Q",
        help="JPEG, WebP, video: 1-100 (95); 100 in .mkv is lossless",
    )
    fuse.add_argument(
        "--depth-map", metavar="FILE", help="write which picture of a stack is sharpest where"
    )
    fuse.add_argument(
        "--save-transforms", metavar="FILE", help="write what --align or --register found"
    )
    fuse.add_argument(
        "--cluster",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="of folders: fuse on a cluster of Ray (--cluster=HOST:PORT), or on all cores here",
    )
    fuse.add_argument("--score", action="store_true", help="print quality figures of the result")
    fuse.add_argument("--json", action="store_true", help="one JSON object on stdout")
    fuse.add_argument("--quiet", action="store_true", help="say nothing but errors")
    fuse.set_defaults(run="fuse:fuse")


def _add_hdr(commands) -> None:
    hdr = commands.add_parser(
        "hdr",
        help="merge exposures of a scene in which things move into its radiance",
        description="Two or more exposures, in any order, become one picture of linear light. "
        "How long they were comes from their EXIF, or from --times or --ev.",
    )
    hdr.add_argument("inputs", nargs="+", metavar="EXPOSURE", help="files of one size")
    hdr.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="file: .exr, .hdr or float .tif"
    )
    hdr.add_argument("--preview", metavar="FILE", help="write a picture for the screen, .png")
    hdr.add_argument(
        "--times",
        nargs="+",
        metavar="SECONDS",
        help="exposure times in the order of the files: 1/500,1/60,1/8",
    )
    hdr.add_argument(
        "--ev", nargs="+", metavar="STEPS", help="in place of times, factors of two: -3,0,3"
    )
    hdr.add_argument("--model", metavar="NAME|FILE", help="see mgdn models (mgdn-hdr)")
    add_trust(hdr)
    hdr.add_argument(
        "--align",
        action=argparse.BooleanOptionalAction,
        default="shift",
        help="undo the camera's turns as well (extra align), or nothing; usual are shifts alone",
    )
    hdr.add_argument(
        "--gamma", type=float, metavar="G", help="power of the camera's curve (the network's, 2.2)"
    )
    hdr.add_argument(
        "--curve",
        choices=("power", "srgb"),
        default="power",
        help="the camera's curve; srgb for what a raw converter wrote",
    )
    hdr.add_argument(
        "--scale",
        type=float,
        default=1.0,
        metavar="S",
        help="radiance of what saturates the shortest exposure (1)",
    )
    hdr.add_argument("--half", action="store_true", help="16 bits a value in .exr")
    _add_options(hdr, ("tile", "overlap", "tile_context", "ensemble"))
    hdr.add_argument(
        "--published-tiles",
        action="store_true",
        help="tiles of 500 x 500 that know nothing of each other, as in the published recipe",
    )
    hdr.add_argument(
        "--no-checks",
        action="store_true",
        help="do not look for shifts, and for exposures that contradict their times",
    )
    hdr.add_argument("--json", action="store_true", help="one JSON object on stdout")
    hdr.add_argument("--quiet", action="store_true", help="say nothing but errors")
    hdr.set_defaults(run="hdr:hdr")


def _add_depth(commands) -> None:
    depth = commands.add_parser(
        "depth",
        help="enlarge a depth map to the size of the photograph beside it",
        description="A small depth map and a photograph of the same view become a depth map of "
        "the photograph's size. Maps are 8- or 16-bit PNG or TIFF, float TIFF, EXR, NPY or NPZ; "
        "0 and NaN are holes.",
    )
    depth.add_argument("low", metavar="LOW_DEPTH", help="the small depth map")
    depth.add_argument("rgb", metavar="RGB", help="the photograph")
    depth.add_argument(
        "-o", "--output", required=True, metavar="HIGH", help=".png, .tif, .exr, .npy or .npz"
    )
    depth.add_argument("--model", metavar="NAME|FILE", help="see mgdn models (the nearest scale)")
    add_trust(depth)
    depth.add_argument(
        "--unit",
        choices=("mm", "m", "levels"),
        help="of the map's numbers (as the file says; else 16 bits: mm, floats: m, 8 bits: levels)",
    )
    depth.add_argument(
        "--limits",
        metavar="LO,HI",
        help="least and largest depth of the result, in the map's unit (a little beyond the map's)",
    )
    depth.add_argument("--preview", metavar="PNG", help="write the result in colours, with a scale")
    _add_options(depth, ("tile", "overlap", "tile_context", "ensemble"))
    depth.add_argument("--json", action="store_true", help="one JSON object on stdout")
    depth.add_argument("--quiet", action="store_true", help="say nothing but errors")
    depth.set_defaults(run="depth:depth")


def _add_options(command, names: Sequence[str] = FuseOptions.names()) -> None:
    """An option for each named field of `FuseOptions`."""
    for field in dataclasses.fields(FuseOptions):
        if field.name not in names:
            continue
        about = field.metadata
        kind: dict[str, Any] = {"type": about["kind"], "metavar": about["metavar"]}
        if about["choices"]:
            kind = {"choices": about["choices"]}
        elif about["kind"] is bool:
            kind = {"action": argparse.BooleanOptionalAction}
        elif about["repeats"]:
            kind |= {"action": "append"}
        flag = "--" + field.name.replace("_", "-")
        command.add_argument(flag, help=about["help"], **kind)


def _add_eval(commands) -> None:
    command = commands.add_parser(
        "eval",
        help="score fused pictures or networks, compare scores",
        usage="mgdn eval [NAME=]FUSED [[NAME=]FUSED ...] A B [options]\n"
        "       mgdn eval [FUSED ...] --model NAME [NAME ...] --data A B [options]\n"
        "       mgdn eval FUSED --truth TRUTH [options]\n"
        "       mgdn eval --compare CSV CSV [...]",
        description="Scores one or more methods' fused pictures against their two sources A and "
        "B, on luminance: three files, or folders matched by file name, or by a rule that is said. "
        "NAME= before a place says "
        "what to call the method. Networks are run and scored with --model. Rules without learning "
        "are scored beside them.",
    )
    command.add_argument(
        "inputs", nargs="*", metavar="PICTURES", help="files or folders, see above"
    )
    command.add_argument(
        "--model",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME|FILE",
        help="fuse with these networks (see mgdn models) or rules (base_mean, base_max, "
        "base_laplacian, base_focus_guided, base_focus_evidence, base_mertens, "
        "base_hybrid_multiscale) and score the results",
    )
    add_trust(command)
    command.add_argument(
        "--data",
        nargs="+",
        metavar="A B|DIR|SET",
        help="the sources: two folders or files (or more, for MEF_SSIM), a folder with two "
        "subfolders, or a prepared set",
    )
    command.add_argument(
        "--truth", metavar="DIR|FILE", help="what the pictures should have been, for *_gt metrics"
    )
    command.add_argument(
        "--metrics",
        metavar="LIST",
        help="names, groups, standard or all, with commas between (standard: EN SD SF MI SCD VIF "
        "Qabf SSIM)",
    )
    command.add_argument(
        "--variant",
        choices=("standard", "cddfuse"),
        default="standard",
        help="what SSIM and PSNR mean: data range and peak 255, or as in the CDDFuse tables",
    )
    command.add_argument(
        "--crop",
        action="store_true",
        help="results may be cut at the right and below: score the area that all have",
    )
    command.add_argument("--no-baselines", action="store_true", help="score no rules on the side")
    command.add_argument(
        "--beside",
        metavar="CSV|published",
        help="rows of means measured elsewhere; published: those that come with the program",
    )
    command.add_argument("--dataset", metavar="NAME", help="which data set of --beside")
    _add_targets(command)
    command.add_argument(
        "--compare",
        nargs="+",
        metavar="CSV",
        help="test whether the first of these tables of scores is better than the others",
    )
    command.add_argument("--jobs", type=int, metavar="N", help="processes that measure (all cores)")
    command.add_argument("--quiet", action="store_true", help="say nothing but errors")
    command.set_defaults(run="evaluate:evaluate")


def _add_targets(command) -> None:
    """Options for the places that results are written to."""
    command.add_argument("--csv", metavar="FILE", help="write a row an image and a row of means")
    command.add_argument("--latex", metavar="FILE", help="write the table of means for a paper")
    command.add_argument("--markdown", metavar="FILE", help="write the table of means for a page")
    command.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write all of it; alone: to stdout"
    )
    command.add_argument("--report", metavar="DIR", help="write a page to look at: DIR/index.html")


@contextlib.contextmanager
def _no_lost_interrupt() -> Iterator[None]:
    """Interrupts again where Python drops Ctrl-C.

    Within a callback of the garbage collector, as JAX has one, or a `__del__`, Python reports the
    exception and goes on.
    """
    before = sys.unraisablehook

    def hook(report: Any) -> None:
        if issubclass(report.exc_type, KeyboardInterrupt):
            # Not at once: it would be raised in here, and dropped again.
            again = threading.Timer(0.05, _thread.interrupt_main)
            again.daemon = True
            again.start()
        else:
            before(report)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      argv: the arguments without the program's name; those of the process if None.

    Returns:
      The exit code: 0 done; 1 some pictures of a folder failed, the others are written; 2 bad
      input, nothing written; 130 interrupted.
    """
    # XLA's C++ logs, chatty about machines and caches. Its alarm about compilations of two minutes
    # ("Very slow compile?") is an error among them; real errors come as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # A terminal without ↑ shows another sign; it must not cost the result.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        words = list(sys.argv[1:] if argv is None else argv)
        if words[:1] == ["train"]:
            arguments = argparse.Namespace(run="train:train", argv=words)
        else:
            joined = _with_negatives(words)
            arguments = build_parser().parse_args(joined, argparse.Namespace(argv=words))
    except SystemExit as stop:
        return int(stop.code or 0)
    room, _, name = arguments.run.partition(":")
    try:
        with warnings.catch_warnings(), _no_lost_interrupt():
            warnings.simplefilter("ignore")
            _check_working_folder()
            command = getattr(importlib.import_module(f"mgdn_jax.cli.{room}"), name)
            from mgdn_jax.cli.output import notices

            notices.begin(is_quiet=bool(vars(arguments).get("quiet")))
            warnings.simplefilter("always", FusionWarning)
            warnings.showwarning = notices.take  # type: ignore[assignment]
            code = command(arguments)
            notices.end()
            if sys.stdout is not None:  # closed by whoever started us
                sys.stdout.flush()
            return code
    except InputError as error:
        return _complain(str(error), EXIT_INPUT)
    except KeyboardInterrupt as interruption:
        return _complain(str(interruption) or "interrupted.", EXIT_INTERRUPTED)
    except MemoryError:
        cure = "fuse in smaller tiles (--tile 256) or measure in fewer processes (--jobs 1)"
        return _complain(f"out of memory; {cure}.", EXIT_INPUT)
    except BrokenPipeError:
        _drop_output()  # whoever read it has left
        return EXIT_SOME_FAILED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF):
            if error.filename is None:
                raise
            place, reason = shown(os.fsdecode(error.filename)), (error.strerror or "").lower()
            return _complain(f"{place} cannot be used ({reason}); check the path.", EXIT_INPUT)
        _drop_output()
        return _complain(f"the output cannot be written ({error.strerror}).", EXIT_INPUT)


def _check_working_folder() -> None:
    """Refuses to work in a folder that was removed: no path has a meaning there."""
    try:
        os.getcwd()
    except OSError:
        raise InputError(
            "the working folder does not exist any more; change into another one."
        ) from None


def _with_negatives(words: Sequence[str]) -> list[str]:
    """Joins an option to numbers that start with a minus: `--window -600,1500` has no sign of `=`.

    The parser takes such a word for an option of its own.
    """
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] in _NUMBERS and re.match(r"-[0-9.]+,", word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _drop_output() -> None:
    """Sends what is left on stdout nowhere, so that the flush at exit does not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(sentence: str, code: int) -> int:
    word = "" if code == EXIT_INTERRUPTED else "error: "
    plain = "".join(c if c.isprintable() else "?" for c in " ".join(sentence.split()))
    print(f"mgdn: {word}{plain}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
