"""Does the lab behave as the real things do? Run by `lab.py selftest`; exits 1 when anything does not.

Starts everything, tries above all what an easy imitation would get wrong, and stops it. Each check is a function whose
name is the sentence that it proves; `refused` demands a particular error code, so an accepting double fails the check.
"""
import contextlib, json, os, signal, ssl, subprocess, sys, tempfile, threading, time, urllib.error, urllib.request
from pathlib import Path
import psycopg
from botocore.exceptions import BotoCoreError, ClientError
import judge
import lab as lab_program
from components import constants as c, kubernetes, redis
from components.aws import Double
from components.kubernetes import Api
from components.processes import Run, alive, wait_until
from components.s3 import aws_client
from tcp_fault_proxy import tell

EAST, WEST = c.REGIONS
CHECKS = []


def check(*needs):
    def register(function):
        CHECKS.append((function, set(needs)))
        return function
    return register


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


def refused(code, call, **arguments):
    """The call must fail with this AWS error code."""
    try:
        call(**arguments)
    except ClientError as error:
        got = error.response["Error"]["Code"]
        expect(got == code, f"expected {code}, got {got}: {error.response['Error'].get('Message')}")
        return error.response["Error"].get("Message", "")
    raise AssertionError(f"accepted, but AWS answers {code}: {arguments}")


def cut_off(call, **arguments):
    """The call must end without an answer."""
    try:
        call(**arguments)
    except BotoCoreError:
        return
    except ClientError as error:
        raise AssertionError(f"answered {error}") from error
    raise AssertionError("answered")


def within(seconds, what, condition):
    began = time.monotonic()
    wait_until(condition, what, seconds=seconds)
    return time.monotonic() - began


# --- Route 53 and DNS -----------------------------------------------------------------------------------

def record(identifier="primary", weight=100, ttl=30, value="52.91.123.45", name=c.API_NAME, kind="A", **more):
    return {"Name": name, "Type": kind, "TTL": ttl, "SetIdentifier": identifier, "Weight": weight, "ResourceRecords": [{"Value": value}], **more}


def without(fields, **arguments):
    return {k: v for k, v in record(**arguments).items() if k not in fields}


class Zone:
    def __init__(self, lab):
        self.client = lab.client("route53", EAST)

    def change(self, *changes, comment="selftest"):
        batch = {"Comment": comment, "Changes": [{"Action": a, "ResourceRecordSet": r} for a, r in changes]}
        return self.client.change_resource_record_sets(HostedZoneId=c.ZONE_ID, ChangeBatch=batch)["ChangeInfo"]

    def weights(self):
        listed = self.client.list_resource_record_sets(HostedZoneId=c.ZONE_ID)["ResourceRecordSets"]
        return {r["SetIdentifier"]: r["Weight"] for r in listed if "Weight" in r}


@check("aws")
def route_53_refuses_what_aws_refuses(lab):
    zone = Zone(lab)
    change = lambda *changes: (lambda: zone.change(*changes))
    other = dict(name="other.omnimesh.com.")
    for code, message, call in (
        ("InvalidInput", "Missing field 'SetIdentifier'", change(("UPSERT", without({"SetIdentifier"})))),
        ("InvalidInput", "found none", change(("CREATE", without({"TTL"}, **other)))),
        ("InvalidInput", "found none", change(("CREATE", without({"Weight"}, **other)))),
        ("InvalidInput", "found more than one", change(("CREATE", record(**other, Failover="PRIMARY")))),
        ("InvalidInput", "maxInclusive '255'", change(("UPSERT", record(weight=256)))),
        ("InvalidInput", "cvc-enumeration-valid", change(("CREATE", without({"Weight"}, **other, Failover="PRIMRY")))),
        ("InvalidChangeBatch", "already exists", change(("CREATE", record()))),
        ("InvalidChangeBatch", "non-failover RRSet", change(("CREATE", without({"Weight"}, identifier="third", Failover="PRIMARY")))),
        ("InvalidChangeBatch", "other RRSets exist", change(("CREATE", without({"Weight", "SetIdentifier"})))),
        ("InvalidChangeBatch", "same TTL", change(("CREATE", record(identifier="third", ttl=60)))),
        ("InvalidChangeBatch", "was not found", change(("DELETE", record(identifier="third")))),
        ("InvalidChangeBatch", "do not match the current values", change(("DELETE", record(weight=99)))),
        ("InvalidChangeBatch", "do not match the current values", change(("DELETE", record(ttl=31)))),
        ("InvalidChangeBatch", "do not match the current values", change(("DELETE", record(value="52.91.123.46")))),
        ("InvalidChangeBatch", "invalid set of changes", change(("DELETE", record()), ("DELETE", record()))),
        ("InvalidChangeBatch", "invalid set of changes", change(("UPSERT", record(**other)), ("UPSERT", record(weight=1, **other)))),
        ("InvalidChangeBatch", "quotation marks", change(("CREATE", without({"Weight", "SetIdentifier"}, name="t.omnimesh.com.", kind="TXT", value="plan")))),
        ("InvalidChangeBatch", "valid IPv4", change(("UPSERT", record(value="primary-region-ip")))),
        ("InvalidChangeBatch", "not permitted in zone", change(("CREATE", record(name="api.example.com.")))),
        ("InvalidChangeBatch", "conflicting RRSet", change(("CREATE", without({"Weight", "SetIdentifier"}, kind="CNAME", value="x.omnimesh.com")))),
    ):
        got = refused(code, call)
        expect(message in got, f"message {got!r} does not say {message!r}")
    refused("NoSuchHostedZone", lambda: zone.client.list_resource_record_sets(HostedZoneId="ZNOTTHERE"))
    refused("NoSuchChange", lambda: zone.client.get_change(Id="/change/CNOTTHERE"))
    expect(zone.weights() == {"primary": 100, "secondary": 0}, "a refused batch changed something")


@check("aws")
def a_batch_is_applied_whole_or_not_at_all(lab):
    zone = Zone(lab)
    good = [("DELETE", record()), ("CREATE", record(weight=0))]
    refused("InvalidChangeBatch", lambda: zone.change(*good, ("DELETE", record(identifier="third"))))
    expect(zone.weights() == {"primary": 100, "secondary": 0}, f"half a batch was applied: {zone.weights()}")


@check("aws")
def a_change_is_pending_then_insync_and_dns_follows(lab):
    zone, address = Zone(lab), lab.json["regions"][EAST]["public_address"]
    west = lab.json["regions"][WEST]["public_address"]
    expect(lab.resolve() == [address], f"before: {lab.resolve()}")
    expect(lab.resolve(tcp=True) == [address], "DNS over TCP answers otherwise")
    lab.double.post("state", {"timings": {"insync_s": 1.5}})
    plan = without({"Weight", "SetIdentifier"}, name="_failoverd.omnimesh.com.", kind="TXT", value='"plan-7"')
    info = zone.change(("DELETE", record(value=address)), ("CREATE", record(value=address, weight=0)),
                       ("DELETE", record("secondary", 0, value=west)), ("CREATE", record("secondary", 100, value=west)), ("CREATE", plan))
    expect(info["Status"] == "PENDING", f"status {info['Status']}")
    expect(lab.resolve() == [address], "DNS answered with a change that is still PENDING")
    expect(zone.weights() == {"primary": 0, "secondary": 100}, "the change is not listed")
    took = within(10, "INSYNC", lambda: zone.client.get_change(Id=info["Id"])["ChangeInfo"]["Status"] == "INSYNC")
    expect(took > 0.5, f"INSYNC after {took:.2f} s only")
    expect(lab.resolve() == [west], f"after: {lab.resolve()}")
    expect(lab.resolve("_failoverd.omnimesh.com.", "TXT") == ['"plan-7"'], "TXT")
    back = zone.change(("UPSERT", record(value=address)), ("UPSERT", record("secondary", 0, value=west)), ("DELETE", plan))
    expect(back["Id"] != info["Id"], "the same change id twice")
    within(10, "the way back", lambda: lab.resolve() == [address])


@check("aws")
def dns_gives_weights_their_share_and_resolves_reference_names(lab):
    zone, name = Zone(lab), "share.omnimesh.com."
    zone.change(("CREATE", record("a", 10, value="192.0.2.10", name=name)), ("CREATE", record("b", 90, value="192.0.2.90", name=name)))
    within(10, "the records", lambda: lab.resolve(name))
    answers = [lab.resolve(name)[0] for _ in range(200)]
    expect(2 <= answers.count("192.0.2.10") <= 60, f"weight 10 of 100 was answered {answers.count('192.0.2.10')} times of 200")
    expect(lab.resolve("a.ref.example.") == ["192.0.2.1"], "reference name")
    expect(lab.resolve("no.omnimesh.com.") == [], "a name that is not there")


@check("aws")
def two_changes_at_once_get_prior_request_not_complete(lab):
    zone = Zone(lab)
    lab.double.post("state", {"timings": {"accept_s": 1.0}})
    try:
        first = threading.Thread(target=lambda: zone.change(("UPSERT", record(name="slow.omnimesh.com."))))
        first.start()
        time.sleep(0.4)
        refused("PriorRequestNotComplete", lambda: zone.change(("UPSERT", record(name="slow.omnimesh.com."))))
        first.join()
    finally:
        lab.double.post("state", {"timings": {"accept_s": 0}})


# --- faults ---------------------------------------------------------------------------------------------

@check("aws")
def faults_hit_only_what_they_name(lab):
    east, west = lab.client("rds", EAST), lab.client("rds", WEST)
    with lab.faults({"service": "rds", "region": WEST, "action": "DescribeDBInstances", "status": 503, "code": "ServiceUnavailable", "times": 2}):
        east.describe_db_instances()
        lab.client("ec2", WEST).describe_instances()
        refused("ServiceUnavailable", west.describe_db_instances)
        refused("ServiceUnavailable", west.describe_db_instances)
        west.describe_db_instances()
    with lab.faults({"service": "route53", "status": 400, "code": "Throttling"}):
        expect("Rate exceeded" in refused("Throttling", Zone(lab).weights), "message")
    with lab.faults({"region": EAST, "drop": True, "not_service": ["route53"]}):
        cut_off(east.describe_db_instances)
        Zone(lab).weights()
    with lab.faults({"service": "rds", "hang": True}):
        cut_off(lab.client("rds", EAST, read_timeout=1).describe_db_instances)
    with lab.faults({"service": "ec2", "delay_ms": 400}):
        began = time.monotonic()
        lab.client("ec2", EAST).describe_instances()
        expect(time.monotonic() - began >= 0.4, "not delayed")


@check("aws")
def a_dropped_response_still_changed_the_world(lab):
    zone = Zone(lab)
    with lab.faults({"action": "ChangeResourceRecordSets", "drop_response": True, "times": 1}):
        cut_off(lambda: zone.change(("CREATE", record(name="dropped.omnimesh.com."))))
    refused("InvalidChangeBatch", lambda: zone.change(("CREATE", record(name="dropped.omnimesh.com."))))
    calls = [x for x in lab.double.get("calls") if "dropped" in json.dumps(x["params"])]
    expect([x["fault"] for x in calls] == ["drop_response", None], f"calls {calls}")
    expect([x["code"] for x in calls] == [None, "InvalidChangeBatch"], f"codes {calls}")
    expect(calls[0]["params"]["changes"] == ["CREATE dropped.omnimesh.com. A primary weight=100 ttl=30 52.91.123.45"], f"params {calls[0]}")


# --- RDS and PostgreSQL ---------------------------------------------------------------------------------

@check("aws", "pg")
def rds_promotes_the_real_standby_once(lab):
    replica, rds = c.RDS_INSTANCE[WEST], lab.client("rds", WEST)
    describe = lambda: rds.describe_db_instances(DBInstanceIdentifier=replica)["DBInstances"][0]
    expect(describe()["Endpoint"] == {"Address": "127.0.0.1", "Port": lab.json["regions"][WEST]["postgres"]["port"]}, f"endpoint {describe()['Endpoint']}")
    refused("DBInstanceNotFound", rds.promote_read_replica, DBInstanceIdentifier="not-there")
    refused("InvalidDBInstanceState", lab.client("rds", EAST).promote_read_replica, DBInstanceIdentifier=c.RDS_INSTANCE[EAST])
    lab.double.post("state", {"rds": {replica: {"status": "backing-up"}}})
    refused("InvalidDBInstanceState", rds.promote_read_replica, DBInstanceIdentifier=replica)
    lab.double.post("state", {"rds": {replica: {"status": "available"}}})
    expect(lab.sql(WEST, "SELECT pg_is_in_recovery()"), "the standby is not one")

    rds.promote_read_replica(DBInstanceIdentifier=replica)
    refused("InvalidDBInstanceState", rds.promote_read_replica, DBInstanceIdentifier=replica)
    seen = []
    within(30, "the promotion", lambda: seen.append((describe()["DBInstanceStatus"], bool(describe().get("ReadReplicaSourceDBInstanceIdentifier")))) or seen[-1] == ("available", False))
    expect(seen[0] == ("available", True) and ("modifying", True) in seen, f"statuses {list(dict.fromkeys(seen))}")
    expect(not lab.sql(WEST, "SELECT pg_is_in_recovery()"), "the real standby was not promoted")
    lab.sql(WEST, "INSERT INTO compute_nodes (payload) VALUES ('after') RETURNING id", user="app")
    refused("InvalidDBInstanceState", rds.promote_read_replica, DBInstanceIdentifier=replica)
    expect(lab.client("rds", EAST).describe_db_instances()["DBInstances"][0]["ReadReplicaDBInstanceIdentifiers"] == [], "the source still lists its replica")


@check("pg")
def the_limited_role_can_fence_so_that_it_survives_a_restart(lab):
    with lab.connect(EAST, "app") as application, lab.connect(EAST, "failoverd") as watcher:
        expect(not watcher.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()[0], "failoverd is a superuser")
        fence(watcher)
        try:
            application.execute("SELECT 1")
            raise AssertionError("the application's session lives on")
        except psycopg.OperationalError:
            pass
    lab.run.kill(f"pg@{EAST}")
    lab_program.start_again(lab.run, [f"pg@{EAST}"])
    within(30, "the old primary", lambda: lab.sql(EAST, "SELECT 1", user="failoverd") == 1)
    try:
        lab.connect(EAST, "app").close()
        raise AssertionError("the application connected to a fenced database")
    except psycopg.OperationalError as error:
        expect("pg_hba.conf rejects" in str(error), str(error))
    expect(lab.sql(EAST, "SHOW default_transaction_read_only", user="failoverd") == "on", "writes are allowed again")


def fence(connection):
    """The fence, as a program without superuser rights makes it."""
    path = connection.execute("SELECT current_setting('hba_file')").fetchone()[0]
    rules = "host all app all reject\n" + connection.execute("SELECT pg_read_file(%s)", [path]).fetchone()[0]
    # as CSV with characters that do not occur, because the text format would escape tabs and backslashes
    quote = lambda text: "'" + text.replace("'", "''") + "'"
    connection.execute(f"COPY (SELECT line FROM unnest(string_to_array({quote(rules.rstrip(chr(10)))}, E'\\n')) line) TO {quote(path)} "
                       "(FORMAT csv, DELIMITER E'\\x01', QUOTE E'\\x02')")
    connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    connection.execute("SELECT pg_reload_conf()")
    wrong = connection.execute("SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL").fetchone()[0]
    expect(wrong == 0, "pg_hba.conf is broken")
    within(5, "the reload", lambda: connection.execute("SHOW default_transaction_read_only").fetchone()[0] == "on")
    connection.execute("SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE usename = 'app'")


@check("pg")
def a_pair_of_its_own_starts_beside_and_its_standby_is_promoted_by_the_limited_role(lab):
    with small_lab("--only", "pg") as second:
        began = time.monotonic()
        expect(second.sql(WEST, "SELECT pg_promote(true, 30)", user="failoverd") is True, "pg_promote")
        second.sql(WEST, "INSERT INTO compute_nodes (payload) VALUES ('x') RETURNING id", user="app")
        expect(time.monotonic() - began < 15, "slow")
        pg = second.json["regions"][WEST]["postgres"]
        with psycopg.connect(pg["dsn"]["app"] + f" sslmode=verify-full sslrootcert={pg['ca_file']}") as secure:
            expect(secure.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()[0], "no TLS")


# --- ElastiCache and Redis ------------------------------------------------------------------------------

@check("aws")
def elasticache_refuses_with_aws_codes(lab):
    cache, east, west = lab.client("elasticache", WEST), *[c.CACHE_GROUP[r] for r in c.REGIONS]
    refused("ReplicationGroupNotFoundFault", cache.describe_replication_groups, ReplicationGroupId="not-there")
    refused("ReplicationGroupNotFoundFault", cache.describe_replication_groups, ReplicationGroupId=east)       # lives in the other region
    grow = lambda n, now=True: (lambda: cache.increase_replica_count(ReplicationGroupId=west, NewReplicaCount=n, ApplyImmediately=now))
    refused("NoOperationFault", grow(1))
    refused("InvalidParameterValue", grow(0))
    refused("InvalidParameterValue", grow(6))
    refused("InvalidParameterValue", grow(2, now=False))
    lab.double.post("state", {"elasticache": {west: {"status": "snapshotting"}}})
    refused("InvalidReplicationGroupState", grow(2))
    lab.double.post("state", {"elasticache": {west: {"status": "available"}}})
    refused("InvalidReplicationGroupState", cache.test_failover, ReplicationGroupId=west, NodeGroupId="0001")
    refused("NodeGroupNotFoundFault", cache.test_failover, ReplicationGroupId=west, NodeGroupId="0009")
    refused("GlobalReplicationGroupNotFoundFault", cache.describe_global_replication_groups, GlobalReplicationGroupId="not-there")
    refused("InvalidReplicationGroupState", cache.modify_replication_group, ReplicationGroupId=west, PrimaryClusterId=f"{west}-002", ApplyImmediately=True)


@check("aws")
def elasticache_grows_and_changes_roles(lab):
    cache, group = lab.client("elasticache", WEST), c.CACHE_GROUP[WEST]
    describe = lambda: cache.describe_replication_groups(ReplicationGroupId=group)["ReplicationGroups"][0]
    answer = cache.increase_replica_count(ReplicationGroupId=group, NewReplicaCount=2, ApplyImmediately=True)
    expect(answer["ReplicationGroup"]["Status"] == "modifying" == describe()["Status"], "not modifying")
    refused("InvalidReplicationGroupState", cache.increase_replica_count, ReplicationGroupId=group, NewReplicaCount=3, ApplyImmediately=True)
    within(10, "the third member", lambda: describe()["Status"] == "available")
    roles = [m["CurrentRole"] for m in describe()["NodeGroups"][0]["NodeGroupMembers"]]
    expect(roles == ["primary", "replica", "replica"], f"roles {roles}")
    east = lab.client("elasticache", EAST)
    before = primary_of(east, c.CACHE_GROUP[EAST])
    east.test_failover(ReplicationGroupId=c.CACHE_GROUP[EAST], NodeGroupId="0001")
    within(10, "another primary", lambda: primary_of(east, c.CACHE_GROUP[EAST]) != before)
    within(10, "available", lambda: east.describe_replication_groups(ReplicationGroupId=c.CACHE_GROUP[EAST])["ReplicationGroups"][0]["Status"] == "available")


def primary_of(client, group):
    members = client.describe_replication_groups(ReplicationGroupId=group)["ReplicationGroups"][0]["NodeGroups"][0]["NodeGroupMembers"]
    return next(m["CacheClusterId"] for m in members if m["CurrentRole"] == "primary")


@check("aws", "redis")
def a_global_failover_makes_the_western_redis_writable(lab):
    port, cache = lab.json["regions"][WEST]["redis"]["port"], lab.client("elasticache", WEST)
    try:
        redis.command(port, "SET", "x", "1")
        raise AssertionError("the replica accepted a write")
    except RuntimeError as error:
        expect("READONLY" in str(error), str(error))
    target = dict(GlobalReplicationGroupId=c.GLOBAL_CACHE_GROUP, PrimaryRegion=WEST, PrimaryReplicationGroupId=c.CACHE_GROUP[WEST])
    refused("InvalidParameterValue", cache.failover_global_replication_group, **{**target, "PrimaryReplicationGroupId": "not-there"})
    cache.failover_global_replication_group(**target)
    refused("InvalidGlobalReplicationGroupState", cache.failover_global_replication_group, **target)
    within(10, "a writable Redis", lambda: redis.command(port, "SET", "x", "1") == "OK")
    expect(redis.command(port, "GET", "session:1") == "seed", "the promoted copy is empty")


# --- Kubernetes -----------------------------------------------------------------------------------------

@check("k8s")
def failoverd_may_do_what_it_needs_and_no_more(lab):
    api, base = lab.api(WEST, "failoverd"), f"/api/v1/namespaces/{c.NAMESPACE}"
    expect(kubernetes.secret_data(api)["user"] == "app", "secret")
    api.merge_patch(f"{base}/configmaps/s3-config", {"data": {"region": WEST}})
    api.call("POST", f"{base}/configmaps", {"metadata": {"name": "dr-mode"}, "data": {"status": "active"}})
    for method, path, body in (("DELETE", f"{base}/configmaps/dr-mode", None), ("GET", "/api/v1/namespaces", None), ("GET", "/api/v1/secrets", None),
                               ("DELETE", f"/apis/apps/v1/namespaces/{c.NAMESPACE}/deployments/ai-agents", None)):
        try:
            api.call(method, path, body)
            raise AssertionError(f"{method} {path} is allowed")
        except urllib.error.HTTPError as error:
            expect(error.code == 403, f"{method} {path}: {error.code}")
    stranger = Api(api.server, lab.json["ca_file"], "wrong-token")
    try:
        stranger.call("GET", f"{base}/pods")
        raise AssertionError("a wrong token is accepted")
    except urllib.error.HTTPError as error:
        expect(error.code == 401, f"wrong token: {error.code}")


@check("k8s")
def a_scale_up_is_ready_within_seconds(lab):
    api, base = lab.api(WEST, "failoverd"), f"/apis/apps/v1/namespaces/{c.NAMESPACE}/deployments"
    for name, replicas in c.WORKLOADS.items():
        api.merge_patch(f"{base}/{name}/scale", {"spec": {"replicas": replicas[EAST]}})
    wanted = {name: replicas[EAST] for name, replicas in c.WORKLOADS.items()}
    took = within(30, f"{wanted} ready", lambda: {n: ready for n, (_, ready, _) in kubernetes.workloads(api).items()} == wanted)
    return f"{took:.1f} s for 25 more pods"


@check("k8s")
def a_rollout_restart_replaces_every_pod(lab):
    api, name = lab.api(EAST, "failoverd"), "go-node-proxies"
    path = f"/apis/apps/v1/namespaces/{c.NAMESPACE}/deployments/{name}"
    pods = lambda: {p["metadata"]["uid"] for p in api.call("GET", f"/api/v1/namespaces/{c.NAMESPACE}/pods?labelSelector=app%3D{name}")["items"]
                    if not p["metadata"].get("deletionTimestamp")}
    before = pods()
    generation = api.merge_patch(path, {"spec": {"template": {"metadata": {"annotations": {"failoverd/restarted-for": "plan-7"}}}}})["metadata"]["generation"]

    def finished():
        status, wanted = api.call("GET", path)["status"], 10
        return status["observedGeneration"] >= generation and status.get("updatedReplicas") == wanted == status.get("readyReplicas") == status["replicas"]

    took = within(60, "the rollout", finished)
    expect(not before & pods(), "old pods are still there")
    return f"{took:.1f} s for 10 pods"


@check("k8s")
def a_pod_marked_never_ready_is_not_ready(lab):
    api, name = lab.api(EAST, "admin"), "nexus-prime-core"
    path = f"/apis/apps/v1/namespaces/{c.NAMESPACE}/deployments/{name}"
    api.merge_patch(path, {"spec": {"template": {"metadata": {"annotations": {"lab/never-ready": "true"}}}}})
    time.sleep(3)
    wanted, ready, updated = kubernetes.workloads(api)[name]
    expect(ready < 5 and updated >= 1 or ready == 4, f"ready {ready}, updated {updated} of {wanted}")
    expect(updated < wanted, "the rollout went on although no new pod became ready")
    api.merge_patch(path, {"spec": {"template": {"metadata": {"annotations": {"lab/never-ready": None}}}}})
    within(30, "recovery", lambda: kubernetes.workloads(api)[name][1] == 5)


# --- S3, the application, the proxy, the lab itself ---------------------------------------------------------

@check("s3")
def s3_lists_the_bucket_and_refuses_a_wrong_key(lab):
    for region in c.REGIONS:
        s3 = lab.json["direct"]["regions"][region]["s3"]
        keys = [o["Key"] for o in aws_client("s3", s3["endpoint"], region).list_objects_v2(Bucket=s3["bucket"])["Contents"]]
        expect(keys == ["models/seed.json"], f"keys {keys}")
    import boto3
    from botocore.config import Config
    wrong = boto3.client("s3", endpoint_url=s3["endpoint"], region_name=WEST, aws_access_key_id="labkey", aws_secret_access_key="wrong",
                         config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}))
    refused("SignatureDoesNotMatch", wrong.list_objects_v2, Bucket=s3["bucket"])
    client = aws_client("s3", s3["endpoint"], WEST)
    client.put_object(Bucket=s3["bucket"], Key="once", Body=b"1", IfNoneMatch="*")
    refused("PreconditionFailed", client.put_object, Bucket=s3["bucket"], Key="once", Body=b"2", IfNoneMatch="*")


@check("app")
def the_application_answers_over_http_and_https(lab):
    trusted = ssl.create_default_context(cafile=lab.json["ca_file"])
    for region in c.REGIONS:
        app = lab.json["direct"]["regions"][region]["app"]
        with urllib.request.urlopen(app["https"] + "/health", context=trusted, timeout=5) as answer:
            expect(answer.headers["X-Region"] == region and b"ok" in answer.read(), "health")
        request = urllib.request.Request(app["http"] + "/v1/agents/register", data=b'{"agent_type": "PC"}')
        with urllib.request.urlopen(request, timeout=5) as answer:
            expect(answer.status == 201, "register")
        try:
            urllib.request.urlopen(app["https"] + "/health", context=ssl.create_default_context(), timeout=5)
            raise AssertionError("an unknown authority is trusted")
        except urllib.error.URLError:
            pass


@check("app")
def an_expired_certificate_is_expired(lab):
    with small_lab("--only", "app", "--expired") as second:
        try:
            urllib.request.urlopen(second.json["regions"][EAST]["app"]["https"] + "/health", timeout=5,
                                   context=ssl.create_default_context(cafile=second.json["ca_file"]))
            raise AssertionError("accepted")
        except urllib.error.URLError as error:
            expect("expired" in str(error), str(error))


@check("pg")
def the_proxy_cuts_and_heals(lab):
    port = lab.json["proxy"]["control"].rsplit(":", 1)[1]
    expect(lab.sql(WEST, "SELECT 1", view="proxied") == 1, "through the proxy")
    for mode in ("blackhole", "blackhole-out", "reset", "refuse"):
        tell(port, f"pg@{WEST} {mode}")
        began = time.monotonic()
        try:
            lab.sql(WEST, "SELECT 1", view="proxied", timeout=2)
            raise AssertionError(f"{mode}: answered")
        except psycopg.OperationalError:
            silent = time.monotonic() - began > 1
            expect(silent == mode.startswith("blackhole"), f"{mode}: failed after {time.monotonic() - began:.1f} s")
        expect(lab.sql(WEST, "SELECT 1") == 1, "past the proxy")
        tell(port, f"pg@{WEST} ok")
        within(5, f"{mode} healed", lambda: lab.sql(WEST, "SELECT 1", view="proxied") == 1)
    tell(port, f"pg@{WEST} delay 150")
    began = time.monotonic()
    lab.sql(WEST, "SELECT 1", view="proxied")
    expect(time.monotonic() - began > 0.6, "not delayed")
    tell(port, "* ok")


@check("redis")
def a_stopped_server_accepts_and_never_answers(lab):
    port, name = lab.json["direct"]["regions"][EAST]["redis"]["port"], f"redis@{EAST}"
    lab.run.signal(name, signal.SIGSTOP)
    try:
        redis.command(port, "PING", timeout=1)
        raise AssertionError("answered")
    except TimeoutError:
        pass
    finally:
        lab.run.signal(name, signal.SIGCONT)
    expect(redis.command(port, "PING") == "PONG", "after SIGCONT")


@check("pg", "redis", "aws")
def a_killed_region_is_dead_in_all_its_parts(lab):
    killed = lab_program.kill(lab.run, [f"region:{EAST}"])
    expect({f"pg@{EAST}", f"redis@{EAST}"} <= set(killed), f"killed {killed}")
    expect(not any(lab.run.is_alive(name) for name in killed), "something lives")
    expect(all(lab.run.is_alive(n) for n in lab.run.names(region=WEST)), "the other region suffered")
    cut_off(lab.client("rds", EAST).describe_db_instances)
    lab.client("rds", WEST).describe_db_instances()
    expect(sorted(Zone(lab).weights()) [:1], "Route 53 went with the region")


@check(*lab_program.COMPONENTS)
def the_judge_is_content_only_after_a_whole_failover(_):
    """An operator's failover by hand, judged before, half way, and after."""
    with small_lab("--client-addresses", "--insync-s", "0.3") as lab:
        history = lab.run.folder / "history.jsonl"
        writer = subprocess.Popen([sys.executable, Path(__file__).with_name("writer.py"), "--lab", lab.run.folder / "lab.json", "--history", history])
        try:
            sides = lambda: {json.loads(line)["side"] for line in history.read_text().splitlines()} if history.exists() else set()
            within(20, "rows in the east", lambda: EAST in sides())
            time.sleep(1)
            judged = lambda **more: judge.Judge(lab.json, history=history, **more)
            before = judged(moved=())
            expect(before.judge(), f"before: {[t for ok, t in before.findings if not ok]}")
            lab_program.kill(lab.run, [f"region:{EAST}"])
            expect(not judged().judge(), "content although nothing was moved")
            move_everything_but_traffic(lab)
            half = judged()
            half.judge()
            wrong = [t for ok, t in half.findings if not ok]
            expect(any("weights" in t for t in wrong) and not any("database" in t.lower() for t in wrong), f"half way: {wrong}")
            zone, east, west = Zone(lab), *[lab.json["regions"][r]["public_address"] for r in c.REGIONS]
            zone.change(("DELETE", record(value=east)), ("CREATE", record(value=east, weight=0)),
                        ("DELETE", record("secondary", 0, value=west)), ("CREATE", record("secondary", 100, value=west)))
            within(20, "rows in the west", lambda: WEST in sides())
            time.sleep(1)
            after = judged()
            expect(after.judge(), f"after: {[t for ok, t in after.findings if not ok]}")
            return f"{after.numbers['rows_lost']} of {after.numbers['rows_acknowledged']} rows lost"
        finally:
            writer.kill()
            writer.wait()


def move_everything_but_traffic(lab):
    """The plan's steps with the plan's tools, as the limited user where Kubernetes is concerned."""
    west = lab.json["regions"][WEST]
    api, core, apps = lab.api(WEST, "failoverd"), f"/api/v1/namespaces/{c.NAMESPACE}", f"/apis/apps/v1/namespaces/{c.NAMESPACE}/deployments"
    lab.client("rds", WEST).promote_read_replica(DBInstanceIdentifier=c.RDS_INSTANCE[WEST])
    redis.command(west["redis"]["port"], "REPLICAOF", "NO", "ONE")
    api.call("POST", f"{core}/configmaps", {"metadata": {"name": "dr-mode"}, "data": {"status": "active"}})
    api.merge_patch(f"{core}/secrets/database-credentials", {"stringData": {k: str(west["postgres"][k]) for k in ("host", "port")}})
    api.merge_patch(f"{core}/configmaps/redis-config", {"data": {k: str(west["redis"][k]) for k in ("host", "port")}})
    api.merge_patch(f"{core}/configmaps/s3-config", {"data": {"bucket": c.BUCKET[WEST], "region": WEST}})
    for name, replicas in c.WORKLOADS.items():
        api.merge_patch(f"{apps}/{name}/scale", {"spec": {"replicas": replicas[EAST]}})
    within(30, "the workloads", lambda: all(kubernetes.workloads(api)[n] == (r[EAST],) * 3 for n, r in c.WORKLOADS.items()))
    describe = lambda: lab.client("rds", WEST).describe_db_instances()["DBInstances"][0]
    within(30, "the promotion", lambda: describe()["DBInstanceStatus"] == "available" and not describe().get("ReadReplicaSourceDBInstanceIdentifier"))


@check("redis")
def the_lab_goes_when_its_parent_goes(lab):
    parent = subprocess.Popen(["sleep", "600"])
    with small_lab("--only", "redis", "--parent-pid", str(parent.pid)) as second:
        specs = list(second.run.state()["processes"].values())
        data = second.run.data
        expect(all(alive(s) for s in specs), "not started")
        parent.kill()
        parent.wait()
        within(10, "the end of the lab", lambda: not any(alive(s) for s in specs) and not second.run.folder.exists() and not data.exists())


# --- running the checks -----------------------------------------------------------------------------------

class Lab:
    """A running lab, as checks look at it."""

    def __init__(self, folder):
        self.run = Run(folder)
        self.json = lab_program.read(self.run)
        if "aws" in self.json:
            self.double = Double(self.json["aws"]["control"])

    def client(self, service, region, **more):
        return aws_client(service, self.json["aws"]["endpoint"], region, **more)

    def api(self, region, user):
        return Api.of(self.json["regions"][region]["kubernetes"], user)

    def connect(self, region, user="postgres", *, view="direct", timeout=5):
        regions = (self.json["direct"] if view == "direct" else self.json)["regions"]
        return psycopg.connect(regions[region]["postgres"]["dsn"][user], connect_timeout=timeout, autocommit=True)

    def sql(self, region, statement, user="postgres", **more):
        with self.connect(region, user, **more) as connection:
            return connection.execute(statement).fetchone()[0]

    @contextlib.contextmanager
    def faults(self, *faults):
        self.double.post("faults", list(faults))
        try:
            yield
        finally:
            self.double.post("faults", [])

    def resolve(self, name=c.API_NAME, kind="A", *, tcp=False):
        from dnslib import DNSRecord
        host, port = self.json["direct"]["dns"]["server"].split(":")
        reply = DNSRecord.parse(DNSRecord.question(name, kind).send(host, int(port), tcp=tcp, timeout=5))
        return [str(rr.rdata) for rr in reply.rr]


@contextlib.contextmanager
def small_lab(*arguments):
    folder = tempfile.mkdtemp(prefix="failoverd-lab-run-")
    subprocess.run([sys.executable, lab_program.__file__, "up", "--run-dir", folder, *arguments], check=True, stdout=subprocess.DEVNULL)
    try:
        yield Lab(folder)
    finally:
        Run(folder).remove()


def main(only=""):
    wanted = set(only.split(",")) if only else set(lab_program.COMPONENTS)
    began, failed = time.monotonic(), []
    chosen = [(f, needs) for f, needs in CHECKS if needs <= wanted]
    # a killed region stays dead: that check comes last
    chosen.sort(key=lambda item: item[0] is a_killed_region_is_dead_in_all_its_parts)
    arguments = ["--proxy", "--parent-pid", str(os.getpid())] + (["--only", only] if only else [])
    with small_lab(*arguments) as lab:
        print(f"lab: started in {time.monotonic() - began:.1f} s", flush=True)
        for function, _ in chosen:
            t, name = time.monotonic(), function.__name__.replace("_", " ")
            try:
                note = function(lab)
                print(f"ok    {name} ({note or f'{time.monotonic() - t:.1f} s'})", flush=True)
            except Exception as problem:
                failed.append(name)
                print(f"FAIL  {name}: {type(problem).__name__}: {problem}", flush=True)
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed or not chosen else 0
