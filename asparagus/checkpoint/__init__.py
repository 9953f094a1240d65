"""What a checkpoint holds, where it lies, and how its weights come over into another network."""
