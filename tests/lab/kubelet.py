#!/usr/bin/env python3
"""Plays the kubelet for an API server without nodes.

usage: kubelet.py SERVER CA_FILE TOKEN_FILE [DELAY_SECONDS]

Every pending pod turns Running and Ready DELAY seconds after it was seen; a pod that is being deleted is taken away at
once. The annotation lab/never-ready=true keeps a pod Pending: a scale-up that does not arrive. Several workers with
kept-alive connections, so that 35 pods take about a second.
"""
import datetime, http.client, json, queue, ssl, sys, threading, time, urllib.parse

server, ca_file, token_file = sys.argv[1:4]
delay = float(sys.argv[4]) if len(sys.argv) > 4 else 0.5
WORKERS, LOOK_EVERY = 6, 0.15
token = open(token_file).read().strip()
context = ssl.create_default_context(cafile=ca_file)
host = urllib.parse.urlparse(server).netloc
local, work, in_hand, seen = threading.local(), queue.Queue(), set(), {}


def call(method, path, body=None):
    connection = getattr(local, "connection", None) or http.client.HTTPSConnection(host, context=context, timeout=5)
    local.connection = connection
    try:
        connection.request(method, path, body=json.dumps(body) if body is not None else None,
                           headers={"Authorization": f"Bearer {token}", "Content-Type": "application/strategic-merge-patch+json"})
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        local.connection = None
        raise
    if answer.status >= 300 and answer.status not in (404, 409):
        raise OSError(f"{method} {path}: {answer.status} {text[:200]!r}")
    return json.loads(text)


def make_ready(namespace, name):
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = [{"type": t, "status": "True", "lastTransitionTime": now} for t in ("PodScheduled", "Initialized", "ContainersReady", "Ready")]
    call("PATCH", f"/api/v1/namespaces/{namespace}/pods/{name}/status", {"status": {
        "phase": "Running", "podIP": "198.18.1.1", "startTime": now, "conditions": conditions,
        "containerStatuses": [{"name": "main", "ready": True, "started": True, "restartCount": 0, "image": "lab", "imageID": "lab",
                               "state": {"running": {"startedAt": now}}}]}})


def take_away(namespace, name):
    call("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}?gracePeriodSeconds=0")


def worker():
    while True:
        uid, action, namespace, name = work.get()
        try:
            action(namespace, name)
        except (OSError, ValueError, http.client.HTTPException) as error:
            print(error, flush=True)
        finally:
            in_hand.discard(uid)


for _ in range(WORKERS):
    threading.Thread(target=worker, daemon=True).start()
while True:
    try:
        pods = call("GET", "/api/v1/pods?resourceVersion=0").get("items", [])
        now = time.monotonic()
        seen = {p["metadata"]["uid"]: seen.get(p["metadata"]["uid"], now) for p in pods}
        for pod in pods:
            meta = pod["metadata"]
            uid = meta["uid"]
            if uid in in_hand:
                continue
            if meta.get("deletionTimestamp"):
                action = take_away
            elif pod["status"].get("phase") == "Pending" and now - seen[uid] >= delay \
                    and meta.get("annotations", {}).get("lab/never-ready") != "true":
                action = make_ready
            else:
                continue
            in_hand.add(uid)
            work.put((uid, action, meta["namespace"], meta["name"]))
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(error, flush=True)
        time.sleep(0.3)
    time.sleep(LOOK_EVERY)
