"""Things of your own under a short name: `asparagus.register_*` puts them in, composition turns the name into a path.

A name is spelled out as the dotted path of what it stands for when an experiment is composed. What travels to workers,
and what a run keeps of its config, is the path: neither needs the registration again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, overload

Thing = TypeVar("Thing", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """What one name stands for."""

    path: str
    """Dotted path of the class or function."""
    defaults: dict[str, Any]
    """Arguments that it is given unless the experiment says otherwise."""
    fields: frozenset[str] | None
    """The arguments that its params dataclass knows; None where there is no such class."""


class Registry:
    """The names of one kind of thing.

    Args:
        kind: What they are, in the plural: `optimizers`.
        taken: Names that are not free, and what each stands for: those that asparagus brings.
    """

    def __init__(self, kind: str, taken: dict[str, str] | None = None) -> None:
        self.kind = kind
        self._taken = taken or {}
        self._entries: dict[str, Entry] = {}

    def __contains__(self, name: object) -> bool:
        return self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def get(self, name: object) -> Entry | None:
        """Return what was registered under a name, in any case; None if nothing was."""
        if not isinstance(name, str):
            return None
        other = next((known for known in self._entries if known.lower() == name.lower()), name)
        return self._entries.get(name) or self._entries.get(other)

    def add(self, name: str, thing: Callable[..., Any], params: type | None = None) -> None:
        """Register a class or function.

        Args:
            name: What experiments call it.
            thing: Defined at the top of a module, so that workers can import it by its path.
            params: A dataclass of its arguments: their defaults, and which there are.

        Raises:
            ValueError: The name is taken by something else, or the thing cannot be imported by a path.
        """
        path = _path(thing)
        entry = self.get(name)
        taken = next((there for known, there in self._taken.items() if known.lower() == name.lower()), None)
        if taken or (entry is not None and entry.path != path):
            raise ValueError(
                f"Cannot override pre-existing {self.kind}. Conflicting {self.kind.rstrip('s')} name = {name}. It "
                f"stands for {taken or (entry and entry.path)}: register yours under another name."
            )
        fields = dataclasses.fields(params) if params is not None else ()
        defaults = {item.name: item.default for item in fields if item.default is not dataclasses.MISSING}
        names = frozenset(item.name for item in fields) if params is not None else None
        self._entries[name] = Entry(path, defaults, names)

    def paths(self) -> dict[str, str]:
        """Return every registered name and the dotted path that it stands for."""
        return {name: entry.path for name, entry in self._entries.items()}

    def remove(self, name: str) -> None:
        """Forget a name."""
        self._entries.pop(name, None)


NETWORKS = Registry("networks")
MODULES = Registry("modules")
DATAMODULES = Registry("datamodules")
CALLBACKS = Registry("callbacks")
SCRIPTS = Registry("scripts")
DATASETS = Registry("datasets")


class Register:
    """`register_network` and its like: a decorator, with or without a name, and a plain call.

    ```python
    @register_network
    class my_net(nn.Module): ...

    @register_network("my_net")
    class MyNet(nn.Module): ...

    register_network("my_net", MyNet)
    ```
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.__doc__ = f"Register one of your {registry.kind} under a name that experiments can use as its `_target_`."

    @overload
    def __call__(self, name: Thing, /) -> Thing: ...
    @overload
    def __call__(self, name: str, /) -> Callable[[Thing], Thing]: ...
    @overload
    def __call__(self, name: str, thing: Thing, params: type | None = None, /) -> Thing: ...
    def __call__(self, name: Any, thing: Any = None, params: type | None = None, /) -> Any:
        """Register, and return what was registered.

        Raises:
            ValueError: The name is taken, or the thing cannot be imported by a path.
        """
        if not isinstance(name, str):  # a bare decorator
            name, thing = str(name.__name__), name
        if thing is None:
            return lambda decorated: self(name, decorated)
        self._registry.add(name, thing, params)
        return thing


def _path(thing: Callable[..., Any]) -> str:
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not module or not name or "<" in name:
        raise ValueError(
            f"{thing!r} cannot be registered: workers import it by its path, and it has none. Define it as a class or "
            "function at the top of a module."
        )
    return f"{module}.{name}"


def find(name: object) -> Entry | None:
    """Return what a `_target_` without a dot stands for: any registered network, module, data module, callback, script.

    Kinds are looked through in that order.
    """
    for registry in (NETWORKS, MODULES, DATAMODULES, CALLBACKS, SCRIPTS):
        if entry := registry.get(name):
            return entry
    return None


def known() -> list[str]:
    """Return every name that a `_target_` may be."""
    return sorted({name for registry in (NETWORKS, MODULES, DATAMODULES, CALLBACKS, SCRIPTS) for name in registry})


register_network = Register(NETWORKS)
register_module = Register(MODULES)
register_datamodule = Register(DATAMODULES)
register_callback = Register(CALLBACKS)
register_dataset = Register(DATASETS)
register_script = Register(SCRIPTS)
