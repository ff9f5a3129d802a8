"""`mgdn demo`: a page of this machine on which pictures are fused."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator

from mgdn_jax.arguments import whole
from mgdn_jax.cli.measures import add_trust


def add_demo(commands) -> None:
    """The arguments of `mgdn demo`."""
    command = commands.add_parser(
        "demo",
        help="open a local page to fuse pictures on",
        description="Serves a page to this machine alone, until Ctrl-C: drop pictures, compare "
        "the result with them, download it. What is sent stays in memory and is forgotten with "
        "the answer.",
    )
    command.add_argument(
        "--port", type=int, default=7860, metavar="N", help="port; 0 for any that is free (7860)"
    )
    command.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="NAME",
        help="address to listen on; 0.0.0.0 lets the whole network in (127.0.0.1)",
    )
    command.add_argument(
        "--model",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME|FILE",
        help="offer these networks too; the first is the one that is chosen",
    )
    add_trust(command)
    command.add_argument(
        "--max-megabytes", type=int, default=256, metavar="N", help="of all files together (256)"
    )
    command.add_argument(
        "--max-megapixels",
        type=int,
        default=100,
        metavar="N",
        help="of all pictures together (100)",
    )
    command.add_argument("--open", action="store_true", help="open the page in the browser")
    # What Python warns of may name files: it is for the page, not for the terminal.
    command.set_defaults(run="demo:demo", quiet=True)


def demo(arguments: argparse.Namespace) -> int:
    """Runs `mgdn demo` until it is interrupted.

    Args:
      arguments: as `cli.main.build_parser` parses them.

    Returns:
      0.

    Raises:
      InputError: a number out of range, no such network, or a port that cannot be taken.
    """
    megabytes = whole("--max-megabytes", arguments.max_megabytes, least=1, most=16 * 2**10)
    megapixels = whole("--max-megapixels", arguments.max_megapixels, least=1, most=1000)
    from mgdn_jax.cli.output import tell, warn
    from mgdn_jax.serving.demo import page, server, studio, wire

    limits = wire.Limits(bytes=megabytes * 2**20, pixels=megapixels * 10**6)
    networks = studio.offers(arguments.model)
    first = networks[0].name if arguments.model else ""
    trust = arguments.trust_system or arguments.system or False
    room = studio.Studio(networks, limits, system=arguments.system, trust=trust)
    host = server.Server(room, page.page(networks, limits, first), arguments.host, arguments.port)
    tell(f"page    {host.url}")
    if not server.is_loopback(arguments.host):
        warn(
            "everybody who reaches this machine over the network can use the page, and pictures "
            "travel unencrypted; leave --host out to keep it to yourself."
        )
    tell("stop    Ctrl-C")
    if arguments.open:
        import webbrowser

        webbrowser.open(host.url)
    with _temporary(), _ended_by_sigterm():
        with contextlib.suppress(KeyboardInterrupt):
            host.serve_forever()
        is_done = host.stop()
    tell("stopped; nothing was kept.")
    if not is_done:
        # A program is being compiled or run in a thread, and nothing can interrupt it; there is no
        # file of ours that it could leave behind.
        sys.stdout.flush()
        os._exit(0)
    return 0


@contextlib.contextmanager
def _temporary() -> Iterator[None]:
    """Keeps temporary files (of OpenEXR, of long stacks) in a folder that goes in any case."""
    try:
        folder = tempfile.mkdtemp(prefix="mgdn-demo-")
    except OSError:  # there is no place for any
        yield
        return
    before, tempfile.tempdir = tempfile.tempdir, folder
    try:
        yield
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Lets what ends services and containers count as Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
