"""A small Hugging Face hub on this machine: what its client asks of it to make, fill, list and read a repository.

Large files go the way of Git LFS: announced, sent to an address of their own, named in the commit by their hash, and
read from another host.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

TOKEN = "hf_stand_in"
_LARGE = (".safetensors", ".bin", ".pt")
_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_NO_LICENCE = {"errors": [{"message": '"license" must be one of [...]'}], "warnings": []}


@dataclass
class Hub:
    """The repositories, as a list of commits, each all files by path; what was sent aside; and every request."""

    repos: dict[str, list[dict[str, bytes]]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    private: set[str] = field(default_factory=set)
    hold: threading.Event | None = None  # until it is set, nothing is answered
    url: str = ""

    def files(self, repo: str) -> dict[str, bytes]:
        return self.repos[repo][-1]

    def commit(self, repo: str, files: dict[str, bytes]) -> None:
        commits = self.repos.setdefault(repo, [])
        commits.append({**(commits[-1] if commits else {}), **files})

    def sha(self, repo: str) -> str:
        return hashlib.sha1(f"{repo} {len(self.repos[repo])}".encode()).hexdigest()

    def sent(self) -> list[str]:
        """Return the paths of the files whose contents were fetched."""
        address = re.compile(r"GET /(?:kept/[^/]+/[^/]+|[^/]+/[^/]+/resolve/[^/]+)/(.+)")
        return sorted(found[1] for found in map(address.fullmatch, self.asked) if found)


@contextmanager
def hub_running() -> Iterator[Hub]:
    """Answer on a port of the loopback interface."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        if hub.hold:
            hub.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        if self.hub.hold:
            self.hub.hold.wait()
        path = self.path.partition("?")[0]
        self.hub.asked.append(f"{self.command} {path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for method, pattern, answer in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and method == self.command:
                return answer(self, **found.groupdict())
        return self.say(404, {"error": f"the stand-in knows no {self.command} {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def log_message(self, *_: object) -> None:
        """Keep the tests' output free of requests."""

    def say(self, status: int, content: dict | list | bytes, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        with suppress(BrokenPipeError):  # whoever asked waits no longer
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else data)

    @property
    def may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def refuse(self) -> None:
        self.say(401, {"error": "Invalid credentials"})

    def whoami(self) -> None:
        self.say(200, {"name": "somebody", "type": "user"}) if self.may_write else self.refuse()

    def create(self) -> None:
        asked = json.loads(self.body)
        repo = f"{asked['organization']}/{asked['name']}"
        if not self.may_write:
            return self.refuse()
        if asked["organization"] != "org":
            return self.say(403, {"error": "You don't have the rights"})
        status = 409 if repo in self.hub.repos else 200
        if status == 200:
            self.hub.commit(repo, {".gitattributes": b"*.safetensors filter=lfs\n"})
        return self.say(status, {"url": f"{self.hub.url}/{repo}"})

    def validate_yaml(self) -> None:
        matter = json.loads(self.body)["content"].split("---\n")
        said = yaml.safe_load(matter[1]) if len(matter) > 2 else {}
        good = said.get("license") in ("cc-by-4.0", "cc0-1.0", "apache-2.0", "other")
        self.say(200 if good else 400, {"errors": [], "warnings": []} if good else _NO_LICENCE)

    def preupload(self, repo: str, revision: str) -> None:
        if not self.may_write:
            return self.refuse()
        modes = [{"path": file["path"], "shouldIgnore": False,
                  "uploadMode": "lfs" if file["path"].endswith(_LARGE) else "regular"}
                 for file in json.loads(self.body)["files"]]
        return self.say(200, {"files": modes})

    def announce(self, repo: str) -> None:
        objects = json.loads(self.body)["objects"]
        self.say(200, {"transfer": "basic", "objects": [
            {**wanted, "actions": {"upload": {"href": f"{self.hub.url}/sent/{wanted['oid']}"}}}
            for wanted in objects if wanted["oid"] not in self.hub.objects
        ]})

    def receive(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.say(400, {"error": "the hash differs"})
        self.hub.objects[oid] = self.body
        return self.say(200, {})

    def commit(self, repo: str, revision: str) -> None:
        if not self.may_write:
            return self.refuse()
        files = {}
        for line in self.body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "header":
                self.hub.messages.append(value["summary"])
            elif row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = self.hub.objects[value["oid"]]
        self.hub.commit(repo, files)
        return self.say(200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{self.hub.sha(repo)}",
                              "commitOid": self.hub.sha(repo)})

    def readable(self, repo: str) -> bool:
        return repo in self.hub.repos and (repo not in self.hub.private or self.may_write)

    def not_found(self) -> None:
        self.say(401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")

    def info(self, repo: str, revision: str = "main") -> None:
        if not self.readable(repo):
            return self.not_found()
        siblings = [{"rfilename": path, "size": len(data)} for path, data in self.hub.files(repo).items()]
        return self.say(200, {"id": repo, "sha": self.hub.sha(repo), "private": False, "siblings": siblings})

    def tree(self, repo: str, revision: str) -> None:
        if not self.readable(repo):
            return self.not_found()
        return self.say(200, [_entry(path, data) for path, data in self.hub.files(repo).items()])

    def resolve(self, repo: str, revision: str, path: str) -> None:
        if not self.readable(repo):
            return self.not_found()
        data = self.hub.files(repo).get(path)
        if data is None:
            return self.say(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        entry = _entry(path, data)
        found = {"X_Repo_Commit": self.hub.sha(repo), "ETag": f'"{entry["oid"]}"'}
        if "lfs" not in entry:
            return self.say(200, data, **found)
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost") + f"/kept/{repo}/{path}"
        return self.say(302, b"", Location=elsewhere, X_Linked_Size=str(len(data)),
                        X_Linked_Etag=f'"{entry["lfs"]["oid"]}"', **found)

    def kept(self, repo: str, path: str) -> None:
        self.say(200, self.hub.files(repo)[path])


def _entry(path: str, data: bytes) -> dict:
    entry = {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
    if path.endswith(_LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


_ROUTES = [
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("POST", rf"/api/models/{_REPO}/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler.announce),
    ("PUT", r"/sent/(?P<oid>\w+)", _Handler.receive),
    ("POST", rf"/api/models/{_REPO}/commit/(?P<revision>[^/]+)", _Handler.commit),
    ("GET", rf"/api/models/{_REPO}", _Handler.info),
    ("GET", rf"/api/models/{_REPO}/revision/(?P<revision>[^/]+)", _Handler.info),
    ("GET", rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)", _Handler.tree),
    ("HEAD", rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
    ("GET", rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
    ("GET", rf"/kept/{_REPO}/(?P<path>.+)", _Handler.kept),
]
