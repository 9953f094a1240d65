"""What happened, kept: run numbers, run folders, lineage, and MLflow, which is spoken to from here alone."""
