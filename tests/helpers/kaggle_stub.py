"""A stand-in for Kaggle's server on 127.0.0.1, and a way to run our code against it with the real client.

It implements what the client uses: POST to DownloadDataset redirects to the file, which is served with ETag
and ranges; POST to IntrospectToken returns the user of a token.
"""

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fork_server

SECRET = "kgat-3cr3t-0f-the-test"


class KaggleStub:
    """Serves zip files by ``owner/dataset/version``; ``fault`` chooses a failure to simulate."""

    def __init__(self, datasets: dict[str, bytes]) -> None:
        self.datasets = datasets
        self.fault: str | int | None = None
        """None, an HTTP status, "stall", "stall-midway", "cut-once", "cut-always" or "in-body-404"."""
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.cuts = 0
        handler = type("Handler", (_Handler,), {"stub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "KaggleStub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def run(
        self, code: str, folder: Path, credentials: dict[str, str], stall: float = 30.0
    ) -> fork_server.Finished:
        """Run Python code in a process of its own, whose Kaggle client talks to this server."""
        start = (
            "import sys, time\n"
            "assert 'kaggle' not in sys.modules  # it signs in when it is imported\n"
            "from kagglesdk import kaggle_env\n"
            f"kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.PROD] = {self.url!r}\n"
            "time.sleep = lambda seconds: None  # the client's pauses between attempts\n"
            "from pathlib import Path\n"
            "from finegrain.core import process\n"
            "from finegrain.sources import kaggle as source\n"
            f"source.STALL_SECONDS = {stall}\n"
        )
        home = folder / "home"
        home.mkdir(exist_ok=True)
        (home / "script.py").write_text(start + code)
        own: dict[str, str | None] = {
            name: None for name in os.environ if name.startswith(("KAGGLE", "XDG", "HTTP", "http"))
        }
        own |= {"HOME": str(home), "NO_PROXY": "127.0.0.1", **credentials}
        return fork_server.run(home / "script.py", [], folder, own, apart=True)


class _Handler(BaseHTTPRequestHandler):
    stub: KaggleStub

    def log_message(self, *_: object) -> None:
        pass

    def respond(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        self.stub.requests.append((self.path, dict(self.headers), body))
        fault = self.stub.fault
        if self.path.endswith("IntrospectToken"):
            known = body.get("token") == SECRET
            content = {"active": known, "username": "ann" if known else ""}
            self.respond(200, json.dumps(content).encode(), Content_Type="application/json")
        elif fault == "stall":
            time.sleep(20)
        elif fault == "in-body-404":
            content = {"code": 404, "message": f"not found: {SECRET}"}
            self.respond(200, json.dumps(content).encode(), Content_Type="application/json")
        elif isinstance(fault, int):
            self.respond(fault, SECRET.encode())
        else:
            slug = f"{body['ownerSlug']}/{body['datasetSlug']}/{body.get('datasetVersionNumber')}"
            if slug in self.stub.datasets:
                self.respond(302, b"", Location=f"{self.stub.url}/files/{slug}?signature={SECRET}")
            else:
                self.respond(404, b"")

    def do_GET(self) -> None:
        self.stub.requests.append((self.path, dict(self.headers), None))
        content = self.stub.datasets[self.path.split("?")[0].removeprefix("/files/")]
        first = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.send_response(206 if first else 200)
        self.send_header("Content-Type", "application/zip")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"one"')
        self.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        fault = self.stub.fault
        part = content[first:]
        if fault in ("cut-once", "cut-always", "stall-midway") and not (
            fault == "cut-once" and self.stub.cuts
        ):
            self.stub.cuts += 1
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            if fault == "stall-midway":
                time.sleep(20)
            self.connection.close()
            return
        self.wfile.write(part)
