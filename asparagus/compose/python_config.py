"""A training config in Python, `asp-launch train_2D.py`: its names become the keys that YAML would have set.

The names are those of the CellMap challenge (SEEDS E1 to E22), with their documented defaults; keys of ours (`task`,
`data`, `trainer`, ...) may stand beside them. Overrides on the command line win over the file.
"""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from asparagus.compose.composer import Request, compose_config, known_configs, search_folders
from asparagus.compose.load_model import BEST, LATEST, with_weights
from asparagus.compose.overrides import key_of
from asparagus.compose.resolve import hidden, plain_values, written
from asparagus.compose.spellings import spelled_our_way
from asparagus.compose.tree import get, put
from asparagus.data import CASE_DATA, CROP_DATA, samples_of
from asparagus.errors import ConfigError, one_of
from asparagus.paths import expanded
from asparagus.python_file import MODEL_OF, digest_of, execute, lines_of, suspicious
from asparagus.secrets import concealed
from asparagus.spec import Spec

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from asparagus.compose.origins import Setting

DEFAULT_STAGE = "train_seg"
DEFAULTS: dict[str, Any] = {
    "learning_rate": 1e-4,
    "batch_size": 8,
    "epochs": 1000,
    "iterations_per_epoch": 1000,
    "random_seed": 42,
    "input_array_info": {"shape": (1, 128, 128), "scale": (8, 8, 8)},
    "model_name": "2d_unet",
}
"""As the challenge documents them; what else it has defaults for is the data module's, or ours."""
RENAMED = {
    "learning_rate": "optim.lr",
    "batch_size": "data.batch_size",
    "epochs": "trainer.max_epochs",
    "random_seed": "seed",
    "validation_batch_limit": "trainer.limit_val_batches",
    "datasplit_path": "data.datasplit_path",
    "validation_prob": "data.validation_prob",
    "classes": "data.classes",
    "target_array_info": "data.target_array_info",
    "spatial_transforms": "data.spatial_transforms",
    "validation_time_limit": "data.validation_time_limit",
    "use_s3": "data.use_s3",
}
"""Name there -> key here. What only a data module can do is an argument of it: one that does not take it says so."""
OURS = (
    *(section.name for section in fields(Spec) if section.name != "model"),  # which may be an object here
    "imports",
    "hardware",
    "pretrained_run_id",
    "pretrained_checkpoint_name",
)
"""Names that are keys of ours already."""
KEYS_OF: dict[str, tuple[str, ...]] = {
    "iterations_per_epoch": ("data.samples_per_epoch",),
    "input_array_info": ("data.patch_size", "data.input_array_info", "model.dimensions"),
    "model_name": ("model.net", "run.label"),
    "model_kwargs": ("model.net",),
    "device": ("trainer.accelerator",),
    "logs_save_path": ("logger.tensorboard", "trainer.log_every_n_steps"),
    "load_model": ("init_from",),
    "model_to_load": ("init_from",),
}
"""Names that are worked out: which keys they set."""
MASKS = "asparagus.stages.masks.MaskModule"
"""Trains on crops: a channel per class, and voxels that nobody annotated."""
CROPS: dict[str, Any] = {
    "task": "cellmap",
    "datasplit_path": "datasplit.csv",
    **{name: DEFAULTS[name] for name in ("batch_size", "iterations_per_epoch", "input_array_info")},
}
"""What a file stands for that names no `task`: crops of a datasplit, as in the challenge."""
PATHS = ("data.root", "data.datasplit_path", "run.resume_from_checkpoint")
FILE = "file:"
OF_ENTRIES = ("callbacks", "plugins", "logger")
"""Sections of entries by name: an option that is chosen adds its own."""
PLAIN = (str, int, float, bool, list, tuple, Path)
NETWORKS = {
    "unet": "asparagus.models.unet.UNet",
    "resnet": "monai.networks.nets.SegResNet",
    "vitnet": "monai.networks.nets.UNETR",
}
MODEL_NAMES = ("2d_unet", "2d_resnet", "3d_unet", "3d_resnet", "vitnet")
TENSORBOARD = "asparagus.callbacks.cellmap_tensorboard.CellMapTensorBoard"
ACCELERATORS = {"cuda": "gpu", "cpu": "cpu", "mps": "mps"}
ELSEWHERE = {"model_save_path": "checkpoints lie in the run's own folder, <run folder>/checkpoints/epoch=E-step=S"}
"""Names whose wish has another place here."""

log = logging.getLogger("asparagus")


def compose_python(request: Request) -> DictConfig:
    """Compose the stage that a Python config is for, with its names and then the overrides on top.

    Raises:
        ConfigError: The file cannot be run, or a name in it has a value that cannot be meant.
    """
    from omegaconf import OmegaConf

    request, typed = _split(in_our_words(request))
    file = _file(request)
    names = _names(file) | typed
    if _cuts_crops(names, request):
        given = {name: value for name, value in names.items() if value is not None}
        names = CROPS | given | {"data": {"_target_": CROP_DATA, "num_workers": None, **(names.get("data") or {})}}
    base = compose_config(base_of(request))
    OmegaConf.set_struct(base, value=False)
    below = OmegaConf.merge(base, {})
    below.optim = {}  # the optimizer is the file's alone, and so are the data if it names a data module
    if _own_data(names):
        below.data = {}
    config = OmegaConf.merge(below, OmegaConf.create(_from_folder(_tree(file, names), file.parent)))
    for override in request.overrides:
        key = key_of(override)
        _must_be_there(override, key, config)
        value = None if override.startswith("~") else written(base, key)
        adds = override.startswith("+") or key in OF_ENTRIES
        OmegaConf.update(config, key, value, merge=adds and value is not None, force_add=True)
    if written(base, "data.samples_per_epoch") is None and ("iterations_per_epoch" in names or not _own_data(names)):
        _set_samples(config, names)
    assert isinstance(config, type(base))
    if names.get("load_model") is None:
        return config
    model_name = str(names.get("model_name") or DEFAULTS["model_name"])
    return with_weights(config, names["load_model"], str(names.get("model_to_load") or model_name))


def _split(request: Request) -> tuple[Request, dict[str, Any]]:
    """Take out of the overrides what is a name of the file without a key of its own: `iterations_per_epoch=10`."""
    import yaml

    typed = {key_of(word): word.partition("=")[2] for word in request.overrides if key_of(word) in KEYS_OF}
    left = tuple(word for word in request.overrides if key_of(word) not in typed)
    try:
        return replace(request, overrides=left), {name: yaml.safe_load(value) for name, value in typed.items()}
    except yaml.YAMLError as error:
        words = ", ".join(f"{name}={value}" for name, value in typed.items())
        raise ConfigError(f"{words}: cannot be read as an override. Write key=value.") from error


def _must_be_there(override: str, key: str, config: Any) -> None:
    if override.startswith("~") and written(config, key) is None:
        raise ConfigError(f"~{key}: there is no such key, so it cannot be taken out. --cfg job shows them.")


def _cuts_crops(names: Mapping[str, Any], request: Request) -> bool:
    """Tell whether the data are crops of volumes: the file says so, or nobody names a task to take cases from."""
    data = names.get("data")
    if isinstance(data, Mapping) and "_target_" in data:
        return bool(data["_target_"] == CROP_DATA)
    typed = any(key_of(word) in ("task", "data._target_") for word in request.overrides)
    return names.get("task") is None and not typed and (data is None or isinstance(data, Mapping))


def _own_data(names: Mapping[str, Any]) -> bool:
    """Tell whether the file names a data module of its own."""
    data = names.get("data")
    return isinstance(data, Mapping) and data.get("_target_") not in (None, CASE_DATA)


def _from_folder(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Have relative paths start from the file's folder (SEEDS E1)."""
    for key in PATHS:
        if isinstance(path := get(tree, key), str) and "://" not in path:
            put(tree, key, str(_from(folder, path)))
    if isinstance(parent := tree.get("init_from"), str) and parent.startswith(FILE):
        tree["init_from"] = f"{FILE}{_from(folder, parent.removeprefix(FILE))}"
    return tree


def _from(folder: Path, path: str) -> Path:
    return expanded(path) if path.startswith("~") else folder / path


def in_our_words(request: Request) -> Request:
    """Spell overrides as the file does: `batch_size=4` is `data.batch_size=4`."""
    words = []
    for override in request.overrides:
        key, equals, value = override.partition("=")
        words.append(f"{RENAMED.get(key, key)}{equals}{value}")
    return replace(request, overrides=tuple(words))


def base_of(request: Request) -> Request:
    """Return the request for the stage that a Python config names (`stage = "train_cls"`), or for segmentation.

    Raises:
        ConfigError: There is no such stage.
    """
    file = _file(request)
    stage = str(_names(file).get("stage") or DEFAULT_STAGE)
    known = known_configs([*request.config_dirs, *search_folders()])
    if stage not in known:
        raise ConfigError(f"{one_of('stage', stage, known)} [{_place(file, 'stage')}]")
    kept = tuple(word for word in request.overrides if not word.startswith("~"))
    return replace(request, config=stage, overrides=kept)


def settings_of(request: Request) -> Iterator[Setting]:
    """Yield where each key is set by the file."""
    file = _file(request)
    names = _names(file)
    for name in lines_of(file):
        if name in RENAMED:
            yield from _settings(RENAMED[name], names.get(name), _place(file, name))
        elif name in OURS or name == "model":
            yield from _settings(name, names.get(name), _place(file, name))
        for key in (name, *KEYS_OF[name]) if name in KEYS_OF else ():
            yield from _settings(key, names.get(name), _place(file, name))


def _settings(key: str, value: Any, where: str) -> Iterator[Setting]:
    from asparagus.compose.origins import Setting

    if not isinstance(value, Mapping):
        plain = value is None or isinstance(value, PLAIN)
        yield Setting(key, hidden(str(value)) if plain else f"a {type(value).__name__}", where)
        return
    yield Setting(key, "{...}", where)
    for part, inner in value.items():
        yield from _settings(f"{key}.{part}", inner, where)


def _place(file: Path, name: str) -> str:
    from asparagus.compose.origins import shown

    return f"{shown(file)}:{lines_of(file).get(name, 1)}"


def _file(request: Request) -> Path:
    file = expanded(request.config)
    if not file.is_file():
        raise ConfigError(f"{file}: there is no such file. Give the path of a training config in Python.")
    return file


def _names(file: Path) -> dict[str, Any]:
    return {name: value for name, value in execute(file).items() if not name.startswith("_")}


def _tree(file: Path, names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config that a file's names stand for."""
    given = {**DEFAULTS, **{name: value for name, value in names.items() if value is not None}}
    _warn(file, names)
    info = names.get("input_array_info")
    if isinstance(info, Mapping) and "scale" in info and not _own_data(names):
        log.warning("%s: the scale of input_array_info is not used: cases are cut as they are stored", file.name)
    tree: dict[str, Any] = {}
    put(tree, "optim.name", "radam")
    put(tree, "optim.sched", None)
    for name, key in RENAMED.items():
        if name in given and (name in names or not (key.startswith("data.") and _own_data(names))):
            put(tree, key, _plain(given[name], name))
    put(tree, "run.label", str(given["model_name"]))
    _shape(tree, given["input_array_info"])
    _windows(tree, names)
    _network(tree, given, file)
    _places(tree, given, file)
    for name in OURS:
        if isinstance(given.get(name), (Mapping, *PLAIN)):
            put(tree, name, _plain(given[name], name))
        elif name in given and not isinstance(given[name], (ModuleType, type(_tree))):
            kind = type(given[name]).__name__
            log.warning("%s: %s is not used: a %s cannot be kept in a run's config", file.name, name, kind)
    return tree


def _warn(file: Path, names: Mapping[str, Any]) -> None:
    """Say what is read and not done, and what a config has no need of."""
    for name in sorted(ELSEWHERE.keys() & names.keys()):
        log.warning("%s: %s is not used: %s", file.name, name, ELSEWHERE[name])
    known = {*DEFAULTS, *RENAMED, *OURS, *KEYS_OF, *ELSEWHERE, "model", "model_kwargs", "device", "logs_save_path"}
    # Names of the file's own are ignored (SEEDS E2), and typos look like them.
    for name, number in lines_of(file).items():
        if name not in known and (near := difflib.get_close_matches(name, known, n=1, cutoff=0.85)):
            log.warning("%s:%d: %s is no setting and is ignored; %s is one", file.name, number, name, near[0])
    for line in suspicious(file):
        log.warning("%s. It runs with your rights; FORCE_SAFE_CONFIG=1 refuses such files.", line)


def _set_samples(config: Any, names: Mapping[str, Any]) -> None:
    """Set the items of an epoch: so many independent random batches on each worker (SEEDS E12)."""
    from asparagus.compose.experiment import gpus_of

    tree = plain_values(config).tree
    tree = spelled_our_way(tree, gpus_of(tree), [])  # an override may say run.gpus=2
    iterations = names.get("iterations_per_epoch")
    iterations = DEFAULTS["iterations_per_epoch"] if iterations is None else _plain(iterations, "iterations_per_epoch")
    batch, workers = get(tree, "data.batch_size"), get(tree, "resources.workers")
    for name, value in (("iterations_per_epoch", iterations), ("data.batch_size", batch)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{name}: {value!r} is not a whole number of at least 1.")
    config.data.samples_per_epoch = samples_of(iterations, batch, workers if isinstance(workers, int) else 0)


def _shape(tree: dict[str, Any], info: Any) -> None:
    """`shape` in voxels z, y, x; a first axis of 1 is two-dimensional (SEEDS E9)."""
    shape = info.get("shape") if isinstance(info, Mapping) else None
    axes = 3
    shape = _plain(shape, "input_array_info.shape")
    if not isinstance(shape, list) or len(shape) != axes or not all(isinstance(size, int) for size in shape):
        raise ConfigError(f"input_array_info: {info!r} has to be {{'shape': (z, y, x), 'scale': (z, y, x)}}.")
    flat = shape[0] == 1
    put(tree, "model.dimensions", "2D" if flat else "3D")
    put(tree, "data.patch_size", shape[1:] if flat else shape)


def _windows(tree: dict[str, Any], names: Mapping[str, Any]) -> None:
    """Leave the size of a window to a data module that knows it better."""
    if isinstance(data := names.get("data"), Mapping) and data.get("_target_") == CROP_DATA:
        put(tree, "data.input_array_info", _plain(names["input_array_info"], "input_array_info"))
        put(tree, "model.module._target_", MASKS)
    elif not _own_data(names) or "input_array_info" in names:
        return
    tree["data"].pop("patch_size")


def _network(tree: dict[str, Any], given: Mapping[str, Any], file: Path) -> None:
    """A network that the file builds, or one of the built-in names (SEEDS E15, E17, E18)."""
    if "model" in given:
        if isinstance(given["model"], Mapping):  # our own section
            put(tree, "model", _plain(given["model"], "model"))
            return
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(given["model"], torch.nn.Module):
            given_kind = type(given["model"]).__name__
            raise ConfigError(
                f"model: a {given_kind} given. Build a torch.nn.Module, or describe it: {{'_target_': ...}}."
            )
        section = {"_target_": MODEL_OF, "file": str(file), "digest": digest_of(file)}
        put(tree, "model.net", section)
        return
    name = str(given["model_name"]).lower()
    kind = next((kind for kind in NETWORKS if kind in name), None)
    if kind is None or (kind != "vitnet" and "2d" not in name and "3d" not in name):
        raise ConfigError(one_of("model_name", given["model_name"], MODEL_NAMES))
    options = _plain(given.get("model_kwargs", {}), "model_kwargs")
    if not isinstance(options, dict):
        raise ConfigError(f"model_kwargs: {options!r} given, but these are arguments by name: {{'features': [8, 16]}}.")
    put(tree, "model.net", {"_target_": NETWORKS[kind], **options})


def _places(tree: dict[str, Any], given: Mapping[str, Any], file: Path) -> None:
    """Where it trains and what it writes beside the record."""
    device = given.get("device")
    if device is not None:
        kind, _, index = str(device).partition(":")
        if kind not in ACCELERATORS:
            raise ConfigError(one_of("device", device, ACCELERATORS))
        put(tree, "trainer.accelerator", ACCELERATORS[kind])
        if index.isdigit():
            put(tree, "trainer.devices", [int(index)])
    if "load_model" in given and given["load_model"] not in (LATEST, BEST):
        raise ConfigError(one_of("load_model", given["load_model"], (LATEST, BEST)))
    if "logs_save_path" in given:
        logs = file.parent / str(given["logs_save_path"]).replace("{model_name}", str(given["model_name"]))
        put(tree, "logger.tensorboard", {"_target_": TENSORBOARD, "save_dir": str(logs), "name": ""})
        put(tree, "trainer.log_every_n_steps", 1)  # the loss of each iteration (SEEDS E24)


def _plain(value: Any, name: str) -> Any:
    """Return a value as YAML would hold it.

    Raises:
        ConfigError: It is an object; objects are described by a `_target_`.
    """
    if isinstance(value, Mapping):
        return {str(key): _plain(part, f"{name}.{key}") for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part, f"{name}[{index}]") for index, part in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a number of numpy or torch
        return value.item()
    if isinstance(value, str):
        return concealed(value)
    if value is None or isinstance(value, (int, float, bool)):
        return value
    raise ConfigError(
        f"{name}: a {type(value).__name__} cannot be written into the run's config. Describe it: "
        "{'_target_': 'dotted.path', ...}. Only `model` may be an object."
    )
