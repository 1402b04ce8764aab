"""Targets: what is found, and what is said when nothing is."""

from __future__ import annotations

import pytest

from crelle import CrelleImportError, CrelleTypeError, CrelleValueError
from crelle.cli.targets import Loader

FORMS = "  expected  module:function or file.py:function\n"


@pytest.mark.parametrize("text", ["maps.py:f", "maps:f", "./maps.py:f"])
def test_modules_and_files(project, text):
    target = Loader().load(text)
    assert target.f.__name__ == "f"
    assert target.module.__file__ == str(project / "maps.py")


def test_two_targets_in_one_file_share_the_module(project):
    loader = Loader()
    assert loader.load("maps.py:f").module is loader.load("maps.py:jac").module


def test_attributes_of_objects(project):
    (project / "objects.py").write_text("class A:\n    def f(self, x):\n        return x\na = A()\n")
    assert Loader().load("objects.py:a.f").f(3) == 3


def test_a_file_finds_its_neighbours(project):
    folder = project / "deep"
    folder.mkdir()
    (folder / "neighbour.py").write_text("def g(x):\n    return x\n")
    (folder / "main_file.py").write_text("from neighbour import g as f\n")
    assert Loader().load("deep/main_file.py:f").f(3) == 3


def test_a_file_named_like_a_loaded_module_leaves_that_alone(project):
    import json

    (project / "json.py").write_text("def f(x):\n    return x\n")
    assert Loader().load("json.py:f").f(3) == 3
    assert __import__("json") is json


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("maps.py", f"'maps.py' is not a target\n{FORMS}"
         "  try       maps.py:NAME, with the name of a function in that file"),
        ("maps.f", f"'maps.f' is not a target\n{FORMS}  try       maps:f"),
        ("map.py:f", f"map.py:f: there is no file map.py\n{FORMS}  try       maps.py:f"),
        ("mapz:f", "mapz:f: there is no module mapz\n"
         "  expected  module:function or file.py:function; modules are looked for here "
         "and among what is installed\n  try       maps:f"),
        ("plain.py:energi", "plain.py:energi: plain.py has no energi\n"
         "  expected  one of f, energy\n  try       plain.py:energy"),
        ("plain.py:f.g", "plain.py:f.g: f has no g"),
    ],
)  # fmt: skip
def test_what_is_not_there(project, text, message):
    with pytest.raises(CrelleValueError) as caught:
        Loader().load(text)
    assert str(caught.value) == message


def test_a_missing_module_of_a_package(project):
    with pytest.raises(CrelleValueError, match="there is no module nothing"):
        Loader().load("nothing.at.all:f")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plain.py:limit", "plain.py:limit is not a function but 3 of type int\n"
         "  expected  module:function or file.py:function"),
        ("nets.py:Net", "nets.py:Net is a class, and a function is needed\n"
         "  likely  an nn.Module whose instance was meant\n"
         "  try     make one in the file, net = Net(...), and name that"),
    ],
)  # fmt: skip
def test_what_is_no_function(project, text, message):
    with pytest.raises(CrelleTypeError) as caught:
        Loader().load(text)
    assert str(caught.value) == message


def test_a_module_that_fails_raises_its_own_error(project):
    (project / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        Loader().load("broken.py:f")


def test_a_module_that_lacks_a_neighbour_is_not_a_missing_target(project):
    (project / "lacks.py").write_text("import no_such_neighbour\n")
    for text in ("lacks:f", "lacks.py:f"):
        with pytest.raises(ModuleNotFoundError, match="no_such_neighbour"):
            Loader().load(text)


def test_a_missing_framework_names_the_extra(project, monkeypatch):
    import sys

    (project / "needs.py").write_text("import torch\n")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CrelleImportError) as caught:
        Loader().load("needs.py:f")
    assert str(caught.value) == 'needs.py:f needs torch, which is not installed\n  try  pip install "crelle[torch]"'
