"""Stores of run folders and data (`s3://...`): every machine works in a folder of its own, which is kept the same."""
