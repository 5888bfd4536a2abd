"""Judges repositories in folders with python-tuf, the reference client. Reads cases as JSON, prints verdicts as JSON.

A case is {"name": …, "root": file, "visits": [folder, …], "state": folder, "targets": [[path, sha256, length], …]}. Each visit is a
refresh against FOLDER/metadata; at the last one every target must be delivered with the digest given. Never opens a socket.
"""

import json
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface


class Folder(FetcherInterface):
    """Serves the files of a folder as a web server would."""

    def _fetch(self, url):
        path = Path(unquote(urlparse(url).path))
        if not path.is_file():
            raise DownloadHTTPError(f"no {path.name}", 404)
        return iter([path.read_bytes()])


def visit(case, folder):
    """One refresh and the search for every target, as a device does it; raises the reason for a refusal."""
    base = Path(folder).as_uri()
    downloads = Path(case["state"]) / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    client = Updater(
        metadata_dir=str(Path(case["state"]) / "metadata"),
        metadata_base_url=f"{base}/metadata/",
        target_dir=str(downloads),
        target_base_url=f"{base}/targets/",
        fetcher=Folder(),
        bootstrap=Path(case["root"]).read_bytes(),
    )
    client.refresh()
    for path, sha256, length in case["targets"]:
        info = client.get_targetinfo(path)
        if info is None:
            raise RepositoryError(f"{path} is not listed")
        if info.hashes["sha256"] != sha256 or info.length != length:
            raise RepositoryError(f"{path} is listed with another digest")
        client.download_target(info)


def judge(case):
    """Accepted or refused at the last visit, whatever came of the earlier ones."""
    (Path(case["state"]) / "metadata").mkdir(parents=True)
    said = "never visited"
    for folder in case["visits"]:
        try:
            visit(case, folder)
            said = None
        except (RepositoryError, DownloadError, ValueError) as e:
            said = f"{type(e).__name__}: {e}"
    return {"accepts": said is None, "said": said}


json.dump({case["name"]: judge(case) for case in json.load(sys.stdin)}, sys.stdout)
