"""A PostgreSQL primary (us-east-1) and its streaming standby (us-west-2).

Roles: `postgres` (superuser, the operator), `app` (owns omnimesh_db), `replicator`, and `failoverd`.

What `failoverd` needs, and no more. It is NOT a superuser; these grants (see ROLES) are enough to watch,
to promote, and to fence, which means: prepend reject lines to pg_hba.conf with COPY ... TO the hba_file,
pg_reload_conf(), ALTER SYSTEM SET default_transaction_read_only, and ending the application's sessions.
  pg_monitor                                   roles, positions, pg_stat_*; includes reading hba_file's name
  pg_signal_backend                            pg_terminate_backend of sessions that are not a superuser's
  pg_read_server_files, pg_write_server_files  COPY ... FROM/TO the hba_file. These two are powerful: who may write
                                               any file the server can write can become superuser with some effort.
  EXECUTE on pg_promote, pg_reload_conf, pg_read_file, pg_stat_file, and pg_hba_file_rules with its view
  ALTER SYSTEM on parameter default_transaction_read_only (PostgreSQL 15 and newer)
  CREATEROLE                                   only where a database counts as RDS: its fence is ALTER ROLE ... NOLOGIN
A fence of an application role that is itself a superuser cannot be made this way.

Start is quick because a finished data folder is kept in the cache: both sides begin as copies of it.
"""
import fcntl, hashlib, os, shutil, subprocess, tempfile, time
from pathlib import Path
from . import constants as c
from .processes import CACHE, LabError, program, wait_until

SETTINGS = """
listen_addresses = '127.0.0.1'
wal_level = replica
wal_log_hints = on            # pg_rewind needs this (or data checksums)
max_wal_senders = 8
max_replication_slots = 8
wal_keep_size = 128MB         # else pg_rewind cannot find what it needs
hot_standby = on
hot_standby_feedback = on
wal_receiver_status_interval = 1s
wal_retrieve_retry_interval = 200ms
fsync = off                   # the lab kills processes, never the machine: what was written survives all the same
dynamic_shared_memory_type = mmap      # in the data folder: SIGKILL leaves nothing behind in /dev/shm
shared_buffers = 16MB
max_connections = 60
logging_collector = off
log_line_prefix = '%m [%p] %u '
ssl = on
password_encryption = scram-sha-256
"""

# "host" covers connections with TLS and without; the operator's socket is in a folder that only postgres can enter.
HBA = """# TYPE  DATABASE     USER        ADDRESS        METHOD
local   all          all                        trust
host    all          all         127.0.0.1/32   scram-sha-256
host    replication  replicator  127.0.0.1/32   scram-sha-256
"""

# Regions in namespaces of their own come from outside; each of them sees nobody else.
HBA_OF_THE_WORLD = """host    all          all         0.0.0.0/0      scram-sha-256
host    replication  replicator  0.0.0.0/0      scram-sha-256
"""

ROLES = """
ALTER ROLE postgres PASSWORD '{postgres}';
CREATE ROLE app LOGIN PASSWORD '{app}';
CREATE ROLE replicator LOGIN REPLICATION PASSWORD '{replicator}';
CREATE ROLE failoverd LOGIN CREATEROLE PASSWORD '{failoverd}';
GRANT pg_monitor, pg_signal_backend, pg_read_server_files, pg_write_server_files TO failoverd;
GRANT ALTER SYSTEM ON PARAMETER default_transaction_read_only TO failoverd;
"""

# EXECUTE is granted in each database; template1 first, so that later databases have it too.
EXECUTE = """
GRANT EXECUTE ON FUNCTION pg_promote(boolean, integer), pg_reload_conf(),
  pg_read_file(text), pg_read_file(text, bigint, bigint), pg_stat_file(text), pg_hba_file_rules() TO failoverd;
GRANT SELECT ON pg_hba_file_rules TO failoverd;
"""

SCHEMA = """
CREATE TABLE compute_nodes (
  id bigserial PRIMARY KEY, created_at timestamptz NOT NULL DEFAULT now(), payload text);
INSERT INTO compute_nodes (payload) VALUES ('seed');
"""

INITDB = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "--data-checksums", "--wal-segsize=4")

USER = "postgres" if os.getuid() == 0 else None       # PostgreSQL refuses to run as root


def start_pair(run, authority, ports):
    """Both sides, streaming. `ports` maps region to port. Returns {region: description for lab.json}."""
    base = template()
    for region in c.REGIONS:
        _lay_out(run, authority, base, region, ports)
    for region in c.REGIONS:
        run.spawn(f"pg@{region}", [_binary("postgres"), "-D", folder(run, region)], region=region, cwd=run.data, user=USER)
    for region in c.REGIONS:
        wait_until(lambda r=region: query(ports[r], "SELECT 1", host=run.host(r)), f"PostgreSQL in {region}", run=run, process=f"pg@{region}")
    streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
    wait_until(lambda: query(ports[c.PRIMARY], streaming, host=run.host(c.PRIMARY)) == 1, "streaming replication", run=run, process=f"pg@{c.SECONDARY}")
    return {region: describe(run, region, ports[region], authority) for region in c.REGIONS}


def describe(run, region, port, authority):
    host = run.host(region)
    dsn = {user: f"host={host} port={port} user={user} password={c.PASSWORDS[user]} dbname={c.DATABASE}"
           for user in ("app", "failoverd", "postgres")}
    return {"process": f"pg@{region}", "host": host, "port": port, "database": c.DATABASE, "passwords": c.PASSWORDS,
            "dsn": dsn, "data_dir": str(folder(run, region)), "ca_file": str(authority.file),
            "rds_instance": c.RDS_INSTANCE[region]}


def folder(run, region):
    return run.data / f"pg-{region}"


def query(port, statement, database="postgres", user="postgres", host="127.0.0.1"):
    with _connect(host, port, database, user) as connection:
        row = connection.execute(statement).fetchone()
        return row and row[0]


def _connect(host, port, database, user):
    import psycopg
    return psycopg.connect(host=host, port=port, user=user, password=c.PASSWORDS[user], dbname=database,
                           connect_timeout=3, autocommit=True)


# --- the data folders ---------------------------------------------------------------------------------

def _lay_out(run, authority, base, region, ports):
    target = folder(run, region)
    subprocess.run(["cp", "-a", "--reflink=auto", base, target], check=True)
    cert, key = authority.issue(f"pg-{region}")
    shutil.copy(cert, target / "server.crt")
    shutil.copy(key, target / "server.key")
    sockets = run.data / f"pg-{region}-socket"           # outside the data folder: pg_rewind would copy it
    sockets.mkdir(mode=0o700)
    with open(target / "postgresql.conf", "a") as conf:
        conf.write(f"port = {ports[region]}\nunix_socket_directories = '{sockets}'\nlisten_addresses = '{run.host(region)}'\n")
    if run.state()["namespaces"]:
        with open(target / "pg_hba.conf", "a") as hba:
            hba.write(HBA_OF_THE_WORLD)
    if region == c.SECONDARY:
        with open(target / "postgresql.conf", "a") as conf:
            conf.write(f"primary_conninfo = 'host={run.host(c.PRIMARY)} port={ports[c.PRIMARY]} user=replicator "
                       f"password={c.PASSWORDS['replicator']} application_name={region} connect_timeout=3'\n")
        (target / "standby.signal").touch()
    if USER:
        for path in (target, sockets):
            shutil.chown(path, USER, USER)
        for path in target.iterdir():
            shutil.chown(path, USER, USER)
    (target / "server.key").chmod(0o600)


def copy_from(run, region, source):
    """The stopped server of a region gets the data of another one, and follows it. Its own data are kept beside it."""
    target, fresh = folder(run, region), folder(run, region).with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    if USER:
        shutil.chown(fresh, USER, USER)
    as_user = {"user": USER, "group": USER, "extra_groups": []} if USER else {}
    origin = (f"host={source['host']} port={source['port']} user=replicator password={c.PASSWORDS['replicator']} "
              f"application_name={region} connect_timeout=3")
    done = subprocess.run([_binary("pg_basebackup"), "-D", fresh, "-d", origin, "--write-recovery-conf", "--checkpoint=fast", "--no-sync"], cwd=run.data, text=True,
                          capture_output=True, **as_user)
    if done.returncode:
        raise LabError(f"pg_basebackup: {done.stderr or done.stdout}")
    for name in ("postgresql.conf", "pg_hba.conf", "server.crt", "server.key"):
        shutil.copy2(target / name, fresh / name)
        if USER:
            shutil.chown(fresh / name, USER, USER)
    target.rename(target.with_suffix(f".{time.time_ns()}"))
    fresh.rename(target)


def template():
    """A stopped data folder with roles, grants and schema; made once for each version of what is in it."""
    version = Path(_binary("postgres")).parent.parent.name
    recipe = hashlib.sha256(repr((SETTINGS, HBA, ROLES, EXECUTE, SCHEMA, INITDB, c.PASSWORDS)).encode()).hexdigest()[:12]
    CACHE.mkdir(parents=True, exist_ok=True)
    finished = CACHE / f"pg{version}-template-{recipe}"
    with open(CACHE / "pg-template.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            for old in CACHE.glob("pg*-template-*"):           # another checkout may be using a young one
                if time.time() - old.stat().st_mtime > 7 * 24 * 3600:
                    shutil.rmtree(old, ignore_errors=True)
            _make_template(finished)
            finished.touch()
    return finished


def _make_template(finished):
    work = Path(tempfile.mkdtemp(prefix="failoverd-lab-template-"))
    try:
        if USER:
            shutil.chown(work, USER, USER)
        data = work / "data"
        as_user = {"user": USER, "group": USER, "extra_groups": []} if USER else {}

        def call(*argv, **more):
            done = subprocess.run([str(a) for a in argv], cwd=work, text=True, capture_output=True, **as_user, **more)
            if done.returncode:
                raise LabError(f"{argv[0]}: {done.stderr or done.stdout}")

        call(_binary("initdb"), "-D", data, *INITDB)
        (data / "pg_hba.conf").write_text(HBA)
        with open(data / "postgresql.conf", "a") as conf:     # before the first start: a standby needs its primary's limits
            conf.write(SETTINGS)

        def sql(database, statements):       # single-user mode: no port, no socket, nothing to wait for
            lines = " ".join(statements.split()).replace("; ", ";\n") + "\n"
            call(_binary("postgres"), "--single", "-D", data, "-c", "exit_on_error=on", "-c", "password_encryption=scram-sha-256",
                 database, input=lines)

        sql("postgres", ROLES.format(**c.PASSWORDS))
        sql("template1", EXECUTE)
        sql("postgres", EXECUTE)
        sql("postgres", f"CREATE DATABASE {c.DATABASE} OWNER {c.APP_USER};")
        sql(c.DATABASE, "SET SESSION AUTHORIZATION app; " + SCHEMA)
        subprocess.run(["cp", "-a", data, finished.with_suffix(".new")], check=True)
        finished.with_suffix(".new").rename(finished)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _binary(name):
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), reverse=True)
    usable = [v / name for v in versions if int(v.parent.name) >= 15]
    return program(*usable, name, hint="tests/lab/install.sh")
