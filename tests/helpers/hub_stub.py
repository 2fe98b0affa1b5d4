"""A stand-in for the Hugging Face Hub on 127.0.0.1, which records every request."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

COMMIT = "c" * 40


class HubStub:
    """A server for ``{"owner/name": {"file": bytes}}``; set HF_ENDPOINT to its ``url``."""

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        self.repositories = repositories
        self.sha256: dict[str, dict[str, str]] = {}
        """What it says instead of the true SHA-256 of files, by repository and name."""
        self.requests: list[str] = []
        """Method and path of each request."""
        handler = type("Handler", (_Handler,), {"stub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubStub":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    stub: HubStub

    def log_message(self, *args: object) -> None:
        pass

    def _respond(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def do_GET(self) -> None:
        self.stub.requests.append(f"{self.command} {self.path}")
        path = self.path.split("?")[0].removeprefix("/api/models").lstrip("/")
        name, rest = "/".join(path.split("/")[:2]), path.split("/")[2:]
        files = self.stub.repositories.get(name)
        if files is None:
            self._respond(404, b"{}", X_Error_Code="RepoNotFound")
        elif rest[:1] == ["revision"] and rest[1] not in ("main", COMMIT):
            self._respond(404, b"{}", X_Error_Code="RevisionNotFound")
        elif rest[:1] == ["revision"]:
            siblings = [
                {"rfilename": file, "size": len(content), "lfs": self._pointer(name, file, content)}
                for file, content in files.items()
            ]
            info = {"id": name, "sha": COMMIT, "siblings": siblings}
            self._respond(200, json.dumps(info).encode(), Content_Type="application/json")
        elif rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for file, content in files.items()
            ]
            self._respond(200, json.dumps(tree).encode(), Content_Type="application/json")
        elif rest[:1] == ["resolve"]:
            content = files[rest[2]]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            self._respond(200, content, ETag=etag, X_Repo_Commit=COMMIT)
        else:
            self._respond(404, b"{}")

    def _pointer(self, name: str, file: str, content: bytes) -> dict[str, object] | None:
        if not file.endswith(".safetensors"):
            return None
        sha256 = self.stub.sha256.get(name, {}).get(file, hashlib.sha256(content).hexdigest())
        return {"sha256": sha256, "size": len(content), "pointerSize": 134}

    do_HEAD = do_GET
