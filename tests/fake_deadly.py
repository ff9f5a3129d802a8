"""The system of one parameter, but pictures of 13 rows end the process that fuses them."""

import os
from typing import ClassVar

import fake_fusion

PRESETS = {}
RULES = {}
PUBLISHED = {}
ROWS = 13


class Config(fake_fusion.Config):
    window: int = 1
    system: ClassVar[str] = "fake_deadly"

    @property
    def grid(self):
        return 1


class Network(fake_fusion.Network):
    def __call__(self, *images, **abilities):
        if images[0].shape[1] == ROWS:
            os._exit(9)
        return super().__call__(*images, **abilities)
