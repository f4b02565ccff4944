"""The regions of one lab as network namespaces, and the cuts between them. Needs root, `ip` and `nft`.

Each region has a namespace with one address; a namespace `world` has everything that is of no region: AWS, DNS, reference
points (WORLD_ADDRESS), and whoever watches the test (JUDGE_ADDRESS), whom no cut concerns. A bridge in a namespace of its own
joins them. Nothing of this machine's own network is touched, and two labs never see each other.

Namespaces are the kernel's and not a process's: their names are recorded before they are made (in the lab's state.json), and
`remove` takes away what is there. This kernel may lack netem: no added latency here.
"""
import contextlib, ctypes, os, secrets, shutil, signal, subprocess
from components import constants as c
from components.processes import LabError

NAMESPACES = (*c.COUNCIL, "world")
ADDRESS = {region: f"10.91.0.{i}" for i, region in enumerate(c.COUNCIL, 1)}
WORLD_ADDRESS, JUDGE_ADDRESS = "10.91.0.8", "10.91.0.9"
ADDRESSES = [*ADDRESS.values(), WORLD_ADDRESS, JUDGE_ADDRESS]
FOLDER = "/run/netns"


def why_not():
    """Why namespaces cannot be made here, or None."""
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    for program in ("ip", "nft", "nsenter"):
        if not shutil.which(program):
            return f"there is no program {program}: run tests/lab/install.sh"
    probe = f"fd-probe-{secrets.token_hex(4)}"
    made = _try("ip", "netns", "add", probe)
    try:
        if made:
            return f"no network namespace can be made here: {made}"
        return _try("ip", "netns", "exec", probe, "nft", "add table inet lab") and "nftables does not work in a network namespace here"
    finally:
        _try("ip", "netns", "del", probe)


class Net:
    """The namespaces of one run, by their names."""

    def __init__(self, names):
        self.names = names                                   # region, "world" or "hub" -> name of the namespace

    @classmethod
    def named(cls):
        """Names that no other lab has. Nothing is made yet."""
        mark = secrets.token_hex(3)
        return cls({place: f"fd-{mark}-{place}" for place in (*NAMESPACES, "hub")})

    def make(self):
        if problem := why_not():
            raise LabError(problem)
        hub = self.names["hub"]
        _call("ip", "netns", "add", hub)
        _call("ip", "-n", hub, "link", "add", "br0", "type", "bridge")
        _call("ip", "-n", hub, "link", "set", "br0", "up")
        for number, place in enumerate(NAMESPACES):
            name = self.names[place]
            _call("ip", "netns", "add", name)
            _call("ip", "-n", hub, "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            _call("ip", "-n", hub, "link", "set", f"v{number}", "master", "br0", "up")
            # the first address is the one that connections are made from
            for address in [ADDRESS[place]] if place in ADDRESS else [JUDGE_ADDRESS, WORLD_ADDRESS]:
                _call("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            _call("ip", "-n", name, "link", "set", "lo", "up")
            _call("ip", "-n", name, "link", "set", "eth0", "up")
            self._rules(place, "add table inet lab; add chain inet lab in { type filter hook input priority 0; }; "
                               "add chain inet lab out { type filter hook output priority 0; }")

    def processes(self, region):
        """Everything that runs there now, also what a daemon left behind that was killed."""
        found = subprocess.run(["ip", "netns", "pids", self.names[region]], capture_output=True, text=True, timeout=30).stdout
        return [int(pid) for pid in found.split()]

    def remove(self):
        """Safe to call again, and while nothing is there. In the regions nothing runs on; in the world there are those who watch."""
        for region in c.COUNCIL:
            for pid in self.processes(region):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for name in self.names.values():
            if os.path.exists(f"{FOLDER}/{name}"):
                _try("ip", "netns", "del", name)

    # --- cuts: each is made inside one region, and lasts until `heal` of that region --------------------

    def cut(self, region, *others):
        """Nothing passes between the region and the others, neither way; silently."""
        self.cannot_send(region, *others)
        self.cannot_hear(region, *others)

    def cannot_send(self, region, *others):
        self._rules(region, f"add rule inet lab out ip daddr {{ {_addresses(others)} }} drop")

    def cannot_hear(self, region, *others):
        self._rules(region, f"add rule inet lab in ip saddr {{ {_addresses(others)} }} drop")

    def silence(self, region, ports):
        """Nobody outside the region gets an answer from these ports, not even a refusal."""
        others = [place for place in (*c.COUNCIL, "world") if place != region]
        self._rules(region, f"add rule inet lab in ip saddr {{ {_addresses(others)} }} tcp dport {{ {', '.join(map(str, ports))} }} drop")

    def block_ports(self, region, ports):
        """Nobody in the region reaches these ports any more, not even those of the region itself."""
        self._rules(region, f"add rule inet lab out tcp dport {{ {', '.join(map(str, ports))} }} drop")

    def heal(self, *regions):
        for region in regions or c.COUNCIL:
            self._rules(region, "flush chain inet lab in; flush chain inet lab out")

    def _rules(self, place, text):
        _call(*within(self.names[place]), "nft", text)


def within(name):
    """The words in front of a command line that runs it in a namespace."""
    return ["nsenter", f"--net={FOLDER}/{name}"]


def enter(name):
    """Goes into a namespace: this thread and the threads and processes that it starts from now on."""
    with open(f"{FOLDER}/{name}") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0x4000_0000) != 0:           # CLONE_NEWNET
            raise LabError(f"cannot enter {name}: {os.strerror(ctypes.get_errno())}")


def _addresses(places):
    """`world` is AWS and the reference points. Who watches the test is never cut off."""
    return ", ".join(WORLD_ADDRESS if place == "world" else ADDRESS[place] for place in places)


def _call(*words):
    if problem := _try(*words):
        raise LabError(f"{' '.join(words)}: {problem}")


def _try(*words):
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    return None if done.returncode == 0 else done.stderr.strip() or f"exit {done.returncode}"
