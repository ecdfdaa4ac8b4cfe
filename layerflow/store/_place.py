"""Where a store lies: a folder, or a URL of anything that fsspec knows."""

import errno
import os
import pathlib
from collections.abc import Iterator
from typing import Any

OWN = "_layerflow"  # the group for all that is no variable
_UNFINISHED = ".partial"  # what zarr leaves of a file whose writing was cut off


class Place:
    """A folder or a URL, asked what is there and changed by nothing here but `clean` and `remove`.

    Args:
        path: As the user gave it; a leading ~ is the user's home.

    Raises:
        ImportError: If the URL needs a package that is not installed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import fsspec

        text = os.fspath(path).removeprefix("file://")
        self.local = None if "://" in text or "::" in text else pathlib.Path(os.path.expanduser(text)).absolute()
        self.url = text if self.local is None else str(self.local)
        try:
            self.fs, self.root = fsspec.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ImportError(f"The store {self.url} cannot be reached: {error}") from error

    def __str__(self) -> str:
        return self.url

    def zarr(self, *, read_only: bool = False) -> Any:
        """The place as zarr takes it."""
        from zarr.storage import FsspecStore, LocalStore

        from layerflow.store._frames import Bounded

        if self.local is not None:
            return Bounded(LocalStore(self.local, read_only=read_only))
        return Bounded(FsspecStore.from_url(self.url, read_only=read_only))

    def find(self, *parts: str) -> list[str]:
        """Names of all files below, relative to there; none if there is nothing."""
        below = "/".join([self.root, *parts])
        self.fs.invalidate_cache()  # others write here too
        return [name[len(below) + 1 :] for name in self.fs.find(below)]

    def exists(self, *parts: str) -> bool:
        """Whether there is such a file or folder."""
        self.fs.invalidate_cache()
        return self.fs.exists("/".join([self.root, *parts]))

    def remove(self, *parts: str) -> None:
        """Delete one file."""
        self.fs.rm_file("/".join([self.root, *parts]))

    def clear(self) -> None:
        """Delete everything but what is no variable."""
        for name in {file.split("/")[0] for file in self.find()} - {OWN}:
            self.fs.rm("/".join([self.root, name]), recursive=True)

    def clean(self) -> None:
        """Delete what processes that were killed left half-written; for the one process that may write here."""
        if self.local is not None:
            for left in self.local.rglob(f"*{_UNFINISHED}"):
                left.unlink(missing_ok=True)

    def check_free(self) -> None:
        """Raise if something is there that is no store of ours."""
        if self.fs.isfile(self.root):
            raise FileExistsError(f"A store needs a folder of its own, but {self} is a file. Name another folder.")
        foreign = [name for name in self.find() if not name.startswith(f"{OWN}/") and not name.endswith(_UNFINISHED)]
        if foreign:
            raise FileExistsError(
                f"The folder {self} holds something that is no store of layerflow, {foreign[0]} say. Name another one."
            )

    def check_writable(self) -> None:
        """Raise if the folder, or the one that it will lie in, lets nobody write, or a link leads out of it."""
        if self.local is None:
            return  # the first write will tell
        self._check_links(self.local)
        there = next(folder for folder in self._upwards() if folder.exists())
        if not there.is_dir():
            raise NotADirectoryError(
                f"A store needs a folder, but {there} on the way to {self} is a file. Name another folder."
            )
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(
                errno.EACCES,
                f"Nothing can be written to the folder {there}. Name another folder for the store",
                str(self),
            )

    def _check_links(self, folder: pathlib.Path) -> None:
        """Raise if a folder of the store, or its lock, is a link: what is written there would be written elsewhere."""
        folders = (os.path.join(here, name) for here, names, _ in os.walk(folder) for name in names)
        for path in (*folders, os.path.join(folder, OWN, "lock")):
            if os.path.islink(path):
                raise FileExistsError(
                    f"The store {self} holds a link, {path}, and nothing is written through links. Put what it leads "
                    f"to in its place."
                )

    def _upwards(self) -> Iterator[pathlib.Path]:
        assert self.local is not None
        return iter((self.local, *self.local.parents))
