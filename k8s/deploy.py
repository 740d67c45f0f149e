"""Renders, applies and deletes an overlay with kubectl, for the make targets k8s-*.

It needs the standard library only: these targets do not create `.venv`.
"""

import argparse
import json
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

K8S = Path(__file__).parent
NAMESPACE = "sim-pipeline"
OVERLAY_LABEL = "sim-pipeline/overlay"
# On what is applied after the migrations, see k8s/base.
AFTER_MIGRATIONS = "sim-pipeline/after"
COMPONENT_LABEL = "app.kubernetes.io/component"
OLDEST_VERSION = (1, 33)
_PARTS = ("major", "minor")
PLACEHOLDER = re.compile(r"[.=]example\.com|192\.0\.2\.[1-9]")
# Objects of every overlay but local that are not in the repository, see docs/operations.md.
REQUIRED = ("secret/credentials", "secret/oauth2-proxy", "configmap/server-ca")
USUAL_REASONS = {None, "ContainerCreating", "PodInitializing"}


class DeployError(Exception):
    """The deployment does not succeed; the message says why and what to do."""


class Problem(NamedTuple):
    """A reason why a workload is not ready.

    Attributes:
        text: the reason, for people.
        needs_change: whether it stays until a person changes something.
    """

    text: str
    needs_change: bool


@dataclass
class Deployment:
    """An overlay in kubectl's current cluster.

    Attributes:
        overlay: a directory of `k8s/overlays`.
        kubectl: the command, with its options.
        migration_seconds: longest time for the migrations.
        rollout_seconds: longest time for the pods after that.
        patience_seconds: how long a pod may be blocked, for example by an image that does not
            exist, until it is given up.
        poll_seconds: pause between two queries.
    """

    overlay: str
    kubectl: list[str]
    migration_seconds: float = 900.0
    rollout_seconds: float = 600.0
    patience_seconds: float = 120.0
    poll_seconds: float = 3.0
    _started: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def directory(self) -> Path:
        """The overlay's directory."""
        return K8S / "overlays" / self.overlay

    def check(self) -> None:
        """Check the overlay's name, and that kubectl is installed.

        Raises:
            DeployError: one of them is missing.
        """
        if shutil.which(self.kubectl[0]) is None:
            raise DeployError(
                f"{self.kubectl[0]} is not installed; {_dotted(OLDEST_VERSION)} or newer is"
                " needed: https://kubernetes.io/docs/tasks/tools"
            )
        overlays = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
        if self.overlay not in overlays:
            raise DeployError(f"OVERLAY={self.overlay}: allowed is one of {' '.join(overlays)}")

    def render(self) -> str:
        """Return the manifests as YAML.

        Raises:
            DeployError: kustomize refuses the overlay.
        """
        return self._must("kustomize", str(self.directory), quiet=True)

    def check_cluster(self) -> None:
        """Check the versions of kubectl and cluster, and the overlay that the cluster has.

        Raises:
            DeployError: a version is too old, the cluster does not answer, or it has another
                overlay.
        """
        done = self._run("version", "--output=json")
        try:
            versions = json.loads(done.stdout)
        except ValueError:
            versions = {}
        for name, key in (("kubectl", "clientVersion"), ("the cluster", "serverVersion")):
            version = versions.get(key, {})
            found = tuple(int("0" + re.sub(r"\D", "", version.get(part, ""))) for part in _PARTS)
            if version and found < OLDEST_VERSION:
                raise DeployError(
                    f"The version of {name} is {_dotted(found)}; "
                    f"{_dotted(OLDEST_VERSION)} or newer is needed"
                )
        if done.returncode:
            raise DeployError(
                f"{done.stderr}The cluster does not answer. `kubectl config current-context` shows "
                "which one kubectl uses"
            )
        namespace = self._get_or_none("namespace", NAMESPACE)
        if namespace is None:
            return
        installed = namespace["metadata"].get("labels", {}).get(OVERLAY_LABEL)
        if installed is None and self._get("deployments")["items"]:
            raise DeployError(
                f"The namespace {NAMESPACE} of {self._context()} has no label {OVERLAY_LABEL},"
                f" which names its overlay. If that is {self.overlay}, run:\n"
                f"  kubectl label namespace {NAMESPACE} {OVERLAY_LABEL}={self.overlay}"
            )
        if installed not in {None, self.overlay}:
            raise DeployError(
                f"The namespace {NAMESPACE} of {self._context()} has the overlay {installed}, not "
                f"{self.overlay}. For {installed}, add OVERLAY={installed}"
            )

    def apply(self) -> None:
        """Install or upgrade: first the migrations, then, if they succeed, the rest.

        Raises:
            DeployError: something is missing, or the migrations fail, or a pod does not get ready.
        """
        self.check_cluster()
        if self.overlay != "local":
            self._check_placeholders()
        _say(f"Applying the overlay {self.overlay} to {self._context()}")
        if self._get_or_none("namespace", NAMESPACE) is None:
            self._must("apply", "--filename", str(K8S / "base" / "namespace.yaml"))
        if self.overlay == "local":
            self._create_credentials()
        else:
            self._check_required()
        # A Job's pods cannot be changed.
        self._must("delete", "job", "migrate", "--ignore-not-found")
        before_migrations = f"--selector={AFTER_MIGRATIONS}!=migrate"
        self._must("apply", "--kustomize", str(self.directory), before_migrations)
        _say("Waiting for the migrations")
        self._wait({"migrate"}, self._is_migrated, self.migration_seconds)
        applied = self._must("apply", "--kustomize", str(self.directory))
        # Such as "statefulset.apps/rabbitmq configured".
        pending = set(re.findall(r"^(?:deployment|statefulset)\.apps/\S+", applied, re.MULTILINE))
        _say("Waiting for the pods")

        def all_ready() -> bool:
            for workload in sorted(pending):
                if not self._run("rollout", "status", workload, "--timeout=1s").returncode:
                    pending.remove(workload)
                    _say(f"  {workload.partition('/')[2]} is ready")
            return not pending

        names = {workload.partition("/")[2] for workload in pending}
        self._wait(names, all_ready, self.rollout_seconds)
        if self.overlay == "local":
            _say("The UI is at http://127.0.0.1:3000 while this command runs:")
            _say(f"  kubectl --namespace {NAMESPACE} port-forward service/webserver 3000:3000")

    def delete(self, confirmation: str) -> None:
        """Delete everything from the cluster, after a confirmation.

        Args:
            confirmation: "yes", or anything else to ask on the terminal.

        Raises:
            DeployError: the cluster has another overlay, or the answer is not yes.
        """
        self.check_cluster()
        _say(
            f"This deletes the namespace {NAMESPACE} of {self._context()}: the overlay"
            f" {self.overlay}, all Secrets and all volumes with their data."
        )
        if confirmation != "yes":
            try:
                confirmation = input("Type yes to continue: ")
            except EOFError:
                confirmation = ""
        if confirmation != "yes":
            raise DeployError("Nothing was deleted. To delete without a question: CONFIRM=yes")
        self._must("delete", "--kustomize", str(self.directory), "--ignore-not-found")

    def _check_placeholders(self) -> None:
        files = [
            str(file.relative_to(K8S.parent))
            for file in sorted(self.directory.rglob("*"))
            if file.is_file()
            and PLACEHOLDER.search(file.read_text(encoding="utf-8", errors="replace"))
        ]
        if files:
            listed = "\n".join(files)
            raise DeployError(
                f"{listed}\nThese files still contain placeholders, see docs/operations.md"
            )

    def _check_required(self) -> None:
        required = list(REQUIRED)
        if "imagePullSecrets:" in self.render():
            required.append("secret/registry")
        for name in required:
            if self._run("get", name, "--output=name").returncode:
                raise DeployError(f"Create {name} first, see docs/operations.md")

    def _create_credentials(self) -> None:
        """Create the Secret from the file, and the file if there is neither.

        Without the file, an existing Secret is kept: the servers have those passwords.
        """
        file = self.directory / "credentials.env"
        if not file.exists():
            if self._run("get", "secret", "credentials", "--output=name").returncode == 0:
                return
            file.touch(mode=0o600)
            file.write_text(
                "".join(
                    f"{name}_PASSWORD={secrets.token_urlsafe(24)}\n"
                    for name in ("POSTGRES", "RABBITMQ")
                ),
                encoding="utf-8",
            )
            _say(f"Created {file.relative_to(K8S.parent)} with generated passwords")
        secret = self._must(
            *("create", "secret", "generic", "credentials", "--dry-run=client"),
            *(f"--from-env-file={file}", "--output=yaml"),
            quiet=True,
        )
        self._must("apply", "--server-side", "--filename", "-", stdin=secret)

    def _is_migrated(self) -> bool:
        """Return whether the Job has succeeded.

        Raises:
            DeployError: it has failed; with the last line of its log.
        """
        status = self._get("job", "migrate").get("status", {})
        conditions = {
            condition["type"]: condition.get("message", "")
            for condition in status.get("conditions", [])
            if condition["status"] == "True"
        }
        if "Failed" in conditions:
            pods = self._get("pods", "--selector=job-name=migrate")["items"]
            newest = max(pods, key=lambda pod: pod["metadata"]["creationTimestamp"], default=None)
            line = newest and self._last_line(newest["metadata"]["name"])
            raise DeployError(
                f"The migration failed: {line or conditions['Failed']}\n"
                "The Deployments were not changed. "
                f"See: kubectl --namespace {NAMESPACE} logs job/migrate"
            )
        return "Complete" in conditions

    def _wait(self, components: set[str], is_done: Callable[[], bool], seconds: float) -> None:
        """Wait for workloads, and print why they are not ready whenever the reason changes."""
        start = time.monotonic()
        printed: dict[str, str] = {}
        blocked_since: dict[str, float] = {}
        while not is_done():
            now = time.monotonic()
            pods = self._unready_pods(components)
            problems = dict([*self._problems(pods), *self._refusals(components)])
            for name, problem in problems.items():
                if printed.get(name) != problem.text:
                    printed[name] = problem.text
                    _say(f"  {name}: {problem.text}")
                if problem.needs_change:
                    blocked_since.setdefault(name, now)
            for name in tuple(blocked_since):
                # A container that crashes again and again has no problem while it runs.
                if name not in pods or (name not in problems and not _has_restarted(pods[name])):
                    del blocked_since[name]
            blocked = max((now - since for since in blocked_since.values()), default=0.0)
            if blocked > self.patience_seconds or now - start > seconds:
                reasons = "".join(
                    f"{name}: {problems[name].text if name in problems else 'not ready'}\n"
                    for name in sorted({*problems, *pods})
                )
                raise DeployError(
                    f"{reasons}Not ready after {now - start:.0f} s. "
                    f"See: kubectl --namespace {NAMESPACE} describe pods"
                )
            time.sleep(self.poll_seconds)

    def _problems(self, pods: Mapping[str, Any]) -> Iterator[tuple[str, Problem]]:
        """Yield the name of each pod that has a problem, and the problem."""
        for name, pod in pods.items():
            problem = self._problem(pod)
            if problem is not None:
                yield name, problem

    def _refusals(self, components: set[str]) -> Iterator[tuple[str, Problem]]:
        """Yield the name of each Job or ReplicaSet whose pods are refused, and the reason."""
        events = self._get("events", "--field-selector=reason=FailedCreate")["items"]
        for event in events:
            owner = event["involvedObject"]["name"]
            if _time_of(event) >= self._started and any(
                owner == name or owner.startswith(f"{name}-") for name in components
            ):
                yield owner, Problem(event.get("message", ""), needs_change=False)

    def _unready_pods(self, components: set[str]) -> dict[str, Any]:
        selector = f"--selector={COMPONENT_LABEL} in ({','.join(sorted(components))})"
        return {
            pod["metadata"]["name"]: pod
            for pod in self._get("pods", selector)["items"]
            if "deletionTimestamp" not in pod["metadata"] and not _is_ready(pod)
        }

    def _problem(self, pod: Mapping[str, Any]) -> Problem | None:
        name, status = pod["metadata"]["name"], pod.get("status", {})
        for container in _containers(pod):
            what = container["name"]
            match container.get("state", {}):
                case {"waiting": {"reason": "CrashLoopBackOff"}}:
                    line = self._last_line(name, f"--container={what}", "--previous")
                    return Problem(f"{what}: CrashLoopBackOff: {line}", needs_change=True)
                case {"waiting": {"reason": reason, **rest}} if reason not in USUAL_REASONS:
                    text = f"{what}: {reason}: {rest.get('message', '')}"
                    return Problem(text, needs_change=True)
                case {"terminated": {"exitCode": code}} if code:
                    line = self._last_line(name, f"--container={what}")
                    return Problem(f"{what}: exit status {code}: {line}", needs_change=False)
        for condition in status.get("conditions", ()):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return Problem(condition.get("message", ""), needs_change=False)
        return None

    def _last_line(self, *what: str) -> str:
        lines = self._run("logs", *what, "--tail=1").stdout.strip().splitlines()
        return lines[-1] if lines else "no log"

    def _context(self) -> str:
        """Return the name of the cluster, for people."""
        found = self._run("config", "current-context").stdout.strip()
        return f"the context {found}" if found else "this cluster"

    def _get_or_none(self, *what: str) -> Any:
        text = self._must("get", *what, "--ignore-not-found", "--output=json", quiet=True)
        return json.loads(text) if text.strip() else None

    def _get(self, *what: str) -> Any:
        return json.loads(self._must("get", *what, "--output=json", quiet=True))

    def _must(self, *arguments: str, quiet: bool = False, stdin: str | None = None) -> str:
        """Run kubectl, and print its output unless it is quiet; return the output.

        Raises:
            DeployError: kubectl fails; the message is kubectl's.
        """
        done = self._run(*arguments, stdin=stdin)
        if not quiet:
            _say(done.stdout.rstrip())
        if done.returncode:
            raise DeployError(f"kubectl {arguments[0]} failed: {done.stderr.strip()}")
        if done.stderr and not quiet:
            sys.stderr.write(done.stderr)
        return done.stdout

    def _run(self, *arguments: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*self.kubectl, "--namespace", NAMESPACE, *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            check=False,
        )


def _containers(pod: Mapping[str, Any]) -> list[Any]:
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]


def _has_restarted(pod: Mapping[str, Any]) -> bool:
    """Return whether a container that is not ready, or init container not done, has restarted."""
    return any(
        container.get("restartCount") and not container.get("ready")
        for container in _containers(pod)
    )


def _is_ready(pod: Mapping[str, Any]) -> bool:
    status = pod.get("status", {})
    return status.get("phase") == "Succeeded" or any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in status.get("conditions", ())
    )


def _time_of(event: Mapping[str, Any]) -> datetime:
    text = event.get("lastTimestamp") or event.get("eventTime") or ""
    return datetime.fromisoformat(text) if text else datetime.min.replace(tzinfo=UTC)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _say(text: str) -> None:
    if text:
        print(text, flush=True)


def main() -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("render", "apply", "delete"))
    parser.add_argument("--overlay", required=True)
    parser.add_argument("--kubectl", default="kubectl")
    parser.add_argument("--confirm", default="")
    for name in ("migration", "rollout", "patience", "poll"):
        parser.add_argument(f"--{name}-seconds", type=float, default=argparse.SUPPRESS)
    options = vars(parser.parse_args())
    command, confirmation = options.pop("command"), options.pop("confirm")
    deployment = Deployment(**{**options, "kubectl": shlex.split(options["kubectl"])})
    try:
        deployment.check()
        match command:
            case "render":
                _say(deployment.render())
            case "apply":
                deployment.apply()
            case "delete":
                deployment.delete(confirmation)
    except DeployError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
