"""A composition of the same files by Hydra alone: what `--dry-run` cannot be faster than."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir

ROOT = Path(__file__).parents[2]

with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
    compose("experiment/digits", overrides=[f"hydra.searchpath=['file://{ROOT / 'launch'}']"])
