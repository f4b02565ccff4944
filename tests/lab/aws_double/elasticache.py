"""ElastiCache: replication groups whose roles really change, and a Global Datastore over both regions.

A real Redis stands behind member 001 of each group; the other members exist here only. Where an operation makes that member
the writable one (global failover, leaving the global group, choosing it as primary), it gets REPLICAOF NO ONE for real.
"""
import socket, threading, time
from moto.core.responses import ActionResult
from moto.elasticache import responses
from moto.elasticache.exceptions import ElastiCacheException as Refusal
from . import settings

_groups, _globals = {}, {}                     # (region, id) -> Group; id -> GlobalGroup
REPLICAS_MAX = 5


def install():
    for operation in (describe_replication_groups, modify_replication_group, increase_replica_count, decrease_replica_count,
                      test_failover, describe_global_replication_groups, failover_global_replication_group,
                      disassociate_global_replication_group):
        setattr(responses.ElastiCacheResponse, operation.__name__, operation)


class Group:
    """One replication group: shards of members, the first member of a shard backed by a real server if there is one."""

    def __init__(self, region, identifier, shards=1, replicas=1, automatic_failover=False):
        self.region, self.id, self.status = region, identifier, "available"
        self.description, self.automatic_failover, self.multi_az = "omnimesh", automatic_failover, automatic_failover
        self.pending, self.global_group = {}, None
        self.shards = [[f"{identifier}-{n:04}-{m:03}" if shards > 1 else f"{identifier}-{m:03}" for m in range(1, replicas + 2)]
                       for n in range(1, shards + 1)]
        self.primaries = [members[0] for members in self.shards]

    @property
    def is_cluster(self):
        return len(self.shards) > 1

    def real(self):
        return settings.get("caches").get(self.id)

    def is_secondary(self):
        return self.global_group is not None and self.global_group.primary != (self.region, self.id)

    def endpoint(self, prefix):
        if real := self.real():
            return {"Address": real["host"], "Port": real["port"]}
        return {"Address": f"{prefix}.{self.id}.lab.{self.region}.cache.amazonaws.com", "Port": 6379}

    def shown(self):
        zone = lambda index: f"{self.region}{'abc'[index % 3]}"
        node_groups = []
        for n, members in enumerate(self.shards):
            shown = {"NodeGroupId": f"{n + 1:04}", "Status": self.status, "NodeGroupMembers": []}
            if self.is_cluster:
                shown["Slots"] = ("0-5460", "5461-10922", "10923-16383")[n]
            else:
                shown |= {"PrimaryEndpoint": self.endpoint("master"), "ReaderEndpoint": self.endpoint("replica")}
            for m, member in enumerate(members):
                entry = {"CacheClusterId": member, "CacheNodeId": "0001", "PreferredAvailabilityZone": zone(m)}
                if not self.is_cluster:
                    entry["CurrentRole"] = "primary" if member == self.primaries[n] else "replica"
                    entry["ReadEndpoint"] = self.endpoint(member) if m == 0 else {"Address": f"{member}.lab.{self.region}.cache.amazonaws.com", "Port": 6379}
                shown["NodeGroupMembers"].append(entry)
            node_groups.append(shown)
        result = {"ReplicationGroupId": self.id, "Description": self.description, "Status": self.status, "PendingModifiedValues": self.pending,
                  "MemberClusters": [m for members in self.shards for m in members], "NodeGroups": node_groups,
                  "AutomaticFailover": "enabled" if self.automatic_failover else "disabled",
                  "MultiAZ": "enabled" if self.multi_az else "disabled", "ClusterEnabled": self.is_cluster, "Engine": "redis",
                  "ClusterMode": "enabled" if self.is_cluster else "disabled",
                  "CacheNodeType": "cache.r6g.large", "TransitEncryptionEnabled": False, "AtRestEncryptionEnabled": False,
                  "AuthTokenEnabled": False, "SnapshotRetentionLimit": 1,
                  "ARN": f"arn:aws:elasticache:{self.region}:123456789012:replicationgroup:{self.id}"}
        if self.is_cluster:
            result["ConfigurationEndpoint"] = self.endpoint("clustercfg")
        if self.global_group:
            result["GlobalReplicationGroupInfo"] = {"GlobalReplicationGroupId": self.global_group.id,
                                                    "GlobalReplicationGroupMemberRole": "SECONDARY" if self.is_secondary() else "PRIMARY"}
        return result

    def require_available(self):
        if self.status != "available":
            raise Refusal("InvalidReplicationGroupState", f"Replication group {self.id} is not in available state: {self.status}.")

    def modify(self, then=lambda: None):
        """`modifying` for a while, then what was asked for, then `available`."""
        self.status = "modifying"

        def finish():
            time.sleep(settings.get("modify_s"))
            then()
            self.status = "available"

        threading.Thread(target=finish, daemon=True).start()

    def become_writable(self):
        if real := self.real():
            redis(real, "REPLICAOF", "NO", "ONE")


class GlobalGroup:
    def __init__(self, identifier, primary, secondary):
        self.id, self.status = identifier, "available"
        self.members, self.primary = [primary, secondary], (primary.region, primary.id)
        for member in self.members:
            member.global_group = self

    def shown(self):
        members = [{"ReplicationGroupId": m.id, "ReplicationGroupRegion": m.region, "Status": "associated",
                    "Role": "SECONDARY" if m.is_secondary() else "PRIMARY", "AutomaticFailover": "enabled" if m.automatic_failover else "disabled"}
                   for m in self.members]
        return {"GlobalReplicationGroupId": self.id, "Status": self.status, "Engine": "redis", "CacheNodeType": "cache.r6g.large",
                "Members": members, "ClusterEnabled": False, "ARN": f"arn:aws:elasticache::123456789012:globalreplicationgroup:{self.id}"}

    def require_available(self):
        if self.status != "available":
            raise Refusal("InvalidGlobalReplicationGroupState", f"Global replication group {self.id} is not in available state: {self.status}.")


def seed(groups, global_id=None):
    """`groups` is [Group], primary region first; with `global_id` they form a Global Datastore."""
    for group in groups:
        _groups[group.region, group.id] = group
    if global_id:
        _globals[global_id] = GlobalGroup(global_id, *groups)


# --- the API ------------------------------------------------------------------------------------------

def describe_replication_groups(self):
    wanted = self._get_param("ReplicationGroupId")
    found = [find(self.region, wanted)] if wanted else [g for (region, _), g in _groups.items() if region == self.region]
    return ActionResult({"ReplicationGroups": [g.shown() for g in found]})


def modify_replication_group(self):
    group = find(self.region, self._get_param("ReplicationGroupId"))
    with settings.lock:
        group.require_available()
        wanted = {"automatic_failover": self._get_bool_param("AutomaticFailoverEnabled"), "multi_az": self._get_bool_param("MultiAZEnabled"),
                  "description": self._get_param("ReplicationGroupDescription")}
        wanted = {k: v for k, v in wanted.items() if v is not None}
        promoted = self._get_param("PrimaryClusterId")
        if wanted.get("automatic_failover", group.automatic_failover) and len(group.shards[0]) < 2:
            raise Refusal("InvalidParameterCombination", "Automatic failover needs at least one replica.")
        if promoted:
            _refuse_promotion(group, promoted, wanted)
        if not self._get_bool_param("ApplyImmediately"):
            group.pending = {"PrimaryClusterId": promoted} if promoted else {}
            if "automatic_failover" in wanted:
                group.pending["AutomaticFailoverStatus"] = "enabled" if wanted["automatic_failover"] else "disabled"
            return ActionResult({"ReplicationGroup": group.shown()})

        def then():
            vars(group).update(wanted)
            if promoted:
                group.primaries[0] = promoted
                if promoted == group.shards[0][0]:
                    group.become_writable()

        group.modify(then)
        return ActionResult({"ReplicationGroup": group.shown()})


def _refuse_promotion(group, member, wanted):
    if member not in group.shards[0] or group.is_cluster:
        raise Refusal("InvalidParameterValue", f"{member} is not a member of a replication group with one node group.")
    if wanted.get("automatic_failover", group.automatic_failover):
        raise Refusal("InvalidParameterCombination", "Automatic failover must be disabled before a primary can be chosen by hand.")
    if group.is_secondary():
        raise Refusal("InvalidReplicationGroupState", f"{group.id} is a secondary member of {group.global_group.id}.")


def increase_replica_count(self):
    return _change_replica_count(self, +1)


def decrease_replica_count(self):
    return _change_replica_count(self, -1)


def _change_replica_count(self, direction):
    group = find(self.region, self._get_param("ReplicationGroupId"))
    wanted = self._get_int_param("NewReplicaCount")
    with settings.lock:
        group.require_available()
        if not self._get_bool_param("ApplyImmediately"):
            raise Refusal("InvalidParameterValue", "ApplyImmediately=False is not currently supported.")
        if wanted is None:
            raise Refusal("InvalidParameterCombination", "NewReplicaCount or ReplicaConfiguration must be given.")
        current = len(group.shards[0]) - 1
        if wanted == current:
            raise Refusal("NoOperationFault", f"The replication group already has {current} replicas.")
        if (wanted - current) * direction < 0 or not 0 <= wanted <= REPLICAS_MAX:
            raise Refusal("InvalidParameterValue", f"NewReplicaCount {wanted} is not valid: there are {current} replicas, at most {REPLICAS_MAX} are allowed.")

        def then():
            for n, members in enumerate(group.shards):
                while len(members) - 1 < wanted:
                    members.append(f"{members[0][:-3]}{len(members) + 1:03}")
                while len(members) - 1 > wanted:
                    members.remove([m for m in members if m != group.primaries[n]][-1])

        group.modify(then)
        return ActionResult({"ReplicationGroup": group.shown()})


def test_failover(self):
    group = find(self.region, self._get_param("ReplicationGroupId"))
    node_group = self._get_param("NodeGroupId")
    with settings.lock:
        group.require_available()
        if node_group not in [f"{n + 1:04}" for n in range(len(group.shards))]:
            raise Refusal("NodeGroupNotFoundFault", f"Node group {node_group} not found.")
        if not group.automatic_failover:
            raise Refusal("InvalidReplicationGroupState", "Automatic failover is not enabled for this replication group.")
        n = int(node_group) - 1

        def then():
            group.primaries[n] = next(m for m in group.shards[n] if m != group.primaries[n])
            if not group.is_secondary() and group.primaries[n] == group.shards[n][0]:
                group.become_writable()

        group.modify(then)
        return ActionResult({"ReplicationGroup": group.shown()})


def describe_global_replication_groups(self):
    wanted = self._get_param("GlobalReplicationGroupId")
    found = [find_global(wanted)] if wanted else list(_globals.values())
    return ActionResult({"GlobalReplicationGroups": [g.shown() for g in found]})


def failover_global_replication_group(self):
    group = find_global(self._get_param("GlobalReplicationGroupId"))
    target = (self._get_param("PrimaryRegion"), self._get_param("PrimaryReplicationGroupId"))
    with settings.lock:
        group.require_available()
        member = next((m for m in group.members if (m.region, m.id) == target), None)
        if member is None:
            raise Refusal("InvalidParameterValue", f"{target[1]} in {target[0]} is not a member of {group.id}.")
        if group.primary == target:
            raise Refusal("InvalidParameterValue", f"{target[1]} is already the primary of {group.id}.")
        group.status = "modifying"

        def then():
            member.become_writable()
            group.primary, group.status = target, "available"
            for other in group.members:                  # the old primary, where it can be reached, follows the new one
                if other is not member and other.real() and member.real():
                    try:
                        redis(other.real(), "REPLICAOF", member.real()["host"], str(member.real()["direct_port"]))
                    except OSError:
                        pass

        member.modify(then)
        return ActionResult({"GlobalReplicationGroup": group.shown()})


def disassociate_global_replication_group(self):
    group = find_global(self._get_param("GlobalReplicationGroupId"))
    target = (self._get_param("ReplicationGroupRegion"), self._get_param("ReplicationGroupId"))
    with settings.lock:
        group.require_available()
        member = next((m for m in group.members if (m.region, m.id) == target), None)
        if member is None:
            raise Refusal("InvalidParameterValue", f"{target[1]} in {target[0]} is not a member of {group.id}.")
        if group.primary == target:
            raise Refusal("InvalidParameterValue", "The primary of a global replication group cannot be disassociated.")

        def then():
            member.become_writable()
            group.members.remove(member)
            member.global_group = None

        member.modify(then)
        return ActionResult({"GlobalReplicationGroup": group.shown()})


# --- looking things up ----------------------------------------------------------------------------------

def find(region, identifier):
    try:
        return _groups[region, identifier]
    except KeyError:
        raise Refusal("ReplicationGroupNotFoundFault", f"ReplicationGroup {identifier} not found.") from None


def find_global(identifier):
    try:
        return _globals[identifier]
    except KeyError:
        raise Refusal("GlobalReplicationGroupNotFoundFault", f"GlobalReplicationGroup {identifier} not found.") from None


def find_anywhere(identifier):
    return next((g for (_, i), g in _groups.items() if i == identifier), None) or find_global(identifier)


def summary():
    return {g.id: {"region": g.region, "status": g.status, "primaries": g.primaries, "members": [m for s in g.shards for m in s],
                   "global_role": g.global_group and ("SECONDARY" if g.is_secondary() else "PRIMARY")} for g in _groups.values()}


def redis(real, *words):
    with socket.create_connection((real["host"], real["direct_port"]), timeout=3) as s:
        s.sendall((" ".join(words) + "\r\n").encode())
        answer = s.recv(1000)
    if not answer.startswith(b"+"):
        raise OSError(f"{words}: {answer!r}")
