"""What pages are put together from: the files of the folder `page`, shared by all of them."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import re
from collections.abc import Mapping
from typing import Any

STAGE = {name: f"{name}.html" for name in ("picks", "stage", "keys")}
"""Placeholder to part: lists of pictures, the stage that shows two of them, and its keys."""


def part(name: str, package: str = "mgdn_jax.evaluation") -> str:
    """The text of a part.

    Args:
        name: Of a file in the folder `page` of a package.
        package: The package.
    """
    folder = importlib.resources.files(package) / "page"
    return (folder / name).read_text(encoding="utf-8")


def digest(script: str) -> str:
    """The word for a script in a security policy.

    Args:
        script: All that stands between its tags.
    """
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def composed(template: str, content: Mapping[str, str]) -> str:
    """A page from its template.

    Args:
        template: Text with placeholders like `{{title}}`.
        content: Placeholder to text. What looks like a placeholder in it stays as it is.
    """
    return re.sub(r"\{\{(\w+)\}\}", lambda match: content[match[1]], template)


def json_text(data: Any) -> str:
    """JSON that no HTML parser can mistake for markup; pure ASCII, U+2028 and U+2029 included.

    Args:
        data: Dictionaries, lists, text and finite numbers.
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"})
