"""The outermost layer: records every AWS call, breaks the ones it is told to break, and answers /lab/*.

GET  /lab/faults       the faults in force
POST /lab/faults       replace them by a JSON list; [] clears
POST /lab/faults/add   add to them
GET  /lab/calls        every call: n, t, service, region, action, params, status, code, fault (the effect, or null)
POST /lab/calls        forget them
GET  /lab/state        RDS instances, replication groups, zones, as the double sees them
POST /lab/state        change some of it: see `state.change`
GET  /lab/mail         messages sent through SES
GET  /lab/ping         a reference point

A fault is an object of filters and effects. Filters, each a value or a list of values, all optional:
  service, region, action, not_service
Effects:
  delay_ms        wait first; goes with every other effect
  status + code   answer an AWS error (`message` too, if given) without performing the call
  hang            never answer, until the fault is lifted
  drop            close the connection without performing the call
  hold_response   perform the call, then answer it when the fault is lifted, and not before
  drop_response   perform the call, then close the connection without an answer
  empty           perform the call, then answer 200 with an empty body
  times           only for this many calls
The first fault whose filters match a call is applied to it.
"""
import json, re, socket, threading, time, urllib.parse
from io import BytesIO
from . import state

_CREDENTIAL = re.compile(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/aws4_request")
_JSON_SERVICES = {"states", "dynamodb", "logs", "secretsmanager", "ssm", "kms"}     # whose errors are JSON
_lock, _faults, _calls = threading.Lock(), [], []


class FaultLayer:
    def __init__(self, app):
        self.app = app

    def __call__(self, env, start):
        path = env["PATH_INFO"]
        if path.startswith("/lab/"):
            return self.control(env, start, path.removeprefix("/lab/"))
        return self.perform(env, start)

    # --- AWS calls --------------------------------------------------------------------------------

    def perform(self, env, start):
        service, region, action, params = identify(env)
        with _lock:
            fault = next((f for f in _faults if f.get("times") != 0 and matches(f, service, region, action)), None)
            if fault and "times" in fault:
                fault["times"] -= 1
            call = {"n": len(_calls) + 1, "t": time.time(), "service": service, "region": region, "action": action,
                    "params": params, "status": None, "code": None, "fault": effect_of(fault)}
            _calls.append(call)
        if fault is None:
            return answer(call, start, *run(self.app, env))

        time.sleep(fault.get("delay_ms", 0) / 1000)
        if fault.get("hang"):
            while fault in _faults:
                time.sleep(0.05)
            return close(env, start)
        if fault.get("drop"):
            return close(env, start)
        if "status" in fault:
            return answer(call, start, *error(service, fault))
        status, headers, body = run(self.app, env)
        if fault.get("hold_response") or fault.get("drop_response"):
            call["status"] = int(status.split()[0])
        while fault.get("hold_response") and fault in _faults:
            time.sleep(0.01)
        if fault.get("drop_response"):
            return close(env, start)
        if fault.get("empty"):
            headers, body = [("Content-Type", "text/xml"), ("Content-Length", "0")], b""
        return answer(call, start, status, headers, body)

    # --- the lab's own requests -------------------------------------------------------------------

    def control(self, env, start, what):
        length = int(env.get("CONTENT_LENGTH") or 0)
        body = json.loads(env["wsgi.input"].read(length)) if length else None
        posted = env["REQUEST_METHOD"] == "POST"
        try:
            with _lock:
                if what == "faults" and posted:
                    _faults[:] = body or []
                if what == "faults/add" and posted:
                    _faults.extend(body)
                if what == "calls" and posted:
                    _calls.clear()
                found = _calls if what == "calls" else _faults
            if what == "ping":
                found = "pong"
            elif what == "state":
                if posted:
                    state.change(body)
                found = state.summary()
            elif what == "mail":
                found = state.mail()
            status, text = "200 OK", json.dumps(found, default=str)
        except (KeyError, ValueError) as problem:
            status, text = "400 Bad Request", json.dumps({"error": f"{type(problem).__name__}: {problem}"})
        start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(text.encode())))])
        return [text.encode()]


def matches(fault, service, region, action):
    def passes(key, value):
        wanted = fault.get(key)
        return wanted is None or value in (wanted if isinstance(wanted, list) else [wanted])
    excluded = fault.get("not_service") or []
    return (passes("service", service) and passes("region", region) and passes("action", action)
            and service not in (excluded if isinstance(excluded, list) else [excluded]))


def effect_of(fault):
    return fault and next((e for e in ("hang", "drop", "hold_response", "drop_response", "empty") if fault.get(e)), str(fault.get("code", fault.get("status", "delay"))))


def run(app, env):
    """Perform the call. Returns (status line, headers, body)."""
    kept = {}

    def start(status, headers, exc_info=None):
        kept.update(status=status, headers=headers)

    parts = app(env, start)
    try:
        body = b"".join(parts)
    finally:
        if hasattr(parts, "close"):
            parts.close()
    return kept["status"], kept["headers"], body


def answer(call, start, status, headers, body):
    call["status"] = int(status.split()[0])
    if call["status"] >= 400:
        found = re.search(rb"<Code>([^<]+)</Code>", body) or re.search(rb'"__type": ?"(?:[^"#]*#)?([^"]+)"', body)
        call["code"] = found.group(1).decode() if found else None
    start(status, headers)
    return [body]


def error(service, fault):
    """An AWS error as the service would write it."""
    status, code, message = int(fault["status"]), fault.get("code", "InternalFailure"), fault.get("message")
    message = message or ("Rate exceeded" if "hrottling" in code else "injected by the lab")
    if service in _JSON_SERVICES:
        return f"{status} Error", [("Content-Type", "application/x-amz-json-1.1")], json.dumps({"__type": code, "message": message}).encode()
    kind = "Receiver" if status >= 500 else "Sender"
    if service == "ec2":
        text = f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors><RequestID>lab</RequestID></Response>"
    elif service == "s3":
        text = f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>lab</RequestId></Error>"
    else:
        text = (f"<ErrorResponse><Error><Type>{kind}</Type><Code>{code}</Code><Message>{message}</Message></Error>"
                f"<RequestId>lab</RequestId></ErrorResponse>")
    return f"{status} Error", [("Content-Type", "text/xml")], f'<?xml version="1.0"?>\n{text}'.encode()


def close(env, start):
    """End the connection without an answer. (No RST: the server's own handles keep the descriptor open.)"""
    connection = env.get("werkzeug.socket")
    if connection is not None:
        connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError("dropped by a fault")


def identify(env):
    """(service, region, action, params) of a call; leaves its body to be read again."""
    signed_for = _CREDENTIAL.search(env.get("HTTP_AUTHORIZATION", ""))
    region, service = signed_for.groups() if signed_for else ("", "")
    length = int(env.get("CONTENT_LENGTH") or 0)
    body = env["wsgi.input"].read(length) if length else b""
    env["wsgi.input"] = BytesIO(body)
    text = body[:100_000].decode("utf-8", "replace")
    if target := env.get("HTTP_X_AMZ_TARGET"):
        return service, region, target.split(".")[-1], {"body": text[:2000]}
    if "Action=" in text:
        params = dict(urllib.parse.parse_qsl(text))
        action = params.pop("Action")
        params.pop("Version", None)
        return service, region, action, params
    if service == "route53":
        return service, region, *route53_action(env, text)
    return service, region, f'{env["REQUEST_METHOD"]} {env["PATH_INFO"]}', {}


def route53_action(env, text):
    method, path = env["REQUEST_METHOD"], env["PATH_INFO"].rstrip("/")
    for pattern, verb, action in (
            (r"/hostedzone/(?P<HostedZoneId>[^/]+)/rrset$", "POST", "ChangeResourceRecordSets"),
            (r"/hostedzone/(?P<HostedZoneId>[^/]+)/rrset$", "GET", "ListResourceRecordSets"),
            (r"/hostedzone/(?P<Id>[^/]+)$", "GET", "GetHostedZone"),
            (r"/change/(?P<Id>[^/]+)$", "GET", "GetChange"),
            (r"/hostedzone$", "GET", "ListHostedZones"),
            (r"/hostedzonesbyname$", "GET", "ListHostedZonesByName"),
            (r"/healthcheck$", "POST", "CreateHealthCheck"),
            (r"/healthcheck/(?P<HealthCheckId>[^/]+)$", "POST", "UpdateHealthCheck"),
            (r"/healthcheck/(?P<HealthCheckId>[^/]+)/status$", "GET", "GetHealthCheckStatus")):
        found = re.search(pattern, path)
        if found and method == verb:
            params = found.groupdict()
            if action == "ChangeResourceRecordSets":
                params["changes"] = compact_changes(text)
            return action, params
    return f"{method} {path}", {}


def compact_changes(text):
    """The batch as short sentences: 'DELETE api.omnimesh.com. A primary weight=100 ttl=30 52.91.123.45'."""
    def one(tag, part):
        found = re.search(f"<{tag}>([^<]*)</{tag}>", part)
        return found.group(1) if found else None
    lines = []
    for part in re.findall(r"<Change>(.*?)</Change>", text, re.S):
        words = [one("Action", part), one("Name", part), one("Type", part), one("SetIdentifier", part)]
        words += [f"{label}={one(tag, part)}" for label, tag in (("weight", "Weight"), ("failover", "Failover"), ("ttl", "TTL")) if one(tag, part)]
        words += re.findall(r"<Value>([^<]*)</Value>", part)
        lines.append(" ".join(w for w in words if w))
    return lines
