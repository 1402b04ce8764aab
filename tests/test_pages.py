"""The machinery that runs the pages: what it must notice, and what it must leave alone."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
CONFTEST = """
from pathlib import Path
from tests.pages import markdown_pages

pytest_collect_file = markdown_pages(["*.md"], root=Path(__file__).parent)
"""


@pytest.fixture
def run_page(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Runs the tests of one page in a process of its own."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(text: str) -> pytest.RunResult:
        pytester.makeconftest(CONFTEST)
        Path("page.md").write_text(textwrap.dedent(text))
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", "--strict-markers", "page.md")

    return run


def test_blocks_share_a_namespace(run_page):
    result = run_page(
        """
        ```python
        a = 2
        def f(x):
            return a * x
        ```

        ```python
        assert f(3) == 6
        ```

        ```python
        >>> f(4)
        8

        ```
        """
    )
    result.assert_outcomes(passed=3)


def test_an_error_is_reported_at_its_line(run_page):
    result = run_page(
        """
        # Title

        ```python
        a = 1
        assert a == 2
        ```
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*page.md:6: AssertionError"])


def test_a_wrong_doctest_fails(run_page):
    run_page("```python\n>>> 1 + 1\n3\n\n```\n").assert_outcomes(failed=1)


def test_printed_output_is_compared(run_page):
    result = run_page(
        """
        ```python
        print("Jacobian", 0.333333, "and the rest")
        ```

        ```output
        Jacobian 0.333 ...
        ```
        """
    )
    result.assert_outcomes(passed=2)


def test_wrong_printed_output_fails_and_shows_both(run_page):
    result = run_page(
        """
        ```python
        print("2 JVPs")
        ```

        ```output
        49 VJPs
        ```
        """
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["Expected:", "    49 VJPs", "Got:", "    2 JVPs"])


def test_output_belongs_to_the_block_above_only(run_page):
    result = run_page(
        """
        ```python
        print("first")
        ```

        ```python
        print("second")
        ```

        ```output
        second
        ```

        ```output
        second
        ```
        """
    )
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["There is no Python block right above this output block."])


MEASURED = """
    ```python
    print("jax 0.10.2  2 JVPs  0.25 ms  1 kB  3×  error 2e-16")
    ```

    {0}
    ```output
    jax 0.9.1+x  {1} JVPs  12 s  164 MB  1,250×  error 0e+00
    ```
    """


@pytest.mark.parametrize(
    ("instruction", "count", "failed"),
    [("<!-- times and sizes may differ -->", 2, 0), ("<!-- times and sizes may differ -->", 3, 1), ("", 2, 1)],
)
def test_measures_may_differ_where_the_page_says_so_and_counts_may_not(run_page, instruction, count, failed):
    run_page(MEASURED.format(instruction, count)).assert_outcomes(passed=2 - failed, failed=failed)


def test_other_languages_are_left_alone(run_page):
    result = run_page(
        """
        ```python
        x = 1
        ```

        ```console
        $ false
        ```

        ```text
        ???
        ```

        ```
        ???
        ```
        """
    )
    result.assert_outcomes(passed=1)


def test_a_block_can_be_skipped(run_page):
    result = run_page(
        """
        <!-- skip: next "needs a GPU" -->

        ```python
        raise SystemError
        ```

        ```python
        x = 1
        ```
        """
    )
    # The instruction to skip is an item too, and passes.
    result.assert_outcomes(passed=2, skipped=1)


def test_invisible_code_runs(run_page):
    result = run_page(
        """
        <!-- invisible-code: python
        hidden = 3
        -->

        ```python
        assert hidden == 3
        ```
        """
    )
    result.assert_outcomes(passed=2)


def test_a_page_writes_into_a_folder_of_its_own(run_page):
    result = run_page(
        """
        ```python
        from pathlib import Path
        assert not list(Path().iterdir())
        Path("figure.png").write_text("")
        ```

        ```python
        assert Path("figure.png").exists()
        ```
        """
    )
    result.assert_outcomes(passed=2)
    assert not Path("figure.png").exists()
