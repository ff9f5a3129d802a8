"""Rooms beyond the command line: networks that leave the package, and a page to try them on."""
