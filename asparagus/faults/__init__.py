"""Faults on purpose: a training on a simulated cluster of this machine, what is broken in it, and what that cost."""

from asparagus.faults.asked import REHEARSE, Fault, faults_of

__all__ = ["REHEARSE", "Fault", "faults_of"]
