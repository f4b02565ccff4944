"""Three members of etcd, for a ledger that several daemons share; with namespaces, one in each region.

With `secure`, clients need a certificate of the lab's authority, and the user `failoverd` with a password.
"""
import os, subprocess
from . import constants as c
from .processes import program, wait_until

MEMBERS = 3
PORTS = 2 * MEMBERS
USER, PASSWORD = "failoverd", "lab-failoverd"


def start(run, authority, ports, secure=False):
    """`ports`: one for clients and one for peers of each member. Process names are etcd-0, etcd-1, etcd-2."""
    binary = program("etcd", hint="tests/lab/install.sh")
    scheme = "https" if secure else "http"
    clients, peers = ports[:MEMBERS], ports[MEMBERS:]
    cert, key = authority.issue("etcd")
    user_cert, user_key = authority.issue("etcd-client")
    tls = ["--cert-file", cert, "--key-file", key, "--trusted-ca-file", authority.file, "--client-cert-auth"] if secure else []
    regions = c.COUNCIL if run.state()["namespaces"] else [None] * MEMBERS
    hosts = [run.host(region) for region in regions]
    cluster = ",".join(f"n{i}=http://{hosts[i]}:{port}" for i, port in enumerate(peers))
    for i in range(MEMBERS):
        client, peer = f"{scheme}://{hosts[i]}:{clients[i]}", f"http://{hosts[i]}:{peers[i]}"
        run.spawn(f"etcd-{i}", [binary, "--name", f"n{i}", "--data-dir", run.data / f"etcd-{i}", "--initial-cluster", cluster,
                                "--initial-cluster-token", "failoverd-lab", "--listen-client-urls", client,
                                "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                                "--heartbeat-interval", "50", "--election-timeout", "500", "--logger", "zap", "--log-level", "error",
                                "--enable-v2=false", *tls], region=regions[i])
    endpoints = [f"{scheme}://{host}:{port}" for host, port in zip(hosts, clients)]
    flags = ["--endpoints", ",".join(endpoints)]
    if secure:
        flags += ["--cacert", authority.file, "--cert", user_cert, "--key", user_key]
    for i in range(MEMBERS):
        wait_until(lambda i=i: _control(flags[:1] + [endpoints[i]] + flags[2:], "endpoint", "health"), f"etcd member {i}", run=run, process=f"etcd-{i}")
    if secure:
        for words in (("user", "add", f"root:{PASSWORD}"), ("user", "add", f"{USER}:{PASSWORD}"), ("role", "add", USER),
                      ("role", "grant-permission", USER, "--prefix=true", "readwrite", "/failoverd/"),
                      ("user", "grant-role", USER, USER), ("user", "grant-role", "root", "root"), ("auth", "enable")):
            if not _control(flags, *words):
                raise RuntimeError(f"etcdctl {' '.join(words)} failed")
    found = {"endpoints": endpoints, "processes": [f"etcd-{i}" for i in range(MEMBERS)], "secure": secure, "user": USER, "password": PASSWORD,
             "ca_file": str(authority.file), "cert_file": str(user_cert), "key_file": str(user_key)}
    return found


def _control(flags, *words):
    return subprocess.run(["etcdctl", *map(str, flags), *words], env={**os.environ, "ETCDCTL_API": "3"}, stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=10).returncode == 0
