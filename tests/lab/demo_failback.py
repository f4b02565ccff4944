#!/usr/bin/env python3
"""`make demo-failback`: after the failover, the way back. Nothing is lost twice, and nobody is moved in one leap.

usage: demo_failback.py [--regress] [--binary target/debug/failoverd] [--speed 8] [--patience SECONDS] [--run-dir DIR] [--keep]

The story of `make demo`, with self-managed databases, and from there on:
  the standby stops receiving (nobody notices), 100 rows and more are written that never come over, and us-east-1 dies;
  it comes back, and failoverd fences it and says how many rows only the old primary has: a rejoin is refused;
  a person gives them up, the old primary becomes a standby, and `failoverd failback` takes the work back: a tenth of the
  clients, half of them, and then everything, each share watched for a while.
A client writes all the time. With --regress the service in us-east-1 answers with errors while half of the clients are there:
they have to be taken back within one health interval, until a person sends them again.
Last, the databases are asked: the failover lost exactly what failoverd said, and the failback nothing. Exit 0 only if so.
"""
import argparse, json, os, signal, subprocess, sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True
import demo as first_half
import lab as lab_program
from components import constants as c
from components.processes import LabError
from terminal import Terminal

EAST, WEST = c.REGIONS
LOST_AT_LEAST = 100
STABLE, STAGE, INTERVAL = 5, 8, 4                     # seconds; 30, 30 and 1 minutes in the plan
STAGES = (10, 50)
# For pg_rewind as a role that is no superuser.
MAY_REWIND = ("GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean), pg_read_binary_file(text), "
              "pg_read_binary_file(text, bigint, bigint, boolean) TO replicator")


class FailbackDemo(first_half.Demo):
    database = "postgres"

    def play(self):
        self.start_lab()
        self.start_daemon()
        self.start_writer()
        self.lose_rows()
        self.break_things()
        self.follow()
        self.come_back()
        self.rejoin()
        self.go_back()
        return self.verdict()

    # --- what differs from the first half ---------------------------------------------------------

    def configuration(self):
        """More than the first half needs: self-managed databases, rows that are counted, a way back, and short stages."""
        pg = self.lab["direct"]["regions"][EAST]["postgres"]
        lab = lambda what: f"{sys.executable} {lab_program.__file__} {what} --run-dir {self.run.folder} pg@{EAST}"
        replicator = f"user=replicator dbname={pg['database']} password={pg['passwords']['replicator']}"
        script = first_half.ROOT / "systemd/rejoin-postgres.sh"
        stop = f"{lab('kill')} && rm -f {pg['data_dir']}/postmaster.pid"      # a killed server leaves its lock behind
        command = ["env", f"PG_BIN={self.tools()}", script, pg["data_dir"], stop, lab("start"), replicator, self.folder / "rejoin.log"]
        for region, grant in ((EAST, MAY_REWIND), (EAST, "GRANT SELECT ON compute_nodes TO failoverd")):
            self.sql(region, grant)
        return {"FAILOVERD__DATABASES__DATABASE__REJOIN__COMMAND": json.dumps([str(word) for word in command]),
                "FAILOVERD__DATABASES__DATABASE__WATERMARKS": '{ compute_nodes = "id" }',
                "FAILOVERD__FAILBACK__STABLE_FOR": f"{STABLE}s", "FAILOVERD__FAILBACK__STAGE_FOR": f"{STAGE}s",
                "FAILOVERD__FAILBACK__INTERVAL": f"{INTERVAL}s"}

    def tools(self):
        """PostgreSQL's tools refuse to run as root, to whom the lab belongs."""
        folder = self.folder / "tools"
        folder.mkdir()
        for tool in ("pg_rewind", "pg_basebackup", "psql"):
            wrapper = folder / tool
            wrapper.write_text("#!/bin/sh\ncd /\nbin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)\n"
                               f'[ "$(id -u)" = 0 ] && exec runuser -u postgres -- "$bin/{tool}" "$@"\nexec "$bin/{tool}" "$@"\n')
            wrapper.chmod(0o755)
        return folder

    # --- the story --------------------------------------------------------------------------------

    def lose_rows(self):
        self.t.title("The standby stops receiving, and nobody notices")
        # A replay that is only paused would catch up when it is promoted, and nothing would be lost.
        for statement in ("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"):
            self.sql(WEST, statement)
        before = self.rows()
        self.until(f"{LOST_AT_LEAST} rows that never come over", 60, lambda: self.rows() > before + LOST_AT_LEAST)
        self.t.say(f"  {self.rows() - before} rows and more are in {EAST} alone")

    def come_back(self):
        self.t.title(f"{EAST} is back")
        self.until(f"the application writes in {WEST}", 60, lambda: self.acknowledged(WEST) > 100)
        lab_program.start_again(self.run, [f"region:{EAST}"])
        self.event("every process of it is started again", "green")
        self.until("failoverd knows what only the old primary has", 180, lambda: self.told_lost() is not None)
        self.told = self.told_lost()
        self.event(f"failoverd: {self.told} rows of compute_nodes are in database@{EAST} and nowhere else", "bold yellow")
        refused = self.order("rejoin", f"database@{EAST}")
        if "NOT IN EFFECT" not in refused.stderr:
            raise LabError(f"the old primary's own rows would have been overwritten: {refused.stdout}{refused.stderr}")
        self.event("rejoin: " + " ".join(refused.stderr.split())[:160], "yellow")

    def rejoin(self):
        self.t.title("A person has seen to them: the old primary becomes a standby")
        self.must("rejoin", f"database@{EAST}", "--discard")
        self.closed(240)
        self.until("the standbys are ready", 120, lambda: all(i["ready"] for i in self.api.status()["instances"] if not i["active"]))

    def go_back(self):
        self.t.title("failback: a share of the clients at a time")
        self.weights, self.back_at = [], time.time()
        self.must("failback")
        if self.options.regress:
            self.regress()
        self.closed(self.options.patience)
        self.failoverd("status", may_page=True)               # the other database is no standby yet
        self.until(f"the application writes in {EAST} again", 60, lambda: self.acknowledged(EAST, since=self.back_at) > 100)
        for child in self.children:
            if child is not self.daemon:
                child.send_signal(signal.SIGTERM)
                child.wait(10)

    def regress(self):
        """The service in the east breaks while half of the clients are there."""
        self.wait_with_story("half of the clients are in the east", 180, lambda: self.weight() == 50)
        app = f"app@{EAST}"
        lab_program.kill(self.run, [app])
        broke = time.time()
        self.event(f"{app} is killed", "red")
        self.wait_with_story("the share is taken back", 60, lambda: self.weight() < 50)
        self.took_back = time.time() - broke
        self.event(f"half of the clients were taken back {self.took_back:.1f} s after that, by the DNS", "bold yellow")
        said = subprocess.run([self.options.binary, "explain", "--url", f"http://127.0.0.1:{self.api.port}"], capture_output=True, text=True,
                              env={**os.environ, "FAILOVERD_TOKEN": first_half.TOKEN}).stdout
        self.why = next((line.strip() for line in said.splitlines() if "taken back" in line), "")
        self.event(f"explain: {self.why[:200]}", "yellow")
        lab_program.start_again(self.run, [app])
        self.wait_with_story("the smaller share is where it is, or back too", 30, lambda: self.is_well(EAST))
        self.must("continue", self.incident())

    # --- what the world says ----------------------------------------------------------------------

    def verdict(self):
        self.t.title("The databases are asked, not failoverd")
        entries = [json.loads(line) for line in self.history.read_text().splitlines()]
        acknowledged = [e for e in entries if e["state"] == "acknowledged"]
        with self.connect(EAST) as connection:
            rows = connection.execute("SELECT payload FROM compute_nodes WHERE payload LIKE 'writer-%'").fetchall()
            in_recovery = connection.execute("SELECT pg_is_in_recovery()").fetchone()[0]
        present = [int(payload.rsplit("-", 1)[1]) for (payload,) in rows]
        lost = sorted({e["n"] for e in acknowledged} - set(present))
        first_west = next(e["n"] for e in acknowledged if e["side"] == WEST)
        by_failover, by_failback = [n for n in lost if n < first_west], [n for n in lost if n >= first_west]
        unknown = [e["n"] for e in entries if e["state"] == "unknown" and e["n"] < first_west]
        status = self.api.status()
        findings = [
            (not in_recovery and {e["side"] for e in acknowledged[-50:]} == {EAST}, f"{EAST} takes the application's writes again"),
            (len(present) == len(set(present)), "no row is there twice"),
            (LOST_AT_LEAST <= len(by_failover) <= self.told <= len(by_failover) + len(unknown),
             f"the failover lost {len(by_failover)} acknowledged rows, failoverd said {self.told} ({len(unknown)} were written and never acknowledged)"),
            (not by_failback, f"the failback lost {len(by_failback)} of {sum(e['n'] >= first_west for e in acknowledged)} acknowledged rows"),
            (self.stages() == [*STAGES, 100], f"the clients of {EAST} in percent, as the DNS had them: {self.stages()}"),
            (set(status["placement"].values()) == {EAST}, f"failoverd's ledger agrees: {sorted(set(status['placement'].values()))}"),
        ]
        if self.options.regress:
            findings.append((self.took_back <= INTERVAL + c.TTL, f"a share that was not well served was back after {self.took_back:.1f} s (interval {INTERVAL} s)"))
            findings.append(("taken back" in self.why, "failoverd says why"))
        for ok, sentence in findings:
            self.t.say(f"  {self.t.paint('green', 'ok  ') if ok else self.t.paint('bold red', 'FAIL')}  {sentence}")
        ok = all(ok for ok, _ in findings)
        self.t.say()
        self.t.say("  The judge is content." if ok else "  The judge is NOT content.", "bold green" if ok else "bold red")
        return ok

    def stages(self):
        """What the DNS gave the east since the failback began, without what was repeated."""
        weights = [w for n, w in enumerate(self.weights) if n == 0 or w != self.weights[n - 1]]
        if self.options.regress:                              # only what was reached, not what was taken back
            weights = sorted({w for w in weights})
        return [w for w in weights if w > 0]

    def weight(self):
        from components.aws import Double
        records = next(iter(Double(self.lab["aws"]["control"]).get("state")["route53"].values()))["published"]
        weight = next(r["Weight"] for r in records if r["Name"] == c.API_NAME and r.get("SetIdentifier") == c.SET_IDENTIFIER[EAST])
        self.weights.append(weight)
        return weight

    def told_lost(self):
        losses = (self.api.status() or {}).get("losses", [])
        return next((loss["rows"]["compute_nodes"] for loss in losses if loss.get("rows")), None)

    def is_well(self, region):
        return all(i["verdict"] == "alive" for i in self.api.status()["instances"] if i["instance"].endswith(region))

    def acknowledged(self, side, since=0):
        entries = (json.loads(line) for line in self.history.read_text().splitlines() if '"acknowledged"' in line)
        return sum(e["side"] == side and e["t"] >= since for e in entries)

    def incident(self):
        return next(i["incident"] for i in self.api.status()["incidents"] if i["closed"] is None)

    # --- helpers ----------------------------------------------------------------------------------

    def connect(self, region, **options):
        import psycopg                                        # in the lab's own environment, which main() sees to
        return psycopg.connect(self.lab["direct"]["regions"][region]["postgres"]["dsn"]["postgres"], connect_timeout=5, **options)

    def sql(self, region, statement):
        with self.connect(region, autocommit=True) as connection:
            connection.execute(statement)

    def order(self, *words):
        argv = [self.options.binary, *words, *(() if words[0] == "continue" else ("--reason", "the demonstration", "--yes")),
                "--url", f"http://127.0.0.1:{self.api.port}", "--color", "never"]
        return subprocess.run(argv, env={**os.environ, "FAILOVERD_TOKEN": first_half.TOKEN, "COLUMNS": "200"}, capture_output=True, text=True)

    def must(self, *words):
        self.t.say(f"  failoverd {' '.join(words)}", "bold")
        done = self.order(*words)
        if done.returncode != 0:
            raise LabError(f"failoverd {' '.join(words)}: {done.stdout}{done.stderr}")
        self.t.say(f"    {done.stdout.strip()}")

    def closed(self, seconds):
        """Until no incident is open."""
        self.wait_with_story("the plan ends", seconds, lambda: all(i["closed"] is not None for i in self.api.status()["incidents"]))

    def wait_with_story(self, what, seconds, condition):
        ends = time.time() + seconds
        while True:
            self.check_children()
            for _, at, sentence, style in self.api.new_facts():
                if sentence:
                    self.t.event(at - self.zero, sentence, style)
            if hasattr(self, "weights"):
                self.weight()
            if condition():
                return
            if time.time() > ends:
                raise LabError(f"not within {seconds} s: {what}; see {self.folder}")
            self.t.count(f"  {time.time() - self.zero:+7.1f} s  {first_half.countdown(self.api.status())}   ({self.rows()} rows)")
            time.sleep(0.1)

    def event(self, text, style=""):
        self.t.event(time.time() - self.zero, text, style)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regress", action="store_true")
    first_half.add_options(parser)
    options = parser.parse_args()
    options.negative, options.patience = False, options.patience or 240
    return first_half.tell(FailbackDemo(options, Terminal()))


if __name__ == "__main__":
    try:
        lab_program.in_environment()
        sys.exit(main())
    except LabError as problem:
        sys.exit(f"demo-failback: {problem}")
