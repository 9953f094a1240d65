"""Archives: one file that is a model, with its config, weights, artifacts and ancestry; written and read here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asparagus.lazy import names_from

if TYPE_CHECKING:
    from asparagus.archive.archivable import Archivable
    from asparagus.archive.container import must_be_free, read_index
    from asparagus.archive.imported import Imported, import_archive
    from asparagus.archive.layout import SUFFIX, Index, MissingFileError
    from asparagus.archive.lineage import lines
    from asparagus.archive.restoring import restore, restore_run
    from asparagus.archive.runs import export_to_mlflow, save_run
    from asparagus.archive.save import save_again
    from asparagus.archive.weights import extract_state_dict_from

_HOMES = {
    "archivable": ("Archivable",),
    "container": ("must_be_free", "read_index"),
    "imported": ("Imported", "import_archive"),
    "layout": ("SUFFIX", "Index", "MissingFileError"),
    "lineage": ("lines",),
    "restoring": ("restore", "restore_run"),
    "runs": ("export_to_mlflow", "save_run"),
    "save": ("save_again",),
    "weights": ("extract_state_dict_from",),
}

__all__ = [
    "SUFFIX",
    "Archivable",
    "Imported",
    "Index",
    "MissingFileError",
    "export_to_mlflow",
    "extract_state_dict_from",
    "import_archive",
    "lines",
    "must_be_free",
    "read_index",
    "restore",
    "restore_run",
    "save_again",
    "save_run",
]

__getattr__ = names_from(__name__, _HOMES)
