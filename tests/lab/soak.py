#!/usr/bin/env python3
"""`make soak`: three daemons in three regions, each a network namespace, and everything that may break between them.

usage: soak.py [--runs 10] [--jobs 1] [--only NAME,…] [--binary target/debug/failoverd] [--folder DIR] [--list]

Every scenario on a lab of its own, --jobs of them side by side, judged by the world: servers' logs, databases, DNS, the calls that AWS accepted, the writers'
histories. Logs, ledger and calls of every run stay in --folder (default: target/soak). Needs root, `ip` and `nft`; 77 and a word
why where that is missing. Exit 0 when every run passed.
"""
import argparse, ctypes, json, os, signal, statistics, subprocess, sys, time, traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LAB = Path(__file__).resolve().parent
sys.path.insert(0, str(LAB))
sys.dont_write_bytecode = True
import lab as lab_program
import regions_net
from components.processes import LabError

SKIPPED = 77                            # as automake has it
AT_MOST = 900                           # seconds for one run; the patience within it is shorter


def main(arguments):
    from distributed.scenarios import SCENARIOS
    options = parse(arguments)
    if options.list:
        for one in SCENARIOS.values():
            print(f"{one.name:32} {one.sentence}")
        return 0
    if problem := regions_net.why_not():
        print(f"SKIPPED: the distributed scenarios did not run: {problem}")
        return SKIPPED
    if unknown := set(options.only) - set(SCENARIOS):
        sys.exit(f"soak: no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    if options.dies_with_parent:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)           # PR_SET_PDEATHSIG
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))   # so that what was started is ended
    if options.one:
        return play(SCENARIOS[options.one], Path(options.folder), options)
    chosen = [one for one in SCENARIOS.values() if one.name in options.only or not options.only]
    return soak(chosen, options)


def soak(chosen, options):
    """Every scenario, `runs` times; a table at the end. Ctrl-C ends with the table of what there is."""
    results = {one.name: [] for one in chosen}
    runs = [(one, Path(options.folder) / f"{number:02}-{one.name}") for number in range(1, options.runs + 1) for one in chosen]
    with ThreadPoolExecutor(options.jobs) as pool:
        futures = [(one, pool.submit(play_apart, one, folder, options)) for one, folder in runs]
        try:
            for one, future in futures:
                results[one.name].append(future.result())
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)             # those under way were interrupted too
            print("interrupted")
    passed = show(chosen, results, options)
    return 0 if passed else 1


def play_apart(one, folder, options):
    """One run in a process of its own. Its lab dies with it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").unlink(missing_ok=True)
    words = [sys.executable, __file__, "--dies-with-parent", "--one", one.name, "--folder", folder, "--binary", options.binary, "--speed", str(options.speed)]
    began = time.monotonic()
    with open(folder / "story.txt", "w") as story:
        child = subprocess.Popen([str(word) for word in words], stdout=story, stderr=story, stdin=subprocess.DEVNULL)
        try:
            child.wait(AT_MOST)
        except subprocess.TimeoutExpired:                  # it ends its lab, or the lab's supervisor does
            child.terminate()
            try:
                child.wait(60)
            except subprocess.TimeoutExpired:
                child.kill()
    try:
        result = json.loads((folder / "result.json").read_text())
    except FileNotFoundError:
        result = {"ok": False, "wrong": f"ended without a result within {AT_MOST} s; see story.txt", "figures": {}}
    figures = ", ".join(f"{name} {value:.1f}" for name, value in result["figures"].items())
    print(f"{'ok  ' if result['ok'] else 'FAIL'} {folder.name:38} {time.monotonic() - began:5.0f} s  {result['wrong'] or figures}", flush=True)
    return result


def play(one, folder, options):
    """One run, here."""
    from distributed.deployment import Deployment
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{one.name}: {one.sentence}", flush=True)
    deployment = Deployment(folder, options.binary, speed=options.speed)
    result = {"ok": False, "wrong": None, "figures": {}}
    try:
        deployment.up(os.getpid(), one.lab_options, **one.seat)
        result["figures"] = one.play(deployment)
        result["ok"] = True
    except Exception as problem:
        result["wrong"] = f"{type(problem).__name__}: {problem}"
        deployment.tell(f"WRONG: {problem}")
        traceback.print_exc()
    finally:
        if deployment.run.exists():
            try:
                deployment.down()
            except Exception:
                traceback.print_exc()
                deployment.run.remove()
    deployment.tell("passed" if result["ok"] else "FAILED")
    (folder / "result.json").write_text(json.dumps(result, indent=1))
    return 0 if result["ok"] else 1


def show(chosen, results, options):
    """The table; true where everything passed and nothing is missing."""
    lines = [f"{'scenario':32} {'runs':>5} {'passed':>7}   {'figure':14} {'min':>7} {'median':>7} {'max':>7}"]
    good = True
    for one in chosen:
        runs = results[one.name]
        values = [run["figures"][one.figure] for run in runs if one.figure in run["figures"]]
        passed = sum(run["ok"] for run in runs)
        good = good and passed == options.runs
        spread = f"{min(values):7.1f} {statistics.median(values):7.1f} {max(values):7.1f}" if values else ""
        lines.append(f"{one.name:32} {len(runs):5} {passed:7}   {one.figure:14} {spread}")
    total = sum(len(runs) for runs in results.values())
    lines.append(f"{'every run passed' if good else 'NOT EVERY RUN PASSED'}: {sum(run['ok'] for runs in results.values() for run in runs)} of {total}; "
                 f"logs are in {options.folder}")
    text = "\n".join(lines)
    print(text)
    Path(options.folder).mkdir(parents=True, exist_ok=True)
    (Path(options.folder) / "summary.txt").write_text(text + "\n")
    return good


def parse(arguments):
    root = LAB.parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", type=lambda text: [name for name in text.split(",") if name], default=[])
    parser.add_argument("--binary", default=str(Path(os.environ.get("CARGO_TARGET_DIR", root / "target")) / "debug/failoverd"))
    parser.add_argument("--folder", default=str(root / "target/soak"))
    parser.add_argument("--speed", type=float, default=8)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--dies-with-parent", action="store_true", help="end when the process that started this ends")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        lab_program.in_environment()
        sys.exit(main(sys.argv[1:]))
    except LabError as problem:
        sys.exit(f"soak: {problem}")
