"""What the double was started with, and the few things that a test may change while it runs (POST /lab/state)."""
import json, threading

lock = threading.RLock()

values = {
    "host": "127.0.0.1", "port": 0, "dns_port": 0,
    "promote_lag_s": 0.2,       # RDS goes on saying `available` this long after it accepted a promotion
    "promote_s": 1.0,           # then it says `modifying` at least this long
    "modify_s": 1.0,            # ElastiCache says `modifying` this long
    "insync_s": 1.0,            # a Route 53 change is PENDING this long; DNS answers as before until then
    "accept_s": 0.0,            # a change is being accepted this long; others get PriorRequestNotComplete
    "addresses": {},            # region -> the address that api.omnimesh.com has for it
    "databases": {},            # RDS identifier -> {"host", "port", "dsn"} of the real server behind it, and the command that copies it anew
    "seeded": False,            # from then on a new read replica is a new copy; the first one streams from the start
    "caches": {},               # replication group -> {"host", "port", "direct_port"} of the real server behind it
    "cache_layout": "pair",     # pair | single | cluster
}


def load(path):
    with open(path) as f:
        values.update(json.load(f))


def get(name):
    return values[name]
