"""`asp data datasplit`: which crops of bio-imaging volumes are trained and validated on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from asparagus.errors import ConfigError


def datasplit(arguments: Sequence[str]) -> int:
    """Run `asp data datasplit`."""
    options = _parser().parse_args(arguments)

    from functools import partial
    from pathlib import Path

    from asparagus.data.zarr import make
    from asparagus.paths import get_paths, load_environment

    load_environment()
    classes = _listed(options.classes)
    which = {"datasets": _listed(options.datasets), "crops": _listed(options.crops)}
    places: make.Places = make.s3_places
    if options.use_s3:
        found = make.find_s3_crops(classes, **which)
    else:
        where = options.search_path or str(Path(get_paths().data) / make.S3_SEARCH_PATH)
        found = make.find_crops(classes, **which, search_path=where, crop_name=options.crop_name)
        places = partial(make.local_places, raw_name=options.raw_name, crop_name=options.crop_name)
    found = make.fine_enough(found, _scale(options.scale), make.s3_places if options.use_s3 else None)
    split = make.draw(found, classes, _force(options), options.validate_ratio, options.seed, places)
    if options.dry_run:
        print(split.text, end="")
        return 0
    kept = make.write_datasplit(Path(options.csv_path), split.text)
    print(split.told(options.csv_path))
    if kept:
        print(f"It held other rows before; they are kept as {kept}")
    return 0


def _parser() -> argparse.ArgumentParser:
    """Return the parser; `csc make-datasplit` spells the arguments so too."""
    from asparagus.cli.data import SUBCOMMANDS
    from asparagus.data.zarr import make

    parser = argparse.ArgumentParser("asp data datasplit", description=SUBCOMMANDS["datasplit"][1])
    parser.add_argument("--classes", "-c", default=",".join(make.CLASSES), help="what is to be segmented, with commas")
    parser.add_argument("--force-all-classes", "-fa", action="store_true", help="leave out crops that lack a class")
    for flag, part in (("-ft", "train"), ("-fv", "validate")):
        parser.add_argument(f"--force-all-classes-{part}", flag, action="store_true", help=f"... of those to {part}")
    parser.add_argument(
        "--validate-ratio", "-vr", type=float, default=make.VALIDATION_PROB, help="default: %(default)s"
    )
    parser.add_argument("--datasets", "-ds", default="*", help="names or patterns, with commas")
    parser.add_argument("--crops", "-cr", default="*", help="names or patterns, with commas")
    parser.add_argument("--search-path", "--search_path", "-sp", help=f"default: ASPARAGUS_DATA/{make.S3_SEARCH_PATH}")
    parser.add_argument("--raw-name", "--raw_name", "-rn", default=make.RAW_NAME, help="default: %(default)s")
    parser.add_argument("--crop-name", "--crop_name", "-cn", default=make.CROP_NAME, help="default: %(default)s")
    parser.add_argument("--csv-path", "--csv_path", "-cp", default=make.CSV_PATH, help="default: %(default)s")
    parser.add_argument(
        "--scale", "-s", metavar="NM", help="leave out what is annotated in larger voxels: 8, or 8,8,8 along z,y,x"
    )
    parser.add_argument("--use-s3", "--use_s3", "-s3", action="store_true", help="of the challenge's own buckets")
    parser.add_argument("--seed", type=int, default=42, help="of the draws (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print what is found, and write nothing")
    return parser


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _scale(text: str | None) -> list[float] | None:
    """Return `8` or `8,8,8` as three numbers."""
    if text is None:
        return None
    try:
        sizes = [float(size) for size in text.split(",")]
    except ValueError:
        raise ConfigError(f"--scale: {text!r} is no voxel size. Give nm: 8, or 8,8,8 along z, y and x.") from None
    return sizes * 3 if len(sizes) == 1 else sizes


def _force(options: Any) -> bool | str:
    train, validate = options.force_all_classes_train, options.force_all_classes_validate
    if options.force_all_classes or (train and validate):
        return True
    return "train" if train else "validate" if validate else False
