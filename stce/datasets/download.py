"""Fetching an archive, and taking files out of it: each complete and checked, or not there."""

import contextlib
import os
import zipfile
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pooch

from stce.engine.progress import bar
from stce.engine.storage import explain_read, explain_write, replacing

TIMEOUT = 60  # seconds without a byte
CHUNK = 1 << 18


def fetch(url, folder, sha1):
    """Fetch an archive with pooch, going on with what an earlier try has left.

    Parameters
    ----------
    url : str
        Where it is; the last part is the name of the file.
    folder : path
        Where to; made if it is not there. A download under way is ``NAME.part`` in it.
    sha1 : str
        What its SHA-1 must be. A file that is there already and has it is not fetched again.

    Returns
    -------
    path : Path
        Appears only when it is complete and has that SHA-1.

    Raises
    ------
    OSError
        If it cannot be fetched, or breaks off; what came is kept for the next try.
    ValueError
        If the address is not http(s), or the archive is not the one wanted; it is then deleted.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"url must begin with http:// or https://, not {url!r}.")
    name = PurePosixPath(urlsplit(url).path).name
    try:
        return Path(pooch.retrieve(url, f"sha1:{sha1}", name, folder, downloader=_download))
    except ValueError as error:  # of pooch, which has deleted the file
        raise ValueError(
            f"The archive {url} is not the published one: its SHA-1 is not {sha1}. It was damaged "
            "on the way or changed, and is deleted; run the command again, and if that does not "
            f"help, get {name} from another place."
        ) from error


def _download(url, target, _pooch=None):
    """Fetch `url` into `target`; a file ``NAME.part`` beside it holds what has come so far."""
    part = Path(target).with_name(f"{PurePosixPath(urlsplit(url).path).name}.part")
    have = part.stat().st_size if part.is_file() else 0
    try:
        request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        with urlopen(request, timeout=TIMEOUT) as response:
            start, total = _range(response)
            usable = start in (0, have)
            if usable:
                _receive(response, part, start, total)
            elif not have:
                raise OSError("the server sends a part of the file, although all was asked for")
    except HTTPError as error:
        if error.code != 416 or not have:
            raise OSError(f"Cannot fetch {url}: {error}; check the address.") from error
        # Range Not Satisfiable: all of it is here already, or the beginning of another file.
        usable = error.headers.get("Content-Range", "").rpartition("/")[2] == str(have)
    except (OSError, HTTPException) as error:
        kept = part.stat().st_size if part.is_file() else 0
        raise OSError(
            f"The download of {url} failed after {kept} bytes: {getattr(error, 'reason', error)}; "
            "run the command again, and it goes on from there."
        ) from error
    if not usable:
        part.unlink()
        return _download(url, target)  # from the beginning
    os.replace(part, target)


def _range(response):
    """Return the first byte of a response, and the size of the whole file or None."""
    if response.status == 206:  # Partial Content: "bytes FIRST-LAST/SIZE"
        stated = response.headers.get("Content-Range", "")
        span, _, size = stated.removeprefix("bytes ").partition("/")
        first = span.partition("-")[0]
        return int(first) if first.isdigit() else -1, int(size) if size.isdigit() else None
    size = response.headers.get("Content-Length")
    return 0, int(size) if size else None


def _receive(response, part, start, total):
    """Append a response to the file from byte `start`, and check the size."""
    with (
        open(part, "ab" if start else "wb") as file,
        bar(total=total, initial=start, desc=part.stem, unit="B", unit_scale=True) as shown,
    ):
        while chunk := response.read(CHUNK):
            file.write(chunk)
            shown.update(len(chunk))
        size = file.tell()
    if total is not None and size != total:
        raise OSError(f"it has {total} bytes, and the connection was closed before the end")


def unpack(archive, folder, names):
    """Write some files of a zip archive straight into a folder.

    Only the names asked for are written, whatever folder they lie in inside the archive, so that
    nothing gets outside `folder`. An archive with a path that would leave it is refused as a whole.

    Parameters
    ----------
    archive : path
        A zip file.
    folder : path
        Made if it is not there.
    names : iterable of str
        File names without a folder. One that the archive does not hold is left out.

    Raises
    ------
    ValueError
        If the archive is no zip file, is damaged, or holds a link or a path out of the folder.
    """
    folder, names = Path(folder), set(names)
    with contextlib.ExitStack() as stack:
        with _told(archive):
            zipped = stack.enter_context(zipfile.ZipFile(archive))
        inside = [(_safe(member, archive), member) for member in zipped.infolist()]
        folder.mkdir(parents=True, exist_ok=True)
        for path, member in inside:
            if path.name in names and not member.is_dir():
                _write(folder / path.name, _pieces(archive, zipped, member))


def _told(archive):
    return explain_read(f"The archive {archive}", "delete it and fetch it again", "is damaged")


def _safe(member, archive):
    """Return the path of a member, or refuse the archive."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    is_link = (member.external_attr >> 28) == 0o12
    if path.is_absolute() or ".." in path.parts or ":" in member.filename or is_link:
        raise ValueError(
            f"The archive {archive} holds {member.filename!r}, which leads out of the folder; "
            "nothing was unpacked. Delete it and fetch it again from a place you trust."
        )
    return path


def _pieces(archive, zipped, member):
    with _told(archive):
        if member.file_size > 50 * max(member.compress_size, 1 << 20):
            raise zipfile.BadZipFile(f"{member.filename} is blown up to fill the disk")
        with zipped.open(member) as source:
            while chunk := source.read(CHUNK):  # the last read checks the CRC
                yield chunk


def _write(target, pieces):
    with replacing(target) as partial, explain_write(target.parent), open(partial, "wb") as file:
        file.writelines(pieces)
