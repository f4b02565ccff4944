"""The active region is cut off while writers in both regions commit on sessions that were opened before: the last commit that the old
region acknowledged comes before the first one of the new region. Judged by the writers' own histories; one machine, one clock."""
import json

from . import scenario
from ..deployment import EAST, THIRD, WEST, Failed, name_of
from ..evidence import moved_once
from .cut_off import old_database
from components.processes import LAB, python

# A guardian beside the database, which is ours and not RDS's: only what can be reached inside the region can be fenced there.
SEAT = {"database": "postgres", "demote_deadline": "5s"}
CUTS = {"cut-off": ("both ways", lambda d: d.net.cut), "cannot-send": ("it cannot send", lambda d: d.net.cannot_send),
        "cannot-hear": ("it cannot hear", lambda d: d.net.cannot_hear), "stopped": ("both ways, its daemon stopped", lambda d: d.net.cut)}


def fences_itself(name):
    def play(d):
        histories = {region: write_inside(d, region) for region in (EAST, WEST)}
        d.until("the guardian of the active region is known to all", lambda: guards(d))
        d.until("200 rows are written", lambda: len(acknowledged(histories[EAST])) >= 200)
        if name == "stopped":
            d.stop(name_of(EAST))
        CUTS[name][1](d)(EAST, WEST, THIRD)
        d.tell(f"{EAST} is cut off: {CUTS[name][0]}")
        d.until("the west writes", lambda: len(acknowledged(histories[WEST])) >= 200)
        d.until("the incident is closed", d.is_closed)
        last, first = acknowledged(histories[EAST])[-1], acknowledged(histories[WEST])[0]
        gap = first["acknowledged"] - last["acknowledged"]
        d.tell(f"the last commit of {EAST} was acknowledged {gap:.2f} s before the first one of {WEST}")
        if gap <= 0:
            raise Failed(f"{EAST} acknowledged commits until {-gap:.2f} s after the first one of {WEST}")
        d.net.heal(EAST)
        if name == "stopped":
            d.cont(name_of(EAST))
        d.until("the old database is fenced", lambda: old_database(d) in ("fenced", "read-only"))
        if (after := acknowledged(histories[EAST])[-1]) != last:
            raise Failed(f"{EAST} acknowledged a commit after the failover: {after}")
        moved_once(d, self_managed=True)
        return {"gap_s": gap}
    return play


for name, (how, _) in CUTS.items():
    scenario(f"fences-itself-{name}", f"the active region is cut off ({how}): its last commit comes before the first one of the new region", "gap_s",
             seat=SEAT)(fences_itself(name))


def guards(d):
    """It is recorded that the database of the active region has a guardian; else only a person could promote for sure."""
    return any(fact["fact"] == "guardians_changed" and EAST in str(fact) for _, facts in d.frames(THIRD, 0) for fact in facts)


def write_inside(d, region):
    history = d.folder / f"writer-{region}.jsonl"
    d.run.spawn(f"writer@{region}", [python(), LAB / "region_writer.py", "--dsn", d.lab["direct"]["regions"][region]["postgres"]["dsn"]["app"],
                                     "--history", history], region=region)
    d.until(f"the session in {region} is open", lambda: history.exists() and "connected" in history.read_text())
    return history


def acknowledged(history):
    lines = [json.loads(line) for line in history.read_text().splitlines() if line.endswith("}")]
    return [line for line in lines if line["state"] == "acknowledged"]
