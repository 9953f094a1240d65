"""Everything that can be known wrong before a machine is taken, found at once and on the laptop."""

from asparagus.check.request import Findings, check

__all__ = ["Findings", "check"]
