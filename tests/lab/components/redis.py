"""Redis: one server for each region, or a sharded cluster in the primary region.

layout `pair`     west replicates east: a warm copy, promoted with REPLICAOF NO ONE
       `single`   two servers that know nothing of each other: the plan's cold backup
       `cluster`  east is 3 shards with 2 replicas each (the plan's cluster mode), west one server
"""
import socket, subprocess
from . import constants as c
from .processes import program, wait_until

PASSWORD = None          # the plan has none; a test of NOAUTH sets `requirepass` on a running server


def start(run, ports, layout="pair"):
    """`ports` maps region to a list of ports: nine for the primary region of a cluster, else one."""
    binary = program("redis-server", hint="tests/lab/install.sh")
    cluster = layout == "cluster"
    host = run.host
    for region in c.REGIONS:
        for index, port in enumerate(ports[region]):
            data = run.data / f"redis-{region}-{index}"
            data.mkdir()
            extra = []
            if cluster and region == c.PRIMARY:
                extra = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "2000",
                         "--cluster-port", str(ports["bus"][index]), "--cluster-announce-ip", "127.0.0.1"]
            elif layout == "pair" and region == c.SECONDARY:
                extra = ["--replicaof", host(c.PRIMARY), str(ports[c.PRIMARY][0])]
            run.spawn(_name(region, index), [binary, "--port", port, "--bind", host(region), "--protected-mode", "no", "--dir", data, "--save", "",
                                             "--appendonly", "no", "--maxmemory", "64mb", "--repl-diskless-sync-delay", "0",
                                             *extra], region=region)
    for region in c.REGIONS:
        for index, port in enumerate(ports[region]):
            wait_until(lambda p=port, h=host(region): command(p, "PING", host=h) == "PONG", f"Redis in {region}", run=run, process=_name(region, index))
    if cluster:
        _create_cluster(ports[c.PRIMARY])
    elif layout == "pair":
        command(ports[c.PRIMARY][0], "SET", "session:1", "seed", host=host(c.PRIMARY))
        wait_until(lambda: "master_link_status:up" in command(ports[c.SECONDARY][0], "INFO", "replication", host=host(c.SECONDARY)),
                   "Redis replication", run=run, process=_name(c.SECONDARY, 0))
    return {region: {"process": _name(region, 0), "host": host(region), "port": ports[region][0], "layout": layout,
                     "nodes": [f"{host(region)}:{p}" for p in ports[region]], "replication_group": c.CACHE_GROUP[region]}
            for region in c.REGIONS}


def _name(region, index):
    return f"redis@{region}" if index == 0 else f"redis-{index}@{region}"


def _create_cluster(ports):
    subprocess.run(["redis-cli", "--cluster", "create", *[f"127.0.0.1:{p}" for p in ports], "--cluster-replicas", "2",
                    "--cluster-yes"], check=True, capture_output=True)
    for port in ports:
        wait_until(lambda p=port: "cluster_state:ok" in command(p, "CLUSTER", "INFO"), "the Redis cluster")
    wait_until(lambda: sum("master_link_status:up" in command(p, "INFO", "replication") for p in ports) == 6, "its replicas")


def command(port, *words, host="127.0.0.1", timeout=2):
    """One command, without a client library. Errors are raised with the server's own words."""
    with socket.create_connection((host, port), timeout=timeout) as s:
        s.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in map(str, words)))
        reader = s.makefile("rb")
        kind, rest = (line := reader.readline().decode())[:1], line[1:].strip()
        if kind == "-":
            raise RuntimeError(rest)
        if kind == "$" and rest != "-1":
            return reader.read(int(rest)).decode()
        return None if rest == "-1" else int(rest) if kind == ":" else rest
