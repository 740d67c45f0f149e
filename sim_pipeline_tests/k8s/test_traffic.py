"""The NetworkPolicies allow the connections that the service needs, and no others."""

from itertools import product

from sim_pipeline_tests.k8s.manifests import COMPONENT, named, of_kind, pods
from sim_pipeline_tests.k8s.rendering import Manifest
from sim_pipeline_tests.k8s.traffic import Peer, Port, allowed, selects

# The ports that any part listens on, and other common ports.
PORTS = (
    *(22, 53, 80, 443, 3000, 4000, 4180, 4369, 5432, 5671, 5672, 6432, 6443, 8080, 8443, 9464),
    *(15672, 16443, 25672),
)
NAME = {"app.kubernetes.io/name": "sim-pipeline"}
POSTGRES, BROKER, SOMEWHERE, SOMEWHERE_6 = "192.0.2.10", "192.0.2.20", "203.0.113.1", "2001:db8::1"
# The metadata services of cloud providers, which return credentials.
METADATA = ("169.254.169.254", "fd00:ec2::254", "fd20:ce::254")


def inside(manifests: list[Manifest]) -> dict[str, Peer]:
    """Return the service's pods, a pod of a run, and an unrelated pod in the same namespace."""
    peers = {name: Peer(pod.labels) for name, pod in pods(manifests).items()}
    return {**peers, "run": Peer({**NAME, COMPONENT: "run"}), "stranger": Peer()}


def connections(manifests: list[Manifest]) -> set[tuple[str, str, int]]:
    peers = inside(manifests)
    return {
        (source, target, port)
        for source, target, port in product(peers, peers, PORTS)
        if allowed(manifests, peers[source], peers[target], Port(port))
    }


def test_connections_inside_the_namespace(variant: str, manifests: list[Manifest]) -> None:
    expected = {("webserver", "code-location", 4000), ("daemon", "code-location", 4000)}
    pooled = ["webserver", "daemon", "code-location", "run"]
    components = inside(manifests).keys()
    direct = [*pooled, "migrate", *(components & {"metrics"})]
    if "pgbouncer" in components:
        expected |= {(client, "pgbouncer", 6432) for client in pooled}
        direct.append("pgbouncer")
    if variant.startswith("local"):
        expected |= {(client, "postgres", 5432) for client in direct} | {("run", "rabbitmq", 5672)}
    assert connections(manifests) == expected


def test_connections_into_the_namespace(variant: str, manifests: list[Manifest]) -> None:
    outside = {
        "ingress": Peer(namespace={"sim-pipeline/ingress": "true"}),
        "consumer": Peer(namespace={"sim-pipeline/consumer": "true"}),
        "prometheus": Peer(namespace={"sim-pipeline/monitoring": "true"}),
        # A pod with our labels in another namespace.
        "impostor": Peer({**NAME, COMPONENT: "daemon"}, namespace={}),
        "address": Peer(address=SOMEWHERE),
    }
    found = {
        (source, target, port)
        for (source, peer), (target, pod), port in product(
            outside.items(), inside(manifests).items(), PORTS
        )
        if allowed(manifests, peer, pod, Port(port))
    }
    expected = {
        ("consumer", "rabbitmq", 5672) if "local" in variant else ("ingress", "webserver", 4180)
    }
    if "metrics" in inside(manifests):
        expected.add(("prometheus", "metrics", 9464))
    assert found == expected


def test_connections_out_of_the_cluster(variant: str, manifests: list[Manifest]) -> None:
    peers = inside(manifests)
    found = {
        (source, address, port)
        for source, address, port in product(
            peers, (POSTGRES, BROKER, SOMEWHERE, SOMEWHERE_6, *METADATA), PORTS
        )
        if allowed(manifests, peers[source], Peer(address=address), Port(port))
    }
    expected = {
        (source, address, port)
        for source, address, port in product(
            ("webserver", "daemon"),
            (POSTGRES, BROKER, SOMEWHERE, SOMEWHERE_6),
            (443, 6443, 8443, 16443),
        )
    }
    if variant.startswith("production"):
        clients = ["webserver", "daemon", "code-location", "run", "migrate"]
        clients += peers.keys() & {"pgbouncer", "metrics"}
        expected |= {(client, POSTGRES, 5432) for client in clients}
        expected |= {("run", BROKER, 5671)}
    assert found == expected


def test_every_pod_may_use_dns(manifests: list[Manifest]) -> None:
    dns = Peer({"k8s-app": "kube-dns"}, {"kubernetes.io/metadata.name": "kube-system"})
    for peer in inside(manifests).values():
        assert allowed(manifests, peer, dns, Port(53, "UDP"))
        assert allowed(manifests, peer, dns, Port(53))
        assert not allowed(manifests, peer, dns, Port(443))


def test_every_selector_matches_a_pod(manifests: list[Manifest]) -> None:
    peers = inside(manifests)
    components = {peer.labels.get(COMPONENT) for peer in peers.values()}
    for policy in of_kind(manifests, "NetworkPolicy"):
        selector = policy["spec"]["podSelector"]
        assert any(selects(selector, peer.labels) for peer in peers.values()), policy["metadata"]
        for expression in selector.get("matchExpressions", []):
            assert set(expression["values"]) <= components
    for budget in of_kind(manifests, "PodDisruptionBudget"):
        selector = budget["spec"]["selector"]
        assert any(selects(selector, peer.labels) for peer in peers.values())


def test_every_service_targets_a_port_of_a_pod(manifests: list[Manifest]) -> None:
    for service in of_kind(manifests, "Service"):
        (pod,) = (
            pod
            for pod in pods(manifests).values()
            if selects({"matchLabels": service["spec"]["selector"]}, pod.labels)
        )
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP"
        assert "externalIPs" not in service["spec"]
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in pod.ports


def test_production_exposes_only_the_proxy(production: list[Manifest]) -> None:
    (ingress,) = of_kind(production, "Ingress")
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"] == {"name": "webserver", "port": {"name": "proxy"}}
    assert ingress["spec"]["tls"] == [{"hosts": [rule["host"]], "secretName": "webserver-tls"}]
    assert "defaultBackend" not in ingress["spec"]
    ports = named(production, "Service", "webserver")["spec"]["ports"]
    assert [port["targetPort"] for port in ports] == ["proxy"]


def test_production_webserver_listens_on_loopback(production: list[Manifest]) -> None:
    pod = pods(production)["webserver"]
    assert pod.ports == {"proxy": 4180}
    webserver, proxy = pod.spec["containers"]
    assert "--host=127.0.0.1" in webserver["command"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert webserver[probe]["exec"]["command"][-1] == "sim_pipeline.entrypoints.healthcheck"
    settings = named(production, "ConfigMap", "settings")["data"]
    assert f"--port={settings['UI_PORT']}" in webserver["command"]
    (rule,) = of_kind(production, "Ingress")[0]["spec"]["rules"]
    assert settings["UI_ALLOWED_HOSTS"] == rule["host"]
    (source,) = proxy["envFrom"]
    proxied = named(production, "ConfigMap", "oauth2-proxy")
    assert source == {"configMapRef": {"name": proxied["metadata"]["name"]}}
    assert proxied["data"]["OAUTH2_PROXY_UPSTREAMS"] == f"http://127.0.0.1:{settings['UI_PORT']}"
    # No path bypasses the log-in.
    assert not [name for name in proxied["data"] if "SKIP_AUTH" in name or "API_ROUTE" in name]


def test_webserver_runs_with_the_ui_guard(manifests: list[Manifest]) -> None:
    webserver = pods(manifests)["webserver"].spec["containers"][0]
    assert webserver["command"][:3] == ["python", "-m", "sim_pipeline.dagster_instance.webserver"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        # The guard would refuse HTTP probes: the kubelet sends the pod's address as Host.
        assert "exec" in webserver[probe]


def test_production_proxy_has_the_sign_in_page(production: list[Manifest]) -> None:
    pod = pods(production)["webserver"]
    options = named(production, "ConfigMap", "oauth2-proxy")["data"]
    pages = named(production, "ConfigMap", "oauth2-proxy-pages")
    assert set(pages["data"]) == {"sign_in.html"}
    proxy = pod.spec["containers"][1]
    (mount,) = proxy["volumeMounts"]
    assert mount["mountPath"] == options["OAUTH2_PROXY_CUSTOM_TEMPLATES_DIR"]
    (volume,) = (each for each in pod.spec["volumes"] if each["name"] == mount["name"])
    assert volume["configMap"]["name"] == pages["metadata"]["name"]
