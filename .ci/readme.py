"""Run the Python of the README, in order, as one session."""

import os
import pathlib
import re
import tempfile

import matplotlib as mpl

if __name__ == "__main__":  # workers of a cluster import this file
    mpl.use("agg")
    readme = pathlib.Path("README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert blocks
    os.chdir(tempfile.mkdtemp())
    session: dict = {}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"README block {number}", "exec"), session)
    print(f"{len(blocks)} blocks ran")
