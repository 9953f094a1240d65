"""From Hydra's config to plain values: interpolations resolved, secrets left as written, every problem found."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from asparagus.errors import did_you_mean
from asparagus.hydra_plugin import KNOWN
from asparagus.secrets import HIDDEN, LITERAL, has_password, is_secret_name

if TYPE_CHECKING:
    from omegaconf import DictConfig

INTERPOLATION = re.compile(r"\$\{(\.*)([A-Za-z_][\w./\-]*)(?=[}\[$])")
"""`${key}`, `${.sibling}` or `${section.${name}}`; those with a colon call a resolver."""
FROM_ENVIRONMENT = re.compile(r"\$\{\s*(oc\.env|secret)\s*:")
OPEN, CLOSE = "\x02", "\x03"
"""Stand for `${` and `}` of a reference to a secret while all else is resolved."""
NOT_FOUND = re.compile(r"Interpolation key '([^']+)' not found")
GIVEN_BY: dict[str, str] = {
    "model.plugin_seg_net": (
        "the plugin trains the model's plugin_seg_net, and this model has none. Take model=unet_b_lw_dec, or "
        "give plugins.online_segmentation.net={_target_: ...} with the layers of model.pretrain_net"
    ),
    "model.plugin_seg_train_n_last_params": (
        "this model does not say how many of the plugin's tensors are trained. Take model=unet_b_lw_dec, or "
        "give plugins.online_segmentation.train_n_last_params=4, or another number"
    ),
}
"""What shipped files refer to and only some of their neighbours have: what to do about it."""
PLAIN = re.compile(r"[\w./:@\- \x02\x03]+")
UNSET = object()
RESOLVERS = (
    "oc.env",
    "oc.decode",
    "oc.select",
    "oc.dict.keys",
    "oc.create",
    "now",
    "random",
    "secret",
    *(f"asparagus:{name}" for name in KNOWN),
)


@dataclass
class Values:
    """A config as plain values, and what was learned on the way."""

    tree: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    """Mandatory keys that nobody gave, dotted."""
    referenced: set[str] = field(default_factory=set)
    """Keys that some `${...}` refers to, dotted: they need no other use."""
    problems: list[str] = field(default_factory=list)


def plain_values(config: DictConfig) -> Values:
    """Resolve a composed config, every key of it."""
    from omegaconf import OmegaConf

    raw = OmegaConf.to_container(config, resolve=False)
    values = Values()
    if not isinstance(raw, dict):
        values.problems.append("the experiment file has to be a mapping of keys to values.")
        return values
    written = {str(key): value for key, value in raw.items()}
    values.referenced = set(_referenced(written))
    values.problems += _written_secrets(written)
    OmegaConf.register_new_resolver("asparagus.oc.env", _from_environment, replace=True)
    OmegaConf.register_new_resolver("asparagus.secret", _secret, replace=True)
    ours = _mapped(_mapped(written, hidden), lambda text: FROM_ENVIRONMENT.sub(r"${asparagus.\1:", text))
    values.tree = _mapped(_resolved(OmegaConf.create(ours), "", values), _as_written)
    values.problems = [_as_written(problem) for problem in values.problems]
    return values


def written(config: DictConfig, key: str) -> Any:
    """Return the value of a dotted key as it is written, interpolations and all; None where there is none."""
    from omegaconf import OmegaConf

    node: Any = OmegaConf.to_container(config, resolve=False)
    for part in key.split("."):
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            node = node.get(part) if isinstance(node, dict) else None
    return node


def masked(config: DictConfig) -> DictConfig:
    """Return the config with secrets that somebody wrote into it hidden; names of variables stay."""
    from omegaconf import OmegaConf

    changed: DictConfig = OmegaConf.create(_mapped(OmegaConf.to_container(config, resolve=False), hidden))
    return changed


def _resolved(node: DictConfig, prefix: str, values: Values) -> dict[str, Any]:
    from omegaconf import OmegaConf

    found = {}
    for key in node:
        full = f"{prefix}{key!s}"
        if OmegaConf.is_missing(node, key):
            values.missing.append(full)
            continue
        value = _value_of(node, key, full, values)
        if value is not Ellipsis:
            found[str(key)] = value
    return found


def _value_of(node: Any, key: Any, full: str, values: Values) -> Any:
    """Return one value, plain; `...` where it cannot be had, which is a problem then."""
    from omegaconf import DictConfig, ListConfig
    from omegaconf.errors import OmegaConfBaseException

    try:
        value = node[key]
    except OmegaConfBaseException as error:
        values.problems.append(_unresolved(full, error))
        return ...
    if isinstance(value, DictConfig):
        return _resolved(value, f"{full}.", values)
    if isinstance(value, ListConfig):
        items = (_value_of(value, index, f"{full}[{index}]", values) for index in range(len(value)))
        return [item for item in items if item is not Ellipsis]
    return value


def _unresolved(full: str, error: Exception) -> str:
    text = str(error).splitlines()[0].rstrip(".")
    if name := re.search(r"Unsupported interpolation type (\S+)", text):
        near = did_you_mean(name[1], RESOLVERS)
        known = ", ".join(RESOLVERS)
        if name[1] == "eval":
            near = "Configs do not compute: write the number, or let the code that uses it work it out."
        elif name[1] == "version":
            near = "Run numbers are drawn by the launcher, in order; run.id=N asks for one."
        return f"{full}: ${{{name[1]}:...}} is no resolver. {near} Known: {known}.".replace("  ", " ")
    if (absent := NOT_FOUND.search(text)) and absent[1] in GIVEN_BY:
        return f"{full}: {GIVEN_BY[absent[1]]}."
    if "ConfigError raised" in text:
        text = text.partition("ConfigError raised while resolving interpolation: ")[2]
    return f"{full}: {text}. Check the name between ${{ and }}."


def _referenced(node: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    for key, value in _items(node):
        here = (*path, str(key))
        if isinstance(value, str):
            for dots, name in INTERPOLATION.findall(value):
                base = here[: len(here) - len(dots)] if dots else ()
                yield ".".join([*base, name.rstrip(".")])
        else:
            yield from _referenced(value, here)


def _items(node: Any) -> list[tuple[Any, Any]]:
    if isinstance(node, Mapping):
        return list(node.items())
    return list(enumerate(node)) if isinstance(node, list) else []


def _mapped(node: Any, change: Callable[[str], str]) -> Any:
    """Return the same tree with each text changed."""
    if isinstance(node, Mapping):
        return {key: _mapped(value, change) for key, value in node.items()}
    if isinstance(node, list):
        return [_mapped(value, change) for value in node]
    return change(node) if isinstance(node, str) else node


def _from_environment(name: str, default: Any = UNSET) -> Any:
    """Resolve `${oc.env:NAME,default}`: to the variable's value, or to itself where NAME is called like a secret."""
    from omegaconf.resolvers import oc

    if is_secret_name(name) or has_password(os.environ.get(name, "")):
        return _reference("oc.env", name, default)
    return oc.env(name) if default is UNSET else oc.env(name, default)


def _secret(name: str, default: Any = UNSET) -> str:
    """Resolve `${secret:NAME}`: to itself."""
    return _reference("secret", name, default)


def _reference(kind: str, name: str, default: Any) -> str:
    """Return a reference as a spec carries it, whatever its parts were put together from."""
    text = "null" if default is None else str(default)
    if not PLAIN.fullmatch(text):
        text = "'" + text.replace("'", "\\'") + "'"
    return f"{OPEN}{kind}:{name}{'' if default is UNSET else f',{text}'}{CLOSE}"


def _as_written(text: str) -> str:
    return text.replace(OPEN, "${").replace(CLOSE, "}")


def hidden(text: str) -> str:
    """Return a text, or `secret:***` for one that is a secret."""
    return f"{LITERAL}{HIDDEN}" if text.startswith(LITERAL) else text


def _written_secrets(node: Any, path: str = "") -> Iterator[str]:
    for key, value in _items(node):
        full = f"{path}.{key}" if path else str(key)
        if isinstance(value, str) and value.startswith(LITERAL):
            yield (
                f"{full}: a secret is written here in plain text. Put it into an environment variable (or .env), and "
                "write ${secret:NAME_OF_THE_VARIABLE}."
            )
        else:
            yield from _written_secrets(value, full)
