"""What the double knows, for tests to read and to change."""
from moto.core import DEFAULT_ACCOUNT_ID
from . import dns_server, elasticache, rds, route53, settings

TIMINGS = ("promote_lag_s", "promote_s", "modify_s", "insync_s", "accept_s")


def summary():
    return {"rds": rds.summary(), "elasticache": elasticache.summary(), "route53": route53.summary(),
            "dns": {"mode": dns_server.mode}, "timings": {name: settings.get(name) for name in TIMINGS}}


def change(wanted):
    """{"rds": {ID: {"status": "backing-up", "backup_days": 0}}, "elasticache": {ID: {"status": "snapshotting"}},
        "dns": {"mode": "ok" | "silent" | "servfail"}, "timings": {"insync_s": 30}}"""
    for identifier, fields in wanted.get("rds", {}).items():
        instance = rds.find(identifier)
        instance.status = fields.get("status", instance.status)
        instance.backup_retention_period = fields.get("backup_days", instance.backup_retention_period)
    for identifier, fields in wanted.get("elasticache", {}).items():
        elasticache.find_anywhere(identifier).status = fields["status"]
    if "dns" in wanted:
        dns_server.set_mode(wanted["dns"]["mode"])
    settings.values["seeded"] |= wanted.get("seeded", False)
    for name, value in wanted.get("timings", {}).items():
        if name not in TIMINGS:
            raise KeyError(name)
        settings.values[name] = float(value)


def mail():
    """All mail sent through SES, any region."""
    from moto.ses.models import ses_backends
    return [{"region": region, **{k: v for k, v in vars(message).items() if isinstance(v, (str, dict, list))}}
            for region, backend in ses_backends[DEFAULT_ACCOUNT_ID].items() for message in backend.sent_messages]
