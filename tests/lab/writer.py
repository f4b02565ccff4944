#!/usr/bin/env python3
"""Commits a numbered row every few milliseconds to whichever side is the writable primary, as the application would.

usage: writer.py --lab DIR/lab.json --history FILE [--every-ms 10] [--tag TAG] [--count N]

Where to connect: the host and port in the Secret `database-credentials` of the first cluster that answers (standby region
first, because that is where a failover is announced), then the DSNs of lab.json in order. A side is used when it is not in
recovery and not read-only. Always past the proxy: this is the application's path, not failoverd's.

The history is a file of JSON lines, each on disk (fdatasync) before the next row is tried:
  {"n": 17, "side": "us-east-1", "state": "acknowledged", "t": ..., "took_ms": ...}
  {"n": 18, "side": "us-east-1", "state": "unknown", "t": ..., "error": "..."}     the commit's answer never came
  {"state": "connected", "side": "us-west-2", "t": ...}                            a change of side
A number is used once. `unknown` rows may or may not exist; only acknowledged rows can be lost. SIGTERM ends it cleanly.
"""
import argparse, json, os, signal, sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import psycopg
from components import constants as c, kubernetes
from components.kubernetes import Api

GIVE_UP_MS = 1000                   # an answer that takes longer counts as none


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lab", required=True)
    parser.add_argument("--history", required=True)
    parser.add_argument("--every-ms", type=float, default=10)
    parser.add_argument("--tag", default="writer")
    parser.add_argument("--count", type=int, default=0, help="stop after this many rows; 0 means never")
    options = parser.parse_args()
    lab = json.loads(Path(options.lab).read_text())
    stopping = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.append(True))
    with open(options.history, "a") as history:
        Writer(lab, history, options.tag).run(options.every_ms / 1000, options.count, stopping)


class Writer:
    def __init__(self, lab, history, tag):
        self.regions, self.history, self.tag = lab["direct"]["regions"], history, tag
        self.side = self.connection = None

    def run(self, every, count, stopping):
        n, due = 0, time.monotonic()
        while not stopping and (not count or n < count):
            if self.connection is None and not self.connect():
                time.sleep(0.02)
                continue
            n += 1
            self.write(n)
            due = max(due + every, time.monotonic() - every)         # no burst to make up for an outage
            time.sleep(max(0.0, due - time.monotonic()))

    def write(self, n):
        began = time.monotonic()
        try:
            self.connection.execute("INSERT INTO compute_nodes (payload) VALUES (%s)", [f"{self.tag}-{n}"])
        except psycopg.Error as error:
            # a refusal with an error code was surely not committed; a lost connection tells nothing
            refused = error.sqlstate is not None and error.sqlstate[:2] not in ("57", "08")
            self.note(n=n, side=self.side, state="refused" if refused else "unknown", error=str(error).splitlines()[0])
            self.connection.close()
            self.connection = None
            return
        self.note(n=n, side=self.side, state="acknowledged", took_ms=round((time.monotonic() - began) * 1000, 2))

    def connect(self):
        for side, dsn in self.candidates():
            try:
                connection = psycopg.connect(dsn, connect_timeout=1, autocommit=True, tcp_user_timeout=GIVE_UP_MS,
                                             options=f"-c statement_timeout={GIVE_UP_MS}")
                recovering, read_only = connection.execute(
                    "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on'").fetchone()
            except psycopg.Error:
                continue
            if recovering or read_only:
                connection.close()
                continue
            self.side, self.connection = side, connection
            self.note(state="connected", side=side)
            return True
        return False

    def candidates(self):
        by_port = {e["postgres"]["port"]: r for r, e in self.regions.items()}
        named = self.from_secret()
        if named and int(named["port"]) in by_port:
            region = by_port[int(named["port"])]
            yield region, self.regions[region]["postgres"]["dsn"]["app"]
        for region, entry in self.regions.items():
            yield region, entry["postgres"]["dsn"]["app"]

    def from_secret(self):
        for region in reversed(c.REGIONS):
            if "kubernetes" in self.regions[region]:
                try:
                    return kubernetes.secret_data(Api.of(self.regions[region]["kubernetes"], timeout=1))
                except OSError:
                    continue
        return None

    def note(self, **entry):
        self.history.write(json.dumps({**entry, "t": round(time.time(), 4)}) + "\n")
        self.history.flush()
        os.fdatasync(self.history.fileno())


if __name__ == "__main__":
    main()
