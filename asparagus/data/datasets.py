"""Cases as training items: files become `{"image", "label"}` tensors, each a function of (seed, epoch, index)."""

from __future__ import annotations

import json
import pickle  # nosec B403  # only its error is named
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from asparagus.data.chain import Chain, Transforms
from asparagus.data.files import properties_file
from asparagus.data.kept import Kept
from asparagus.data.layout import DIMENSIONS, read_split, read_task
from asparagus.data.memory import Memory
from asparagus.data.sampler import Key
from asparagus.data.transforms import crop, flip, jitter, middle_starts, random_starts
from asparagus.errors import ConfigError, DataError, one_of

# One image channel and the label.
LEAST_SEG_CHANNELS = 2
LABELLED = {"cls": "classification", "reg": "regression"}
"""Kinds whose cases are [data, label]."""
CLASSES = ("seg", "cls")
"""Kinds whose labels are numbers of classes."""
KINDS = ("pretrain", "seg", "cls", "reg")
MAPPED_FROM = 2**16
"""Bytes of a file that is mapped rather than read: the system then keeps one copy for all processes, and only what of
it was looked at."""
GB = 10**9
LOCATIONS = 200
"""Voxels of a class that are noted."""
# nnU-Net's share: one patch in three is centred on the foreground, the rest keep the background's prior.
FOREGROUND_SHARE = 1 / 3

Item = dict[str, Any]
"""Tensors by name; to pretrain also `draw`, the key of what was drawn; of test data `case`, which one it is."""


Voxels = np.ndarray[tuple[int, int], np.dtype[np.int64]]


class Loaded(NamedTuple):
    """A case in memory."""

    image: Tensor
    """[C, ...] float32."""
    label: Tensor | None
    """segmentation: [1, ...] as it lies in the file; classification: int64 scalar; pretraining: None."""
    locations: tuple[Voxels, ...] = ()
    """For each foreground class that is present: coordinates [voxels, axes] in it."""
    held: int = 0
    """Bytes of memory, unless they are a mapped file's."""


_memory: list[Memory[Loaded]] = []
"""One, where cases are kept between datasets."""


def cases(
    root: str | Path,
    subset: str = "train",
    *,
    task: str,
    kind: str = "cls",
    split: str = "split_80_20",
    fold: int = 0,
    dimensions: str = "3D",
    patch_size: Sequence[int] | None = None,
    augment: bool = False,
    transforms: Transforms = None,
    augmentations: Transforms = None,
    seed: int = 0,
) -> CaseDataset:
    """Return the cases of one part of a task's split, for a loader section: `dataset: {name: cases, task: ...}`.

    Args:
        root: The data folder that holds the task's folder.
        subset: `train` or `val`.
        task: Name of the task.
        kind: `pretrain`, `seg`, `cls` or `reg`.
        split: Name of the split file, without `.json`.
        fold: Which of its folds.
        dimensions: `2D` or `3D`.
        patch_size: Voxels per axis; None keeps whole cases.
        augment: Mirror and jitter the training items.
        transforms: As of `CaseDataset`.
        augmentations: As of `CaseDataset`.
        seed: Decides patches and augmentation.

    Raises:
        DataError: no such task, split or fold.
        ConfigError: an unknown part or dimensions.
    """
    parts = read_split(read_task(root, task), split, fold)
    if subset not in parts:
        raise ConfigError(one_of("dataset.subset", subset, parts))
    if dimensions not in DIMENSIONS:
        raise ConfigError(one_of("dataset.dimensions", dimensions, DIMENSIONS))
    return CaseDataset(
        parts[subset],
        kind,
        dimensions=DIMENSIONS[dimensions],
        patch_size=patch_size,
        train=subset == "train",
        augment=augment,
        transforms=transforms,
        augmentations=augmentations,
        seed=seed,
    )


class CaseDataset(Dataset[Item]):
    """The cases of one part of a split; indexed by `(epoch, index, turn)`."""

    def __init__(
        self,
        files: Sequence[Path],
        kind: str,
        *,
        dimensions: int = 3,
        patch_size: Sequence[int] | None = None,
        train: bool = False,
        augment: bool = False,
        transforms: Transforms = None,
        augmentations: Transforms = None,
        cache: bool = True,
        cache_gb: float = 4.0,
        seed: int = 0,
        n_classes: int | None = None,
    ) -> None:
        """Set up; no file is read.

        Args:
            files: The `.pt` case files.
            kind: `pretrain`, `seg`, `cls` or `reg`: how a file is laid out (SEEDS A6).
            dimensions: 2 takes one slice along the last axis of a 3D case: a random one to train, else the middle.
            patch_size: Voxels per axis of what is cut out; None keeps whole cases. Validating seg always keeps them.
            train: Crops are random and foreground is oversampled; otherwise they are in the middle.
            augment: Mirror and jitter; only when training.
            transforms: What is done to each whole case once, before anything is cut out of it.
            augmentations: What is done to each training item; what is random in it follows from seed, epoch and index.
            cache: Keep cases: large files mapped, others and what `transforms` made of them in memory.
            cache_gb: The most memory (10^9 bytes) that those fill, over all loader processes of a worker.
            seed: With epoch, index and turn, all that the randomness depends on.
            n_classes: Of the task, background included: a case with a label beyond them is refused when it is read.

        Raises:
            ConfigError: an unknown kind, a patch with too few axes, or a transform that does not fit.
        """
        if kind not in KINDS:
            raise ConfigError(one_of("data.kind", kind, KINDS))
        if patch_size is not None and (len(patch_size) < dimensions or min(patch_size) < 1):
            raise ConfigError(f"data.patch_size: {list(patch_size)} is not {dimensions} positive numbers of voxels.")
        self.files, self.kind, self.dimensions = list(files), kind, dimensions
        whole = kind == "seg" and not train
        self.patch = None if patch_size is None or whole else tuple(patch_size[:dimensions])
        self.train, self.augment, self.seed, self.n_classes = train, augment and train, seed, n_classes
        names = ("image",) if kind == "pretrain" else ("image", "label")
        self.transforms = Chain(transforms, "data.transforms", names=names, is_random=False)
        self.augmentations = Chain(augmentations if train else None, "data.augmentations", names=names, is_random=True)
        self._kept: Kept[Loaded] | None = Kept(int(cache_gb * GB)) if cache else None

    def __len__(self) -> int:
        """Return the number of cases."""
        return len(self.files)

    def __getitem__(self, key: Key | int) -> Item:
        """Return `image` [C, ...] float32 and `label` int64: [...] to segment, a scalar to classify.

        To pretrain there is no label, but `draw`: epoch, index and turn; 0 stands for every epoch of a validation. Who
        hides parts of the image can so hide the same ones on whatever rank the case is.
        """
        # A sampler of someone else's gives indices alone: what is random then follows torch's own stream.
        epoch, index, *turn = (int(torch.randint(2**31, ())), key) if isinstance(key, int) else key
        case = self._case(index)
        random = self.train and (self.augment or self.augmentations or self._is_cut(case))
        # Not for nothing: it takes a while.
        rng = np.random.default_rng([self.seed, epoch, index, *turn]) if random else None
        image, mask = self._cut(case, rng)
        if rng is not None and self.augment:
            image, *masks = flip(rng, *(part for part in (image, mask) if part is not None))
            image, mask = jitter(rng, image), masks[0] if masks else None
        item: Item = {"image": image}
        if (label := case.label if mask is None else mask) is not None:
            item["label"] = label
        if self.augmentations:
            item = self.augmentations(item, rng)
        if self.kind == "pretrain":
            # A text stays where it is: numbers on a GPU would have to be waited for.
            item["draw"] = " ".join(map(str, (epoch, index, *(turn or (0,))) if self.train else (0, index, 0)))
        return self._finished(item)

    def _finished(self, item: Item) -> Item:
        """Return an item as the collation needs it: a segmentation's label without its channel."""
        image = item["image"].float().contiguous()
        if self.kind != "seg":
            return {**item, "image": image}
        return {"image": image, "label": item["label"][0].long().contiguous()}

    def _case(self, index: int) -> Loaded:
        if self._kept is None:
            return self._transformed(index, self._checked(load_case(self.files[index], self.kind), index))
        if (case := self._kept.get(index)) is None:
            file = self.files[index]
            read = _memory[0].get(file, self.kind, load_case) if _memory else load_case(file, self.kind)
            case = self._transformed(index, self._checked(read, index))
            self._kept.offer(index, case)
        return case

    def _transformed(self, index: int, case: Loaded) -> Loaded:
        """Return a case as `transforms` make it; its foreground is looked for anew where they move it."""
        if not self.transforms:
            return case
        given = {"image": case.image} if case.label is None else {"image": case.image, "label": case.label}
        made = self.transforms(given, np.random.default_rng([self.seed, index]))
        image, label, locations = made["image"].float(), made.get("label"), case.locations
        if case.label is None or label is None:
            return Loaded(image, None, held=image.nbytes)
        if self.kind == "seg" and not (label.shape == case.label.shape and torch.equal(label, case.label)):
            locations = foreground(label)
        return Loaded(image, label, locations, held=image.nbytes + label.nbytes)

    def _checked(self, case: Loaded, index: int) -> Loaded:
        """Refuse a class that the task does not have: losses would crash on it, on a GPU without saying why."""
        if self.n_classes is not None and self.kind in CLASSES and case.label is not None and case.label.numel():
            lowest, highest = (int(value) for value in case.label.aminmax())
            if lowest < 0 or highest >= self.n_classes:
                raise DataError(
                    f"{self.files[index]}: has the class {lowest if lowest < 0 else highest}, and the dataset.json of "
                    f"its task says n_classes={self.n_classes}: 0 to {self.n_classes - 1}. Mend one of them."
                )
        return case

    def _cut(self, case: Loaded, rng: np.random.Generator | None) -> tuple[Tensor, Tensor | None]:
        """Return image and segmentation label of the patch, the slice, or the whole case."""
        mask = case.label if self.kind == "seg" else None
        if not self._is_cut(case):
            return case.image, mask
        shape = tuple(case.image.shape[1:])
        size = self._size(shape)
        starts = middle_starts(shape, size) if rng is None else random_starts(rng, shape, size, _voxel(rng, case))
        image = crop(case.image, starts, size)
        mask = None if mask is None else crop(mask, starts, size)
        if len(shape) == self.dimensions:
            return image, mask
        return image[..., 0], None if mask is None else mask[..., 0]

    def _is_cut(self, case: Loaded) -> bool:
        if self.patch is None and case.image.ndim == self.dimensions + 1:
            return False  # of a small case, all that follows takes as long as the rest of an item
        shape = tuple(case.image.shape[1:])
        return self._size(shape) != shape

    def _size(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the size to cut out of a case of this shape; 2D on 3D is a crop one voxel deep."""
        if self.dimensions > len(shape):
            raise ConfigError(f"model.dimensions: {self.dimensions}D does not fit cases of {len(shape)} dimensions.")
        inside = self.patch or shape[: self.dimensions]
        return (*inside, *(1 for _ in shape[self.dimensions :]))


class NamedCaseDataset(CaseDataset):
    """Cases to look at: whole or cut in the middle, never augmented; each item says under `case` which one it is."""

    def __init__(self, files: Sequence[Path], kind: str, *, folder: Path, **options: Any) -> None:
        """Set up; no file is read.

        Args:
            files: As of `CaseDataset`, each once.
            kind: As of `CaseDataset`.
            folder: The task's, which names are relative to where two files are called the same.
            options: `dimensions`, `patch_size`, `cache` and `seed` of `CaseDataset`.
        """
        super().__init__(files, kind, **options)
        self.names = case_names(files, folder)

    def __getitem__(self, key: Key | int) -> Item:
        """Return the item of `CaseDataset`, and under `case` its name."""
        return {**super().__getitem__(key), "case": self.names[key if isinstance(key, int) else key[1]]}

    def properties_of(self, name: str) -> dict[str, Any]:
        """Return what stands in the JSON beside a case; nothing where there is none."""
        return properties_beside(self.files[self.names.index(name)])


def case_names(files: Sequence[Path], folder: Path) -> list[str]:
    """Return a name for each case that no other has: its file's, or its path in the task's folder."""
    names = [file.name for file in files]
    if len(set(names)) == len(names):
        return names
    return [(file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix() for file in files]


def _voxel(rng: np.random.Generator, case: Loaded) -> tuple[int, ...] | None:
    """Return a foreground voxel (every class as likely) for a share of the patches, else None."""
    if not case.locations or rng.random() >= FOREGROUND_SHARE:
        return None
    of_class = case.locations[int(rng.integers(len(case.locations)))]
    return tuple(of_class[int(rng.integers(len(of_class)))].tolist())


def foreground(label: Tensor) -> tuple[Voxels, ...]:
    """Return for each class of a label [1, ...] but the background at most 200 voxels, spread evenly over it."""
    found = []
    for value in label.unique():
        if value > 0:
            voxels = (label[0] == value).nonzero()
            found.append(voxels[:: max(1, -(-len(voxels) // LOCATIONS))].numpy())
    return tuple(found)


def keep_cases() -> None:
    """Keep what this process reads from here on, from one dataset to the next: many runs are trained on it."""
    if not _memory:
        _memory.append(Memory())


def load_case(file: Path, kind: str) -> Loaded:
    """Read a case file, `weights_only`: no pickle of anyone's is ever run.

    Raises:
        DataError: the file is missing, unreadable, or laid out for another kind of task.
    """
    content = read_content(file)
    if kind in LABELLED:
        is_pair = isinstance(content, list | tuple) and len(content) == len(("data", "label"))
        if not is_pair or not isinstance(content[0], Tensor):
            raise DataError(f"{file}: expected [data, label] for {LABELLED[kind]}, found {_describe(content)}.")
        label = torch.as_tensor(content[1])
        label = label.long().reshape(()) if kind == "cls" else label.float().reshape(-1)
        return Loaded(image := content[0].float(), label, held=_held(file, content[0], image))
    if isinstance(content, list | tuple):
        content = content[0] if kind == "pretrain" else None  # pretraining also takes a classification task's images
    if not isinstance(content, Tensor):
        raise DataError(f"{file}: expected one tensor [C, ...] for {kind}, found {_describe(content)}.")
    if kind == "pretrain":
        return Loaded(image := content.float(), None, held=_held(file, content, image))
    if len(content) < LEAST_SEG_CHANNELS:
        raise DataError(f"{file}: expected the label as last channel, found {_describe(content)}. Is it a seg task?")
    image = content[:-1].float()
    return Loaded(image, content[-1:], _locations(file), held=_held(file, content, image))


def read_content(file: Path) -> Any:
    """Read what a case file holds; of an image file, its channels [C, ...].

    Raises:
        DataError: It is missing or broken.
    """
    if not file.name.endswith(".pt"):
        from asparagus.data.reading import read_volume  # MONAI takes seconds to import

        return torch.from_numpy(read_volume(file).array)
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=_is_mapped(file))
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise DataError(f"{file}: not readable as a case: {error}") from error


def _is_mapped(file: Path) -> bool:
    """Tell whether a file is large, and of the form that can be mapped: torch wrote another before version 1.6."""
    return file.suffix == ".pt" and file.stat().st_size >= MAPPED_FROM and zipfile.is_zipfile(file)


def _held(file: Path, content: Tensor, image: Tensor) -> int:
    """Return the bytes of a case that are in memory: of a mapped file, those that had to be converted."""
    if not _is_mapped(file):
        return content.nbytes + (image.nbytes if image.dtype != content.dtype else 0)
    return image.nbytes if image.dtype != content.dtype else 0


def properties_beside(file: Path) -> dict[str, Any]:
    """Return what stands in the JSON beside a case file: its spacing and more; nothing where there is none."""
    beside = properties_file(file)
    found: dict[str, Any] = json.loads(beside.read_text()) if beside.is_file() else {}
    return found


def _locations(file: Path) -> tuple[Voxels, ...]:
    """Return the foreground voxels that the properties beside the case list; none when there are no properties."""
    found = properties_beside(file).get("foreground_locations", {})
    return tuple(np.asarray(voxels, dtype=np.int64) for _, voxels in sorted(found.items()) if voxels)


def _describe(content: Any) -> str:
    return f"a tensor {list(content.shape)}" if isinstance(content, Tensor) else type(content).__name__
