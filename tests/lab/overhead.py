#!/usr/bin/env python3
"""How much of a plan's time is failoverd's own: a whole region fails over, on real components.

usage: overhead.py --binary target/release/failoverd [--speed 8] [--keep]

The region dies as in demo.py. A step lasts from the moment when it is decided to start it (its frame is not yet on the
disk) to the moment when its end is taken in. Of that, failoverd's log says how long every call to a component took and
how long it paused between two looks at one that was not there yet (one poll interval each). What is left is its own:
the append to the ledger, the queues, the tasks, the timers. Where a step waited for others, the time from their end to
its start is its own as well. Processor time of the whole daemon is measured beside it, because a client's own work hides
in the calls. Prints one line of JSON.
"""
import argparse, datetime, json, os, signal, sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True
import lab as lab_program
from components.processes import LabError
from demo import FINISHED, ROOT, Demo
from terminal import Terminal


class Quiet(Terminal):
    """Everything to standard error: standard output is for the result."""

    def __init__(self):
        super().__init__()
        self.say = self.count = lambda *_, **__: None


class Overhead(Demo):
    run_options = ("--log-format", "json")

    def play(self):
        self.start_lab()
        self.start_daemon()
        self.first_frame = self.api.next_frame
        self.break_things()
        before = self.processor_time()
        self.follow()
        spent = self.processor_time() - before
        if FINISHED not in self.marks:
            raise LabError(f"the incident was not closed within {self.options.patience:.0f} s; see {self.folder}")
        steps = self.steps()
        return {"steps": steps, "daemon_cpu_s": spent, "plan_s": self.marks[FINISHED] - self.zero}

    def processor_time(self):
        fields = Path(f"/proc/{self.daemon.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def steps(self):
        calls, waits = {}, {}
        for line in self.daemon.log.read_text().splitlines():
            event = json.loads(line) if line.startswith("{") else {}
            if "took_us" in event and "call" in event:
                of = waits if event["call"] == "wait" else calls
                of.setdefault(event["key"], []).append(int(event["took_us"]) / 1000)
        plan, started, done, commits, after = None, {}, {}, set(), {}
        for frame in self.api.get(f"/v1/facts?from={self.first_frame}&limit=1000"):
            at = datetime.datetime.fromisoformat(frame["at"]["wall"].replace("Z", "+00:00")).timestamp() * 1000
            for fact in frame["facts"]:
                kind = fact["fact"]
                if kind in ("plan_made", "plan_grown"):
                    plan = fact["plan"]
                    after.update({step["id"]: step["after"] for step in fact["steps"]})
                elif kind == "commit_point_passed":
                    commits.add(fact["step"])
                elif kind == "step_started":
                    started[fact["step"]] = at
                elif kind == "step_done":
                    done[fact["step"]] = at
        steps = []
        for step, at in sorted(done.items(), key=lambda item: item[1]):
            key = f"{plan}/{step}"
            took, called, waited = at - started[step], sum(calls.get(key, [])), sum(waits.get(key, []))
            ready = max((done[before] for before in after.get(step, []) if before in done), default=None)
            # before a commit point everything is looked at once more: that time is not ours
            queued = max(0.0, started[step] - ready) if ready is not None and step not in commits else 0.0
            steps.append({"step": step, "took_ms": took, "calls": len(calls.get(key, [])), "calls_ms": called, "polls": len(waits.get(key, [])),
                          "polls_ms": waited, "own_ms": took - called - waited + queued})
        return steps


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/failoverd"))
    parser.add_argument("--speed", type=float, default=8)
    parser.add_argument("--keep", action="store_true", help="keep logs, configuration and ledger")
    options = parser.parse_args()
    options.negative, options.patience, options.run_dir = False, 240, None
    os.environ["RUST_LOG"] = "info,failoverd::daemon::ensure=debug"
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    overhead = Overhead(options, Quiet())
    try:
        print(json.dumps(overhead.play()))
        return 0
    except LabError:
        options.keep = True                                   # the logs say why
        raise
    finally:
        overhead.clean_up()


if __name__ == "__main__":
    try:
        lab_program.in_environment()
        sys.exit(main())
    except LabError as problem:
        sys.exit(f"overhead: {problem}")
