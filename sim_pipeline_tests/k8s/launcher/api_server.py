"""A small API server of Kubernetes: Jobs, their pods, and who may do what to them.

It is a fake, for no cluster can be run where the tests run. It speaks what the real client of the
launcher speaks, over TLS with tokens; it grants what the Roles of the manifests grant, and refuses
in Kubernetes' own words. Jobs it keeps as they arrive, and starts the pod of one when told to.
"""

import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from sim_pipeline.local_servers.ports import free_port
from sim_pipeline_tests.k8s.launcher.kubelet import Container, Node
from sim_pipeline_tests.k8s.manifests import named
from sim_pipeline_tests.k8s.rendering import Manifest
from sim_pipeline_tests.k8s.test_rights import rights

HOST, NAMESPACE = "localhost", "sim-pipeline"

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/v1/namespaces/(?P<namespace>[^/]+)/(?P<resource>[a-z]+)"
    r"(?:/(?P<name>[^/]+)(?:/(?P<subresource>[a-z]+))?)?"
)


@dataclass
class Job:
    """A Job that was made, and its pod once there is one."""

    manifest: dict[str, Any]
    container: Container | None = None

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def pod_name(self) -> str:
        return f"{self.name}-abcde"

    @property
    def run_id(self) -> str:
        return str(self.manifest["metadata"]["labels"]["dagster/run-id"])

    @property
    def spec(self) -> dict[str, Any]:
        """The spec of its pod."""
        spec: dict[str, Any] = self.manifest["spec"]["template"]["spec"]
        return spec

    @property
    def exit_code(self) -> int | None:
        return None if self.container is None else self.container.process.poll()

    @property
    def status(self) -> dict[str, Any]:
        """Its status, as the controller of Jobs keeps it."""
        started = {"startTime": datetime.now(UTC).isoformat()}
        match self.exit_code:
            case None:
                return {**started, "active": 1}
            case 0:
                return {**started, "succeeded": 1}
            case _:
                return {**started, "failed": 1}

    @property
    def pod(self) -> dict[str, Any]:
        """Its pod, as far as dagster_k8s reads it."""
        template = self.manifest["spec"]["template"]
        state: dict[str, Any] = {"running": {}}
        phase = "Running"
        if self.exit_code is not None:
            # A process that a signal ended has a negative one here.
            code = self.exit_code if self.exit_code >= 0 else 128 - self.exit_code
            state = {"terminated": {"exitCode": code, "reason": "Error"}}
            phase = "Succeeded" if code == 0 else "Failed"
        return {
            "metadata": {**template["metadata"], "name": self.pod_name},
            "spec": self.spec,
            "status": {
                "phase": phase,
                "containerStatuses": [
                    {
                        "name": self.spec["containers"][0]["name"],
                        "image": self.spec["containers"][0]["image"],
                        "imageID": "",
                        "ready": phase == "Running",
                        "restartCount": 0,
                        "state": state,
                    }
                ],
            },
        }


@dataclass
class Cluster:
    """What the API server knows.

    Attributes:
        manifests: whose Roles count.
        node: where pods run.
        tokens: of each ServiceAccount, by its name.
        jobs: those there are, by name.
        pods: those that were started, by name, as the Jobs that they are of.
        arrived: every Job that was ever made, the first one first.
        instead: what every request is answered with, where there is such an answer.
    """

    manifests: list[Manifest]
    node: Node
    tokens: dict[str, str]
    jobs: dict[str, Job] = field(default_factory=dict)
    pods: dict[str, Job] = field(default_factory=dict)
    arrived: list[Job] = field(default_factory=list)
    instead: tuple[int, Any] | None = None

    def start(self, job: Job) -> Container:
        """Have a node start the pod of a Job."""
        job.container = self.node.run(job.name, job.manifest["spec"]["template"])
        self.pods[job.pod_name] = job
        return job.container

    @contextmanager
    def without_right(self, account: str, verb: str, resource: str) -> Iterator[None]:
        """Take a right from the Role of a ServiceAccount while the context lasts."""
        (rule,) = (
            rule
            for rule in named(self.manifests, "Role", account)["rules"]
            if resource in rule["resources"]
        )
        verbs = rule["verbs"]
        rule["verbs"] = [one for one in verbs if one != verb]
        try:
            yield
        finally:
            rule["verbs"] = verbs

    def answer(
        self, method: str, path: str, query: dict[str, list[str]], token: str, body: Any
    ) -> tuple[int, Any]:
        """Answer a request: the HTTP status, and an object or a text."""
        if self.instead is not None:
            return self.instead
        asked = _PATH.fullmatch(path)
        account = next((name for name, one in self.tokens.items() if one == token), None)
        if account is None:
            return _status(HTTPStatus.UNAUTHORIZED, "Unauthorized")
        if asked is None:
            return _status(HTTPStatus.NOT_FOUND, "the server could not find the requested resource")
        group, name = asked["group"] or "", asked["name"]
        verb = {"POST": "create", "DELETE": "delete", "GET": "get" if name else "list"}[method]
        sub = asked["subresource"]
        resource = f"{asked['resource']}/{sub}" if sub else asked["resource"]
        allowed = rights(self.manifests, account)
        if asked["namespace"] != NAMESPACE or (verb, group, resource) not in allowed:
            return _status(HTTPStatus.FORBIDDEN, _refusal(asked, account, verb, group, resource))
        if verb == "list":
            return self._list(resource, query)
        return self._act(verb, resource, name, query, body)

    def _act(
        self, verb: str, resource: str, name: str, query: dict[str, list[str]], body: Any
    ) -> tuple[int, Any]:
        """Do what is asked of one object."""
        if verb == "create":
            return self._create(Job(body))
        kept = self.jobs if resource.startswith("jobs") else self.pods
        if name not in kept:
            return _status(HTTPStatus.NOT_FOUND, f'{resource} "{name}" not found')
        job = kept[name]
        if verb == "delete":
            return self._delete(job, kept)
        if resource == "jobs/status":
            return HTTPStatus.OK, {**job.manifest, "status": job.status}
        return HTTPStatus.OK, _printed(job, int(query["tailLines"][0]))

    def _list(self, resource: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        """Select by the labels or the field that the launcher and dagster_k8s ask for."""
        objects: dict[str, list[dict[str, Any]]] = {
            "jobs": [{**job.manifest, "status": job.status} for job in self.jobs.values()],
            "pods": [job.pod for job in self.pods.values()],
            "events": [],
        }
        if query.get("labelSelector") == ["dagster/run-id"]:
            return HTTPStatus.OK, {"items": objects[resource]}
        if "labelSelector" in query:
            job = query["labelSelector"][0].removeprefix("job-name=")
            names = {one.pod_name for one in self.pods.values() if one.name == job}
        else:
            names = {query["fieldSelector"][0].removeprefix("metadata.name=")}
        found = [one for one in objects[resource] if one["metadata"]["name"] in names]
        return HTTPStatus.OK, {"items": found}

    def _delete(self, job: Job, kept: dict[str, Job]) -> tuple[int, Any]:
        if kept is self.jobs:
            # Its pods stay: Kubernetes orphans a Job's unless it is told not to.
            del self.jobs[job.name]
            return HTTPStatus.OK, job.manifest
        del self.pods[job.pod_name]
        if job.container is not None:
            job.container.end()
        return HTTPStatus.OK, job.pod

    def _create(self, job: Job) -> tuple[int, Any]:
        if job.name in self.jobs:
            return _status(HTTPStatus.CONFLICT, f'jobs.batch "{job.name}" already exists')
        self.jobs[job.name] = job
        self.arrived.append(job)
        return HTTPStatus.CREATED, job.manifest


def _status(code: HTTPStatus, message: str) -> tuple[int, Any]:
    reason = code.phrase.replace(" ", "")
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.value}
    return code, {**status, "reason": reason, "message": message}


def _refusal(asked: re.Match[str], account: str, verb: str, group: str, kind: str) -> str:
    what = f"{asked['resource']}{'.' if group else ''}{group}"
    return (
        f'{what} is forbidden: User "system:serviceaccount:{NAMESPACE}:{account}" cannot {verb}'
        f' resource "{kind}" in API group "{group}" in the namespace "{asked["namespace"]}"'
    )


def _printed(job: Job, lines: int) -> str:
    assert job.container is not None
    text = job.container.output.read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.splitlines()[-lines:])


class ApiServer:
    """Serves a cluster's API at a port of the loopback, as long as the context lasts."""

    def __init__(self, cluster: Cluster, context: ssl.SSLContext) -> None:
        self._context = context
        self._handler = _handler(cluster)
        self.port = free_port()

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler)
        self._server.daemon_threads = True
        self._server.socket = self._context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.05])
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Let nobody reach it while this context lasts."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()


def _handler(cluster: Cluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            asked = urlsplit(self.path)
            token = self.headers.get("Authorization", "").removeprefix("bearer ")
            code, answer = cluster.answer(
                self.command, asked.path, parse_qs(asked.query), token, body
            )
            text = isinstance(answer, str)
            data = (answer if text else json.dumps(answer)).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if text else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - the names that are looked for

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    return Handler
