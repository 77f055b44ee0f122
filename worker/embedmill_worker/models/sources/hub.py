"""Repositories of a hub, whose files are fetched once and verified at every start."""

import json
import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from embedmill.errors import ModelLoadError
from embedmill_worker.models.disk import (
    OWN_FOLDER,
    is_file,
    is_folder,
    is_inside,
    locked_folder,
    read_json,
    read_note,
    sha256_of,
    storing,
    told,
    write_atomically,
)
from embedmill_worker.models.sources.commit import Commit, HubAwayError
from embedmill_worker.models.sources.wheel import Progress

#: Branch to use if no revision is named.
_MAIN: Final = "main"
#: Name of a large file in the hub's cache: its sha256.
_SHA256: Final = re.compile(r"[0-9a-f]{64}")

logger = logging.getLogger(__name__)


class Repository:
    """A repository at one commit: the commit that was fetched first, until a newer one is requested.

    A manifest in the data folder records the fetched files with their sha256, so that later starts do not need the hub
    and get the same files.
    """

    def __init__(
        self,
        model: str,
        repository: str,
        revision: str = "",
        *,
        data_dir: Path,
        download: bool = True,
        newest: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Find the commit.

        Args:
            model: name that users give it, for errors.
            repository: `org/name`.
            revision: branch, tag or commit; empty: `main`.
            data_dir: folder of the manifests.
            download: False to use only files that are already there.
            newest: ask the hub even if a commit was fetched before.
            progress: called with the model's name, bytes fetched and total bytes during a download.

        Raises:
            ModelLoadError: the repository or revision does not exist, or the hub cannot be reached; gives a hint.
        """
        from embedmill_worker.models.sources import hub_client  # noqa: PLC0415 (slow, only for models of a hub)

        hub_client.be_quiet()
        self._client = hub_client
        self._model = model
        self._hub = data_dir / "hub"
        self._revision = revision or _MAIN
        label = f"{repository}@{self._revision}".replace("/", "--")
        self._manifest = self._hub / "manifests" / f"{label}.json"
        self._download = download
        self._progress = progress
        with told(model, instead=OWN_FOLDER):
            recorded, self._sha256, folder = self._recorded(repository)
            is_known = recorded is not None and not (newest and download)
            self.commit = recorded if recorded and is_known else self._found(repository, self._revision)
        if recorded is None or recorded.commit != self.commit.commit:
            self._sha256, folder = {}, None
        #: Folder of the files: in the cache that they were fetched into, even if HF_HOME names another one now.
        self._folder = folder or hub_client.folder_of(self.commit)

    @property
    def names(self) -> frozenset[str]:
        """Names of all files of the commit, fetched or not."""
        return frozenset(self.commit.sizes)

    def fetch(self, names: Iterable[str]) -> Path:
        """Return the commit's folder with these files verified; fetch those that are missing or damaged.

        If several processes ask at once, one fetches and the others wait.

        Raises:
            ModelLoadError: a file cannot be fetched, stored or read; the message gives a hint.
        """
        wanted = sorted(names)
        with told(self._model, instead=self._client.OWN_CACHE):
            if self._unfit(wanted):
                with locked_folder(self._hub):
                    recorded, digests, _ = self._recorded(self.commit.repository)
                    if recorded and recorded.commit == self.commit.commit:
                        self._sha256 = {**digests, **self._sha256}
                    self._folder = self._client.folder_of(self.commit)  # the current cache, not the recorded one
                    if unfit := self._unfit(wanted):
                        self._fetch(unfit)
        return self._folder

    def keep(self) -> None:
        """Write the manifest of the commit and its fetched files; call this once the model is known to be usable."""
        if not self.commit.is_whole:
            return  # the cache may lack files that the model needs, so the hub is asked again at the next start
        note = {
            "commit": self.commit.commit,
            "folder": str(self._folder),
            "sizes": dict(self.commit.sizes),
            "sha256": self._sha256,
        }
        content = json.dumps(note, indent=1).encode()
        with told(self._model, instead=OWN_FOLDER):
            if is_file(self._manifest) and read_note(self._manifest) == content:
                return  # without the lock: the data folder may be read-only
            with locked_folder(self._hub):
                write_atomically(self._manifest, content)
                self._client.remember(self.commit, self._revision)

    def is_absent(self, name: str) -> bool:
        """Return whether the repository is known not to have this file."""
        return name not in self.names and (self.commit.is_whole or self._client.is_absent(self.commit, name))

    def _unfit(self, names: Iterable[str]) -> list[str]:
        """Return the files that are missing, or that have changed since they were fetched."""
        return [name for name in names if name not in self._sha256 or self._digest(name) != self._sha256[name]]

    def _digest(self, name: str) -> str:
        """Return the sha256 of a file in the cache; empty if it is missing."""
        path = self._folder / name
        return sha256_of(path) if is_file(path) else ""

    def _fetch(self, names: list[str]) -> None:
        sizes = self.commit.sizes
        missing = [name for name in names if not self._digest(name)]
        total = sum(sizes.get(name, 0) for name in missing)
        done = 0

        def report(more: int) -> None:
            nonlocal done
            done += more
            if self._progress and total:
                self._progress(self._model, min(done, total), total)

        if missing and self._download:
            text = "fetching %d files of %s, %.0f MB"
            logger.info(text, len(missing), self.commit, total / 1e6, extra={"action": "fetch_model"})
        for name in names:
            self._sha256[name] = self._fetched(name, report)

    def _fetched(self, name: str, report: Callable[[int], None]) -> str:
        """Fetch a file if it is missing or damaged in the cache; return its sha256."""
        path = self._folder / name
        digest = self._digest(name)
        is_damaged = bool(digest) and (_is_misnamed(path, digest) or digest != self._sha256.get(name, digest))
        if is_damaged:
            logger.warning("%s is damaged and is fetched again", path, extra={"action": "fetch_model"})
        path = self._client.get(self._model, self.commit, name, report, download=self._download, again=is_damaged)
        digest = sha256_of(path)
        if _is_misnamed(path, digest):
            with storing(path):
                if is_inside(path, self._client.cache()):
                    path.resolve().unlink(missing_ok=True)  # the cache links to the content elsewhere
                path.unlink(missing_ok=True)
            raise ModelLoadError(
                self._model, f"{name} was damaged during the download and is deleted; start again to fetch it"
            )
        return digest

    def _recorded(self, repository: str) -> tuple[Commit | None, dict[str, str], Path | None]:
        """Return the commit that was fetched before, the sha256 of its files, and their folder if it exists."""
        try:
            note = read_json(self._manifest)
            digests = {str(name): str(digest) for name, digest in note["sha256"].items()}
            commit = Commit(repository=repository, commit=str(note["commit"]), sizes=dict(note["sizes"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            return None, {}, None
        folder = Path(str(note.get("folder", "")))
        return commit, digests, folder if folder.is_absolute() and is_folder(folder) else None

    def _found(self, repository: str, revision: str) -> Commit:
        """Return the commit from the hub, or from the cache if the hub cannot be asked."""
        if not self._download:
            if cached := self._client.cached_commit(repository, revision):
                return cached
            raise ModelLoadError(self._model, self._client.not_here("it", self._model))
        try:
            with locked_folder(self._hub):  # fails early if the manifest cannot be written
                pass
            return self._client.newest_commit(self._model, repository, revision)
        except HubAwayError as error:
            cached = self._client.cached_commit(repository, revision)
            if cached is None:
                raise ModelLoadError(self._model, error.reason) from error
            text = "%s: the hub cannot be asked, so %s is used from its cache"
            level = logging.INFO if self._client.is_offline() else logging.WARNING
            logger.log(level, text, self._model, cached, extra={"action": "fetch_model"})
            return cached


def _is_misnamed(path: Path, digest: str) -> bool:
    """Return whether the cache's name for a file, its sha256, differs from the content's."""
    stated = path.resolve().name
    return bool(_SHA256.fullmatch(stated)) and stated != digest


def linked(folder: Path, graph: str, data: list[str]) -> Path:
    """Return a path of a graph in the hub's cache beside which ONNX Runtime finds the graph's data files."""
    from fastembed.common.onnx_external_data import link_external_data  # noqa: PLC0415 (slow, only for a hub's models)

    return link_external_data(folder, graph, data)
