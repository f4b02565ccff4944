"""RDS: promotion that really happens, later, and is refused when AWS would refuse it.

A promotion is accepted, the instance goes on saying `available` for promote_lag_s with its source still shown, then
`modifying`; a real standby behind it is promoted with pg_promote(); then it is `available` without a source.
"""
import threading, time
from moto.core import DEFAULT_ACCOUNT_ID
from moto.rds import models
from moto.rds.exceptions import DBInstanceNotFoundError, RDSClientError
from . import settings

_promoting = set()


def install():
    models.RDSBackend.promote_read_replica = promote
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
    changes = {k: v for k, v in db_kwargs.items() if k != "db_instance_identifier"}
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
    return {identifier: {"region": d.region, "status": d.status, "source": d.source_db_instance_identifier, "endpoint": d.endpoint}
            for identifier, d in everywhere().items()}
