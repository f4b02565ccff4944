"""A real Kubernetes API server for each region, with etcd, the controllers, and a stand-in for the kubelet.

Version 1.20.2: avoid newer APIs, or tolerate their absence. Users: `admin` (everything) and `failoverd`, which has
the rights of RIGHTS in the namespace and nothing else. A Deployment scaled up is Ready within a second or so.
"""
import base64, concurrent.futures, json, secrets, ssl, urllib.request
from . import constants as c, tls
from .processes import CACHE, LAB, program, python, wait_until

# What failoverd may do, in the namespace. `create` cannot be limited by name, so it stands alone.
RIGHTS = [
    {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "watch", "patch"]},
    {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["get", "patch", "update"]},
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch", "patch", "create", "delete"]},
    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch", "patch"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
]
CONTROLLERS = "deployment,replicaset,statefulset,garbagecollector,namespace,endpoint,endpointslice,disruption,horizontalpodautoscaling"
PORTS = 4                # for each region: API server, etcd client, etcd peer, controllers


def start(run, authority, ports, values, *, pod_delay=0.3, server_ports=None):
    """Both clusters at once. `values` is what the Secret and the ConfigMaps hold: see `seed`.
    `server_ports` are the ports that failoverd's own kubeconfig names: a proxy's, where there is one."""
    with concurrent.futures.ThreadPoolExecutor(len(c.REGIONS)) as pool:
        futures = {r: pool.submit(_start_region, run, authority, r, ports[r], values[r], pod_delay, (server_ports or {}).get(r))
                   for r in c.REGIONS}
        return {region: future.result() for region, future in futures.items()}


def _start_region(run, authority, region, ports, values, pod_delay, shown_port):
    api, etcd_client, etcd_peer, controllers = ports
    folder = run.folder / f"k8s-{region}"
    folder.mkdir()
    hint = "tests/lab/install.sh --kubernetes-only"
    cert, key = authority.issue(f"k8s-{region}")
    sa_key = tls.signing_key(folder / "service-accounts.key")
    tokens = {user: secrets.token_hex(16) for user in ("admin", "failoverd")}
    (folder / "tokens.csv").write_text(f'{tokens["admin"]},admin,admin,"system:masters"\n'
                                       f'{tokens["failoverd"]},failoverd,failoverd,"failover"\n')
    host = run.host(region)
    server, shown = f"https://{host}:{api}", f"https://{host}:{shown_port or api}"
    files = {}
    for user, url in (("admin", server), ("failoverd", shown)):
        (folder / f"{user}.token").write_text(tokens[user])
        (folder / f"{user}.kubeconfig").write_text(_kubeconfig(region, url, authority.file, user, tokens[user]))
        files[user] = {"token_file": str(folder / f"{user}.token"), "kubeconfig": str(folder / f"{user}.kubeconfig")}

    run.spawn(f"etcd@{region}", [
        program("etcd", hint=hint), "--data-dir", run.data / f"etcd-{region}",
        "--listen-client-urls", f"http://{host}:{etcd_client}", "--advertise-client-urls", f"http://{host}:{etcd_client}",
        "--listen-peer-urls", f"http://{host}:{etcd_peer}", "--initial-advertise-peer-urls", f"http://{host}:{etcd_peer}",
        "--initial-cluster", f"default=http://{host}:{etcd_peer}", "--unsafe-no-fsync", "--logger", "zap", "--log-level", "error",
    ], region=region)
    run.spawn(f"k8s@{region}", [
        program(CACHE / "bin/kube-apiserver", hint=hint), f"--etcd-servers=http://{host}:{etcd_client}",
        f"--bind-address={host}", f"--advertise-address={host}", f"--secure-port={api}", "--endpoint-reconciler-type=none",
        f"--tls-cert-file={cert}", f"--tls-private-key-file={key}", f"--cert-dir={folder}",
        "--service-account-issuer=https://lab", f"--service-account-key-file={sa_key}", f"--service-account-signing-key-file={sa_key}",
        "--service-cluster-ip-range=198.18.0.0/24", "--authorization-mode=RBAC", f"--token-auth-file={folder}/tokens.csv",
        "--disable-admission-plugins=ServiceAccount", "--max-requests-inflight=100", "--profiling=false",
        "--watch-cache-sizes=secrets#10", "--event-ttl=10m", "--v=1",
    ], region=region)
    admin = Api(server, authority.file, tokens["admin"])
    wait_until(lambda: admin.call("GET", "/readyz", raw=True) == "ok", f"the API server in {region}", run=run, process=f"k8s@{region}")
    run.spawn(f"k8s-controllers@{region}", [
        program(CACHE / "bin/kube-controller-manager", hint=hint), f"--kubeconfig={files['admin']['kubeconfig']}",
        "--leader-elect=false", f"--bind-address={host}", f"--secure-port={controllers}", "--port=0", f"--cert-dir={folder}",
        f"--controllers={CONTROLLERS}", "--kube-api-qps=200", "--kube-api-burst=400",
    ], region=region)
    run.spawn(f"k8s-kubelet@{region}", [python(), LAB / "kubelet.py", server, authority.file, files["admin"]["token_file"],
                                        str(pod_delay)], region=region)
    seed(admin, region, values)
    wait_until(lambda: _all_ready(admin, region), f"the workloads in {region}", run=run, process=f"k8s-controllers@{region}")
    return {"process": f"k8s@{region}", "server": shown, "direct_server": server, "ca_file": str(authority.file), "namespace": c.NAMESPACE,
            "token_file": files["failoverd"]["token_file"], "kubeconfig": files["failoverd"]["kubeconfig"],
            "admin_token_file": files["admin"]["token_file"], "admin_kubeconfig": files["admin"]["kubeconfig"]}


def seed(admin, region, values):
    """The namespace with the plan's workloads, Secret, ConfigMaps, and the rights of failoverd."""
    core, apps, rbac = (f"/{p}/namespaces/{c.NAMESPACE}" for p in ("api/v1", "apis/apps/v1", "apis/rbac.authorization.k8s.io/v1"))
    admin.call("POST", "/api/v1/namespaces", {"metadata": {"name": c.NAMESPACE}})
    admin.call("POST", f"{rbac}/roles", {"metadata": {"name": "failoverd"}, "rules": RIGHTS})
    admin.call("POST", f"{rbac}/rolebindings", {
        "metadata": {"name": "failoverd"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "failoverd"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "failoverd"}]})
    zones = {"metadata": {"name": "failoverd-zones"}, "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]}
    admin.call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", zones)
    admin.call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {
        "metadata": {"name": "failoverd-zones"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "failoverd-zones"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "failoverd"}]})
    admin.call("POST", f"{core}/secrets", {"metadata": {"name": "database-credentials"}, "stringData": values["database"]})
    for name, data in (("redis-config", values["redis"]), ("s3-config", values["s3"]),
                       ("app-config", {"log_level": "info", "enable_audit": "false"})):
        admin.call("POST", f"{core}/configmaps", {"metadata": {"name": name}, "data": data})
    for name, replicas in c.WORKLOADS.items():
        admin.call("POST", f"{apps}/deployments", {
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"replicas": replicas[region], "selector": {"matchLabels": {"app": name}},
                     "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
                     "template": {"metadata": {"labels": {"app": name}},
                                  "spec": {"terminationGracePeriodSeconds": 1,
                                           "containers": [{"name": "main", "image": f"omnimesh/{name}:1.0.0"}]}}}})


def workloads(api):
    """{name: (wanted, ready, up to date)} of the namespace's Deployments."""
    found = api.call("GET", f"/apis/apps/v1/namespaces/{c.NAMESPACE}/deployments")["items"]
    return {d["metadata"]["name"]: (d["spec"]["replicas"], d["status"].get("readyReplicas", 0), d["status"].get("updatedReplicas", 0))
            for d in found}


def secret_data(api, name="database-credentials"):
    data = api.call("GET", f"/api/v1/namespaces/{c.NAMESPACE}/secrets/{name}")["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def config_map(api, name):
    return api.call("GET", f"/api/v1/namespaces/{c.NAMESPACE}/configmaps/{name}").get("data", {})


def _all_ready(admin, region):
    wanted = {name: replicas[region] for name, replicas in c.WORKLOADS.items()}
    return {name: ready for name, (_, ready, _) in workloads(admin).items()} == wanted


class Api:
    """Calls to one API server. Raises urllib.error.HTTPError for answers that are not 2xx."""

    def __init__(self, server, ca_file, token, timeout=10):
        self.server, self.token, self.timeout = server, token, timeout
        self.context = ssl.create_default_context(cafile=str(ca_file))

    @classmethod
    def of(cls, cluster, user="admin", **more):
        """From one `kubernetes` entry of lab.json."""
        server, token = ("direct_server", "admin_token_file") if user == "admin" else ("server", "token_file")
        with open(cluster[token]) as f:
            return cls(cluster[server], cluster["ca_file"], f.read(), **more)

    def call(self, method, path, body=None, *, raw=False, content="application/json"):
        request = urllib.request.Request(self.server + path, method=method, data=json.dumps(body).encode() if body is not None else None,
                                         headers={"Authorization": f"Bearer {self.token}", "Content-Type": content})
        with urllib.request.urlopen(request, context=self.context, timeout=self.timeout) as answer:
            text = answer.read().decode()
        return text if raw else json.loads(text)

    def merge_patch(self, path, body):
        return self.call("PATCH", path, body, content="application/merge-patch+json")


def _kubeconfig(name, server, ca_file, user, token):
    return f"""apiVersion: v1
kind: Config
clusters: [{{name: omnimesh-prod-{name}, cluster: {{server: "{server}", certificate-authority: "{ca_file}"}}}}]
users: [{{name: {user}, user: {{token: "{token}"}}}}]
contexts: [{{name: omnimesh-prod-{name}, context: {{cluster: omnimesh-prod-{name}, user: {user}, namespace: {c.NAMESPACE}}}}}]
current-context: omnimesh-prod-{name}
"""
