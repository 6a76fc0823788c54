"""The pod that this process runs in, as its manifest tells it by environment variables."""

from __future__ import annotations

import os
from dataclasses import dataclass

VARIABLES = ("TRAINLOOM_POD_NAME", "TRAINLOOM_POD_NAMESPACE", "TRAINLOOM_NODE_NAME", "TRAINLOOM_IMAGE")
LENGTHS = (255, 63, 253, 1023)  # characters that the columns of `schemas.attempt` hold


@dataclass(frozen=True)
class Pod:
    """Where in a cluster a worker runs; what is not told is empty.

    Attributes
    ----------
    image : as the manifest names it, best with its digest.
    """

    name: str
    namespace: str = ""
    node: str = ""
    image: str = ""

    @classmethod
    def this(cls) -> Pod | None:
        """The pod of this process; None outside a cluster."""
        told = [os.environ.get(variable, "")[:length] for variable, length in zip(VARIABLES, LENGTHS, strict=True)]
        return cls(*told) if told[0] else None
