"""A region is cut off from the others, and nothing in it dies."""
import time

import judge as judge_program
from . import scenario
from ..deployment import EAST, THIRD, WEST, Failed
from ..evidence import CHANGE_RECORDS, PROMOTE, Clock, accepted, dns_names, moved_once, nothing_moved, what_changed

# Longer than every threshold of the configuration (the database's five minutes at speed 8), and a lease.
LONG_ENOUGH = 55


@scenario("active-cut-off", "the active region is cut off from both others: it loses its role first, then it is replaced, then it is fenced", "recovered_s")
def active_cut_off(d):
    return active_is_replaced(d, d.net.cut)


@scenario("active-cannot-send", "nothing that the active region sends reaches the others: likewise", "recovered_s")
def active_cannot_send(d):
    return active_is_replaced(d, d.net.cannot_send)


@scenario("active-cannot-hear", "nothing that the others send reaches the active region: likewise", "recovered_s")
def active_cannot_hear(d):
    return active_is_replaced(d, d.net.cannot_hear)


def active_is_replaced(d, cut):
    began = time.time()
    cut(EAST, WEST, THIRD)
    d.tell(f"{EAST} is cut off from {WEST} and {THIRD}")
    role_lost = Clock(lambda: d.role(EAST, EAST) == 503)
    recovered = Clock(lambda: dns_names(d, WEST))
    d.until("it has lost its role, as its own load balancers are told", lambda: role_lost.at is not None)
    d.until("the incident is closed", d.is_closed)
    promoted = accepted(d, PROMOTE)[0]["t"]
    moved = min(promoted, accepted(d, CHANGE_RECORDS)[0]["t"])
    if role_lost.stop() > moved:
        raise Failed(f"its role was lost {role_lost.at - moved:.1f} s after the first call that moved something away")
    d.until("clients are led to the west", lambda: recovered.at is not None)
    if d.role(EAST, EAST) != 503 or d.role(WEST, WEST) != 200 or d.role(THIRD, EAST) != 503:
        raise Failed("the roles are not where they belong during the cut")

    d.net.heal(EAST)
    d.tell("healed")
    healed = time.time()
    d.until("the old database is fenced", lambda: old_database(d) in ("fenced", "read-only"))
    fenced = time.time() - healed
    d.until("one leads, and all know it", lambda: agreed(d))
    d.until("the daemon in the old region answers for the new role", lambda: d.role(EAST, WEST) == 200)
    d.until("no fence is owed", lambda: all(not d.status(region)["owed_fences"] for region in (EAST, WEST, THIRD)))
    d.holds("one leads, the old database is fenced, and nothing fails over again", 20, lambda: after_the_heal(d))
    moved_once(d)
    return {"role_lost_s": role_lost.at - began, "promoted_s": promoted - began, "recovered_s": recovered.stop() - began, "fenced_after_heal_s": fenced}


def old_database(d):
    return judge_program.Judge(d.lab).database_state(EAST)


def agreed(d):
    """All three name the same leader, and placed everything in the west."""
    named = {tuple(o["observer"] for o in d.status(region)["observers"] if o["leads"]) for region in (EAST, WEST, THIRD)}
    return len(named) == 1 and len(named.pop()) == 1 and all(d.status(region)["placement"]["database"] == WEST for region in (EAST, WEST, THIRD))


def after_the_heal(d):
    if len(d.leaders()) > 1:
        return f"{d.leaders()} lead"
    if old_database(d) not in ("fenced", "read-only"):
        return f"the old database is {old_database(d)}"
    if d.role(EAST, EAST) != 503 or d.role(EAST, WEST) != 200:
        return "the daemon in the old region does not answer for the new role" if d.role(EAST, EAST) == 503 else "the old region has its role again"
    return None


@scenario("standby-cut-off", "the standby region is cut off: nothing moves, and somebody pages", "paged_s")
def standby_cut_off(d):
    began = time.time()
    d.net.cut(WEST, EAST, THIRD)
    d.tell(f"{WEST} is cut off from {EAST} and {THIRD}")
    d.until("those that see it gone page", lambda: any(pages(d, region, WEST) for region in (EAST, THIRD)))
    paged = time.time() - began
    d.until("the one that is alone pages, too", lambda: cannot_act(d, WEST))
    d.holds("nothing moves", LONG_ENOUGH, lambda: what_changed(d))
    others_see(d, WEST)
    heal_and_settle(d, WEST)
    return {"paged_s": paged}


@scenario("third-cut-off", "the third region is cut off, where no server is: nothing moves, and it says what is missing", "said_s")
def third_cut_off(d):
    began = time.time()
    d.net.cut(THIRD, EAST, WEST)
    d.tell(f"{THIRD} is cut off from {EAST} and {WEST}")
    d.until("the one that is alone says that it cannot act, and why", lambda: cannot_act(d, THIRD))
    said = time.time() - began
    d.until("the others say that it is not heard", lambda: others_see(d, THIRD))
    d.holds("nothing moves, and the active region keeps its role", LONG_ENOUGH, lambda: what_changed(d) or (d.role(EAST, EAST) != 200 and "the role is lost"))
    heal_and_settle(d, THIRD)
    return {"said_s": said}


def pages(d, at, about):
    return any(alarm["severity"] == "page" and about in f"{alarm}" for alarm in d.alarms(at))


def cannot_act(d, region):
    status = d.status(region)
    return status["headline"].startswith("NOBODY CAN ACT") and any(alarm["key"] == "daemon/ledger" for alarm in status["alarms"])


def others_see(d, missing):
    """Those that are left say whose voice is missing."""
    others = [region for region in (EAST, WEST, THIRD) if region != missing]
    return all(any(o["region"] == missing and o["without_voice"] for o in d.status(region)["observers"]) for region in others)


def heal_and_settle(d, region):
    d.net.heal(region)
    d.tell("healed")
    d.until("everybody is heard again", d.is_settled)
    d.until("the role is answered for everywhere", lambda: all(d.role(at, EAST) == 200 for at in (EAST, WEST, THIRD)))
    d.holds("nothing moves after the heal", 10, lambda: what_changed(d))
    nothing_moved(d)
