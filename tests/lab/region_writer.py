#!/usr/bin/env python3
"""Commits a row every few milliseconds to one database, whatever becomes of that, on a session that it keeps for as long as it lives.

usage: region_writer.py --dsn DSN --history FILE [--every-ms 10]

For a standby, too: it is refused until the standby is promoted, and the session that was opened before then writes. The history
is a file of JSON lines; times are CLOCK_MONOTONIC, which is one clock for all regions of a lab:
  {"state": "acknowledged", "n": 17, "sent": ..., "acknowledged": ...}
  {"state": "refused" | "unknown", "n": 18, "sent": ..., "error": "..."}      a change of the error only
  {"state": "connected", "at": ...}
SIGKILL ends it.
"""
import argparse, json, time

import psycopg

GIVE_UP_MS = 1000                   # an answer that takes longer counts as none


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--history", required=True)
    parser.add_argument("--every-ms", type=float, default=10)
    options = parser.parse_args()
    with open(options.history, "a", buffering=1) as history:
        write(options.dsn, history, options.every_ms / 1000)


def write(dsn, history, every):
    note = lambda **entry: history.write(json.dumps(entry) + "\n")
    connection, n, said = None, 0, None
    while True:
        sent = time.monotonic()
        try:
            if connection is None:
                connection = psycopg.connect(dsn, connect_timeout=1, autocommit=True, tcp_user_timeout=GIVE_UP_MS)
                note(state="connected", at=sent)
            n += 1
            connection.execute("INSERT INTO compute_nodes (payload) VALUES (%s)", [f"inside-{n}"])
            note(state="acknowledged", n=n, sent=sent, acknowledged=time.monotonic())
            said = None
        except psycopg.Error as error:
            text = str(error).splitlines()[0]
            if text != said:
                note(state="refused" if error.sqlstate else "unknown", n=n, sent=sent, error=text)
                said = text
            if connection is not None and connection.broken:
                connection.close()
                connection = None
        time.sleep(max(0.0, sent + every - time.monotonic()))


if __name__ == "__main__":
    main()
