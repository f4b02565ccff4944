"""One lab with a namespace for each region, three daemons in it, and what a test does to them and asks them.

Every process belongs to the lab: it dies with it, its log lies with the others, and a region that is killed takes its daemon
and its member of etcd with it. Whoever uses this stands in the namespace `world`, which nothing cuts off.
"""
import datetime, json, shutil, signal, subprocess, sys, threading, time, urllib.error, urllib.request
from pathlib import Path

import failoverd_config, lab as lab_program
from components import constants as c
from components.aws import Double
from components.processes import LAB, LabError, Run, python, wait_until
from regions_net import ADDRESS, Net, enter

EAST, WEST, THIRD = c.COUNCIL
API_PORT, ROLE_PORT, TOKEN = 7780, 7781, "lab-token"
COMPONENTS = "pg,redis,s3,aws,dns,k8s,app,etcd"
PATIENCE = 240                         # a busy machine; nothing takes this long when all is well


class Failed(Exception):
    """What was expected of the world did not come."""


class Deployment:
    def __init__(self, folder, binary, *, speed=8.0, say=print):
        self.folder, self.binary, self.speed, self.say = Path(folder), Path(binary).resolve(), speed, say
        self.run = Run(self.folder / "lab")
        self.began = time.monotonic()

    # --- beginning and end ------------------------------------------------------------------------

    def up(self, parent_pid, lab_options=(), **seat):
        options = lab_program.parse(["up", "--run-dir", str(self.run.folder), "--only", COMPONENTS, "--namespaces", "--client-addresses",
                                     "--parent-pid", str(parent_pid), *lab_options])
        self.lab = lab_program.up(self.run, options)
        self.net, self.double = Net(self.lab["namespaces"]), Double(self.lab["aws"]["control"])
        self.tell(f"{len(self.lab['processes'])} servers in three regions, ready in {self.lab['started_in_s']} s")
        for region in c.COUNCIL:
            self.configure(region, **seat)
            self.run.spawn(name_of(region), [self.binary, "run", "--config", self.config(region)], region=region)
        seen = {region: set() for region in c.COUNCIL}
        self.until("every daemon has seen every instance alive", lambda: all([self.has_seen_all(region, seen[region]) for region in c.COUNCIL]))
        self.until("the deployment is adopted", self.adopt)
        self.until("one leads, from outside the region that serves, and everybody is heard", self.is_settled)
        self.until("the role is answered for everywhere", lambda: all(self.role(at, EAST) == 200 for at in c.COUNCIL))
        self.double.post("calls", [])
        threading.Thread(target=self.record, daemon=True).start()
        self.tell(f"three daemons; {self.leader()} leads")

    def configure(self, region, database="rds", **seat):
        """`database`: who promotes, RDS or failoverd itself. The rest is the daemon's `Seat`."""
        # the secrets have the same paths for all three, as on three machines with the same files
        sits = failoverd_config.Seat(region, ADDRESS, **seat)
        text = failoverd_config.render(self.lab, self.folder, api_port=API_PORT, speed=self.speed, seat=sits, database=database)
        self.config(region).write_text(text)

    def config(self, region):
        return self.folder / f"failoverd-{region}.toml"

    def adopt(self):
        return self.order(THIRD, "adopt").returncode == 0

    def is_settled(self):
        found = {region: self.status(region) for region in c.COUNCIL}
        heard = all(observer["without_voice"] is None for status in found.values() for observer in status["observers"])
        ready = all(instance["ready"] for instance in found[THIRD]["instances"] if not instance["active"])
        return heard and ready and self.leader() not in (None, EAST)

    def down(self):
        """Stops everything; the logs, the ledger and what was asked stay in the folder."""
        try:
            self.keep_evidence()
        finally:
            shutil.copytree(self.run.logs, self.folder / "logs", dirs_exist_ok=True)
            self.run.remove()

    def keep_evidence(self):
        statuses = {region: self.status(region) for region in c.COUNCIL}
        (self.folder / "status.json").write_text(json.dumps(statuses, indent=1))
        (self.folder / "calls.json").write_text(json.dumps(self.double.get("calls"), indent=1, default=str))
        shown = subprocess.run([self.binary, "ledger", "show", "--config", self.config(THIRD)], capture_output=True, text=True, timeout=30)
        (self.folder / "ledger.txt").write_text(shown.stdout + shown.stderr)

    # --- breaking ---------------------------------------------------------------------------------

    def kill_region(self, region, *, servers_only=False, silent=False):
        """SIGKILL for everything there, or for all but the daemon and the ledger's member. Silent: its network dies with it,
        as when the power fails; else the machine lives and refuses."""
        names = [name for name in self.run.names(region=region) if not (servers_only and name.startswith(("failoverd@", "etcd-", "writer")))]
        if silent and servers_only:
            self.net.silence(region, self.server_ports(region))
        elif silent:
            self.net.cut(region, *(place for place in (*c.COUNCIL, "world") if place != region))
        self.run.kill(*names)
        self.double.fail_region(region)
        self.tell(f"{region} is killed: {', '.join(sorted(names))}")

    def server_ports(self, region):
        entry = self.lab["direct"]["regions"][region]
        urls = [entry["s3"]["endpoint"], entry["kubernetes"]["server"], entry["app"]["http"], entry["app"]["https"]]
        return [entry["postgres"]["port"], entry["redis"]["port"], *(url.rsplit(":", 1)[1] for url in urls)]

    def kill(self, name):
        self.run.kill(name)
        self.tell(f"kill -9 {name}")

    def stop(self, name):
        """SIGSTOP for this process, and for none that it started."""
        self.run.signal_one(name, signal.SIGSTOP)
        self.tell(f"kill -STOP {name}")

    def cont(self, name):
        self.run.signal_one(name, signal.SIGCONT)

    def start(self, name):
        self.run.start_again(name)
        self.tell(f"{name} is started again")

    # --- asking -----------------------------------------------------------------------------------

    def get(self, address, path, timeout=3):
        """(status code, body), or (0, why) without an answer."""
        request = urllib.request.Request(f"http://{address}{path}", headers={"Authorization": f"Bearer {TOKEN}"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read().decode()
        except OSError as problem:
            return 0, str(problem)

    def status(self, region):
        """What the daemon of this region says; a dead one says nothing."""
        code, body = self.get(f"{ADDRESS[region]}:{API_PORT}", "/v1/status")
        return json.loads(body) if code == 200 else {"headline": f"no answer: {body[:200]}", "instances": [], "observers": [], "alarms": [],
                                                     "incidents": [], "placement": {}, "owed_fences": [], "observer": None, "epoch": 0}

    def has_seen_all(self, region, seen):
        """Each at some time: on a busy machine one or the other is always late."""
        instances = self.status(region)["instances"]
        seen |= {instance["instance"] for instance in instances if instance["verdict"] == "alive"}
        return bool(instances) and len(seen) == len(instances)

    def record(self):
        """What every daemon sees, once a second, for whoever studies the run later: statuses.jsonl."""
        with open(self.folder / "statuses.jsonl", "a", buffering=1) as file:
            while self.run.exists():
                for region in c.COUNCIL:
                    status = self.status(region)
                    seen = {i["instance"]: {who: f"{s['verdict']} {s.get('failing_for', '')}".strip() for who, s in i.get("seen_by", {}).items()}
                            for i in status["instances"] if EAST in i["instance"] or i["verdict"] != "alive"}
                    file.write(json.dumps({
                        "at": time.time(), "from": region, "headline": status["headline"], "seen": seen,
                        "leads": [o["observer"] for o in status["observers"] if o["leads"]],
                        "silent": {o["observer"]: o["without_voice"] or o["doubts"] for o in status["observers"] if o["without_voice"] or o["doubts"]},
                        "pending": status.get("pending", []), "alarms": [alarm["key"] for alarm in status["alarms"]]}) + "\n")
                time.sleep(1)

    def leader(self):
        """The region of the one that says that it leads."""
        leaders = self.leaders()
        if len(leaders) > 1:
            raise Failed(f"more than one leads: {leaders}")
        return leaders[0] if leaders else None

    def leaders(self):
        return [region for region in c.COUNCIL if any(o["leads"] and o["observer"] == failoverd_config.observer(region)
                                                      for o in self.status(region)["observers"])]

    def role(self, at, region, component="database"):
        """What the daemon in `at` answers, asked from inside, as a load balancer there would."""
        answer = []

        def ask():
            enter(self.net.names[at])
            answer.append(self.get(f"{ADDRESS[at]}:{ROLE_PORT}", f"/v1/role/{region}/{component}", timeout=5)[0])
        thread = threading.Thread(target=ask)          # the namespace is a thread's own
        thread.start()
        thread.join()
        return answer[0] if answer else 0

    def alarms(self, region):
        return self.status(region)["alarms"]

    def order(self, at, *words):
        return subprocess.run([self.binary, *words, "--url", f"http://{ADDRESS[at]}:{API_PORT}"], capture_output=True, text=True, timeout=60,
                              env={"FAILOVERD_TOKEN": TOKEN, "PATH": "/usr/bin:/bin"})

    def is_closed(self):
        """One of those that can see it says that the incident is over, and that the west serves all of it."""
        for status in map(self.status, (THIRD, WEST)):
            placement, incidents = status["placement"], status["incidents"]
            if incidents and all(incident["closed"] for incident in incidents) and set(placement.values()) == {WEST}:
                return True
        return False

    def frames(self, region, since):
        """What was recorded after this time, as the daemon of this region knows it: (time, facts)."""
        code, body = self.get(f"{ADDRESS[region]}:{API_PORT}", "/v1/facts?from=0&limit=1000")
        frames = json.loads(body) if code == 200 else []
        times = [datetime.datetime.fromisoformat(frame["at"]["wall"].replace("Z", "+00:00")).timestamp() for frame in frames]
        return [(at, frame["facts"]) for at, frame in zip(times, frames) if at > since]

    # --- writers ----------------------------------------------------------------------------------

    def write_from_outside(self):
        """An application that goes where the writable database is, and commits a row every 10 ms."""
        self.history = self.folder / "history.jsonl"
        self.run.spawn("writer", [python(), LAB / "writer.py", "--lab", self.run.folder / "lab.json", "--history", self.history])
        self.until("200 rows are written", lambda: self.rows() >= 200)

    def rows(self, side=""):
        if not self.history.exists():
            return 0
        return sum('"acknowledged"' in line and side in line for line in self.history.read_text().splitlines())

    def stop_writing(self):
        self.run.kill("writer")

    # --- waiting ----------------------------------------------------------------------------------

    def until(self, what, condition, seconds=PATIENCE):
        """Waits, and returns how long it took. Errors on the way count as not yet."""
        began = time.monotonic()
        try:
            wait_until(condition, what, seconds=seconds)
        except LabError as problem:
            raise Failed(str(problem)) from None
        took = time.monotonic() - began
        if took > 1:
            self.tell(f"{what} ({took:.1f} s)")
        return took

    def holds(self, what, seconds, condition):
        """Looks all the time, for so long; the condition answers what is wrong, or nothing."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if wrong := condition():
                raise Failed(f"{what}, but {wrong}")
            time.sleep(0.5)
        self.tell(f"for {seconds} s: {what}")

    def tell(self, sentence):
        self.say(f"  {time.monotonic() - self.began:7.1f} s  {sentence}")
        sys.stdout.flush()


def name_of(region):
    return f"failoverd@{region}"
