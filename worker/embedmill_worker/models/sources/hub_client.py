"""Client of a Hugging Face hub and its cache; the only module that imports huggingface_hub, which is slow."""

import logging
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httpx
from huggingface_hub import _CACHED_NO_EXIST, HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub import errors as hub
from huggingface_hub.utils import logging as hub_logging
from huggingface_hub.utils.tqdm import tqdm as bars

from embedmill.errors import ModelLoadError
from embedmill.safe.printable import printable
from embedmill_worker.models.disk import is_file, is_folder, write_atomically
from embedmill_worker.models.sources.commit import Commit, HubAwayError, UnknownRepositoryError, is_below

#: Hint for a file of the hub's cache that cannot be used.
OWN_CACHE: Final = "set HF_HOME to a folder of your own"
#: Files to find a cached commit by.
_USUAL: Final = ("config.json", "modules.json", "tokenizer.json")
#: Maximum files of a repository that are read.
_MAX_FILES: Final = 200_000
#: Timeout of a hub's list of files, in seconds.
_ASK_TIMEOUT_S: Final = 30.0
#: Maximum characters of the client's error message that are shown.
_SHOWN_CHARS: Final = 300
#: Errors of the client for a hub's refusals and for missing answers.
_REFUSALS: Final = (
    hub.HfHubHTTPError,
    hub.HFValidationError,
    hub.LocalEntryNotFoundError,
    hub.OfflineModeIsEnabled,
    httpx.HTTPError,
    httpx.InvalidURL,
)


def be_quiet() -> None:
    """Silence the client's own log lines; errors are raised, and the rest does not concern the model."""
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it has no types
    for name in ("httpx", "httpcore"):  # whose lines hold URLs, with passwords and signatures
        logging.getLogger(name).setLevel(logging.WARNING)


def is_offline() -> bool:
    """Return whether the user has turned the hub off."""
    return bool(constants.HF_HUB_OFFLINE)


def newest_commit(model: str, repository: str, revision: str) -> Commit:
    """Ask the hub for the commit of a branch, tag or commit.

    Args:
        model: name that users give it, for errors.
        repository: `org/name`.
        revision: branch, tag or commit.

    Raises:
        HubAwayError: the hub could not be asked; the commit may still be in the cache.
        ModelLoadError: the hub refuses; the message gives a hint.
    """
    try:
        info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=_ASK_TIMEOUT_S)
        files = [file for file in (info.siblings or [])[:_MAX_FILES] if is_below(file.rfilename)]
        sizes = {file.rfilename: file.size or 0 for file in files}
    except Exception as error:  # an invalid answer can cause any error
        raise _error(error, model, repository, revision) from error
    try:
        return Commit(repository=repository, commit=str(info.sha), sizes=sizes)
    except ValueError as error:
        raise ModelLoadError(
            model, f"the hub's answer about {repository} is invalid: {error}; {_hint(model)}"
        ) from None


def cached_commit(repository: str, revision: str) -> Commit | None:
    """Return a revision's commit from the cache, with the files that are there; None if the cache lacks it."""
    for name in _USUAL:
        path = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(path, str) and is_folder(Path(path).parent):
            folder = Path(path).parent
            files = [file for file in folder.rglob("*") if is_file(file)]
            sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
            with suppress(ValueError):  # a folder that was not made by a hub's client
                return Commit(repository=repository, commit=folder.name, sizes=sizes, is_whole=False)
    return None


def is_absent(commit: Commit, name: str) -> bool:
    """Return whether the cache records that a commit does not have this file."""
    return try_to_load_from_cache(commit.repository, name, revision=commit.commit) is _CACHED_NO_EXIST


def remember(commit: Commit, revision: str) -> None:
    """Write a branch's or tag's commit into the cache, as the client does, so that it is found offline."""
    path = folder_of(commit).parent.parent / "refs" / revision
    if revision != commit.commit and is_below(revision):
        with suppress(OSError):  # the cache may be read-only
            write_atomically(path, commit.commit.encode())


def cache() -> Path:
    """Return the cache's folder."""
    return Path(constants.HF_HUB_CACHE).expanduser()


def folder_of(commit: Commit) -> Path:
    """Return the cache's folder for the files of a commit."""
    name = "models--" + commit.repository.replace("/", "--")
    return cache() / name / "snapshots" / commit.commit


def get(
    model: str, commit: Commit, name: str, report: Callable[[int], None], *, download: bool, again: bool = False
) -> Path:
    """Return a file of a commit; fetch it if it is not in the cache.

    Args:
        model: name that users give it, for errors.
        commit: the commit.
        name: the file.
        report: called with the number of bytes received.
        download: False to use only files that are already there.
        again: fetch it even if it is in the cache.

    Raises:
        ModelLoadError: the file cannot be fetched or stored; the message gives a hint.
    """

    class Reported(bars):
        def __init__(self, *values: Any, **options: Any) -> None:
            super().__init__(*values, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            report(int(n or 0))

    try:
        path = hf_hub_download(
            commit.repository,
            name,
            revision=commit.commit,
            force_download=again and download,
            local_files_only=not download,
            tqdm_class=Reported,
        )
    except Exception as error:  # an invalid answer can cause any error
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, _REFUSALS):
            place = error.filename or folder_of(commit)  # the disk is full, or this process may not write
            reason = f"{place} cannot be written: {error.strerror or error}; fix that, or {OWN_CACHE}"
        elif not download:
            reason = not_here(f"{name} of {commit}", model)
        else:
            reason = _error(error, model, f"{name} of {commit}", commit.commit).reason
        raise ModelLoadError(model, reason) from error
    if Path(path) != folder_of(commit) / name:
        reason = f"the hub gave {name} of another commit than {commit.commit}; start again, or {_hint(model)}"
        raise ModelLoadError(model, reason)
    return Path(path)


def not_here(what: str, model: str) -> str:
    """Return the reason why a file is not available without downloads."""
    return f"{what} was not fetched before and downloads are off; {_hint(model)}"


def _hint(model: str) -> str:
    """Return the hint for a model that cannot be fetched."""
    return f"name a folder with the model: {model}=/path/to/folder"


def _error(error: Exception, model: str, what: str, revision: str) -> ModelLoadError:
    """Return the error for a hub's answer, with a hint."""
    endpoint = _masked(constants.ENDPOINT)
    if isinstance(error, hub.RepositoryNotFoundError) and not isinstance(error, hub.GatedRepoError):
        return UnknownRepositoryError(
            model,
            f"there is no repository {what} at {endpoint}, or it is private; check its name, set HF_TOKEN if it is "
            f"private, or {_hint(model)}",
        )
    if reason := _refusal(error, what, revision, endpoint):
        return ModelLoadError(model, reason)
    if constants.HF_HUB_OFFLINE and isinstance(error, hub.OfflineModeIsEnabled | hub.LocalEntryNotFoundError):
        reason = f"{what} is not in the cache and HF_HUB_OFFLINE is set; unset it, or {_hint(model)}"
        return HubAwayError(model, reason)
    message = printable(_masked(str(error)), limit=_SHOWN_CHARS)
    return HubAwayError(
        model,
        f"{what} could not be fetched ({type(error).__name__}: {message}); check that {endpoint} can be reached, set "
        f"HF_ENDPOINT to a mirror, or {_hint(model)}",
    )


def _refusal(error: Exception, what: str, revision: str, endpoint: str) -> str:
    """Return why the hub refuses something, with a hint; "" if the error is not a refusal."""
    name = re.sub(r".* of |@.*", "", what)
    answer = error.response if isinstance(error, hub.HfHubHTTPError) else None
    status = answer.status_code if answer is not None else 0
    if isinstance(error, hub.GatedRepoError):
        return f"{name} is gated: accept its terms at {endpoint}/{name}, and set HF_TOKEN to your token"
    if isinstance(error, hub.RevisionNotFoundError):
        way = "name a branch, a tag or a commit, or run `embedmill models pull` for the newest"
        return f"{what} has no revision {revision} at {endpoint}; {way}"
    if isinstance(error, hub.HFValidationError):
        return f"{what} cannot be a repository; write org/name or org/name@revision"
    reasons = {
        401: "check HF_TOKEN",
        403: "check what HF_TOKEN may see",
        404: "run `embedmill models pull`, which asks for the newest",
        429: "it has had too many requests: try again later, or set HF_TOKEN",
    }
    return f"{endpoint} does not give {what} (status {status}); {reasons[status]}" if status in reasons else ""


def _masked(text: str) -> str:
    """Return a text without the passwords of the URLs in it."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)
