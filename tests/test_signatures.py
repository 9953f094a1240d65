"""What source says that a target takes, as Python says it; where source does not tell, nothing is refused."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from pathlib import Path

import pytest

import asparagus
from asparagus.check.bases import is_a
from asparagus.check.definition import CHANGES_NOTHING
from asparagus.check.signature import Signature, TargetMissingError, signature_of
from asparagus.check.target import call
from asparagus.errors import ConfigError

DIGITS = "experiment/digits"

OWN = """
import abc
import dataclasses
import enum
import functools
import typing as t
from dataclasses import dataclass, field
from typing import ClassVar, Generic, NamedTuple, TypeVar, overload

import attrs
import pydantic
import pytorch_lightning as pl
import torch
from _random import Random as Unknown  # compiled
from monai.utils import deprecated_arg

try:
    from nowhere_at_all import Either
except ImportError:
    class Either:
        def __init__(self, here): pass

T = TypeVar("T")


def changing(thing):
    return lambda *args, **kwargs: thing(*args, **kwargs)


class Mix: pass
class Mod:
    def __init__(self, a, b=2): pass
class MixMod(Mix, Mod): pass
class Top:
    def __init__(self, top): pass
class Left(Top): pass
class Right(Top):
    def __init__(self, right): pass
class Diamond(Left, Right): pass
class UnknownFirst(Unknown, Mod): pass
class UnknownLast(Left, Unknown): pass
class OwnBeforeUnknown(Mod, Unknown): pass
class OfGeneric(Generic[T], Mod): pass
class OfSubscript(OfGeneric[int]): pass
class Abstract(abc.ABC): pass
class OfDict(dict): pass
class Bare: pass

class OnlyNew:
    def __new__(cls, a): return super().__new__(cls)
class HandsOn:
    def __new__(cls, *args, **kwargs): return super().__new__(cls)
    def __init__(self, a): pass
class Meta(type):
    def __call__(cls, other): return super().__call__()
class OfMeta(metaclass=Meta):
    def __init__(self): pass
class Colour(enum.StrEnum):
    RED = "red"
class Tagged(NamedTuple):
    a: int
class Validated(pydantic.BaseModel):
    a: int
@attrs.define
class Attrs:
    a: int
class OfAttrs(Attrs): pass
class Registers:
    def __init_subclass__(cls, **kwargs):
        cls.__init__ = lambda self, a: None
class Registered(Registers): pass
class Assigned(Bare):
    __init__ = Mod.__init__

@dataclass
class Fields:
    a: int
    b: int = 2
    known: ClassVar[int] = 1
    _: dataclasses.KW_ONLY
    made: list = field(init=False)
    listed: list = field(default_factory=list)
    asked: int = field(repr=False)
@dataclass(kw_only=True)
class MoreFields(Fields):
    c: int = 3
class OfFields(Fields): pass
@dataclass(init=False)
class NoFields(Mod):
    z: int = 3

class C1:
    @classmethod
    def make(cls, a): return cls()
    @staticmethod
    def build(a): return C1()
    def act(self, a): return a
    @property
    def size(self): return 3
    @classmethod
    @changing
    def changed(cls, a): return cls()
    alias = build
class C2(C1): pass
class UnknownC1(Unknown, C1): pass
class Outer:
    class C7:
        def __init__(self, a): pass
    class C8(C7): pass
class Stop(pl.callbacks.EarlyStopping): pass
class Net(torch.nn.Module): pass

@overload
def over(a: int) -> int: ...
@t.overload
def over(a: str) -> str: ...
def over(a, b=2): return a
class Over:
    @overload
    def __init__(self, a: int) -> None: ...
    @t.overload
    def __init__(self, b: int) -> None: ...
    def __init__(self, a=None, b=None): pass
@changing
def changed(a): return a
class Changed:
    @changing
    def __init__(self, a): pass
class OfChanged(Changed): pass
@functools.lru_cache(maxsize=None)
def kept(a): return a
@torch.no_grad()
def quiet(a): return a
@deprecated_arg("b", since="1.0")
def old(a, b=2): return a
net_of = Outer.C7
"""

TAKES = {
    "MixMod": ("a", "b"),
    "Diamond": ("right",),
    "OwnBeforeUnknown": ("a", "b"),
    "OfGeneric": ("a", "b"),
    "OfSubscript": ("a", "b"),
    "Abstract": (),
    "Bare": (),
    "Either": ("here",),
    "OnlyNew": ("a",),
    "HandsOn": ("a",),
    "Fields": ("a", "b", "listed", "asked"),
    "MoreFields": ("a", "b", "listed", "asked", "c"),
    "OfFields": ("a", "b", "listed", "asked"),
    "NoFields": ("a", "b"),
    "C1.make": ("a",),
    "C1.build": ("a",),
    "C2.make": ("a",),
    "Outer.C7": ("a",),
    "net_of": ("a",),
    "over": ("a", "b"),
    "Over": ("a", "b"),
    "kept": ("a",),
    "quiet": ("a",),
    "old": ("a", "b"),
}
NOT_TOLD = [
    *("UnknownFirst", "UnknownLast", "OfDict", "OfMeta", "Colour", "Tagged", "Attrs", "OfAttrs", "Validated"),
    *("Registered", "Assigned", "C1.act", "C1.changed", "C1.alias", "C1.mro", "UnknownC1.nope", "Outer.C8"),
    *("changed", "Changed", "OfChanged"),
]
BROKEN = {
    "a syntax error": (b"import os\n\nclass Net(:\n", "broken.py:3: invalid syntax"),
    "no text": (b"x = 1\ny = '\xff'\n", "broken.py:2: (unicode error)"),
    "null bytes": (b"x = 1\n\0\n", "broken.py: source code string cannot contain null bytes"),
    "no such encoding": (b"# coding: nonsense\n", "unknown encoding"),
    "nested beyond measure": (b"x = " + b"-" * 200_000 + b"1\n", "broken.py: "),
}
RAISING = {
    "SyntaxError": ("import os\n\nclass Net(:\n", "SyntaxError: invalid syntax", 3),
    "ValueError": ("x = 1\nint('many')\n", "ValueError: invalid literal", 2),
    "an error without a text": ("def f():\n    raise KeyError\nf()\n", "KeyError", 2),
    "an error within a library": ("import json\njson.loads('{')\n", "JSONDecodeError: Expecting", 2),
    "SystemExit": ("import sys\n\nsys.exit(7)\n", "SystemExit: 7", 3),
    "another module of one's own": ("import raising_too\n", "RuntimeError: two lines", None),
    "a taken name": (
        "import asparagus\nasparagus.register_network('a', print)\nasparagus.register_network('a', len)\n",
        "ValueError: ",
        3,
    ),
    "an import that is missing": ("x = 1\nimport nowhere_at_all\n", "No module named 'nowhere_at_all'", 2),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path; what is imported from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("odd", "broken", "raising", "raising_too"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "odd.py").write_text(OWN)
    return tmp_path


def problems(path: str, **arguments: object) -> list[str]:
    return list(call("model.cls_net", path, arguments, frozenset()))


@pytest.mark.parametrize("name", TAKES)
def test_what_a_target_takes_is_what_python_says(folder, name):
    found = signature_of(f"odd.{name}")
    assert isinstance(found, Signature)
    assert (found.parameters, found.takes_anything) == (TAKES[name], False)
    assert any("takes no such argument" in line for line in problems(f"odd.{name}", nope=1))
    importlib.invalidate_caches()
    parameters = inspect.signature(eval(f"odd.{name}", {"odd": importlib.import_module("odd")})).parameters
    if name != "HandsOn":  # inspect stops at its `__new__`
        assert set(parameters) == set(TAKES[name])
        needed = {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
        assert set(found.required) == needed


@pytest.mark.parametrize("name", NOT_TOLD)
def test_what_source_does_not_tell_is_not_refused(folder, name):
    assert signature_of(f"odd.{name}") is None
    assert problems(f"odd.{name}", nope=1) == []


@pytest.mark.parametrize(
    ("name", "text"),
    {
        "C1.nope": "C1 has no 'nope'.",
        "C2.mke": "C2 has no 'mke'. Did you mean 'make'?",
        "Outer.C9": "Outer has no 'C9'. Did you mean 'C8'?",
        "C1.size": "C1.size is a property, and a class or function is needed.",
    }.items(),
)
def test_a_name_that_a_class_does_not_have_is_refused(folder, name, text):
    (problem,) = problems(f"odd.{name}")
    assert problem.startswith(f"model.cls_net._target_: odd.{name} cannot be imported: {text}")


def test_a_base_written_with_a_dot_is_followed(folder):
    (needed,) = problems("odd.Stop", patience=3)
    assert needed == "model.cls_net.monitor: odd.Stop needs it. Give model.cls_net.monitor=..."
    (wrong,) = problems("odd.Stop", monitor="x", patients=3)
    assert "Did you mean 'patience'?" in wrong
    assert is_a("odd.Stop", "Callback") is True
    assert is_a("odd.Stop", "Logger") is False
    assert is_a("odd.Net", "Module") is True


def test_scikit_learn_mixes_in_first():
    found = signature_of("sklearn.linear_model.RidgeCV")
    assert found is not None
    assert "alphas" in found.parameters


def test_decorated_classes_that_come_along_are_still_checked():
    for path in ("pytorch_lightning.Trainer", "monai.networks.nets.UNet", "torchmetrics.Accuracy"):
        assert signature_of(path) is not None, path
    assert "overload" not in CHANGES_NOTHING


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_is_no_python_is_named_with_its_line(folder, case):
    source, text = BROKEN[case]
    (folder / "broken.py").write_bytes(source)
    (folder / "on_top.py").write_text("from broken import *\nfrom broken import Base\n\nclass Net(Base): pass\n")
    for path in ("broken.Net", "on_top.Net", "on_top.Other"):
        (problem,) = problems(path)
        assert problem.startswith(f"model.cls_net._target_: {path} cannot be imported: {folder}{os.sep}broken.py")
        assert text in problem
        assert problem.endswith(".")
    assert is_a("broken.Net", "Module") is None


def test_a_broken_file_in_an_experiment_is_a_problem_with_its_key(folder, home):
    (folder / "broken.py").write_text("import os\n\nclass Net(:\n")
    with pytest.raises(
        ConfigError, match=r"model\.cls_net\._target_: broken\.Net cannot.*broken\.py:3: invalid syntax"
    ):
        asparagus.plan_of(DIGITS, ["~model.cls_net", "+model.cls_net={_target_: broken.Net}"])


@pytest.mark.parametrize("case", RAISING)
def test_whatever_a_module_of_one_s_own_raises_is_named_with_its_line(folder, home, case):
    source, text, line = RAISING[case]
    (folder / "raising.py").write_text(source)
    (folder / "raising_too.py").write_text("\n\nraise RuntimeError('two\\nlines')\n")
    with pytest.raises(ConfigError) as wrong:
        asparagus.plan_of(DIGITS, ["imports=[raising]"])
    problem = next(one for one in wrong.value.problems if one.startswith("imports: raising cannot be imported: "))
    assert text in problem
    place = folder / ("raising.py" if line else "raising_too.py")
    assert f", at {place}:{line or 3}." in problem


def test_an_interrupt_while_a_module_is_imported_is_no_problem_of_it(folder, home):
    (folder / "raising.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        asparagus.plan_of(DIGITS, ["imports=[raising]"])


def test_a_module_is_no_target(folder):
    with pytest.raises(TargetMissingError, match="it is a module"):
        signature_of("torch.nn")
