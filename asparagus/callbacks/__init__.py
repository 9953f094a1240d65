"""What the launcher adds to every training: the journal as a logger, checkpoints, seeds by epoch."""
