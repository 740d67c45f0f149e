"""Least privilege: the rights of ServiceAccounts, the Secrets of pods, and pod security."""

import re

from sim_pipeline_tests.k8s.manifests import named, of_kind, pods
from sim_pipeline_tests.k8s.rendering import Manifest

# Objects that the user (docs/operations.md) or `make k8s-apply` creates before the manifests.
CREATED_BEFORE = {
    ("Secret", "credentials"): {"POSTGRES_PASSWORD", "RABBITMQ_PASSWORD"},
    ("Secret", "oauth2-proxy"): {"CLIENT_ID", "CLIENT_SECRET", "COOKIE_SECRET"},
    ("ConfigMap", "server-ca"): {"ca.crt"},
}
OURS = {"webserver", "daemon", "code-location", "migrate"}


def rights(manifests: list[Manifest], account: str) -> set[tuple[str, str, str]]:
    """Return the rights of a ServiceAccount as verb, API group and resource."""
    roles = [
        binding["roleRef"]["name"]
        for binding in of_kind(manifests, "RoleBinding")
        if {"kind": "ServiceAccount", "name": account}.items()
        <= {key: value for subject in binding["subjects"] for key, value in subject.items()}.items()
    ]
    return {
        (verb, group, resource)
        for role in roles
        for rule in named(manifests, "Role", role)["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_accounts_have_only_the_rights_they_use(manifests: list[Manifest]) -> None:
    ends_runs = {("delete", "batch", "jobs"), ("delete", "", "pods"), ("list", "", "pods")}
    launches_runs = ends_runs | {
        ("create", "batch", "jobs"),
        ("list", "batch", "jobs"),
        ("get", "batch", "jobs/status"),
        ("get", "", "pods/log"),
        ("list", "", "events"),
    }
    for account in of_kind(manifests, "ServiceAccount"):
        name = account["metadata"]["name"]
        expected = {"webserver": ends_runs, "daemon": launches_runs}.get(name, set())
        assert rights(manifests, name) == expected, name


def test_rights_are_limited_to_namespace_and_accounts(manifests: list[Manifest]) -> None:
    assert not of_kind(manifests, "ClusterRole", "ClusterRoleBinding")
    accounts = {account["metadata"]["name"] for account in of_kind(manifests, "ServiceAccount")}
    for binding in of_kind(manifests, "RoleBinding"):
        assert binding["roleRef"]["kind"] == "Role"
        for subject in binding["subjects"]:
            assert subject["kind"] == "ServiceAccount"
            assert subject["name"] in accounts
            assert subject["namespace"] == "sim-pipeline"
    for manifest in manifests:
        if manifest["kind"] != "Namespace":
            assert manifest["metadata"]["namespace"] == "sim-pipeline"


def test_only_users_of_a_token_mount_it(manifests: list[Manifest]) -> None:
    for account in of_kind(manifests, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for name, pod in pods(manifests).items():
        assert pod.spec["automountServiceAccountToken"] is (name in {"webserver", "daemon"})
        assert pod.spec["serviceAccountName"] == name


def test_namespace_enforces_restricted_pods(manifests: list[Manifest]) -> None:
    labels = named(manifests, "Namespace", "sim-pipeline")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert labels["pod-security.kubernetes.io/enforce-version"] == "latest"


def test_every_pod_is_restricted(manifests: list[Manifest]) -> None:
    for pod in pods(manifests).values():
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & pod.spec.keys()
        assert pod.spec["securityContext"]["runAsNonRoot"] is True
        assert pod.spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        # Otherwise Kubernetes sets variables such as POSTGRES_PORT=tcp://... for each Service.
        assert pod.spec["enableServiceLinks"] is False
        for volume in pod.spec["volumes"]:
            assert {"configMap", "emptyDir"} & volume.keys(), volume
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": None})
        for container in pod.containers:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert not {"privileged", "procMount"} & context.keys()
            assert context.get("runAsUser", pod.spec["securityContext"]["runAsUser"]) > 0
            assert not any("hostPort" in port for port in container.get("ports", []))


def test_containers_have_resources_and_pinned_images(
    variant: str, manifests: list[Manifest]
) -> None:
    for pod in pods(manifests).values():
        for container in pod.containers:
            for limits in ("requests", "limits"):
                assert {"cpu", "memory"} == container["resources"][limits].keys()
            name, _, tag = container["image"].rpartition(":")
            if variant.startswith("local") and name == "simulation-service":
                # The node uses the image that was loaded onto it; there is no registry.
                assert (tag, container["imagePullPolicy"]) == ("latest", "IfNotPresent")
            else:
                assert re.fullmatch(r"v?\d+\.\d+[\w.-]*", tag), container["image"]


def test_long_running_containers_have_probes(manifests: list[Manifest]) -> None:
    for name, pod in pods(manifests).items():
        for container in pod.spec["containers"]:
            expected = {"livenessProbe", "readinessProbe"}
            expected -= {"readinessProbe"} if name == "daemon" else set()
            expected = set() if name == "migrate" else expected
            assert expected <= container.keys(), container["name"]


def test_only_users_of_a_secret_get_it(manifests: list[Manifest]) -> None:
    postgres, rabbitmq = ("credentials", "POSTGRES_PASSWORD"), ("credentials", "RABBITMQ_PASSWORD")
    proxy = {("oauth2-proxy", key) for key in CREATED_BEFORE["Secret", "oauth2-proxy"]}
    with_proxy = "oauth2-proxy" in {
        container["name"] for container in pods(manifests)["webserver"].containers
    }
    expected = {name: {postgres} for name in (*OURS, "metrics", "postgres", "pgbouncer")}
    expected |= {"rabbitmq": {rabbitmq}}
    expected |= {"webserver": {postgres} | (proxy if with_proxy else set())}
    for name, pod in pods(manifests).items():
        found = {(each.name, each.key) for each in pod.references() if each.kind == "Secret"}
        assert found == expected[name], name
        for container in pod.containers:
            is_proxy = container["name"] == "oauth2-proxy"
            used = {
                variable["valueFrom"]["secretKeyRef"]["name"]
                for variable in container["env"]
                if "secretKeyRef" in variable.get("valueFrom", {})
            }
            assert used == ({"oauth2-proxy"} if is_proxy else {"credentials"})


def test_no_manifest_holds_a_secret(manifests: list[Manifest]) -> None:
    assert not of_kind(manifests, "Secret")
    secret = re.compile(r"PASSWORD|SECRET|TOKEN|CLIENT_ID")
    for config in of_kind(manifests, "ConfigMap"):
        assert not [name for name in config["data"] if secret.search(name)]
    for pod in pods(manifests).values():
        for container in pod.containers:
            for variable in container["env"]:
                assert not secret.search(variable["name"]) or not variable.get("value")


def test_referenced_objects_exist(manifests: list[Manifest]) -> None:
    exists = {
        (manifest["kind"], manifest["metadata"]["name"]): manifest.get("data", {}).keys()
        for manifest in of_kind(manifests, "ConfigMap", "ServiceAccount")
    } | CREATED_BEFORE
    for name, pod in pods(manifests).items():
        for reference in pod.references():
            keys = exists.get((reference.kind, reference.name))
            assert keys is not None, (name, reference)
            assert reference.key is None or reference.key in keys, (name, reference)
        volumes = {volume["name"] for volume in pod.spec["volumes"]}
        mounts = {
            mount["name"]
            for container in pod.containers
            for mount in container.get("volumeMounts", [])
        }
        # A StatefulSet's claims provide the volume `data`; it is not in the template.
        assert mounts - {"data"} == volumes, name
    for bound in of_kind(manifests, "RoleBinding"):
        assert named(manifests, "Role", bound["roleRef"]["name"])


def test_only_scratch_volumes_are_writable(manifests: list[Manifest]) -> None:
    for pod in pods(manifests).values():
        kinds = {volume["name"]: volume for volume in pod.spec["volumes"]}
        for container in pod.containers:
            for mount in container.get("volumeMounts", []):
                if "configMap" in kinds.get(mount["name"], {}):
                    assert mount["readOnly"] is True


def test_launcher_gets_image_namespace_and_settings(manifests: list[Manifest]) -> None:
    code = pods(manifests)["code-location"].spec["containers"][0]
    settings = named(manifests, "ConfigMap", "settings")["metadata"]["name"]
    for name in ("webserver", "daemon"):
        container = pods(manifests)[name].spec["containers"][0]
        variables = {variable["name"]: variable for variable in container["env"]}
        assert variables["RUN_IMAGE"]["value"] == code["image"] == container["image"]
        assert variables["RUN_NAMESPACE"]["valueFrom"] == {
            "fieldRef": {"fieldPath": "metadata.namespace"}
        }
        assert variables["SETTINGS_CONFIG_MAP"]["value"] == settings


def test_config_map_names_contain_a_digest(manifests: list[Manifest]) -> None:
    names = {config["metadata"]["name"] for config in of_kind(manifests, "ConfigMap")}
    assert names
    for name in names:
        assert re.fullmatch(r"[a-z0-9-]+-[a-z0-9]{10}", name)
