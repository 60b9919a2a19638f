"""A stand-in for the Hub: a real HTTP server that speaks the endpoints with which its client uploads and downloads.

Clients find it through HF_ENDPOINT. It knows one user and one token that may write; files of weights and pictures take
the way of large files (batch, PUT, redirect to another host), all others travel inside the commit.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

import yaml

USER, TOKEN, READER = "someone", "hf_writer", "hf_reader"
LARGE = (".safetensors", ".png")
REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
REVISION = r"(?P<revision>[^/]+)"


@dataclass
class Repository:
    """Branches and commits; a commit is the content of all files."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        name = hashlib.sha1(f"{len(self.messages)} {message} {sorted(files)}".encode()).hexdigest()
        self.commits[name], self.branches[branch] = files, name
        self.messages.append(message)
        return name

    def find(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.find(revision)]


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str | None = None, message: str = "refused"):
        self.status, self.message = status, message
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}


ROUTES: list[tuple[str, re.Pattern, Callable]] = []


def route(method: str, pattern: str):
    """Registers a method of the handler for requests to a path."""

    def add(function: Callable) -> Callable:
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return add


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def handle_request(self) -> None:
        path, self.body = unquote(urlsplit(self.path).path), self.read_body()
        self.server.seen.append((self.command, path))
        for method, pattern, function in ROUTES:
            found = pattern.fullmatch(path)
            if found and method in (self.command, {"HEAD": "GET"}.get(self.command)):
                try:
                    function(self, **found.groupdict())
                except Refusal as refusal:
                    self.answer({"error": refusal.message}, refusal.status, refusal.headers)
                return
        self.answer({"error": f"no such endpoint: {self.command} {path}"}, 501)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, content: dict | list | bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def check_writer(self) -> None:
        if self.token not in (TOKEN, READER):
            raise Refusal(401, message="Invalid username or password.")
        if self.token == READER:
            raise Refusal(403, message="Forbidden: this token may only read")

    def repository(self, name: str) -> Repository:
        found = self.server.repositories.get(name)
        if found is None or (found.private and self.token not in (TOKEN, READER)):
            raise Refusal(404 if self.token else 401, "RepoNotFound", "Repository not found")
        return found

    def commit_of(self, repo: str, revision: str) -> tuple[Repository, str]:
        repository = self.repository(repo)
        commit = repository.find(revision)
        if commit is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, commit

    @route("POST", "/api/repos/create")
    def create(self) -> None:
        self.check_writer()
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or USER}/{asked['name']}"
        if not name.startswith(f"{USER}/"):
            raise Refusal(403, message=f"You don't have the rights to create a model under {name.split('/')[0]}")
        content = {"url": f"{self.server.address}/{name}", "name": name}
        if name in self.server.repositories:
            return self.answer({**content, "error": "You already created this model repo"}, 409)
        private = asked.get("visibility") == "private" or asked.get("private") is True
        repository = self.server.repositories[name] = Repository(private)
        repository.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        self.answer(content)

    @route("POST", "/api/validate-yaml")
    def validate(self) -> None:
        content = json.loads(self.body)["content"]
        found = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        data = yaml.safe_load(found[1]) if found else {}
        errors = [
            f'"{key}" must be a string'
            for key in ("library_name", "pipeline_tag", "base_model_relation")
            if not isinstance(data.get(key, ""), str)
        ]
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", data.get("base_model", "none")):
            errors.append('"base_model" with value "{}" is not valid'.format(data["base_model"]))
        self.answer({"errors": [{"message": error} for error in errors], "warnings": []}, 400 if errors else 200)

    @route("GET", f"/api/models/{REPO}(/revision/{REVISION})?")
    def info(self, repo: str, revision: str | None) -> None:
        repository, commit = self.commit_of(repo, revision or "main")
        self.answer(
            {
                "id": repo,
                "modelId": repo,
                "sha": commit,
                "private": repository.private,
                "tags": [],
                "siblings": [{"rfilename": name} for name in repository.commits[commit]],
            }
        )

    @route("GET", f"/api/models/{REPO}/tree/{REVISION}(/(?P<folder>.*))?")
    def tree(self, repo: str, revision: str, folder: str | None) -> None:
        repository, commit = self.commit_of(repo, revision)
        files = {name: data for name, data in repository.commits[commit].items() if name.startswith(folder or "")}
        if not files:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        self.answer(
            [{"type": "file", "path": name, "size": len(data), "oid": blob_name(data)} for name, data in files.items()]
        )

    @route("POST", f"/api/models/{REPO}/branch/{REVISION}")
    def branch(self, repo: str, revision: str) -> None:
        self.check_writer()
        repository = self.repository(repo)
        if revision in repository.branches:
            raise Refusal(409, message=f"Reference already exists: {revision}")
        repository.branches[revision] = repository.branches["main"]
        self.answer({})

    @route("POST", f"/api/models/{REPO}/preupload/{REVISION}")
    def preupload(self, repo: str, revision: str) -> None:
        self.check_writer()
        repository, commit = self.commit_of(repo, revision)
        old = repository.commits[commit]
        names = [file["path"] for file in json.loads(self.body)["files"]]
        self.answer(
            {
                "files": [
                    {
                        "path": name,
                        "uploadMode": "lfs" if name.endswith(LARGE) else "regular",
                        "shouldIgnore": False,
                        "oid": entity_tag(name, old[name]) if name in old else None,
                    }
                    for name in names
                ]
            }
        )

    @route("POST", f"/{REPO}.git/info/lfs/objects/batch")
    def batch(self, repo: str) -> None:
        self.check_writer()
        self.repository(repo)
        objects = json.loads(self.body)["objects"]
        self.answer(
            {
                "transfer": "basic",
                "objects": [
                    {**one, "actions": {"upload": {"href": f"{self.server.address}/store/{one['oid']}"}}}
                    if one["oid"] not in self.server.store
                    else one
                    for one in objects
                ],
            }
        )

    @route("PUT", "/store/(?P<name>[0-9a-f]{64})")
    def put(self, name: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != name:
            raise Refusal(400, message="the content does not have this sha256")
        self.server.store[name] = self.body
        self.answer({})

    @route("GET", "/store/(?P<name>[0-9a-f]{64})")
    def get(self, name: str) -> None:
        self.answer(self.server.store[name], 200, {"ETag": f'"{name}"'})

    @route("POST", f"/api/models/{REPO}/commit/{REVISION}")
    def commit(self, repo: str, revision: str) -> None:
        self.check_writer()
        repository, commit = self.commit_of(repo, revision)
        files, message = dict(repository.commits[commit]), ""
        for line in self.body.decode().splitlines():
            key, value = (entry := json.loads(line))["key"], entry["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.server.store[value["oid"]]
            else:
                raise Refusal(400, message=f"unknown operation {key}")
        name = repository.commit(revision, files, message)
        self.answer({"commitUrl": f"{self.server.address}/{repo}/commit/{name}", "commitOid": name, "success": True})

    @route("GET", f"/{REPO}/resolve/{REVISION}/(?P<name>.+)")
    def resolve(self, repo: str, revision: str, name: str) -> None:
        repository, commit = self.commit_of(repo, revision)
        data = repository.commits[commit].get(name)
        if data is None:
            return self.answer(
                {"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
            )
        tag, headers = entity_tag(name, data), {"X-Repo-Commit": commit}
        if not name.endswith(LARGE):
            return self.answer(data, 200, {**headers, "ETag": f'"{tag}"'})
        self.answer(
            b"",
            302,
            {
                **headers,
                "X-Linked-Etag": f'"{tag}"',
                "X-Linked-Size": str(len(data)),
                "Location": f"http://localhost:{self.server.server_port}/store/{tag}",
            },
        )


def blob_name(data: bytes) -> str:
    """As git names a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def entity_tag(name: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if name.endswith(LARGE) else blob_name(data)


class HubServer(ThreadingHTTPServer):
    """Serves while its block runs.

    Attributes:
        repositories: name to content.
        store: large files by their sha256.
        seen: method and path of every request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.store: dict[str, bytes] = {}
        self.seen: list[tuple[str, str]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "HubServer":
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.shutdown()
        self.server_close()
