"""Files that are either complete or absent, whatever interrupts the writing."""

import contextlib
import errno
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from astropy.io import fits

from autofit_ml.errors import OutputError

__all__ = [
    "atomic_file",
    "atomic_write_bytes",
    "atomic_write_ecsv",
    "atomic_write_figure",
    "atomic_write_fits",
    "atomic_write_json",
    "atomic_write_text",
    "file_sha256",
    "remove_file",
    "remove_temporaries",
]

_TEMPORARY_PREFIX = ".autofit-ml-tmp-"

_RESUME = "what was finished is kept: run the same command again to continue"

_REMEDIES = {
    errno.ENOSPC: f"free some space on that disk, or give another --out; {_RESUME}",
    errno.EDQUOT: f"free some of your quota, or give another --out; {_RESUME}",
    errno.EFBIG: f"raise the file-size limit (ulimit -f), or give another --out; {_RESUME}",
    errno.EACCES: f"allow writing to that folder, or give another --out; {_RESUME}",
    errno.EPERM: f"allow writing to that folder, or give another --out; {_RESUME}",
    errno.EROFS: f"that file system is read-only: give another --out; {_RESUME}",
    errno.ENOTDIR: "a file is where a folder should be: move it away, or give another --out",
    errno.EEXIST: "a file is where a folder should be: move it away, or give another --out",
    errno.EISDIR: "a folder is where a file should be: move it away, or give another --out",
    errno.ENAMETOOLONG: "the name is too long for that file system: use shorter ids",
}


def _output_error(error: OSError, path: Path) -> OutputError:
    """The `OutputError` for `error`, raised while `path` was being written."""
    reason = error.strerror or str(error) or type(error).__name__
    remedy = _REMEDIES.get(error.errno or 0, f"check that disk and folder; {_RESUME}")
    return OutputError(f"cannot be written: {reason}", remedy, path)


@contextlib.contextmanager
def atomic_file(
    path: str | Path, *, fsync: bool = True, replace: bool = True
) -> Iterator[IO[bytes]]:
    """Open a binary file that appears under its name only when it is complete.

    The bytes go to a temporary file in the same folder, which replaces `path` when the block
    ends. If the block raises, the temporary file is removed and `path` is left as it was.

    Parameters
    ----------
    path : path
        The final name. Its folder is made if missing.
    fsync : bool, keyword-only
        Wait until the bytes are on the disk (needed for what a resumed run relies on). False is
        for pictures, which can be made again.
    replace : bool, keyword-only
        False: a file that has this name already stays, and the new one is dropped. Of several
        processes that write one file at once, the first to finish decides for all.

    Yields
    ------
    file : binary file object, writable

    Raises
    ------
    OutputError
        For any `OSError` while writing (disk full, no permission, ...).
    """
    path = Path(path)
    temporary = path.with_name(f"{_TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # 0o666 less the umask: results must be readable by the same people as other files.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        raise _output_error(error, path) from error
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            if fsync:
                os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            _name_unless_taken(temporary, path)
        if fsync:
            _fsync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and not isinstance(error, OutputError):
            raise _output_error(error, path) from error
        raise


def _name_unless_taken(temporary: Path, path: Path) -> None:
    """Give a file its name unless another file has it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        if not path.exists():  # a file system without links: two at once may both pass here
            os.replace(temporary, path)
            return
    os.unlink(temporary)


def _fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut (where the system can)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EISDIR):  # no such handle here: nothing to sync
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # network file systems
            raise
    finally:
        os.close(descriptor)


def atomic_write_bytes(path: str | Path, payload: bytes, *, fsync: bool = True) -> None:
    """Write `payload` to `path`, complete or not at all.

    Parameters
    ----------
    path : path
    payload : bytes
    fsync : bool, keyword-only
        As in `atomic_file`.

    Raises
    ------
    OutputError
        The file cannot be written; `path` is left as it was.
    """
    with atomic_file(path, fsync=fsync) as file:
        file.write(payload)


def atomic_write_text(path: str | Path, text: str, *, fsync: bool = True) -> None:
    """Write `text` to `path` in UTF-8; see `atomic_write_bytes`.

    Characters that UTF-8 cannot carry (undecodable bytes of file names) are written as
    backslash escapes.
    """
    atomic_write_bytes(path, text.encode("utf-8", "backslashreplace"), fsync=fsync)


def atomic_write_json(path: str | Path, content: Any, *, fsync: bool = True) -> None:
    """Write `content` to `path` as indented JSON; see `atomic_write_bytes`.

    Raises
    ------
    OutputError
        The file cannot be written.
    TypeError, ValueError
        `content` holds something that JSON has no form for (NaN included).
    """
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    atomic_write_text(path, text, fsync=fsync)


def atomic_write_ecsv(path: str | Path, table: Any, *, fsync: bool = True) -> None:
    """Write an `astropy.table.Table` to `path` as ECSV; see `atomic_write_bytes`."""
    payload = io.StringIO()
    table.write(payload, format="ascii.ecsv")
    atomic_write_text(path, payload.getvalue(), fsync=fsync)


def atomic_write_fits(path: str | Path, hdus: Sequence[Any]) -> None:
    """Write astropy's HDUs to `path`; see `atomic_write_bytes`."""
    with atomic_file(path) as file:
        fits.HDUList(hdus).writeto(file)


def atomic_write_figure(path: str | Path, figure: Any, **options: Any) -> None:
    """Write a matplotlib figure to `path` as PNG, without waiting for the disk."""
    with atomic_file(path, fsync=False) as file:
        figure.savefig(file, format="png", **options)


def file_sha256(path: str | Path) -> str:
    """sha256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_file(path: str | Path) -> None:
    """Remove a file, if it is there.

    Raises
    ------
    OutputError
        It cannot be removed.
    """
    path = Path(path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _output_error(error, path) from error


def remove_temporaries(folder: str | Path) -> None:
    """Remove what a killed run left half-written in `folder` (not below it).

    Call it only while no other process writes there.
    """
    for path in Path(folder).glob(f"{_TEMPORARY_PREFIX}*"):
        path.unlink(missing_ok=True)
