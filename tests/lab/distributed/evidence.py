"""What the world says about a failover: the servers' logs, the calls that AWS accepted, DNS. Never failoverd's own word."""
import collections, re, threading, time

import judge as judge_program
from components import constants as c
from components.aws import Double
from .deployment import EAST, WEST, Failed

PROMOTE, CHANGE_RECORDS = "PromoteReadReplica", "ChangeResourceRecordSets"
LOOKS = ("Describe", "List", "Get", "HEAD", "GET")
ALL = ("database", "cache", "storage", "kubernetes")
ENDS = ("database", "cache", "storage", "kubernetes", "traffic", "calls")


def accepted(deployment, action):
    return [call for call in deployment.double.get("calls") if call["action"] == action and call["status"] == 200]


def promotions(deployment):
    """How often PostgreSQL itself was told to take over, and on each side, by its own log."""
    found = {}
    for region in c.REGIONS:
        log = (deployment.run.logs / f"pg@{region}.log").read_text(errors="replace")
        found[region] = len(re.findall("received promote request", log))
    return found


def moved_once(deployment, *, history=None, region_is_dead=False, self_managed=False):
    """Everything is in the west, and it went there once: as the servers say, and as AWS says. Returns the judge's numbers."""
    subjects = [*(["region"] if region_is_dead else []), *ENDS, *(["rows"] if history else [])]
    judge = judge_program.Judge(deployment.lab, moved=ALL, history=history, self_managed=self_managed)
    content = judge.judge(subjects)
    wrong = [sentence for ok, sentence in judge.findings if not ok]
    if found := promotions(deployment):
        if found != {EAST: 0, WEST: 1}:
            wrong.append(f"PostgreSQL was promoted {found}")
    changes = collections.Counter(tuple(call["params"]["changes"]) for call in accepted(deployment, CHANGE_RECORDS))
    if any(count != 1 for count in changes.values()):
        wrong.append(f"DNS was changed more than once to the same state: {changes}")
    if wrong or not content:
        raise Failed("; ".join(wrong))
    for _, sentence in judge.findings:
        deployment.tell(f"judged: {sentence}")
    return judge.numbers


def nothing_moved(deployment):
    """Nobody moved anything, and nobody tried. Raises what is otherwise."""
    judge = judge_program.Judge(deployment.lab, moved=())
    if not judge.judge(("region", *ENDS)):
        raise Failed("; ".join(sentence for ok, sentence in judge.findings if not ok))
    if promotions(deployment) != {EAST: 0, WEST: 0}:
        raise Failed(f"PostgreSQL was promoted {promotions(deployment)}")
    deployment.tell("judged: everything is where it was, and nobody tried to change anything")


def what_changed(deployment):
    """What has been asked of the world that would change it; for looking at all the time. None where nothing was."""
    changing = [call["action"] for call in deployment.double.get("calls") if not call["action"].startswith(LOOKS)]
    promoted = promotions(deployment)[WEST]
    return f"{', '.join(changing)}; promotions {promoted}" if changing or promoted else None


class Clock:
    """When the world first was as expected, looked at beside everything else."""

    def __init__(self, condition, every=0.1):
        self.condition, self.every, self.at, self.over = condition, every, None, False
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self):
        while not self.over and self.at is None:
            try:
                if self.condition():
                    self.at = time.time()
            except Exception:
                pass                                           # cannot be seen: not yet
            time.sleep(self.every)

    def stop(self):
        self.over = True
        self.thread.join()
        return self.at


def dns_names(deployment, region):
    """Clients are sent there, and only there."""
    server, address = deployment.lab["direct"]["dns"]["server"], deployment.lab["regions"][region]["public_address"]
    return all(judge_program.resolve(server, c.API_NAME) == address for _ in range(5))
