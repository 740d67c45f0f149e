"""Rights, Secrets and pods, read as an attacker would who has taken one of them."""

import re

from sim_pipeline_tests.k8s.manifests import named, of_kind, pods
from sim_pipeline_tests.k8s.rendering import Manifest

# What docs/operations.md, or `make k8s-apply`, has made before the manifests are applied.
MADE_BEFORE = {
    ("Secret", "credentials"): {"POSTGRES_PASSWORD", "RABBITMQ_PASSWORD"},
    ("Secret", "oauth2-proxy"): {"CLIENT_ID", "CLIENT_SECRET", "COOKIE_SECRET"},
    ("ConfigMap", "server-ca"): {"ca.crt"},
}
OURS = {"webserver", "daemon", "code-location", "migrate"}


def rights(manifests: list[Manifest], account: str) -> set[tuple[str, str, str]]:
    """What a ServiceAccount may do, each as verb, API group and resource."""
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


def test_rights_are_those_that_dagster_k8s_uses(manifests: list[Manifest]) -> None:
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


def test_rights_end_at_the_namespace_and_belong_to_our_accounts(manifests: list[Manifest]) -> None:
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


def test_a_token_is_where_it_is_used(manifests: list[Manifest]) -> None:
    for account in of_kind(manifests, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for name, pod in pods(manifests).items():
        assert pod.spec["automountServiceAccountToken"] is (name in {"webserver", "daemon"})
        assert pod.spec["serviceAccountName"] == name


def test_the_namespace_refuses_pods_that_are_not_restricted(manifests: list[Manifest]) -> None:
    labels = named(manifests, "Namespace", "sim-pipeline")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert labels["pod-security.kubernetes.io/enforce-version"] == "latest"


def test_every_pod_is_restricted(manifests: list[Manifest]) -> None:
    for pod in pods(manifests).values():
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & pod.spec.keys()
        assert pod.spec["securityContext"]["runAsNonRoot"] is True
        assert pod.spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        # What a Service is called would else become variables such as POSTGRES_PORT=tcp://...
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


def test_every_container_has_resources_and_an_image_of_a_known_version(
    variant: str, manifests: list[Manifest]
) -> None:
    for pod in pods(manifests).values():
        for container in pod.containers:
            for limits in ("requests", "limits"):
                assert {"cpu", "memory"} == container["resources"][limits].keys()
            name, _, tag = container["image"].rpartition(":")
            if variant.startswith("local") and name == "simulation-service":
                # A node takes the image that was loaded onto it; it could not pull one.
                assert (tag, container["imagePullPolicy"]) == ("latest", "IfNotPresent")
            else:
                assert re.fullmatch(r"v?\d+\.\d+[\w.-]*", tag), container["image"]


def test_every_container_that_stays_has_probes(manifests: list[Manifest]) -> None:
    for name, pod in pods(manifests).items():
        for container in pod.spec["containers"]:
            expected = {"livenessProbe", "readinessProbe"}
            expected -= {"readinessProbe"} if name == "daemon" else set()
            expected = set() if name == "migrate" else expected
            assert expected <= container.keys(), container["name"]


def test_secrets_are_where_they_are_used(manifests: list[Manifest]) -> None:
    postgres, rabbitmq = ("credentials", "POSTGRES_PASSWORD"), ("credentials", "RABBITMQ_PASSWORD")
    proxy = {("oauth2-proxy", key) for key in MADE_BEFORE["Secret", "oauth2-proxy"]}
    with_proxy = "oauth2-proxy" in {
        container["name"] for container in pods(manifests)["webserver"].containers
    }
    expected = {name: {postgres} for name in (*OURS, "postgres", "pgbouncer")}
    expected |= {"rabbitmq": {rabbitmq}}
    expected |= {"webserver": {postgres} | (proxy if with_proxy else set())}
    for name, pod in pods(manifests).items():
        found = {(one.name, one.key) for one in pod.references() if one.kind == "Secret"}
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


def test_everything_referred_to_exists(manifests: list[Manifest]) -> None:
    exists = {
        (manifest["kind"], manifest["metadata"]["name"]): manifest.get("data", {}).keys()
        for manifest in of_kind(manifests, "ConfigMap", "ServiceAccount")
    } | MADE_BEFORE
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
        # The volumes of a StatefulSet's claims are none of the template's.
        assert mounts - {"data"} == volumes, name
    for bound in of_kind(manifests, "RoleBinding"):
        assert named(manifests, "Role", bound["roleRef"]["name"])


def test_what_is_mounted_can_be_written_only_where_it_is_scratch(manifests: list[Manifest]) -> None:
    for pod in pods(manifests).values():
        kinds = {volume["name"]: volume for volume in pod.spec["volumes"]}
        for container in pod.containers:
            for mount in container.get("volumeMounts", []):
                if "configMap" in kinds.get(mount["name"], {}):
                    assert mount["readOnly"] is True


def test_the_launcher_is_told_image_namespace_and_settings(manifests: list[Manifest]) -> None:
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


def test_a_changed_config_map_has_another_name(manifests: list[Manifest]) -> None:
    names = {config["metadata"]["name"] for config in of_kind(manifests, "ConfigMap")}
    assert names
    for name in names:
        assert re.fullmatch(r"[a-z0-9-]+-[a-z0-9]{10}", name)
