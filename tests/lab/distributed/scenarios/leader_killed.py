"""kill -9 of the leader in the middle of the plan, at its two calls that nobody can take back: before the call, after it, and after
its answer but before its fact. The servers of the active region are dead by then; its daemon and its member of etcd live,
so that two of three daemons are left to go on."""
import time

from . import scenario
from ..deployment import EAST, THIRD, WEST, Failed, name_of
from ..evidence import CHANGE_RECORDS, PROMOTE, Clock, accepted, dns_names, moved_once

# Lease of the leader, longest mutating call (both as in default.toml), and what is promised on top.
GOES_ON_WITHIN = 10 + 10 + 5


@scenario("leader-killed-before-call", "the leader dies before its promotion is performed: another one performs it", "takeover_s")
def before_call(d):
    return leader_killed(d, "hang", PROMOTE)


@scenario("leader-killed-after-call", "the leader dies when its promotion is performed and not yet answered: it is not performed again", "takeover_s")
def after_call(d):
    return leader_killed(d, "hold_response", PROMOTE)


@scenario("leader-killed-before-fact", "the leader dies when its promotion is answered and not yet recorded: it is not performed again", "takeover_s")
def before_fact(d):
    return leader_killed(d, "hold_response", PROMOTE, answered=True)


@scenario("leader-killed-before-dns", "the leader dies before its change of DNS is performed: another one performs it", "takeover_s")
def before_dns(d):
    return leader_killed(d, "hang", CHANGE_RECORDS)


@scenario("leader-killed-after-dns", "the leader dies when its change of DNS is performed and not yet answered: it is not performed again", "takeover_s")
def after_dns(d):
    return leader_killed(d, "hold_response", CHANGE_RECORDS)


@scenario("leader-killed-before-dns-fact", "the leader dies when its change of DNS is answered and not yet recorded: it is not performed again", "takeover_s")
def before_dns_fact(d):
    return leader_killed(d, "hold_response", CHANGE_RECORDS, answered=True)


@scenario("leader-killed-in-silence", "the servers of the lost region do not even refuse, and the leader dies before its promotion is performed", "takeover_s")
def in_silence(d):
    return leader_killed(d, "hang", PROMOTE, silent=True)


def leader_killed(d, fault, action, answered=False, silent=False):
    d.double.post("faults/add", [{"action": action, fault: True, "times": 1}])
    died = time.time()
    d.kill_region(EAST, servers_only=True, silent=silent)
    d.until(f"{action} is caught", lambda: any(call["fault"] == fault for call in d.double.get("calls")))
    if fault == "hold_response":
        d.until("AWS has performed it", lambda: accepted(d, action))
    leader = d.leader()
    if leader is None:
        raise Failed("nobody says that it leads")
    if answered:
        # the answer reaches it, and nothing that it wants to record leaves it
        ports = [endpoint.rsplit(":", 1)[1] for endpoint in d.lab["etcd"]["endpoints"]]
        d.net.block_ports(leader, ports)
        lift(d, fault)
        time.sleep(0.5)                                     # to read it, and to try to record what it read
    d.kill(name_of(leader))
    killed = time.time()
    # What the successor does is seen in the world (it calls again), or, where nothing is left to call, in its ledger.
    goes_on = Clock(lambda: calls_again(d, action, killed) if fault == "hang" else has_gone_on(d, leader, killed))
    if answered:
        d.net.heal(leader)
    else:
        lift(d, fault)
    d.until("another one goes on", lambda: goes_on.at is not None)
    took = goes_on.stop() - killed
    d.tell(f"{d.leader()} goes on {took:.1f} s after {leader} was killed")
    d.until("the incident is closed", d.is_closed)
    recovered = time.time() - died
    d.until("clients are led to the west", lambda: dns_names(d, WEST))
    d.start(name_of(leader))
    d.until("it is back, and follows", lambda: d.status(leader)["placement"].get("database") == WEST)
    moved_once(d, region_is_dead=False)
    if took > GOES_ON_WITHIN:
        raise Failed(f"another daemon went on only after {took:.1f} s, and {GOES_ON_WITHIN} s are promised")
    return {"takeover_s": took, "recovered_s": recovered}


def lift(d, fault):
    d.double.post("faults", [f for f in d.double.get("faults") if fault not in f])


def calls_again(d, action, killed):
    return any(call["action"] == action and call["t"] > killed for call in d.double.get("calls"))


def has_gone_on(d, former, killed):
    """A step was recorded as done after the kill."""
    others = [region for region in (EAST, WEST, THIRD) if region != former]
    return any(fact["fact"] == "step_done" for region in others for _, facts in d.frames(region, killed) for fact in facts)
