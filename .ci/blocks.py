"""Run the code of README.md and of the pages in docs/, each page in order, as one session in a scratch folder.

    python .ci/blocks.py                     all pages, two at a time
    python .ci/blocks.py docs/tutorial.md    one of them

Blocks of ```python run as they stand, those of ```sh with this environment's commands first; what the README has in sh,
.ci/run runs. A block of ```text right behind one is what it prints, with ... for what differs from run to run. Before a
block, the comment <!-- skip: reason --> leaves it out and shows the reason, and <!-- fails --> says that it ends in
an error, which is then what it prints.
"""

import contextlib
import doctest
import io
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).parents[1]
BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>skip|fails)(?:: (?P<words>[^\n]*?))? -->\n)?"
    r"^ *```(?P<language>python|sh)\n(?P<code>.*?)^ *```$"
    r"(?:\n\n? *```text\n(?P<output>.*?)^ *```$)?",
    flags=re.DOTALL | re.MULTILINE,
)
SAME = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def main(pages: list[str]) -> int:
    """Run one page here, or all pages in a process each; the number that failed."""
    if pages:
        return sum(run(ROOT / page) for page in pages)
    begin = time.perf_counter()
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    withcode = [page for page in found if "_build" not in page.parts and BLOCK.search(page.read_text())]
    with ThreadPoolExecutor(2) as pool:
        failed = sum(pool.map(_apart, withcode))
    print(f"{len(withcode)} pages, {failed} failed, {time.perf_counter() - begin:.0f} s")
    return failed


def _apart(page: pathlib.Path) -> bool:
    """Run a page in a process of its own and print what it says; whether it failed."""
    command = [sys.executable, "-u", "-X", "faulthandler", __file__, str(page.relative_to(ROOT))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    words = f"{done.stderr}{command[-1]} ended with exit code {done.returncode}\n" if done.returncode else ""
    print(done.stdout + words, end="", flush=True)
    return done.returncode != 0


def run(page: pathlib.Path) -> bool:
    """Run the blocks of a page; whether one failed."""
    import matplotlib as mpl

    mpl.use("agg")
    name, begin, ran = str(page.relative_to(ROOT)), time.perf_counter(), 0
    session: dict = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        text = page.read_text()
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start("code")) + 1
            if block["language"] == "sh" and page == ROOT / "README.md":
                continue
            if block["mark"] == "skip":
                print(f"{name}:{line} skipped: {block['words']}")
                continue
            try:
                _run_block(block, session, f"{name}:{line}")
            except Exception as error:
                print(f"{name}:{line} failed: {type(error).__name__}: {error}")
                return True
            ran += 1
    print(f"{name}: {ran} blocks ran, {time.perf_counter() - begin:.0f} s")
    return False


def _run_block(block: re.Match[str], session: dict, where: str) -> None:
    """Run one block and compare what it prints with what the page says."""
    printed, code = io.StringIO(), textwrap.dedent(block["code"])
    try:
        if block["language"] == "sh":
            printed.write(_shell(code))
        else:
            with contextlib.redirect_stdout(printed):
                exec(compile(code, where, "exec"), session)
    except Exception as error:
        if block["mark"] != "fails":
            raise
        printed.write(f"{type(error).__name__}: {error}")
    said = block["output"]
    if said is None and block["mark"] == "fails":
        raise AssertionError("the page does not say which error")
    if said is not None and not doctest.OutputChecker().check_output(textwrap.dedent(said), printed.getvalue(), SAME):
        raise AssertionError(f"the page says\n{said}but it prints\n{printed.getvalue()}")


def _shell(code: str) -> str:
    """What the commands print, with the commands of this environment first."""
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": path, "MPLBACKEND": "agg"},
    )
    if done.returncode:
        raise AssertionError(f"exit code {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
