"""Authoritative DNS over UDP and TCP for the double's zones, answering from their INSYNC state.

Weighted records are answered one at a time, by chance in proportion to weight; if all weights are zero, all count the
same, as Route 53 does. Failover answers the PRIMARY. The names `ref.example.`, `*.ref.example.` always resolve: reference
names with which an observer checks its own resolver.
"""
import random, time
from dnslib import A, AAAA, CNAME, NS, QTYPE, RCODE, RR, TXT
from dnslib.server import BaseResolver, DNSLogger, DNSServer
from . import route53

mode, address = "ok", "127.0.0.1"
REFERENCE, AUTHORITIES = "ref.example.", ".awsdns-"


def set_mode(wanted):
    """ok | servfail | silent (takes the question and never answers)."""
    global mode
    if wanted not in ("ok", "servfail", "silent"):
        raise ValueError(f"dns mode {wanted}")
    mode = wanted


def serve(port, host="127.0.0.1"):
    global address
    address = host
    quiet = DNSLogger(log="-request,-reply,-truncated,-error", prefix=False)
    for tcp in (False, True):
        DNSServer(Resolver(), port=port, address=host, tcp=tcp, logger=quiet).start_thread()


class Resolver(BaseResolver):
    def resolve(self, request, handler):
        while mode == "silent":
            time.sleep(0.1)
        reply = request.reply()
        name, kind = str(request.q.qname).lower(), QTYPE[request.q.qtype]
        if mode == "servfail":
            reply.header.rcode = RCODE.SERVFAIL
            return reply
        if name == REFERENCE or name.endswith("." + REFERENCE):
            if kind == "A":
                reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A("192.0.2.1"), ttl=5))
            return reply
        if AUTHORITIES in name:                        # the names that Route 53 gives to a zone's own servers: all of them are here
            if kind == "A":
                reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(address), ttl=5))
            return reply
        zone = route53.zone_of(name)
        if zone is None:
            reply.header.rcode = RCODE.REFUSED
            return reply
        reply.header.aa = 1
        records = [r for r in zone.published().values() if r["Name"] == name]
        chosen = choose([r for r in records if r["Type"] == kind]) or choose([r for r in records if r["Type"] == "CNAME"])
        if chosen:
            for value in chosen.get("ResourceRecords", []):
                reply.add_answer(RR(request.q.qname, getattr(QTYPE, chosen["Type"]), rdata=rdata(chosen["Type"], value["Value"]),
                                    ttl=chosen["TTL"]))
        elif not records:
            reply.header.rcode = RCODE.NXDOMAIN
        return reply


def choose(records):
    if not records:
        return None
    if "Weight" in records[0]:
        weights = [r["Weight"] for r in records]
        return random.choices(records, weights if any(weights) else None)[0]
    if "Failover" in records[0]:
        return next((r for r in records if r["Failover"] == "PRIMARY"), records[0])
    return random.choice(records)


def rdata(kind, value):
    if kind == "TXT":
        return TXT([part.encode() for part in route53.quoted_strings(value)])
    return {"A": A, "AAAA": AAAA, "CNAME": CNAME, "NS": NS}.get(kind, TXT)(value)
