#!/usr/bin/env python3
"""Start, break and stop the lab: real servers on loopback for the tests and the demonstration.

  lab.py up      --run-dir DIR [--only pg,redis,s3,aws,dns,k8s,app,etcd] [--parent-pid PID] [options]
  lab.py down    --run-dir DIR                  stop exactly what was started, remove every trace
  lab.py kill    --run-dir DIR NAME...          SIGKILL processes; region:us-east-1 is all of a region, and its AWS API
  lab.py stop    --run-dir DIR NAME...          SIGSTOP: accepts connections and never answers
  lab.py cont    --run-dir DIR NAME...          SIGCONT
  lab.py start   --run-dir DIR NAME...          start again what was killed
  lab.py copy    --run-dir DIR pg@REGION        make it a standby of the other region's server, from nothing
  lab.py link    --run-dir DIR 'PATTERN MODE'   faults of the proxy (up --proxy): see tcp_fault_proxy.py
  lab.py put     --run-dir DIR REGION KEY [TEXT]  an object in the region's bucket; without TEXT it is deleted
  lab.py revision --run-dir DIR REGION DEPLOYMENT   how many pod templates it has had, as its controller counts
  lab.py status  --run-dir DIR
  lab.py selftest [--only ...]                  start everything, try everything, stop everything

`up` returns when everything is ready, and DIR/lab.json says where it is. Ports are free ones, so many labs can run at once.
With --parent-pid the lab is stopped when that process is gone, however it went.
Options of up:
  --proxy               put one fault proxy in front of all components; `regions`, `aws` and `dns` in lab.json then lead
                        through it, `direct` leads past it
  --redis LAYOUT        pair (west replicates east; default), single, cluster (east 3 x 3)
  --client-addresses    api.omnimesh.com points to the lab's own applications instead of the plan's addresses
  --app-checks-database /health of the application fails when its region's database does
  --expired             the applications' certificates have expired
  --insync-s, --promote-s, --promote-lag-s, --modify-s SECONDS    how long AWS takes (default 1, 1, 0.2, 1)
  --namespaces          every region in a network namespace of its own (root): see regions_net.py; etcd member i in region i
  --etcd-secure         etcd wants a client certificate, a user and a password
  --pod-delay SECONDS   how long a pod takes to become ready (default 0.3)
"""
import argparse, concurrent.futures, json, os, signal, subprocess, sys, time
from pathlib import Path

LAB = Path(__file__).resolve().parent
sys.path.insert(0, str(LAB))
sys.dont_write_bytecode = True
from components import processes
from components.processes import LabError, Run, wait_for_exit_of, wait_until
from regions_net import enter

COMPONENTS = ("pg", "redis", "s3", "aws", "dns", "k8s", "app", "etcd")
USUAL = tuple(name for name in COMPONENTS if name != "etcd")          # what a lab has unless --only says otherwise


def in_environment():
    """Go on with the Python that has the lab's packages."""
    python = str(processes.CACHE / "venv/bin/python")
    if sys.executable != python and not os.environ.get("FAILOVERD_LAB_PYTHON"):
        if not os.path.exists(python):
            raise LabError(f"the lab is not installed: run {LAB / 'install.sh'}")
        os.environ["FAILOVERD_LAB_PYTHON"] = python           # never twice
        os.execv(python, [python, *sys.argv])
    os.environ.pop("FAILOVERD_LAB_PYTHON", None)


# --- up -----------------------------------------------------------------------------------------------

def up(run, options):
    """Start the chosen components, independent ones at the same time. Returns the content of lab.json."""
    from components.tls import Authority
    began = time.monotonic()
    wanted = set(options.only.split(",")) if options.only else set(USUAL)
    if unknown := wanted - set(COMPONENTS):
        raise LabError(f"unknown component {', '.join(sorted(unknown))}; there are {', '.join(COMPONENTS)}")
    if "dns" in wanted:
        wanted.add("aws")                                   # one process
    run.create()
    if options.parent_pid:
        supervise(run, options.parent_pid)
    try:
        if options.namespaces:
            if options.proxy or options.redis == "cluster":
                raise LabError("--namespaces goes with neither --proxy nor --redis cluster")
            enter(run.make_regions().names["world"])
        plan = Plan(run, options, wanted)
        authority = Authority(run.folder / "tls")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            futures = {name: pool.submit(getattr(plan, f"start_{name}"), authority) for name in COMPONENTS if name in wanted and name != "dns"}
            if options.proxy:
                futures["proxy"] = pool.submit(plan.start_proxy)
            done = {}
            for future in concurrent.futures.as_completed(futures.values()):
                name = next(n for n, f in futures.items() if f is future)
                done[name] = future.result()               # the first failure ends the start
        lab = plan.describe(done, authority)
        lab["started_in_s"] = round(time.monotonic() - began, 2)
        text = json.dumps(lab, indent=1)
        (run.folder / "lab.json.new").write_text(text)
        (run.folder / "lab.json.new").rename(run.folder / "lab.json")
        return lab
    except BaseException:
        if not options.keep:
            run.remove()
        raise


class Plan:
    """Every port first, so that components can name each other before they run."""

    def __init__(self, run, options, wanted):
        from components import app, constants as c, etcd, kubernetes, s3
        self.run, self.options, self.wanted, self.c = run, options, wanted, c
        counts = {"pg": 2, "redis": 20 if options.redis == "cluster" else 2, "s3": 2 * len(s3.PORTS), "aws": 2,
                  "k8s": 2 * kubernetes.PORTS, "app": 2, "etcd": etcd.PORTS}
        self.ports = {name: run.ports(count) for name, count in counts.items() if name in wanted}
        self.direct, self.shown = {}, {}                    # link name -> (address, port), past and through the proxy
        for region, index in ((c.PRIMARY, 0), (c.SECONDARY, 1)):
            home = run.host(region)
            for name in ("pg", "redis"):
                self._link(name, f"{name}@{region}", index, home)
            self._link("s3", f"s3@{region}", index * len(s3.PORTS), home)
            self._link("k8s", f"k8s@{region}", index * kubernetes.PORTS, home)
            self._link("app", f"app@{region}", 0, app.address(run, region))
            self._link("app", f"app-tls@{region}", 1, app.address(run, region))
        self._link("aws", "aws", 0, run.host())
        self._link("aws", "dns", 1, run.host())
        self.shown = dict(self.direct)
        if options.proxy:
            for name, (address, _) in self.direct.items():
                # the applications keep their port across regions: a DNS answer carries none
                twin = self.shown.get(name.replace(c.SECONDARY, c.PRIMARY)) if name.startswith("app") and c.SECONDARY in name else None
                self.shown[name] = (address, twin[1] if twin else run.ports(1)[0])
            self.control = run.ports(1)[0]

    def _link(self, component, name, index, address):
        if component in self.wanted:
            self.direct[name] = (address, self.ports[component][index])

    # one method for each component; they run at the same time

    def start_pg(self, authority):
        from components import postgres
        return postgres.start_pair(self.run, authority, dict(zip(self.c.REGIONS, self.ports["pg"])))

    def start_redis(self, _):
        from components import redis
        p, c = self.ports["redis"], self.c
        if self.options.redis == "cluster":
            return redis.start(self.run, {c.PRIMARY: [p[0], *p[2:10]], c.SECONDARY: [p[1]], "bus": p[10:19]}, "cluster")
        return redis.start(self.run, {c.PRIMARY: [p[0]], c.SECONDARY: [p[1]]}, self.options.redis)

    def start_s3(self, _):
        from components import s3
        half = len(s3.PORTS)
        return s3.start(self.run, {r: self.ports["s3"][i * half:(i + 1) * half] for i, r in enumerate(self.c.REGIONS)})

    def start_aws(self, _):
        from components import aws
        c, o = self.c, self.options
        databases = {c.RDS_INSTANCE[r]: self._real("pg", r, dsn=(
            "host={} port={}".format(*self.direct[f"pg@{r}"]) + f" user=postgres password={c.PASSWORDS['postgres']} dbname=postgres"),
            copy=[processes.python(), str(LAB / "lab.py"), "copy", "--run-dir", str(self.run.folder), f"pg@{r}"])
            for r in c.REGIONS if "pg" in self.wanted}
        caches = {c.CACHE_GROUP[r]: self._real("redis", r, direct_port=self.direct[f"redis@{r}"][1]) for r in c.REGIONS if "redis" in self.wanted}
        addresses = self.client_addresses()
        return aws.start(self.run, *self.ports["aws"], databases=databases, caches=caches, cache_layout=o.redis, addresses=addresses,
                         timings={"insync_s": o.insync_s, "promote_s": o.promote_s, "promote_lag_s": o.promote_lag_s, "modify_s": o.modify_s})

    def client_addresses(self):
        from components import app
        c = self.c
        return {r: app.address(self.run, r) for r in c.REGIONS} if self.options.client_addresses else c.PLAN_ADDRESS

    def _real(self, component, region, **more):
        host, port = self.shown[f"{component}@{region}"]
        return {"host": host, "port": port, **more}

    def start_k8s(self, authority):
        from components import kubernetes
        c, each = self.c, kubernetes.PORTS
        ports = {r: self.ports["k8s"][i * each:(i + 1) * each] for i, r in enumerate(c.REGIONS)}
        served_from = c.PRIMARY                              # both clusters use the primary region's data
        home = self.run.host(served_from)
        database, cache = self.direct.get(f"pg@{served_from}", (home, 5432)), self.direct.get(f"redis@{served_from}", (home, 6379))
        values = {"database": {"host": database[0], "port": str(database[1]), "user": c.APP_USER, "password": c.PASSWORDS["app"]},
                  "redis": {"host": cache[0], "port": str(cache[1])}, "s3": {"bucket": c.BUCKET[served_from], "region": served_from}}
        return kubernetes.start(self.run, authority, ports, {r: values for r in c.REGIONS}, pod_delay=self.options.pod_delay,
                                server_ports={r: self.shown[f"k8s@{r}"][1] for r in c.REGIONS})

    def start_etcd(self, authority):
        from components import etcd
        return etcd.start(self.run, authority, self.ports["etcd"], secure=self.options.etcd_secure)

    def start_app(self, authority):
        from components import app
        databases = None
        if self.options.app_checks_database and "pg" in self.wanted:
            databases = {r: "host={} port={}".format(*self.direct[f"pg@{r}"]) + f" user=app password={self.c.PASSWORDS['app']} dbname={self.c.DATABASE}"
                         for r in self.c.REGIONS}
        return app.start(self.run, authority, self.ports["app"], databases, expired=self.options.expired)

    def start_proxy(self):
        from tcp_fault_proxy import tell
        at = lambda place: f"{place[0]}:{place[1]}"
        links = [f"{name}={at(self.shown[name])}={at(place)}" for name, place in self.direct.items()]
        if "dns" in self.direct:
            links.append(f"dns-udp={at(self.shown['dns'])}={at(self.direct['dns'])}/udp")
        self.run.spawn("proxy", [processes.python(), LAB / "tcp_fault_proxy.py", self.control, *links])
        wait_until(lambda: tell(self.control, "* status"), "the proxy", run=self.run, process="proxy")
        return {"control": f"127.0.0.1:{self.control}"}

    # what lab.json says

    def describe(self, done, authority):
        lab = {"version": 1, "run_dir": str(self.run.folder), "lab": str(LAB / "lab.py"), "ca_file": str(authority.file),
               **self._view(done, self.shown), "direct": self._view(done, self.direct),
               "proxy": done.get("proxy"), "namespaces": self.run.state()["namespaces"], "processes": sorted(self.run.names())}
        return lab

    def _view(self, done, places):
        """The same components at the given places. Components with a port are described by their `place`."""
        c = self.c
        regions = {}
        for region in c.REGIONS:
            entry = {"role": c.ROLE[region], "public_address": self.client_addresses()[region]}
            if "pg" in done:
                port = places[f"pg@{region}"][1]
                entry["postgres"] = {**done["pg"][region], "port": port, "dsn": {user: replace_port(dsn, port) for user, dsn in done["pg"][region]["dsn"].items()}}
            if "redis" in done:
                entry["redis"] = {**done["redis"][region], "port": places[f"redis@{region}"][1]}
            if "s3" in done:
                entry["s3"] = {**done["s3"][region], "endpoint": "http://{}:{}".format(*places[f"s3@{region}"])}
            if "k8s" in done:
                entry["kubernetes"] = {**done["k8s"][region], "server": "https://{}:{}".format(*places[f"k8s@{region}"])}
            if "app" in done:
                (address, http), https = places[f"app@{region}"], places[f"app-tls@{region}"][1]
                entry["app"] = {**done["app"][region], "http": f"http://{address}:{http}", "https": f"https://{address}:{https}",
                                "http_port": http, "https_port": https}
            regions[region] = entry
        view = {"regions": regions}
        if "etcd" in done:
            view["etcd"] = done["etcd"]
        if "aws" in done:
            view["aws"] = {"endpoint": "http://{}:{}".format(*places["aws"]), "control": done["aws"].endpoint, "access_key_id": c.ACCESS_KEY,
                           "secret_access_key": c.SECRET_KEY, "account": c.ACCOUNT, "global_cache_group": c.GLOBAL_CACHE_GROUP}
            view["dns"] = {"server": "{}:{}".format(*places["dns"]), "zone_id": c.ZONE_ID, "zone": c.ZONE_NAME, "name": c.API_NAME, "ttl": c.TTL,
                           "set_identifiers": c.SET_IDENTIFIER, "reference_names": ["ref.example.", "a.ref.example."]}
            # reference points outside both regions: they live on when a region is killed, and are cut with the proxy
            view["references"] = {"dns": view["dns"]["server"], "clients": view["aws"]["endpoint"] + "/lab/ping"}
        return view


def replace_port(dsn, port):
    return " ".join(f"port={port}" if part.startswith("port=") else part for part in dsn.split(" "))


# --- breaking and mending -----------------------------------------------------------------------------

def kill(run, names):
    from components.aws import Double
    regions = [n.removeprefix("region:") for n in names if n.startswith("region:")]
    targets = [n for n in names if not n.startswith("region:")] + [n for r in regions for n in run.names(region=r)]
    if missing := [r for r in regions if not run.names(region=r)]:
        raise LabError(f"no process in region {', '.join(missing)}")
    run.kill(*targets)
    lab = read(run)
    for region in regions:
        if "aws" in lab:
            Double(lab["aws"]["control"]).fail_region(region)
    return targets


def start_again(run, names):
    from components.aws import Double
    for name in names:
        if name.startswith("region:"):
            region = name.removeprefix("region:")
            for process in run.names(region=region):
                if not run.is_alive(process):
                    _start_one(run, process)
            lab = read(run)
            if "aws" in lab:
                double = Double(lab["aws"]["control"])
                double.post("faults", [f for f in double.get("faults") if f.get("region") != region])
        else:
            _start_one(run, name)


def put(run, region, key, text=None):
    """An object for the bucket of the region, or none under that key."""
    from components.s3 import client
    store = read(run)["direct"]["regions"][region]["s3"]
    s3 = client(store["endpoint"], region)
    if text is None:
        s3.delete_object(Bucket=store["bucket"], Key=key)
    else:
        s3.put_object(Bucket=store["bucket"], Key=key, Body=text.encode())


def copy(run, name):
    """What a cloud does that makes a new read replica: the server in the region holds a copy of the other one's data."""
    from components import constants as c, postgres
    region = name.removeprefix("pg@")
    source = next(other for other in c.REGIONS if other != region)
    if run.is_alive(name):
        run.kill(name)
    servers = read(run)["direct"]["regions"]
    postgres.copy_from(run, region, servers[source]["postgres"])
    _start_one(run, name)
    own = servers[region]["postgres"]
    wait_until(lambda: postgres.query(own["port"], "SELECT 1", host=own["host"]), f"the copy in {region}", run=run, process=name)


def _start_one(run, name):
    if name.startswith("pg@"):                    # a killed server leaves its lock files, and its process id may be another's now
        folder = run.data / name.replace("@", "-")
        processes.release_shared_memory(folder / "postmaster.pid")
        for lock in (folder / "postmaster.pid", *folder.with_name(folder.name + "-socket").glob(".s.PGSQL.*")):
            lock.unlink(missing_ok=True)
    run.start_again(name)


def read(run):
    try:
        return json.loads((run.folder / "lab.json").read_text())
    except FileNotFoundError:
        return {}


# --- the supervisor -----------------------------------------------------------------------------------

def supervise(run, pid):
    """A process of its own that removes the lab when process `pid` is gone."""
    subprocess.Popen([sys.executable, __file__, "supervise", "--run-dir", run.folder, "--parent-pid", str(pid)],
                     start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def watch_over(run, pid):
    if wait_for_exit_of(pid, stop_when=lambda: not run.exists()):
        run.remove()


# --- the command line ---------------------------------------------------------------------------------

def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("up", "down", "kill", "stop", "cont", "start", "copy", "link", "put", "revision", "status", "selftest", "supervise"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--run-dir")
    parser.add_argument("--only", default="")
    parser.add_argument("--parent-pid", type=int)
    parser.add_argument("--redis", choices=("pair", "single", "cluster"), default="pair")
    parser.add_argument("--redis-cluster", dest="redis", action="store_const", const="cluster")
    for flag in ("--proxy", "--client-addresses", "--app-checks-database", "--etcd-secure", "--expired", "--keep", "--namespaces"):
        parser.add_argument(flag, action="store_true", help="keep what was started when the start fails" if flag == "--keep" else None)
    for flag, default in (("--insync-s", 1.0), ("--promote-s", 1.0), ("--promote-lag-s", 0.2), ("--modify-s", 1.0), ("--pod-delay", 0.3)):
        parser.add_argument(flag, type=float, default=default)
    return parser.parse_intermixed_args(arguments)


def main(arguments):
    options = parse(arguments)
    if options.command == "selftest":
        import selftest
        return selftest.main(options.only)
    if not options.run_dir:
        raise LabError(f"{options.command} needs --run-dir")
    run = Run(options.run_dir)
    if options.command == "up":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))       # so that an interrupted start cleans up
        lab = up(run, options)
        print(f"lab: ready in {lab['started_in_s']} s: {run.folder / 'lab.json'}")
    elif options.command == "down":
        run.remove()
    elif options.command == "kill":
        print("killed", *kill(run, options.names))
    elif options.command in ("stop", "cont"):
        for name in options.names:
            run.signal(name, signal.SIGSTOP if options.command == "stop" else signal.SIGCONT)
    elif options.command == "start":
        start_again(run, options.names)
    elif options.command == "copy":
        copy(run, *options.names)
    elif options.command == "link":
        from tcp_fault_proxy import tell
        print(tell(read(run)["proxy"]["control"].rsplit(":", 1)[1], " ".join(options.names)))
    elif options.command == "put":
        put(run, *options.names)
    elif options.command == "revision":
        from components import constants as c, kubernetes
        region, name = options.names
        found = kubernetes.Api.of(read(run)["direct"]["regions"][region]["kubernetes"]).call("GET", f"/apis/apps/v1/namespaces/{c.NAMESPACE}/deployments/{name}")
        print(found["metadata"]["annotations"]["deployment.kubernetes.io/revision"])
    elif options.command == "status":
        for name in sorted(run.names()):
            print(f"{'runs' if run.is_alive(name) else 'DEAD':5} {name}")
    elif options.command == "supervise":
        watch_over(run, options.parent_pid)
    return 0


if __name__ == "__main__":
    try:
        in_environment()
        sys.exit(main(sys.argv[1:]))
    except LabError as problem:
        sys.exit(f"lab: {problem}")
