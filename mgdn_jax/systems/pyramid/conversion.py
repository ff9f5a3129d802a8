"""Nothing of this system is published elsewhere."""

from typing import Any

RULES: dict[type, Any] = {}
PUBLISHED: dict[str, Any] = {}
