#!/usr/bin/env python3
"""A configuration of failoverd for a running lab, with shortened thresholds.

usage: failoverd_config.py --lab DIR/lab.json --out FILE.toml [--api-port PORT] [--speed 8] [--mode automatic] [--database rds]

`speed` divides the document's thresholds (30 s, 5 min, 2 min, 10 min; region 2 min): 8 makes an outage of a region
declared after 15 s. Secrets go to files beside the configuration. failoverd stands in eu-west-1, outside both regions; three of
them, one in each region of a lab with namespaces and etcd, are configured by `render` with a `Seat` each.
"""
import argparse, dataclasses, json, sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from components import constants as c

EAST, WEST = c.REGIONS
PUBLISH_DATABASE = [("secret", "database-credentials", "host", "host"), ("secret", "database-credentials", "port", "port")]
PUBLISH_CACHE = [("configmap", "redis-config", "host", "host"), ("configmap", "redis-config", "port", "port")]
PUBLISH_BUCKET = [("configmap", "s3-config", "bucket", "bucket"), ("configmap", "s3-config", "region", "region")]


@dataclasses.dataclass
class Seat:
    """One of three daemons that decide together."""
    region: str
    host_of: dict                       # where each region's daemon listens: `api_port`, and for roles the next one
    self_fence_after: str | None = None
    demote_deadline: str | None = None  # the local database is demoted when its role is not confirmed, within this time


def render(lab, folder, *, api_port, speed=8.0, mode="automatic", database="rds", seat=None):
    """The configuration's text. Writes the secrets that it names into `folder`."""
    regions, endpoint = lab["regions"], lab["aws"]["endpoint"]
    secret = lambda name, value: f'{{ file = {text(write_secret(folder, name, value))} }}'
    after = lambda seconds: text(f"{max(1.0, seconds / speed) * 1000:.0f}ms")
    out = [f"# made by {Path(__file__).name}: the document's thresholds divided by {speed:g}"]
    add = lambda *lines: out.extend(lines)

    add('[deployment]', 'name = "omnimesh-lab"', f'mode = {text(mode)}', "",
        '[observer]', f'name = {text(observer(seat.region) if seat else "lab-observer")}', f'region = {text(seat.region if seat else c.THIRD)}', "",
        '[ledger]', f'path = {text(folder / "ledger")}', f'stop_file = {text(folder / (f"STOP-{seat.region}" if seat else "STOP"))}', "",
        '[api]', f'listen = "{seat.host_of[seat.region] if seat else "127.0.0.1"}:{api_port}"', f'token = {secret("api-token", "lab-token")}',
        *(sit(seat, lab, api_port) if seat else []), "",
        # Three daemons ask three times as much, and share the machine with what they ask.
        '[probes]', f'interval = {text("5s" if speed < 5 else "1s" if seat else "500ms")}', f'timeout = {text("1100ms" if speed >= 5 else "4s")}',
        f'recover_for = {after(30)}', f'nameservers = [{text(lab["dns"]["server"])}]', "",
        '[regional]', f'after = {after(120)}', "")
    for name, address in lab["references"].items():
        add(f"[references.{name}]", f"address = {text(address)}", "")
    for region, entry in regions.items():
        add(f"[regions.{region}]", f"role = {text(entry['role'])}", f"ca_file = {text(lab['ca_file'])}",
            f"credentials = {{ access_key = {secret('access-key', c.ACCESS_KEY)}, secret_key = {secret('secret-key', c.SECRET_KEY)} }}",
            f"endpoints = {{ ec2 = {text(endpoint)}, rds = {text(endpoint)}, elasticache = {text(endpoint)}, route53 = {text(endpoint)}, "
            f"s3 = {text(entry['s3']['endpoint'])} }}", "")

    add("[clusters.kubernetes]", f"namespace = {text(c.NAMESPACE)}", f"trigger = {{ after = {after(30)}, confirm_for = {after(90)} }}",
        "workloads = [", *[f"  {{ kind = \"deployment\", name = {text(n)}, active = {r[EAST]}, standby = {r[WEST]} }}," for n, r in c.WORKLOADS.items()], "]")
    for region, entry in regions.items():
        add(f"[clusters.kubernetes.regions.{region}]", f"kubeconfig = {text(entry['kubernetes']['kubeconfig'])}")
    add("", "[databases.database]", f"provider = {text(database)}", f"name = {text(c.DATABASE)}", 'user = "failoverd"', 'tls = "verify-full"',
        f"password = {secret('postgres-failoverd', c.PASSWORDS['failoverd'])}", f"trigger = {{ after = {after(300)} }}",
        'unfenced_promotion = "allow"        # a lost region cannot be fenced, and one lab has nobody to ask',
        f"fence = {{ application_roles = [{text(c.APP_USER)}], prove_as = {{ role = {text(c.APP_USER)}, password = {secret('postgres-app', c.PASSWORDS['app'])} }} }}",
        publish(PUBLISH_DATABASE), *([f"demote = {{ deadline = {text(seat.demote_deadline)} }}"] if seat and seat.demote_deadline else []))
    for region, entry in regions.items():
        identifier = [f"identifier = {text(c.RDS_INSTANCE[region])}"] if database == "rds" else []
        add(f"[databases.database.regions.{region}]", *identifier, f"host = {text(entry['postgres']['host'])}", f"port = {entry['postgres']['port']}")
    add("", "[caches.cache]", 'provider = "redis"', f"trigger = {{ after = {after(120)} }}", publish(PUBLISH_CACHE))
    for region, entry in regions.items():
        add(f"[caches.cache.regions.{region}]", f"host = {text(entry['redis']['host'])}", f"port = {entry['redis']['port']}")
    add("", "[buckets.storage]", "critical = true", "check_replication = false", f"trigger = {{ after = {after(600)} }}", publish(PUBLISH_BUCKET))
    for region, entry in regions.items():
        add(f"[buckets.storage.regions.{region}]", f"bucket = {text(entry['s3']['bucket'])}")
    add("", "[http.api]", "client_path = true", 'body_contains = "ok"')
    for region, entry in regions.items():
        add(f"[http.api.regions.{region}]", f"url = {text('https://api.omnimesh.com:%d/health' % entry['app']['https_port'])}",
            f"connect_to = {text('%s:%d' % (entry['app']['address'], entry['app']['https_port']))}")
    add("", "[clouds.cloud]", "running_instances_min = 1")
    for region in regions:
        add(f"[clouds.cloud.regions.{region}]", f"databases = [{text(c.RDS_INSTANCE[region])}]")
    add("", "[traffic.traffic]", f"zone_id = {text(c.ZONE_ID)}", f"record = {text(c.API_NAME.rstrip('.'))}", f'ttl = "{c.TTL}s"',
        'provider = "route53-records"', f"control_region = {text(EAST)}")
    for region, entry in regions.items():
        add(f"[traffic.traffic.regions.{region}]", f"set_identifier = {text(c.SET_IDENTIFIER[region])}", f"value = {text(entry['public_address'])}")
    health = text("https://api.omnimesh.com:%d/health" % regions[EAST]["app"]["https_port"])
    addresses = ", ".join(f"{r} = {text('%s:%d' % (e['app']['address'], e['app']['https_port']))}" for r, e in regions.items())
    replicas = sum(r[EAST] for r in c.WORKLOADS.values())
    add("", "[checks.health]", 'after = ["kubernetes"]', f'http = {{ url = {health}, body_contains = "ok", connect_to = {{ {addresses} }} }}',
        "", "[checks.pods]", 'after = ["kubernetes"]', f'pods = {{ cluster = "kubernetes", running_min = {replicas} }}')
    return "\n".join(out) + "\n"


def observer(region):
    return f"in-{region}"


def sit(seat, lab, api_port):
    """The rest of [api], the ledger that all share (the nearest member first), and who they are."""
    members = sorted(lab["etcd"]["endpoints"], key=lambda endpoint: f"//{seat.host_of[seat.region]}:" not in endpoint)
    return [f'role_listen = "{seat.host_of[seat.region]}:{api_port + 1}"', *([f"self_fence_after = {text(seat.self_fence_after)}"] if seat.self_fence_after else []), "",
            "[ledger.etcd]", f"endpoints = {json.dumps(members)}", "", f"[regions.{c.THIRD}]", 'role = "tertiary"', "",
            *[line for region in c.COUNCIL for line in (f"[council.observers.{observer(region)}]", f"region = {text(region)}", f'api = "{seat.host_of[region]}:{api_port}"')]]


def publish(rows):
    return "publish = [" + ", ".join(f'{{ object = "{o}", name = "{n}", key = "{k}", value = "{v}" }}' for o, n, k, v in rows) + "]"


def text(value):
    return json.dumps(str(value))            # a TOML basic string


def write_secret(folder, name, value):
    file = Path(folder) / "secrets" / name
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Another daemon may read it at this moment: never empty, never half.
    if not file.exists() or file.read_text() != value:
        new = file.with_suffix(".new")
        new.write_text(value)
        new.chmod(0o600)
        new.rename(file)
    return file


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lab", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--api-port", type=int, default=7780)
    parser.add_argument("--speed", type=float, default=8)
    parser.add_argument("--mode", choices=("observe", "approve", "automatic"), default="automatic")
    parser.add_argument("--database", choices=("rds", "postgres"), default="rds", help="who promotes: RDS, or failoverd by pg_promote()")
    options = parser.parse_args()
    out = Path(options.out).resolve()
    out.write_text(render(json.loads(Path(options.lab).read_text()), out.parent, api_port=options.api_port, speed=options.speed, mode=options.mode,
                          database=options.database))


if __name__ == "__main__":
    main()
