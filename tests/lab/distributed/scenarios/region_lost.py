"""A region dies, with its daemon and its member of the ledger."""
import time

from . import scenario
from ..deployment import EAST, WEST
from ..evidence import Clock, dns_names, moved_once


@scenario("region-killed", "the active region dies silently, whole: it is replaced once", "recovered_s")
def region_killed(d):
    d.write_from_outside()
    killed = time.time()
    d.kill_region(EAST, silent=True)
    recovered = Clock(lambda: dns_names(d, WEST) and d.rows(WEST) > 0)
    d.until("the incident is closed", d.is_closed)
    d.until("the application writes in the west", lambda: d.rows(WEST) > 100)
    d.stop_writing()
    numbers = moved_once(d, history=d.history, region_is_dead=True)
    return {"recovered_s": recovered.stop() - killed, "write_outage_s": numbers["write_outage_s"], "rows_lost": numbers["rows_lost"]}
