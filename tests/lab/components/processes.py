"""Starting, signalling and forgetting the lab's processes.

A `Run` is one running lab: a folder with `state.json` (what was started), `logs/`, and `data` outside of it
where PostgreSQL's own user can reach it. Only processes recorded there are ever signalled, and only while
their start time still matches: a recycled process id is left alone.

This module deliberately knows nothing about any particular server.
"""
import contextlib, fcntl, json, os, pwd, random, select, shutil, signal, socket, subprocess, tempfile, threading, time
from pathlib import Path

CACHE = Path(os.environ.get("FAILOVERD_LAB_CACHE") or Path.home() / ".cache/failoverd-lab")
LAB = Path(__file__).resolve().parent.parent
START_TIMEOUT = float(os.environ.get("FAILOVERD_LAB_TIMEOUT", "120"))   # generous: builds run beside the tests
PORT_CLAIMS = Path(tempfile.gettempdir()) / "failoverd-lab-ports"


class LabError(Exception):
    """Something that the person at the terminal should read as one line."""


class Run:
    """One running lab, in one folder."""

    def __init__(self, folder):
        self.folder = Path(folder).resolve()
        self.logs = self.folder / "logs"
        self._lock = threading.RLock()

    # --- the folder and its state -----------------------------------------------------------------

    def create(self):
        if (self.folder / "state.json").exists():
            raise LabError(f"{self.folder} already holds a lab; `lab.py down --run-dir {self.folder}` removes it")
        self.logs.mkdir(parents=True, exist_ok=True)
        data = tempfile.mkdtemp(prefix="failoverd-lab-", dir=place_for_data())
        os.chmod(data, 0o711)
        self._write({"data": data, "processes": {}, "ports": [], "namespaces": {}})

    def exists(self):
        return (self.folder / "state.json").exists()

    @property
    def data(self):
        return Path(self.state()["data"])

    def host(self, region=None):
        """The address that servers of a region listen at, and (without a region) those that belong to none."""
        from regions_net import ADDRESS, WORLD_ADDRESS
        if not self.state()["namespaces"]:
            return "127.0.0.1"
        return ADDRESS[region] if region else WORLD_ADDRESS

    def make_regions(self):
        """A network namespace for each region; `spawn` then starts every process in the one of its region."""
        from regions_net import Net
        net = Net.named()
        with self.change() as state:
            state["namespaces"] = net.names
        net.make()
        return net

    def state(self):
        try:
            return json.loads((self.folder / "state.json").read_text())
        except FileNotFoundError:
            raise LabError(f"no lab in {self.folder}") from None

    @contextlib.contextmanager
    def change(self):
        """Read, change and write the state; other threads and other commands wait."""
        with self._lock, open(self.folder / "state.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.state()
            yield state
            self._write(state)

    def _write(self, state):
        new = self.folder / "state.json.new"
        new.write_text(json.dumps(state, indent=1))
        new.rename(self.folder / "state.json")

    # --- ports ------------------------------------------------------------------------------------

    def ports(self, count):
        """Free ports that no other lab of this machine gets, below the range of outgoing connections."""
        PORT_CLAIMS.mkdir(exist_ok=True)
        with contextlib.suppress(PermissionError):
            PORT_CLAIMS.chmod(0o1777)                     # other users of this machine claim here, too
        found = []
        while len(found) < count:
            port = random.randrange(10_000, 32_000)
            claim = PORT_CLAIMS / str(port)
            try:
                with open(claim, "x") as f:
                    f.write(str(self.folder))
            except FileExistsError:
                self._drop_stale(claim)
                continue
            if is_free(port):
                found.append(port)
            else:
                claim.unlink(missing_ok=True)
        with self.change() as state:
            state["ports"] += found
        return found

    def _drop_stale(self, claim):
        with contextlib.suppress(FileNotFoundError, PermissionError):
            owner = claim.read_text()
            old_enough = time.time() - claim.stat().st_mtime > 60
            if old_enough and not (Path(owner) / "state.json").exists():
                claim.unlink(missing_ok=True)

    # --- processes --------------------------------------------------------------------------------

    def spawn(self, name, argv, *, region=None, env=None, cwd=None, user=None):
        """Start one process and record it. Returns at once; use `wait_until` for its readiness."""
        spec = {"argv": [str(a) for a in argv], "env": env or {}, "cwd": str(cwd or self.folder), "user": user,
                "region": region}
        return self._launch(name, spec)

    def start_again(self, name):
        spec = self._spec(name)
        if alive(spec):
            raise LabError(f"{name} is running")
        return self._launch(name, spec)

    def _launch(self, name, spec):
        # as another user only where we are root: servers that refuse root run as their own user
        as_user = {"user": spec["user"], "group": spec["user"], "extra_groups": []} if spec["user"] and os.getuid() == 0 else {}
        argv = spec["argv"]
        if names := self.state()["namespaces"]:
            from regions_net import within
            to_user = ["--setgid", str(pwd.getpwnam(spec["user"]).pw_gid), "--setuid", str(pwd.getpwnam(spec["user"]).pw_uid)] if spec["user"] else []
            argv, as_user = [*within(names[spec["region"] or "world"]), *to_user, "--", *argv], {}
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "AWS_", "KUBE"))}
        with open(self.logs / f"{name}.log", "ab") as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=spec["cwd"],
                                       env={**environment, **spec["env"]}, start_new_session=True, **as_user)
        threading.Thread(target=process.wait, daemon=True).start()      # no zombies while we live
        with self.change() as state:
            state["processes"][name] = {**spec, "pid": process.pid, "born": born(process.pid)}
        return process.pid

    def _spec(self, name):
        try:
            return self.state()["processes"][name]
        except KeyError:
            raise LabError(f"no process {name}; there are: {', '.join(sorted(self.state()['processes']))}") from None

    def is_alive(self, name):
        return alive(self._spec(name))

    def log_tail(self, name, lines=15):
        with contextlib.suppress(OSError):
            return "\n".join((self.logs / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])
        return ""

    def signal(self, name, number):
        """Signal a process and everything it started (PostgreSQL's backends have sessions of their own)."""
        spec = self._spec(name)
        if not alive(spec):
            return []
        family = [spec["pid"], *descendants(spec["pid"])]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return family

    def signal_one(self, name, number):
        """Signal the process, and nothing that it started."""
        spec = self._spec(name)
        if alive(spec):
            os.kill(spec["pid"], number)

    def kill(self, *names):
        """SIGKILL, all of them before waiting for any, and wait until they are gone."""
        families = [pid for name in names for pid in self.signal(name, signal.SIGKILL)]
        wait_gone(families)

    def names(self, *, region=None):
        return [n for n, s in self.state()["processes"].items() if region is None or s["region"] == region]

    def remove(self):
        """Stop everything that was started here and remove every trace."""
        with contextlib.suppress(LabError):
            for _ in range(3):          # once more for what a still running `up` started meanwhile
                living = [n for n, s in self.state()["processes"].items() if alive(s)]
                if not living:
                    break
                self.kill(*living)
            state = self.state()
            for lock_file in Path(state["data"]).glob("*/postmaster.pid"):
                release_shared_memory(lock_file)
            for port in state["ports"]:
                (PORT_CLAIMS / str(port)).unlink(missing_ok=True)
            shutil.rmtree(state["data"], ignore_errors=True)
            if state["namespaces"]:
                from regions_net import Net
                Net(state["namespaces"]).remove()
        shutil.rmtree(self.folder, ignore_errors=True)


def place_for_data():
    """Memory where there is plenty (copying a database there takes a tenth of the time), else the temporary folder.
    Not the run folder: the server's own user could not reach one below a home folder."""
    memory = Path("/dev/shm")
    try:
        roomy = memory.is_mount() and os.access(memory, os.W_OK | os.X_OK) and shutil.disk_usage(memory).free > 4 << 30
    except OSError:
        roomy = False
    return memory if roomy else tempfile.gettempdir()


# --- looking at processes -----------------------------------------------------------------------------

def born(pid):
    """Start time of a process in clock ticks since boot, or None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def alive(spec):
    started = born(spec["pid"])
    return started is not None and started == spec["born"]


def descendants(pid):
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parent = int(Path(f"/proc/{entry}/stat").read_text().rsplit(") ", 1)[1].split()[1])
                children.setdefault(parent, []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def release_shared_memory(lock_file):
    """A PostgreSQL that got SIGKILL leaves a System V segment, named in its lock file, and there are only 4096 of them."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        segment = int(lock_file.read_text().splitlines()[6].split()[1])
        subprocess.run(["ipcrm", "-m", str(segment)], capture_output=True)


def wait_gone(pids, seconds=30):
    deadline = time.monotonic() + seconds
    while any(born(pid) for pid in pids):
        if time.monotonic() > deadline:
            raise LabError(f"processes {pids} are still there {seconds} s after SIGKILL")
        time.sleep(0.005)


def wait_until(check, what, *, run=None, process=None, seconds=None):
    """Poll `check` until it is true; fail early, with the log, when the process behind it died."""
    deadline = time.monotonic() + (seconds or START_TIMEOUT)
    problem = None
    while True:
        try:
            if result := check():
                return result
            problem = None
        except Exception as error:          # not ready yet: refused, reset, timed out, no answer
            problem = error
        if process and not run.is_alive(process):
            raise LabError(f"{process} died while waiting for {what}:\n{run.log_tail(process)}")
        if time.monotonic() > deadline:
            tail = f"\n{run.log_tail(process)}" if process else ""
            raise LabError(f"timed out waiting for {what}: {problem or 'not yet'}{tail}")
        time.sleep(0.02)


def is_free(port, host="0.0.0.0"):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
        except OSError:
            return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.bind((host, port))
        except OSError:
            return False
    return True


def wait_for_exit_of(pid, stop_when):
    """Block until process `pid` is gone (True) or `stop_when()` holds (False)."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        while not stop_when():
            if select.select([handle], [], [], 0.5)[0]:
                return True
        return False
    finally:
        os.close(handle)


# --- the program's own paths --------------------------------------------------------------------------

def program(*candidates, hint):
    """The first program that exists; names without a slash are looked up in PATH."""
    for candidate in candidates:
        found = shutil.which(str(candidate))
        if found:
            return found
    raise LabError(f"{candidates[0]} is missing: run {hint}")


def python():
    return program(CACHE / "venv/bin/python", hint="tests/lab/install.sh")
