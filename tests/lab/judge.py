#!/usr/bin/env python3
"""Judges how a failover ended, by the world alone: servers, DNS, API servers and the writer's history. Never by failoverd.

usage: judge.py --lab DIR/lab.json [--history FILE] [--tag TAG] [--negative | --moved LIST] [--self-managed] [--only LIST] [--json]

Without --negative and --moved: us-east-1 was lost and everything has to have moved to us-west-2, once, whole, and without lost
rows beyond what asynchronous replication had not sent (reported, and bounded by --rows-lost-max, default 100).
With --moved database,cache,storage,kubernetes: only these moved (traffic goes with the cluster), the others are where they were.
With --negative: nothing may have moved, because the region was fine and only failoverd's view of it was cut.
With --negative --there-and-back: it moved, and moved back; rows were written on both sides.
With --self-managed the database is promoted by itself and not by RDS.
Exit 0 when every line says ok.
"""
import argparse, collections, json, sys, urllib.error, urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True
import psycopg
from components import constants as c, kubernetes, redis
from components.aws import Double
from components.kubernetes import Api
from components.processes import Run

EAST, WEST = c.REGIONS
COMPONENTS = ("database", "cache", "storage", "kubernetes")
SUBJECTS = ("region", "database", "cache", "storage", "kubernetes", "traffic", "calls", "rows")


class Judge:
    def __init__(self, lab, *, moved=COMPONENTS, self_managed=False, history=None, tag="writer", rows_lost_max=100, there_and_back=False, batches=None):
        self.lab, self.regions, self.moved, self.self_managed = lab, lab["direct"]["regions"], set(moved), self_managed
        self.there_and_back, self.batches = there_and_back, batches
        self.negative, self.whole = not self.moved, self.moved == set(COMPONENTS)
        self.double = Double(lab["aws"]["control"]) if "aws" in lab else None
        self.history = [json.loads(line) for line in Path(history).read_text().splitlines()] if history else []
        self.tag, self.rows_lost_max = tag, rows_lost_max
        self.findings, self.numbers = [], {}

    def judge(self, subjects=SUBJECTS):
        for subject in subjects:
            try:
                getattr(self, subject)()
            except Exception as problem:              # a judge that cannot see does not acquit
                self.say(False, f"{subject}: cannot be judged: {type(problem).__name__}: {problem}")
        return all(ok for ok, _ in self.findings)

    def serves(self, component):
        return WEST if component in self.moved else EAST

    def say(self, ok, sentence):
        self.findings.append((bool(ok), sentence))

    # --- subjects ---------------------------------------------------------------------------------

    def region(self):
        run = Run(self.lab["run_dir"])
        alive = [name for name in run.names(region=EAST) if run.is_alive(name)]
        if not self.negative and not self.whole:
            return                                           # a part of it lives
        if self.negative:
            dead = set(run.names(region=EAST)) - set(alive)
            self.say(not dead, f"every process of {EAST} lives" if not dead else f"{EAST} is not whole: {', '.join(sorted(dead))} are dead")
        else:
            self.say(not alive, f"{EAST} is dead" if not alive else f"{EAST} is not dead: {', '.join(alive)} live")

    def database(self):
        states = {r: self.database_state(r) for r in c.REGIONS}
        writable = [r for r, state in states.items() if state == "writable"]
        self.say(writable == [self.serves("database")], f"exactly one writable database: {', '.join(f'{r} is {s}' for r, s in states.items())}")
        if self.double and not self.self_managed:
            replica = self.double.get("state")["rds"][c.RDS_INSTANCE[WEST]]
            source, status = replica["source"], replica["status"]
            good = status == "available" and bool(source) == ("database" not in self.moved)
            self.say(good, f"{c.RDS_INSTANCE[WEST]} is {status}{' and still a replica' if source else ' and on its own'}")

    def database_state(self, region):
        dsn = self.regions[region]["postgres"]["dsn"]["app"]
        try:
            with psycopg.connect(dsn, connect_timeout=2, autocommit=True) as connection:
                if connection.execute("SELECT pg_is_in_recovery()").fetchone()[0]:
                    return "in recovery"
                with connection.transaction(force_rollback=True):         # a real write, taken back
                    connection.execute("INSERT INTO compute_nodes (payload) VALUES ('judge')")
                return "writable"
        except psycopg.OperationalError as error:
            return "fenced" if any(said in str(error) for said in ("pg_hba.conf rejects", "not permitted to log in")) else "dead"
        except psycopg.errors.ReadOnlySqlTransaction:
            return "read-only"

    def cache(self):
        host, port, group = self.regions[WEST]["redis"]["host"], self.regions[WEST]["redis"]["port"], c.CACHE_GROUP[WEST]
        role = "replica" if "role:slave" in redis.command(port, "INFO", "replication", host=host) else "primary"
        moved = "cache" in self.moved
        self.say(role == ("primary" if moved else "replica"), f"Redis in {WEST} is {role}")
        if moved:
            self.say(redis.command(port, "SET", "judge", "1", host=host) == "OK", f"Redis in {WEST} accepts a write")
        if self.double and moved:
            self.say(self.double.get("state")["elasticache"][group]["status"] == "available", f"replication group {group} is available")

    def storage(self):
        from components.s3 import client
        region = self.serves("storage")
        s3 = self.regions[region]["s3"]
        listed = client(s3["endpoint"], region).list_objects_v2(Bucket=s3["bucket"])
        self.say(listed["KeyCount"] >= 1, f"bucket {s3['bucket']} can be listed")

    def kubernetes(self):
        west = Api.of(self.regions[WEST]["kubernetes"])
        found = kubernetes.workloads(west)
        for name, replicas in c.WORKLOADS.items():
            wanted, ready, updated = found[name]
            expected = replicas[EAST if "kubernetes" in self.moved else WEST]       # the lost region's count, or the standby's own
            self.say((wanted, ready, updated) == (expected,) * 3, f"{name} in {WEST}: {ready} of {expected} ready")
        self.published(west, WEST)
        if "kubernetes" not in self.moved:
            self.published(Api.of(self.regions[EAST]["kubernetes"]), EAST)
        try:
            mode = kubernetes.config_map(west, "dr-mode").get("status", "absent")
        except urllib.error.HTTPError:
            mode = "absent"
        self.say(mode in ("absent", "inactive") if self.negative else mode == "active", f"dr-mode is {mode}")

    def published(self, cluster, where):
        """What pods read names the instances that serve."""
        def names(component, kind):
            region = self.serves(component)
            return {(str(view[region][kind]["host"]), str(view[region][kind]["port"])) for view in self.views()}
        secret = kubernetes.secret_data(cluster)
        self.say((secret["host"], secret["port"]) in names("database", "postgres") and secret["user"] == c.APP_USER and secret["password"] == c.PASSWORDS["app"],
                 f"the Secret in {where} names the database of {self.serves('database')}")
        cache = kubernetes.config_map(cluster, "redis-config")
        self.say((cache["host"], cache["port"]) in names("cache", "redis"), f"redis-config in {where} names the cache of {self.serves('cache')}")
        bucket, region = kubernetes.config_map(cluster, "s3-config"), self.serves("storage")
        self.say((bucket["bucket"], bucket["region"]) == (c.BUCKET[region], region), f"s3-config in {where} names {bucket['bucket']}")

    def restarts(self):
        """Not asked by default: two parts of a plan may each restart a workload."""
        found = Api.of(self.regions[WEST]["kubernetes"]).call("GET", f"/apis/apps/v1/namespaces/{c.NAMESPACE}/deployments")
        for deployment in found["items"]:
            # the controller counts changes of the pod template, and nothing else
            times = int(deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"]) - 1
            self.say(times == 1, f"{deployment['metadata']['name']} in {WEST} was restarted {times} times")

    def views(self):
        return self.lab["regions"], self.regions             # through the proxy or past it: the same server

    def traffic(self):
        records = next(iter(self.double.get("state")["route53"].values()))
        weights = {r["SetIdentifier"]: r["Weight"] for r in records["published"] if r["Name"] == c.API_NAME and "Weight" in r}
        serving = self.serves("kubernetes")
        away, to = (0, 100) if serving == WEST else (100, 0)
        self.say(weights == {"primary": away, "secondary": to}, f"weights {weights}")
        answers = collections.Counter(resolve(self.lab["direct"]["dns"]["server"], c.API_NAME) for _ in range(10))
        address = self.regions[serving]["public_address"]
        self.say(set(answers) == {address}, f"{c.API_NAME.rstrip('.')} resolves to {', '.join(map(str, answers))}")
        if address == self.regions[serving].get("app", {}).get("address"):
            url = f"http://{next(iter(answers))}:{self.regions[serving]['app']['http_port']}/health"
            with urllib.request.urlopen(url, timeout=5) as answer:
                self.say(answer.headers["X-Region"] == serving, f"a client that follows DNS is served by {answer.headers['X-Region']}")

    def calls(self):
        done = [x for x in self.double.get("calls") if x["status"] == 200]
        promotions = [x for x in done if x["action"] == "PromoteReadReplica"]
        batches = [x for x in done if x["action"] == "ChangeResourceRecordSets"]
        self.say(len(promotions) == ("database" in self.moved and not self.self_managed), f"accepted promotions: {len(promotions)}")
        expected = self.batches if self.batches is not None else int("kubernetes" in self.moved)
        self.say(len(batches) == expected, f"accepted DNS change batches: {len(batches)}")
        self.numbers["batches"] = [x["params"].get("changes") for x in batches]
        if self.negative and not self.there_and_back:
            changing = [x["action"] for x in self.double.get("calls") if not x["action"].startswith(("Describe", "List", "Get", "HEAD", "GET"))]
            self.say(not changing, f"calls that change something: {', '.join(changing) or 'none'}")

    def rows(self):
        acknowledged = [e for e in self.history if e["state"] == "acknowledged"]
        if not acknowledged:
            return self.say(False, "the writer's history holds no acknowledged row")
        with psycopg.connect(self.regions[self.serves("database")]["postgres"]["dsn"]["postgres"], connect_timeout=3) as connection:
            rows = connection.execute("SELECT payload FROM compute_nodes WHERE payload LIKE %s", [f"{self.tag}-%"]).fetchall()
        present = collections.Counter(int(payload.rsplit("-", 1)[1]) for (payload,) in rows)
        lost = sorted({e["n"] for e in acknowledged} - set(present))
        doubled = [n for n, count in present.items() if count > 1]
        sides = {side: [e for e in acknowledged if e["side"] == side] for side in c.REGIONS}
        self.numbers |= {"rows_acknowledged": len(acknowledged), "rows_lost": len(lost), "lost": lost[:20]}
        self.say(not doubled, "no row is there twice")
        if self.there_and_back:
            told = ", ".join(f"{len(rows)} by {side}" for side, rows in sides.items())
            return self.say(not lost and all(sides.values()), f"{len(acknowledged)} rows acknowledged, {told}, {len(lost)} lost")
        if self.negative:
            self.say(not lost and not sides[WEST], f"{len(acknowledged)} rows acknowledged, all by {EAST}, none lost")
            gaps = [b["t"] - a["t"] for a, b in zip(acknowledged, acknowledged[1:])]
            self.numbers["longest_gap_s"] = round(max(gaps, default=0), 3)
            return None
        self.say(len(lost) <= self.rows_lost_max, f"{len(lost)} of {len(acknowledged)} acknowledged rows lost (allowed: {self.rows_lost_max})")
        self.say(bool(sides[EAST]) and bool(sides[WEST]), f"rows acknowledged by {EAST}: {len(sides[EAST])}, by {WEST}: {len(sides[WEST])}")
        if sides[EAST] and sides[WEST]:
            last, first = sides[EAST][-1]["t"], sides[WEST][0]["t"]
            self.numbers["write_outage_s"] = round(first - last, 2)
            self.say(first > last, f"{WEST} acknowledged its first row {first - last:.1f} s after the last of {EAST}")
        # The tail may be lost, the middle may not: asynchronous replication keeps the order.
        east = [e["n"] for e in sides[EAST]]
        self.say(lost == [n for n in east if n >= lost[0]] if lost else True, "what is lost is only the end of the old history")


def resolve(server, name):
    from dnslib import DNSRecord
    host, port = server.split(":")
    reply = DNSRecord.parse(DNSRecord.question(name).send(host, int(port), timeout=3))
    return str(reply.rr[0].rdata) if reply.rr else None


def show(judge, ok, colour):
    paint = (lambda code, text: f"\033[{code}m{text}\033[0m") if colour else (lambda _, text: text)
    for good, sentence in judge.findings:
        print(f"  {paint('32', 'ok  ') if good else paint('1;31', 'FAIL')}  {sentence}")
    print(f"  {paint('1;32', 'The judge is content.') if ok else paint('1;31', 'The judge is NOT content.')}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lab", required=True)
    parser.add_argument("--history")
    parser.add_argument("--tag", default="writer")
    parser.add_argument("--negative", action="store_true")
    parser.add_argument("--there-and-back", action="store_true", help="rows were written on both sides, and the first one has the work again")
    parser.add_argument("--moved", default=",".join(COMPONENTS), help="what has moved (default: everything)")
    parser.add_argument("--batches", type=int, help="DNS change batches that were accepted, where it moved more than once")
    parser.add_argument("--self-managed", action="store_true")
    parser.add_argument("--rows-lost-max", type=int, default=100)
    parser.add_argument("--only", help=f"some of {','.join(SUBJECTS)}")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    moved = () if options.negative else [name for name in options.moved.split(",") if name]
    if unknown := set(moved) - set(COMPONENTS):
        parser.error(f"nothing of the lab: {', '.join(sorted(unknown))}; there are {', '.join(COMPONENTS)}")
    judge = Judge(json.loads(Path(options.lab).read_text()), moved=moved, self_managed=options.self_managed, history=options.history, there_and_back=options.there_and_back, batches=options.batches,
                  tag=options.tag, rows_lost_max=options.rows_lost_max)
    ok = judge.judge(options.only.split(",") if options.only else SUBJECTS)
    if options.json:
        print(json.dumps({"ok": ok, "findings": judge.findings, "numbers": judge.numbers}, indent=1))
    else:
        show(judge, ok, sys.stdout.isatty())
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
