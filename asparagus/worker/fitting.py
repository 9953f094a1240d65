"""Whether the weights of a parent fit an experiment, found out before anything is trained."""

from __future__ import annotations

from asparagus.checkpoint.transfer import TransferReport, take_over
from asparagus.spec import Parent, Spec
from asparagus.worker.parts import Parts
from asparagus.worker.ranks import InProcess


def fitting(spec: Spec, parent: Parent) -> TransferReport:
    """Build the module in this process and take the weights over, as a training would.

    Raises:
        AsparagusError: The module cannot be built, or the weights do not fit.
    """
    return take_over(Parts(spec, InProcess()).module, parent, spec.transfer, mode=spec.run.mode)
