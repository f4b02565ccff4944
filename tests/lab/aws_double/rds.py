"""RDS: promotion that really happens, later, and is refused when AWS would refuse it.

A promotion is accepted, the instance goes on saying `available` for promote_lag_s with its source still shown, then
`modifying`; a real standby behind it is promoted with pg_promote(); then it is `available` without a source.

A rename takes modify_s, and the old name answers until it is done. A second zone is pending for modify_s. A read replica is
`creating` until a real server behind its name is a standby of the source.

A security group with "fence" in its name lets the application in no more, and no other one matters. As with AWS only new
connections are judged by it: sessions that are open end with a reboot.
"""
import subprocess, threading, time
from moto.core import DEFAULT_ACCOUNT_ID
from moto.rds import models
from moto.rds.exceptions import DBInstanceAlreadyExists, DBInstanceNotFoundError, RDSClientError
from components import constants as c
from . import settings

CLOSED = "# closed by its security group"
_promoting = set()
_modify, _create_replica = models.RDSBackend.modify_db_instance, models.RDSBackend.create_db_instance_read_replica


def install():
    models.RDSBackend.promote_read_replica = promote
    models.RDSBackend.modify_db_instance = modify
    models.RDSBackend.create_db_instance_read_replica = create_replica
    models.RDSBackend.reboot_db_instance = reboot
    models.DBInstance.endpoint = property(endpoint)


def promote(backend, db_kwargs):
    identifier = db_kwargs["db_instance_identifier"]
    with settings.lock:
        if identifier not in backend.databases:
            raise DBInstanceNotFoundError(identifier)
        instance = backend.databases[identifier]
        if not instance.is_replica:
            raise RDSClientError("InvalidDBInstanceState", f"DB Instance {identifier} is not a read replica.")
        if instance.status != "available" or identifier in _promoting:
            raise RDSClientError("InvalidDBInstanceState", f"DB Instance {identifier} is not in available state.")
        _promoting.add(identifier)
    # "BackupRetentionPeriod … Default: 1": a promotion turns automatic backups on
    changes = {"backup_retention_period": 1, **{k: v for k, v in db_kwargs.items() if k != "db_instance_identifier"}}
    instance.update(**changes)
    threading.Thread(target=_carry_out, args=(backend, instance), daemon=True).start()
    return instance


def _carry_out(backend, instance):
    identifier = instance.db_instance_identifier
    try:
        time.sleep(settings.get("promote_lag_s"))
        instance.status = "modifying"
        began = time.monotonic()
        if real := settings.get("databases").get(identifier):
            _promote_real(real["dsn"])
        time.sleep(max(0.0, settings.get("promote_s") - (time.monotonic() - began)))
        _forget_at_source(instance)
        instance.is_replica, instance.source_db_instance_identifier, instance.status = False, None, "available"
    except Exception as problem:
        print(f"promotion of {identifier} failed: {problem}", flush=True)
        instance.status = "failed"
    finally:
        _promoting.discard(identifier)


def _promote_real(dsn):
    import psycopg
    with psycopg.connect(dsn, connect_timeout=5, autocommit=True) as connection:
        if not connection.execute("SELECT pg_promote(true, 60)").fetchone()[0]:
            raise RuntimeError("pg_promote() gave up after 60 s")


def modify(backend, identifier, db_kwargs):
    changes = dict(db_kwargs)
    new = changes.pop("new_db_instance_identifier", None)
    with settings.lock:
        if identifier not in backend.databases:
            raise DBInstanceNotFoundError(identifier)
        instance = backend.databases[identifier]
        if instance.status != "available":
            raise RDSClientError("InvalidDBInstanceState", f"DB Instance {identifier} is not in available state.")
        if new:
            if new in backend.databases:
                raise DBInstanceAlreadyExists()
            instance.status = "renaming"
            _later(_rename, backend, instance, new)
        if changes.get("multi_az") and not instance.multi_az:
            changes.pop("multi_az")
            instance.pending_modified_values = {"MultiAZ": True}
            _later(_add_zone, instance)
    instance = _modify(backend, identifier, changes)
    if "vpc_security_group_ids" in changes:
        _let_in(instance)
    return instance


def _let_in(instance):
    """The security groups, as the real server behind the instance can have them."""
    closed = all("fence" in group for group in instance.vpc_security_group_ids)
    _as_superuser(instance, _close if closed else _open)


def _open(connection):
    _write_hba(connection, [line for line in _hba(connection) if not line.endswith(CLOSED)])


def _close(connection):
    _open(connection)
    _write_hba(connection, [f"host all {c.APP_USER} 0.0.0.0/0 reject {CLOSED}", *_hba(connection)])


def _hba(connection):
    return connection.execute("SELECT pg_read_file(current_setting('hba_file'))").fetchone()[0].splitlines()


def _write_hba(connection, lines):
    from psycopg import sql
    file = connection.execute("SELECT current_setting('hba_file')").fetchone()[0]
    connection.execute(sql.SQL("COPY (SELECT unnest({}::text[])) TO {}").format(sql.Literal(lines), sql.Literal(file)))
    connection.execute("SELECT pg_reload_conf()")


def reboot(backend, identifier):
    instance = backend.describe_db_instances(identifier)[0]
    _as_superuser(instance, lambda connection: connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [c.APP_USER]))
    return instance


def _as_superuser(instance, do):
    import psycopg
    if real := settings.get("databases").get(instance.db_instance_identifier):
        try:
            with psycopg.connect(real["dsn"], connect_timeout=5, autocommit=True) as connection:
                do(connection)
        except psycopg.OperationalError as problem:          # what is dead lets nobody in
            print(f"{instance.db_instance_identifier} does not answer: {problem}", flush=True)


def _later(what, *arguments):
    threading.Timer(settings.get("modify_s"), what, arguments).start()


def _rename(backend, instance, new):
    with settings.lock:
        del backend.databases[instance.db_instance_identifier]
        instance.db_instance_identifier = new
        backend.databases[new] = instance
        instance.status = "available"


def _add_zone(instance):
    instance.multi_az, instance.pending_modified_values = True, {}


def create_replica(backend, db_kwargs):
    identifier, source = db_kwargs["db_instance_identifier"], db_kwargs["source_db_instance_identifier"]
    with settings.lock:
        if identifier in backend.databases:
            raise DBInstanceAlreadyExists()
        if backend.find_db_from_id(source).backup_retention_period == 0:
            raise RDSClientError("InvalidDBInstanceState", f"Automated backups are not enabled for {source}.")
        # moto copies the source object, and with it what only the source has
        instance = _create_replica(backend, db_kwargs)
        instance.tags, instance.pending_modified_values = list(db_kwargs.get("tags") or []), {}
        instance.multi_az, instance.backup_retention_period = bool(db_kwargs.get("multi_az")), 0
    if copy := (settings.get("databases").get(identifier) or {}).get("copy"):
        if settings.get("seeded"):
            instance.status = "creating"
            threading.Thread(target=_copy, args=(instance, copy), daemon=True).start()
    return instance


def _copy(instance, command):
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode:
        print(f"the copy for {instance.db_instance_identifier} failed: {done.stderr or done.stdout}", flush=True)
    else:
        _let_in(instance)
    instance.status = "failed" if done.returncode else "available"


def _forget_at_source(instance):
    for database in everywhere().values():
        for reference in (instance.db_instance_arn, instance.db_instance_identifier):
            if reference in database.replicas:
                database.replicas.remove(reference)


def endpoint(instance):
    real = settings.get("databases").get(instance.db_instance_identifier)
    return {"Address": real["host"] if real else instance.address, "Port": real["port"] if real else instance.port}


def everywhere():
    return {identifier: database for backend in models.rds_backends[DEFAULT_ACCOUNT_ID].values()
            for identifier, database in backend.databases.items()}


def find(identifier):
    return everywhere()[identifier]


def summary():
    return {identifier: {"region": d.region, "status": d.status, "source": d.source_db_instance_identifier, "endpoint": d.endpoint,
                         "multi_az": d.multi_az, "backup_days": d.backup_retention_period, "groups": d.vpc_security_group_ids}
            for identifier, d in everywhere().items()}
