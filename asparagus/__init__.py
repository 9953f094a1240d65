"""Asparagus: experiment files in, recorded and traceable Lightning trainings on Ray out."""

__version__ = "0.1.0"
