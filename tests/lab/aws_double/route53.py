"""Route 53: refuses what AWS refuses, applies a batch whole or not at all, and is PENDING before it is INSYNC.

The rules and the wording of the messages are those that users of AWS have met: see the issue trackers of Terraform's AWS
provider and of external-dns for "Tried to delete resource record set", "weighted sets must contain the same TTL" and the
others. One rule is stricter here than AWS is said to be: a DELETE has to repeat every routing field, too.
"""
import copy, ipaddress, random, re, string, threading, time
from collections import defaultdict
from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.responses import ActionResult
from moto.core.utils import utcnow
from moto.route53 import models, responses
from moto.route53.exceptions import Route53ClientError as Refusal
from . import settings

POLICIES = {"Weight": "weighted", "Region": "latency", "Failover": "failover", "GeoLocation": "geolocation",
            "MultiValueAnswer": "multivalue answer"}
FIELDS = ("Name", "Type", "TTL", "ResourceRecords", "SetIdentifier", "HealthCheckId", "AliasTarget", *POLICIES)
_zones = {}


def install():
    responses.Route53.change_resource_record_sets = change_resource_record_sets
    responses.Route53.list_resource_record_sets = list_resource_record_sets
    responses.Route53.get_change = get_change
    models.FakeZone.resource_record_set_count = property(lambda z: len(zone_for(z.resource_id).records))


def seed(zone_id, name, records):
    """A zone with a chosen id (moto mints its own), holding `records`."""
    backend = _backend()
    made = backend.create_hosted_zone(name, private_zone=False)
    del backend.zones[made.resource_id]
    made.resource_id = zone_id
    backend.zones[zone_id] = made
    zone = zone_for(zone_id)
    for record in records:
        zone.records[_key(record)] = normal(record)
    zone.publish_now()


# --- the API ------------------------------------------------------------------------------------------

def change_resource_record_sets(self):
    zone = zone_for(self._get_param("HostedZoneId"))
    changes = self._get_param("ChangeBatch.Changes")
    if not zone.accepting.acquire(blocking=False):
        raise Refusal("PriorRequestNotComplete", "The request was rejected because Route 53 was still processing a prior request.")
    try:
        time.sleep(settings.get("accept_s"))
        with settings.lock:
            zone.records = after(zone, changes)
            change = zone.submit(self._get_param("ChangeBatch.Comment"))
    finally:
        zone.accepting.release()
    return ActionResult({"ChangeInfo": change.info()})


def list_resource_record_sets(self):
    zone = zone_for(self._get_param("HostedZoneId"))
    start_name, start_type = self._get_param("StartRecordName"), self._get_param("StartRecordType")
    start_identifier = self._get_param("StartRecordIdentifier")
    if start_type and not start_name or start_identifier and not start_type:
        raise Refusal("InvalidInput", "The input is not valid")
    count = min(self._get_int_param("MaxItems", 300), 300)
    start = (reversed_labels(full(start_name)), start_type or "", start_identifier or "") if start_name else ((), "", "")
    with settings.lock:
        found = sorted(zone.records.values(), key=order)
    found = [r for r in found if order(r) >= start]
    page, rest = found[:count], found[count:]
    following = rest[0] if rest else {}
    return ActionResult({"ResourceRecordSets": [shown(r) for r in page], "IsTruncated": bool(rest), "MaxItems": count,
                         "NextRecordName": following.get("Name"), "NextRecordType": following.get("Type"),
                         "NextRecordIdentifier": following.get("SetIdentifier")})


def get_change(self):
    wanted = self._get_param("Id").removeprefix("/change/")
    for zone in list(_zones.values()):
        for change in zone.changes:
            if change.id == wanted:
                return ActionResult({"ChangeInfo": change.info()})
    raise Refusal("NoSuchChange", f"A change with the specified change ID does not exist: {wanted}")


# --- zones and changes --------------------------------------------------------------------------------

class Zone:
    def __init__(self, zone_id, name):
        self.id, self.name = zone_id, full(name)
        self.records, self.changes = {}, []
        self._published = {}
        self.accepting = threading.Lock()

    def submit(self, comment):
        change = Change(copy.deepcopy(self.records), settings.get("insync_s"), comment)
        self.changes.append(change)
        return change

    def published(self):
        """What the name servers answer: the newest state that is INSYNC."""
        with settings.lock:
            for change in reversed(self.changes):
                if change.is_insync():
                    return change.records
            return self._published

    def publish_now(self):
        self._published = copy.deepcopy(self.records)


class Change:
    def __init__(self, records, insync_s, comment):
        self.id = "C" + "".join(random.choices(string.ascii_uppercase + string.digits, k=20))
        self.records, self.comment, self.submitted = records, comment, utcnow()
        self._insync_at = time.monotonic() + insync_s

    def is_insync(self):
        return time.monotonic() >= self._insync_at

    def info(self):
        return {"Id": f"/change/{self.id}", "Status": "INSYNC" if self.is_insync() else "PENDING",
                "SubmittedAt": self.submitted, "Comment": self.comment}


def zone_for(zone_id):
    zone_id = zone_id.removeprefix("/hostedzone/")
    if zone_id not in _backend().zones:
        raise Refusal("NoSuchHostedZone", f"No hosted zone found with ID: {zone_id}")
    with settings.lock:
        if zone_id not in _zones:
            found = _backend().zones[zone_id]
            zone = Zone(zone_id, found.name)
            for record in found.rrsets:              # the name servers and the SOA that moto made
                values = [{"Value": v["Value"] if isinstance(v, dict) else v} for v in record.records]
                made = normal({"Name": record.name, "Type": record.type, "TTL": int(record.ttl), "ResourceRecords": values})
                zone.records[_key(made)] = made
            zone.publish_now()
            _zones[zone_id] = zone
        return _zones[zone_id]


def zone_of(name):
    """The zone that a DNS name lies in, or None."""
    inside = [z for z in list(_zones.values()) if name == z.name or name.endswith("." + z.name)]
    return max(inside, key=lambda z: len(z.name), default=None)


def summary():
    return {z.id: {"name": z.name, "records": [shown(r) for r in z.records.values()],
                   "published": [shown(r) for r in z.published().values()],
                   "changes": [{k: v for k, v in change.info().items()} for change in z.changes]} for z in list(_zones.values())}


def _backend():
    return models.route53_backends[DEFAULT_ACCOUNT_ID]["aws"]


# --- what a batch does, and why it is refused -----------------------------------------------------------

def after(zone, changes):
    """The zone's records after the batch. Raises, and changes nothing, when any part of it is refused."""
    if not changes:
        raise Refusal("InvalidInput", "Invalid XML ; The content of element 'Changes' is not complete.")
    if sum(len(c["ResourceRecordSet"].get("ResourceRecords") or []) * (2 if c["Action"] == "UPSERT" else 1) for c in changes) > 1000:
        refuse(["Number of records limit of 1000 exceeded."])
    for change in changes:
        refuse_wrong_shape(change)

    problems, records, touched = [], dict(zone.records), []
    seen = defaultdict(list)
    for change in changes:
        record = normal(change["ResourceRecordSet"])
        seen[_key(record)].append(change["Action"])
    for key, actions in seen.items():
        if len(actions) > 1 and actions != ["DELETE", "CREATE"]:
            problems.append(f"The request contains an invalid set of changes for a resource record set '{key[1]} {key[0]}'")

    for change in changes:
        action, record = change["Action"], normal(change["ResourceRecordSet"])
        key, known = _key(record), records.get(_key(record))
        if not (record["Name"] == zone.name or record["Name"].endswith("." + zone.name)):
            problems.append(f"RRSet with DNS name {record['Name']} is not permitted in zone {zone.name}")
            continue
        if action == "DELETE":
            if known is None:
                problems.append(f"Tried to delete resource record set {words(record)} but it was not found")
            elif known != record:
                problems.append(f"Tried to delete resource record set {words(record)} but the values provided do not match the current values")
            elif record["Name"] == zone.name and record["Type"] in ("NS", "SOA"):
                problems.append(f"A HostedZone must contain at least one {record['Type']} record for the zone itself.")
            else:
                del records[key]
            continue
        if action == "CREATE" and known is not None:
            problems.append(f"Tried to create resource record set {words(record)} but it already exists")
            continue
        problems += wrong_values(record)
        records[key] = record
        touched.append(record)

    for record in touched:               # against the state after the batch, so that one batch may change the policy
        problems += conflicts(record, [r for k, r in records.items() if k != _key(record)], zone)
    if problems:
        refuse(list(dict.fromkeys(problems)))
    return records


def refuse(problems):
    raise Refusal("InvalidChangeBatch", "[" + ", ".join(problems) + "]")


def refuse_wrong_shape(change):
    """What AWS finds wrong with a single change before it looks at the zone: InvalidInput."""
    action, record = change["Action"], change["ResourceRecordSet"]
    where = (f"in Change with [Action={action}, Name={full(record['Name'])}, Type={record['Type']}, "
             f"SetIdentifier={record.get('SetIdentifier') or 'null'}]")

    def invalid(text):
        raise Refusal("InvalidInput", f"Invalid request: {text} {where}")

    if action not in ("CREATE", "UPSERT", "DELETE"):
        raise Refusal("InvalidInput", f"Invalid XML ; cvc-enumeration-valid: Value '{action}' is not facet-valid with respect to "
                               "enumeration '[CREATE, DELETE, UPSERT]'. It must be a value from the enumeration.")
    kinds = "Expected exactly one of [AliasTarget, all of [TTL, and ResourceRecords], or TrafficPolicyInstanceId], but found"
    complete = record.get("TTL") is not None and bool(record.get("ResourceRecords"))
    partly = record.get("TTL") is not None or bool(record.get("ResourceRecords"))
    if record.get("AliasTarget") and partly:
        invalid(f"{kinds} more than one")
    if not record.get("AliasTarget") and not complete:
        invalid(f"{kinds} none")
    if complete and not 0 <= int(record["TTL"]) <= 2147483647:
        invalid(f"TTL {record['TTL']} is out of range")
    policies = [p for p in POLICIES if record.get(p) is not None]
    identifier = record.get("SetIdentifier")
    if policies and not identifier:
        invalid("Missing field 'SetIdentifier'")
    if identifier is not None and not 1 <= len(identifier) <= 128:
        invalid("SetIdentifier must be 1 to 128 characters long")
    if identifier and len(policies) != 1:
        invalid(f"Expected exactly one of [Weight, Region, Failover, GeoLocation, or MultiValueAnswer], but found {'more than one' if policies else 'none'}")
    weight = record.get("Weight")
    if weight is not None and not 0 <= int(weight) <= 255:
        bound, limit = ("maxInclusive", 255) if int(weight) > 255 else ("minInclusive", 0)
        raise Refusal("InvalidInput", f"Invalid XML ; cvc-{bound}-valid: Value '{weight}' is not facet-valid with respect to "
                               f"{bound} '{limit}' for type 'ResourceRecordSetWeight'.")
    if record.get("Failover") not in (None, "PRIMARY", "SECONDARY"):
        raise Refusal("InvalidInput", f"Invalid XML ; cvc-enumeration-valid: Value '{record['Failover']}' is not facet-valid with "
                               "respect to enumeration '[PRIMARY, SECONDARY]'. It must be a value from the enumeration.")
    if record.get("HealthCheckId") and record["HealthCheckId"] not in _backend().health_checks:
        raise Refusal("NoSuchHealthCheck", f"No health check exists with the specified ID: {record['HealthCheckId']}")


def wrong_values(record):
    """Values that are not what the record's type holds."""
    problems = []

    def fatal(code, meaning, value):
        problems.append(f"Invalid Resource Record: 'FATAL problem: {code} ({meaning}) encountered with '{value}''")

    values = [r["Value"] for r in record.get("ResourceRecords", [])]
    for value in values:
        if record["Type"] in ("A", "AAAA"):
            version = 4 if record["Type"] == "A" else 6
            try:
                ok = ipaddress.ip_address(value).version == version
            except ValueError:
                ok = False
            if not ok:
                fatal("ARRDATAIllegalIPv4Address" if version == 4 else "AAAARRDATAIllegalIPv6Address",
                      f"Value is not a valid IPv{version} address", value)
        elif record["Type"] in ("TXT", "SPF"):
            if not re.fullmatch(r'"(?:[^"\\]|\\.)*"(?:\s+"(?:[^"\\]|\\.)*")*', value):
                fatal("InvalidCharacterString", "Value should be enclosed in quotation marks", value)
            elif any(len(part) > 255 for part in quoted_strings(value)):
                fatal("CharacterStringTooLong", "Value is too long", value)
    for value in {v for v in values if values.count(v) > 1}:
        problems.append(f"Duplicate Resource Record: '{value}'")
    if record["Type"] == "CNAME" and len(values) > 1:
        problems.append(f"RRSet of type CNAME with DNS name {record['Name']} may hold one value only")
    return problems


def conflicts(record, others, zone):
    """Where the record cannot stand beside the zone's other records."""
    same_name = [r for r in others if r["Name"] == record["Name"]]
    beside = [r for r in same_name if r["Type"] == record["Type"]]
    policy = policy_of(record)
    who = f"RRSet with DNS name {record['Name']}, type {record['Type']}, SetIdentifier {record.get('SetIdentifier', 'null')}"
    problems = []
    if beside and policy is None:
        problems.append(f"{who} cannot be created as other RRSets exist with the same name and type.")
    elif any(policy_of(r) != policy for r in beside):
        problems.append(f"{who} cannot be created because a non-{POLICIES[policy]} RRSet with the same name and type already exists.")
    elif policy == "Weight" and any(r.get("TTL") != record.get("TTL") for r in beside):
        problems.append(f"{who} cannot be created as weighted sets must contain the same TTL.")
    elif policy in ("Failover", "Region") and any(r[policy] == record[policy] for r in beside):
        problems.append(f"{who} cannot be created because a {POLICIES[policy]} RRSet with the same name, type and "
                        f"{'role' if policy == 'Failover' else 'region'} already exists.")
    if record["Type"] == "CNAME" and record["Name"] == zone.name:
        problems.append(f"RRSet of type CNAME with DNS name {record['Name']} is not permitted at apex in zone {zone.name}")
    for other in same_name:
        if other["Type"] != record["Type"] and "CNAME" in (other["Type"], record["Type"]):
            problems.append(f"RRSet of type {record['Type']} with DNS name {record['Name']} is not permitted because a conflicting RRSet of "
                            f"type {other['Type']} with the same DNS name already exists in zone {zone.name}")
    return problems


# --- records as data ------------------------------------------------------------------------------------

def normal(record):
    """One spelling for equal records: fields that are set, names with the final dot, values in one order."""
    kept = {field: record[field] for field in FIELDS if record.get(field) is not None}
    kept["Name"] = full(kept["Name"])
    if "ResourceRecords" in kept:
        kept["ResourceRecords"] = [{"Value": v} for v in sorted(r["Value"] for r in kept["ResourceRecords"])]
    for number in ("TTL", "Weight"):
        if number in kept:
            kept[number] = int(kept[number])
    return kept


def _key(record):
    return full(record["Name"]), record["Type"], record.get("SetIdentifier")


def policy_of(record):
    return next((p for p in POLICIES if p in record), None)


def words(record):
    identifier = f", set-identifier='{record['SetIdentifier']}'" if "SetIdentifier" in record else ""
    return f"[name='{record['Name']}', type='{record['Type']}'{identifier}]"


def shown(record):
    return {**record, "Name": record["Name"].replace("*", "\\052")}       # as Route 53 lists a wildcard


def order(record):
    return reversed_labels(record["Name"]), record["Type"], record.get("SetIdentifier", "")


def reversed_labels(name):
    return tuple(reversed(name.rstrip(".").split(".")))


def full(name):
    return name.lower().replace("\\052", "*").rstrip(".") + "."


def quoted_strings(value):
    return [re.sub(r"\\(.)", r"\1", part) for part in re.findall(r'"((?:[^"\\]|\\.)*)"', value)]
