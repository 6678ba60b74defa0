"""As much of the Hugging Face hub as uploading and downloading one file takes, from a folder, on loopback."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """Serves ``folder/owner/name/file``, one branch ``main``; ``owner/empty`` is a repository without files."""
    (folder / "owner" / "empty").mkdir(parents=True)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def answer(self, body: Any = b"", status: int = 200, **headers: str) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            parts = self.path.strip("/").split("/")
            if parts[:3] == ["api", "repos", "create"]:
                asked = json.loads(data)
                repo = f"owner/{asked['name'].split('/')[-1]}"
                (folder / repo).mkdir(parents=True, exist_ok=True)
                self.answer({"url": f"{address}/{repo}", "name": repo})
            elif parts[4] == "preupload":
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(data)["files"]
                ]
                self.answer({"files": files})
            else:
                for line in map(json.loads, data.splitlines()):
                    if line["key"] == "file":
                        file = folder / parts[2] / parts[3] / line["value"]["path"]
                        file.write_bytes(base64.b64decode(line["value"]["content"]))
                self.answer(
                    {"success": True, "commitOid": "1" * 40, "commitUrl": f"{address}/{parts[2]}/{parts[3]}/commit/1"}
                )

        def do_GET(self) -> None:
            owner, name, _, revision, file = self.path.strip("/").split("/")
            repo = folder / owner / name
            if not repo.is_dir():
                self.answer(status=404, X_Error_Code="RepoNotFound")
            elif revision not in ("main", "1" * 40):
                self.answer(status=404, X_Error_Code="RevisionNotFound")
            elif not (repo / file).is_file():
                self.answer(status=404, X_Error_Code="EntryNotFound")
            else:
                self.answer((repo / file).read_bytes(), ETag='"1"', X_Repo_Commit="1" * 40)

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield address
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
