"""Everything that can be known wrong before a machine is taken, found at once and on the laptop."""

from asparagus.check.request import Findings, check, check_from_afar

__all__ = ["Findings", "check", "check_from_afar"]
