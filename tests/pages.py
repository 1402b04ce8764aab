"""The code blocks of a Markdown page, as tests.

A page is read from top to bottom, as its reader does; its blocks share one namespace and start in an empty folder.

- ` ```python ` is run; where it starts with `>>>`, it is a doctest.
- ` ```output ` is what the block above it printed, and is compared with that as doctest does: `...` stands for
  anything, white space counts once, a number counts to the digits that are written.
- `<!-- times and sizes may differ -->` before an `output` block: durations, bytes, ratios (`3×`), errors (`2e-16`) and
  versions are what this machine gives; the rest is compared as ever.
- every other language (`console`, `text`, ...) is left alone.
- `<!-- skip: next "why" -->` before a block leaves it out, and says why.
- `<!-- invisible-code: python` ... `-->` is run and not shown.

Sybil does the parsing and the running; what is here is the `output` block and the page's surroundings.
"""

from __future__ import annotations

import doctest
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.evaluators.doctest import NUMBER, OutputChecker
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | NUMBER
MAY_DIFFER = "<!-- times and sizes may differ -->"
MEASURE = re.compile(
    r"(?<![\w.])(?:\d[\d,.]*(?:e[+-]?\d+)?[ ]?(?:[mµn]?s|[kMGT]?i?B|×)(?!\w)"  # 0.25 ms, 164 MB, 3×
    r"|\d(?:\.\d+)?e[+-]\d+"  # 2e-16
    r"|\d+\.\d+\.\d+[\w.+]*)"  # 0.10.2
)
PRINTED = "__printed__"
SURROUNDINGS = "__surroundings__"


class RecordingEvaluator(PythonEvaluator):
    """Runs a block and keeps what it prints, for the `output` block that may follow."""

    def __call__(self, example: Example) -> None:
        printed = io.StringIO()
        try:
            with redirect_stdout(printed):
                super().__call__(example)
        finally:
            example.namespace[PRINTED] = printed.getvalue()
            sys.stdout.write(printed.getvalue())


def compare_output(example: Example) -> str | None:
    """What differs between an `output` block and what was printed; None where nothing does."""
    printed = example.namespace.pop(PRINTED, None)
    if printed is None:
        return "There is no Python block right above this output block."
    checker = OutputChecker()
    want = str(example.parsed)
    if example.document.text[: example.start].rstrip().endswith(MAY_DIFFER):
        want, printed = MEASURE.sub("#", want), MEASURE.sub("#", printed)
    if checker.check_output(want, printed, FLAGS):
        return None
    return checker.output_difference(doctest.Example("", want), printed, FLAGS)


@contextmanager
def empty_folder() -> Iterator[None]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def markdown_pages(
    patterns: Sequence[str], root: Path, around: Callable[[], AbstractContextManager[None]] = ExitStack
) -> Callable[[Path, pytest.Collector], pytest.File | None]:
    """The hook that collects the pages matching `patterns` under `root`; `around` is entered for the time of a page."""

    def set_up(namespace: dict[str, Any]) -> None:
        surroundings = ExitStack()
        surroundings.enter_context(empty_folder())
        surroundings.enter_context(around())
        namespace.update({"__name__": "__page__", SURROUNDINGS: surroundings})

    def tear_down(namespace: dict[str, Any]) -> None:
        namespace[SURROUNDINGS].close()

    python = PythonCodeBlockParser(doctest_optionflags=FLAGS)
    python.codeblock_parser = CodeBlockParser("python", RecordingEvaluator())
    sybil = Sybil(
        parsers=[SkipParser(), python, CodeBlockParser("output", compare_output)],
        patterns=list(patterns),
        path=str(root),
        setup=set_up,
        teardown=tear_down,
    )
    collect = sybil.pytest()

    def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.File | None:
        return collect(file_path, parent)

    return pytest_collect_file
