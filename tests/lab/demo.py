#!/usr/bin/env python3
"""`make demo`: a region dies for real, and failoverd moves everything to the other one. Or, negative: it must not.

usage: demo.py [--negative] [--binary target/debug/failoverd] [--speed 8] [--patience SECONDS] [--run-dir DIR] [--keep]

Starts the lab, failoverd and a writer that commits a row every 10 ms. Then
  (default)    every process of us-east-1 gets SIGKILL, and its AWS API stops answering. The story of the failover is told
               as it happens, with a table of measured times at the end;
  --negative   only failoverd's own network is cut: the region is fine, nothing may move.
Last, judge.py looks at the world without asking failoverd. Exit 0 only if the judge is content. Cleans up, on Ctrl-C too.
`--speed` divides the plan's thresholds (30 s, 2, 5 and 10 minutes); 1 is the plan's own pace.
"""
import argparse, datetime, json, os, shutil, signal, subprocess, sys, tempfile, time, urllib.error, urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True
import lab as lab_program
from components import constants as c
from components.processes import LabError, Run
from terminal import Terminal

EAST, WEST = c.REGIONS
ROOT = Path(__file__).resolve().parents[2]


# --- failoverd's API: everything that knows its JSON is here ----------------------------------------------

# the facts that end a phase of the recovery, in order
DETECTED, DECIDED, MOVED, FINISHED = "incident_declared", "commit_point_passed", "traffic_moved", "incident_closed"
TOKEN = "lab-token"


class Api:
    def __init__(self, port):
        self.port, self.next_frame = port, 0

    def get(self, path):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def status(self):
        """/v1/status, or None while the daemon does not answer."""
        try:
            return self.get("/v1/status")
        except (OSError, ValueError):
            return None

    def new_facts(self):
        """Facts that were not seen before, as (name, seconds since the epoch, sentence, style)."""
        try:
            frames = self.get(f"/v1/facts?from={self.next_frame}&limit=1000")
        except (OSError, ValueError):
            return []
        told = []
        for frame in frames:
            self.next_frame = frame["index"] + 1
            at = datetime.datetime.fromisoformat(frame["at"]["wall"].replace("Z", "+00:00")).timestamp()
            for fact in frame["facts"]:
                sentence, style = tell_fact(fact)
                if fact["fact"] == "step_done" and fact["step"].startswith("traffic-"):
                    fact["fact"] = MOVED
                told.append((fact["fact"], at, sentence, style))
        return told


def tell_fact(fact):
    """A fact as (sentence, style); no sentence for what would only be noise."""
    step, kind = fact.get("step", ""), fact["fact"]
    if kind == "suspicion_raised":
        return f"{fact['instance']}: {fact['why']}", "yellow"
    if kind == "suspicion_cleared":
        return f"{fact['instance']} is alive again", "green"
    if kind == "incident_declared":
        return f"INCIDENT {fact['incident']}: {fact['source']} is left for {fact['target']} ({fact['level'].replace('_', ' ')}), seen for {fact['detected_after']}", "bold yellow"
    if kind == "incident_escalated":
        return f"{fact['incident']} is worse: {fact['level'].replace('_', ' ')}", "bold yellow"
    if kind in ("plan_made", "plan_grown"):
        part = fact["part"] if isinstance(fact["part"], str) else next(iter(fact["part"].values()))
        return f"PLAN for {part}: {', '.join(s['id'] for s in fact['steps'])}", "bold"
    if kind == "commit_point_passed":
        loss = f", expected loss at most {fact['loss']}" if fact.get("loss") else ""
        said = "".join(f"; exception: {e}" for e in fact["exceptions"])
        return f"judged once more before {step}: go{loss}{said}", "yellow"
    if kind == "step_done":
        return f"done   {step}: {fact['note']}", "green"
    if kind == "step_owed":
        return f"owed   {step}: {fact['why']}", "yellow"
    if kind in ("step_failed", "undo_failed"):
        return f"FAILED {step}: {fact['why']}", "bold red"
    if kind == "placement_changed":
        return f"{fact['component']} is served in {fact['region']}", "bold green"
    if kind == "unwinding_started":
        return f"undoing: {fact['why']}", "yellow"
    if kind == "share_taken_back":
        return f"{step}: TAKEN BACK, {fact['why']}", "bold red"
    if kind == "step_undone":
        return f"undone {step}: {fact['note']}", "yellow"
    if kind == "divergence_found":
        return f"{fact['database']} holds what {fact['promoted']} has not", "bold yellow"
    if kind == "withheld":
        return f"held back: {'; '.join(g['evidence'] for g in fact['guards'])}", "yellow"
    if kind == "incident_closed":
        return f"{fact['incident']} is closed: {fact['outcome']}", "bold green"
    return None, ""


def is_watching(status):
    """Every instance has been seen alive."""
    verdicts = [i["verdict"] for i in status.get("instances", [])] if status else []
    return bool(verdicts) and all(v == "alive" for v in verdicts)


def countdown(status):
    """What failoverd does or waits for right now, as one line."""
    if not status:
        return "failoverd does not answer"
    for incident in status["incidents"]:
        if incident["closed"] is None:
            steps = incident["steps"]
            settled = sum(s["state"] not in ("waiting", "held", "running") for s in steps)
            running = [f"{s['step']} {s['note']}".strip() for s in steps if s["state"] == "running"]
            bar = "#" * round(20 * settled / max(1, len(steps)))
            return f"[{bar:.<20}] {settled}/{len(steps)} steps  {'; '.join(running) or incident['summary']}"
    return status["headline"]


# --- the story -------------------------------------------------------------------------------------------------

class Demo:
    run_options = ()                                          # more for `failoverd run`
    database = "rds"

    def __init__(self, options, terminal):
        self.options, self.t = options, terminal
        self.folder = Path(options.run_dir or tempfile.mkdtemp(prefix="failoverd-demo-"))
        self.run = Run(self.folder / "lab")
        self.history = self.folder / "history.jsonl"
        self.children, self.marks, self.zero = [], {}, None

    def play(self):
        self.start_lab()
        self.start_daemon()
        self.start_writer()
        self.break_things()
        self.follow()
        self.settle()
        judge = self.judge()
        self.measured(judge)
        return judge["ok"]

    def start_lab(self):
        self.t.title("The lab: real servers, two regions, on this machine")
        proxy = ["--proxy"] if self.options.negative else []          # failoverd's own link, to be cut
        options = lab_program.parse(["up", "--run-dir", str(self.run.folder), "--client-addresses", "--parent-pid", str(os.getpid()), *proxy])
        self.lab = lab_program.up(self.run, options)
        self.t.say(f"  {len(self.lab['processes'])} processes started in {self.lab['started_in_s']} s")
        self.t.table([(r, e["role"], f"PostgreSQL :{e['postgres']['port']}", f"Redis :{e['redis']['port']}", f"S3 {e['s3']['endpoint'].rsplit(':')[-1]}",
                       f"Kubernetes {e['kubernetes']['server'].rsplit(':')[-1]}", e["app"]["https"]) for r, e in self.lab["direct"]["regions"].items()],
                     ("region", "role", "database", "cache", "storage", "cluster", "application"))

    def start_daemon(self):
        self.t.title("failoverd watches")
        port, self.config = self.run.ports(1)[0], self.folder / "failoverd.toml"
        self.api = Api(port)
        subprocess.run([sys.executable, Path(__file__).with_name("failoverd_config.py"), "--lab", self.run.folder / "lab.json", "--out", self.config,
                        "--api-port", str(port), "--speed", str(self.options.speed), "--database", self.database], check=True)
        self.environment = {**os.environ, **self.configuration()}
        self.daemon = self.child([self.options.binary, "run", "--config", self.config, *self.run_options], "failoverd.log", self.environment)
        self.t.say(f"  {self.options.binary} run --config {self.config}")
        self.until("failoverd sees every instance alive", 60, lambda: is_watching(self.api.status()))
        self.t.say("  every instance has been seen alive", "green")
        # a new ledger on a live deployment does nothing until a person says that it is in charge
        self.failoverd("adopt")
        self.until("failoverd is in charge", 30, lambda: "would do nothing" not in self.api.status()["headline"])
        self.failoverd("status")
        self.api.new_facts()                                 # what happened before the story

    def configuration(self):
        """What is different from the configuration of the lab, as variables."""
        return {}

    def start_writer(self):
        self.t.title("The application writes")
        self.child([sys.executable, Path(__file__).with_name("writer.py"), "--lab", self.run.folder / "lab.json", "--history", self.history], "writer.log")
        self.until("200 rows", 30, lambda: self.rows() >= 200)
        self.t.say(f"  {self.rows()} rows committed and acknowledged by {EAST}, one every 10 ms")

    def break_things(self):
        if self.options.negative:
            self.t.title("failoverd's own network is cut; the region is fine")
            from tcp_fault_proxy import tell
            tell(self.lab["proxy"]["control"].rsplit(":", 1)[1], "* blackhole")
            self.zero = time.time()
            self.t.event(0, "every connection of failoverd leads into silence", "yellow")
        else:
            self.t.title(f"{EAST} dies")
            self.zero = time.time()
            killed = lab_program.kill(self.run, [f"region:{EAST}"])
            self.t.event(0, f"SIGKILL: {', '.join(sorted(killed))}", "red")
            self.t.event(time.time() - self.zero, f"the AWS API of {EAST} stops answering", "red")

    def follow(self):
        """Tell what failoverd records, until the incident ends or patience does."""
        ends = self.zero + self.options.patience
        while time.time() < ends and FINISHED not in self.marks:
            self.check_children()
            for name, at, sentence, style in self.api.new_facts():
                self.marks.setdefault(name, at)
                if sentence:
                    self.t.event(at - self.zero, sentence, style)
            left = f"{ends - time.time():.0f} s of patience left"
            self.t.count(f"  {time.time() - self.zero:+7.1f} s  {countdown(self.api.status())}   ({self.rows()} rows; {left})")
            time.sleep(0.2)
        if self.options.negative:
            self.t.event(time.time() - self.zero, "time is up" if FINISHED not in self.marks else "an incident was closed", "yellow")

    def settle(self):
        """Give the writer time on its new side, and failoverd its network back."""
        if self.options.negative:
            from tcp_fault_proxy import tell
            tell(self.lab["proxy"]["control"].rsplit(":", 1)[1], "* ok")
            self.t.event(time.time() - self.zero, "the network is back")
        time.sleep(3)
        for child in self.children:
            if child is not self.daemon:
                child.send_signal(signal.SIGTERM)
                child.wait(10)

    def judge(self):
        self.t.title("The judge looks at the world, not at failoverd")
        flags = ["--negative"] if self.options.negative else []
        done = subprocess.run([sys.executable, Path(__file__).with_name("judge.py"), "--lab", self.run.folder / "lab.json", "--history", self.history,
                               "--json", *flags], capture_output=True, text=True)
        if not done.stdout:
            raise LabError(f"the judge failed: {done.stderr}")
        judge = json.loads(done.stdout)
        for ok, sentence in judge["findings"]:
            self.t.say(f"  {self.t.paint('green', 'ok  ') if ok else self.t.paint('bold red', 'FAIL')}  {sentence}")
        return judge

    def measured(self, judge):
        self.t.title("Measured")
        numbers, rows = judge["numbers"], []
        before = self.zero
        for phase, fact in (("detect", DETECTED), ("decide", DECIDED), ("execute", MOVED), ("verify", FINISHED)):
            if fact in self.marks:
                rows.append((phase, f"{self.marks[fact] - before:.1f} s", f"until {fact}"))
                before = self.marks[fact]
        if FINISHED in self.marks:
            rows.append(("in all", f"{self.marks[FINISHED] - self.zero:.1f} s", f"at 1/{self.options.speed:g} of the plan's thresholds; the plan allows 15 min"))
        if "write_outage_s" in numbers:
            rows.append(("no writes for", f"{numbers['write_outage_s']:.1f} s", "as the application saw it"))
        if "longest_gap_s" in numbers:
            rows.append(("longest pause", f"{numbers['longest_gap_s']:.2f} s", "between two acknowledged rows"))
        rows.append(("rows", f"{numbers.get('rows_acknowledged', 0)}", "acknowledged to the application"))
        rows.append(("rows lost", f"{numbers.get('rows_lost', '?')}", "acknowledged, and missing on the new primary"))
        self.t.table(rows, ("what", "measured", ""))
        self.t.say()
        self.t.say("  The judge is content." if judge["ok"] else "  The judge is NOT content.", "bold green" if judge["ok"] else "bold red")

    def failoverd(self, *command, may_page=False):
        """Run the command line against the daemon and show what it says."""
        argv = [self.options.binary, *command, "--url", f"http://127.0.0.1:{self.api.port}"]
        self.t.say(f"  failoverd {' '.join(command)}", "bold")
        colour = "always" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else "never"
        done = subprocess.run([*argv, "--color", colour], env={**os.environ, "FAILOVERD_TOKEN": TOKEN, "COLUMNS": "110"}, capture_output=True, text=True)
        for line in (done.stdout + done.stderr).splitlines():
            self.t.say(f"    {line}")
        if done.returncode not in ((0, 1) if may_page else (0,)):
            raise LabError(f"failoverd {' '.join(command)} ended with {done.returncode}")

    # --- helpers ----------------------------------------------------------------------------------

    def child(self, argv, log, environment=None):
        with open(self.folder / log, "ab") as file:
            process = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment)
        process.name, process.log = Path(str(argv[0])).name if "python" not in str(argv[0]) else Path(str(argv[1])).name, self.folder / log
        self.children.append(process)
        return process

    def check_children(self):
        for process in self.children:
            if process.poll() is not None:
                tail = "\n".join(process.log.read_text(errors="replace").splitlines()[-15:])
                raise LabError(f"{process.name} ended with {process.returncode}:\n{tail}")

    def until(self, what, seconds, condition):
        ends = time.monotonic() + seconds
        while not condition():
            self.check_children()
            if time.monotonic() > ends:
                raise LabError(f"not within {seconds} s: {what}; see {self.folder}")
            self.t.count(f"  waiting: {what}")
            time.sleep(0.1)

    def rows(self):
        try:
            return sum(b'"acknowledged"' in line for line in self.history.open("rb"))
        except FileNotFoundError:
            return 0

    def clean_up(self):
        for process in self.children:
            if process.poll() is None:
                process.terminate()
        for process in self.children:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        self.run.remove()
        if not self.options.keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def add_options(parser):
    parser.add_argument("--binary", default=str(ROOT / "target/debug/failoverd"))
    parser.add_argument("--speed", type=float, default=8)
    parser.add_argument("--patience", type=float, help="seconds until the story ends anyway (default: 240, negative 90)")
    parser.add_argument("--run-dir")
    parser.add_argument("--keep", action="store_true", help="keep logs, configuration, ledger and history")


def tell(demo):
    """Plays it, and cleans up. The exit code."""
    options = demo.options
    if not os.access(options.binary, os.X_OK):
        raise LabError(f"{options.binary} is missing: run cargo build")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    try:
        return 0 if demo.play() else 1
    except KeyboardInterrupt:
        demo.t.say("\n  interrupted", "yellow")
        return 130
    except LabError:
        options.keep = True                                   # the logs say why
        raise
    finally:
        demo.clean_up()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--negative", action="store_true")
    add_options(parser)
    options = parser.parse_args()
    options.patience = options.patience or (90 if options.negative else 240)
    return tell(Demo(options, Terminal()))


if __name__ == "__main__":
    try:
        lab_program.in_environment()
        sys.exit(main())
    except LabError as problem:
        sys.exit(f"demo: {problem}")
