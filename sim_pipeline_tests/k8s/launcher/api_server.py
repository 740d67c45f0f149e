"""A fake Kubernetes API server: Jobs, their pods, and the rights of ServiceAccounts.

The tests cannot run a real cluster. The launcher's real client talks to this server over TLS with
tokens. The server grants what the Roles of the manifests grant, and refuses with Kubernetes' own
messages. It stores Jobs, and starts a Job's pod when a test asks for it.
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

from sim_pipeline_tests.k8s.launcher.kubelet import Container, Node
from sim_pipeline_tests.k8s.manifests import named
from sim_pipeline_tests.k8s.rendering import Manifest
from sim_pipeline_tests.k8s.test_rights import rights
from sim_pipeline_tests.support.ports import free_port

HOST, NAMESPACE = "localhost", "sim-pipeline"

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/v1/namespaces/(?P<namespace>[^/]+)/(?P<resource>[a-z]+)"
    r"(?:/(?P<name>[^/]+)(?:/(?P<subresource>[a-z]+))?)?"
)


@dataclass
class Job:
    """A Job, and its pod after the pod is started.

    Attributes:
        manifest: the Job as it was created.
        container: the pod's container after its start.
        waiting: the reason why the pod's container waits, for a pod that is not started.
        refusal: the message with which the cluster refuses to create the pod.
    """

    manifest: dict[str, Any]
    container: Container | None = None
    waiting: str | None = None
    refusal: str | None = None

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
        """The PodSpec."""
        spec: dict[str, Any] = self.manifest["spec"]["template"]["spec"]
        return spec

    @property
    def exit_code(self) -> int | None:
        return None if self.container is None else self.container.process.poll()

    @property
    def status(self) -> dict[str, Any]:
        """The status, as Kubernetes' Job controller reports it."""
        started = {"startTime": datetime.now(UTC).isoformat()}
        match self.exit_code:
            case None:
                return started if self.refusal else {**started, "active": 1}
            case 0:
                return {**started, "succeeded": 1}
            case _:
                return {**started, "failed": 1}

    @property
    def pod(self) -> dict[str, Any]:
        """The pod, with the fields that dagster_k8s reads."""
        template = self.manifest["spec"]["template"]
        state: dict[str, Any] = {"running": {}}
        phase = "Running"
        if self.waiting is not None:
            state = {"waiting": {"reason": self.waiting, "message": "as the test says"}}
            phase = "Pending"
        if self.exit_code is not None:
            # Popen reports a signal as a negative exit code, Kubernetes as 128 plus its number.
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
    """The state of the cluster.

    Attributes:
        manifests: the manifests, with the Roles to enforce.
        node: runs the pods.
        tokens: the token of each ServiceAccount, by account name.
        jobs: the existing Jobs, by name.
        pods: the Job of each started pod, by pod name.
        created_jobs: every Job that was ever created, in order.
        fixed_answer: if set, the answer to every request.
    """

    manifests: list[Manifest]
    node: Node
    tokens: dict[str, str]
    jobs: dict[str, Job] = field(default_factory=dict)
    pods: dict[str, Job] = field(default_factory=dict)
    created_jobs: list[Job] = field(default_factory=list)
    fixed_answer: tuple[int, Any] | None = None

    def start(self, job: Job) -> Container:
        """Start the pod of a Job on the node."""
        job.container = self.node.run(job.name, job.manifest["spec"]["template"])
        self.pods[job.pod_name] = job
        return job.container

    def block(self, job: Job, reason: str) -> None:
        """Create the pod of a Job, which cannot start for this reason."""
        job.waiting = reason
        self.pods[job.pod_name] = job

    @contextmanager
    def without_right(self, account: str, verb: str, resource: str) -> Iterator[None]:
        """Remove a right from the Role of a ServiceAccount while the context lasts."""
        (rule,) = (
            rule
            for rule in named(self.manifests, "Role", account)["rules"]
            if resource in rule["resources"]
        )
        verbs = rule["verbs"]
        rule["verbs"] = [other for other in verbs if other != verb]
        try:
            yield
        finally:
            rule["verbs"] = verbs

    def answer(
        self, method: str, path: str, query: dict[str, list[str]], token: str, body: Any
    ) -> tuple[int, Any]:
        """Return the answer to a request: the HTTP status, and an object or a text."""
        if self.fixed_answer is not None:
            return self.fixed_answer
        request = _PATH.fullmatch(path)
        account = next((name for name, known in self.tokens.items() if known == token), None)
        if account is None:
            return _status(HTTPStatus.UNAUTHORIZED, "Unauthorized")
        if request is None:
            return _status(HTTPStatus.NOT_FOUND, "the server could not find the requested resource")
        group, name = request["group"] or "", request["name"]
        verb = {"POST": "create", "DELETE": "delete", "GET": "get" if name else "list"}[method]
        sub = request["subresource"]
        resource = f"{request['resource']}/{sub}" if sub else request["resource"]
        allowed = rights(self.manifests, account)
        if request["namespace"] != NAMESPACE or (verb, group, resource) not in allowed:
            return _status(
                HTTPStatus.FORBIDDEN, _forbidden_message(request, account, verb, group, resource)
            )
        if verb == "list":
            return self._list(resource, query)
        return self._act(verb, resource, name, query, body)

    def _act(
        self, verb: str, resource: str, name: str, query: dict[str, list[str]], body: Any
    ) -> tuple[int, Any]:
        """Execute a request for a single object."""
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
        """Select by the label and field selectors that the launcher and dagster_k8s use."""
        objects: dict[str, list[dict[str, Any]]] = {
            "jobs": [{**job.manifest, "status": job.status} for job in self.jobs.values()],
            "pods": [job.pod for job in self.pods.values()],
        }
        if resource == "events":
            name = query["fieldSelector"][0].partition("involvedObject.name=")[2]
            return HTTPStatus.OK, {"items": self._events(name)}
        if query.get("labelSelector") == ["dagster/run-id"]:
            return HTTPStatus.OK, {"items": objects[resource]}
        if "labelSelector" in query:
            job = query["labelSelector"][0].removeprefix("job-name=")
            names = {pod.pod_name for pod in self.pods.values() if pod.name == job}
        else:
            names = {query["fieldSelector"][0].removeprefix("metadata.name=")}
        found = [each for each in objects[resource] if each["metadata"]["name"] in names]
        return HTTPStatus.OK, {"items": found}

    def _events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of a Job: that the cluster refuses its pod."""
        job = self.jobs.get(name)
        if job is None or job.refusal is None:
            return []
        involved = {"kind": "Job", "name": name}
        what = {"type": "Warning", "reason": "FailedCreate", "message": job.refusal}
        return [{"metadata": {"name": f"{name}.1"}, "involvedObject": involved, **what}]

    def _delete(self, job: Job, kept: dict[str, Job]) -> tuple[int, Any]:
        if kept is self.jobs:
            # The pods stay: by default Kubernetes orphans the pods of a deleted Job.
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
        self.created_jobs.append(job)
        return HTTPStatus.CREATED, job.manifest


def _status(code: HTTPStatus, message: str) -> tuple[int, Any]:
    reason = code.phrase.replace(" ", "")
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.value}
    return code, {**status, "reason": reason, "message": message}


def _forbidden_message(
    request: re.Match[str], account: str, verb: str, group: str, kind: str
) -> str:
    what = f"{request['resource']}{'.' if group else ''}{group}"
    return (
        f'{what} is forbidden: User "system:serviceaccount:{NAMESPACE}:{account}" cannot {verb}'
        f' resource "{kind}" in API group "{group}" in the namespace "{request["namespace"]}"'
    )


def _printed(job: Job, lines: int) -> str:
    assert job.container is not None
    text = job.container.output.read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.splitlines()[-lines:])


class ApiServer:
    """Serves a cluster's API on a loopback port while the context lasts."""

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
    def unreachable(self) -> Iterator[None]:
        """Refuse connections while this context lasts."""
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
            request = urlsplit(self.path)
            token = self.headers.get("Authorization", "").removeprefix("bearer ")
            code, answer = cluster.answer(
                self.command, request.path, parse_qs(request.query), token, body
            )
            text = isinstance(answer, str)
            data = (answer if text else json.dumps(answer)).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if text else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - http.server's names

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    return Handler
