"""The ledger loses one of its three members, and two of them."""
import time

from . import scenario
from ..deployment import EAST, THIRD, WEST
from ..evidence import Clock, dns_names, moved_once, what_changed
from .cut_off import LONG_ENOUGH, cannot_act


@scenario("etcd-loses-one", "one member of etcd dies, then the active region: it is replaced once all the same", "recovered_s")
def loses_one(d):
    d.kill("etcd-2")
    d.holds("things go on", 15, lambda: what_changed(d) or (d.role(EAST, EAST) != 200 and "the role is lost"))
    died = time.time()
    d.kill_region(EAST, servers_only=True)
    recovered = Clock(lambda: dns_names(d, WEST))
    d.until("the incident is closed", d.is_closed)
    d.until("clients are led to the west", lambda: recovered.at is not None)
    moved_once(d)
    return {"recovered_s": recovered.stop() - died}


@scenario("etcd-loses-two", "two members of etcd die: the active region keeps its role; it dies too: nothing irreversible until one is back, then it is replaced once", "recovered_s")
def loses_two(d):
    d.kill("etcd-1")
    d.kill("etcd-2")
    d.until("every daemon says that it cannot act, and why", lambda: all(cannot_act(d, region) for region in (EAST, WEST, THIRD)))
    d.holds("the region that is well keeps its role", 30, lambda: what_changed(d) or (d.role(EAST, EAST) != 200 and "the role is lost"))
    d.kill_region(EAST, servers_only=True)
    d.holds("nothing is done, and every daemon says so", LONG_ENOUGH,
            lambda: what_changed(d) or next((f"{r} does not say so" for r in (EAST, WEST, THIRD) if not cannot_act(d, r)), None))
    d.start("etcd-1")
    back = time.time()
    recovered = Clock(lambda: dns_names(d, WEST))
    d.until("the incident is closed", d.is_closed)
    d.until("clients are led to the west", lambda: recovered.at is not None)
    moved_once(d)
    return {"recovered_s": recovered.stop() - back}
