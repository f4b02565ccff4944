#!/usr/bin/env bash
# Makes an old PostgreSQL primary a standby of the one that serves in its place: `databases.NAME.rejoin.command` of failoverd.
#
# It runs on the database's host, as whoever may stop and start the server and read its data folder. It begins the work, goes
# on in the background, and does nothing while that is under way. What it does is in LOG.
#
#   rejoin-postgres.sh DATA_FOLDER STOP START REPLICATOR LOG
#
#   DATA_FOLDER  of the old primary
#   STOP, START  shell commands that stop and start the server, as "systemctl stop postgresql@15-main"
#   REPLICATOR   the connection to the new primary without host and port, as "user=replicator dbname=app". The role needs
#                REPLICATION, and for pg_rewind EXECUTE in that database on pg_ls_dir(text, boolean, boolean),
#                pg_stat_file(text, boolean) and pg_read_binary_file (both forms); its password is best in ~/.pgpass
#   LOG          the file to write to
#
# From failoverd's environment: FAILOVERD_PRIMARY_HOST and FAILOVERD_PRIMARY_PORT. Through ssh, pass them on:
#   command = ["ssh", "-o", "SendEnv=FAILOVERD_*", "db-east", "/usr/local/lib/failoverd/rejoin-postgres.sh", …]
#
# KEEP (environment) are the files of the data folder that belong to this host and are put back after the copy; the default is
# "postgresql.conf pg_hba.conf pg_ident.conf server.crt server.key". PG_BIN is where pg_rewind is; the default is PATH.
set -euo pipefail

data=$1 stop=$2 start=$3 replicator=$4 log=$5
: "${FAILOVERD_PRIMARY_HOST:?is not set; it comes from failoverd}" "${FAILOVERD_PRIMARY_PORT:?is not set}"
primary="host=$FAILOVERD_PRIMARY_HOST port=$FAILOVERD_PRIMARY_PORT $replicator"
[ -z "${PG_BIN:-}" ] || PATH=$PG_BIN:$PATH
keep=${KEEP:-postgresql.conf pg_hba.conf pg_ident.conf server.crt server.key}

[ -f "$data/PG_VERSION" ] || { echo "$data is no data folder of PostgreSQL" >&2; exit 1; }
# A primary that is itself in recovery is none: better to overwrite nothing than to follow a follower.
recovery=$(psql -XAtq -d "$primary connect_timeout=5" -c 'SELECT pg_is_in_recovery()')
[ "$recovery" = f ] || { echo "$FAILOVERD_PRIMARY_HOST:$FAILOVERD_PRIMARY_PORT is in recovery" >&2; exit 1; }

# For a moment after a promotion the new primary's control file still names the old timeline, and pg_rewind would find nothing
# to do. A checkpoint ends that: one that we may ask for (a superuser, or a member of pg_checkpoint), or its own.
has_its_timeline() {
  psql -XAtq -d "$primary connect_timeout=5" -c "SELECT timeline_id = \
    ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int FROM pg_control_checkpoint()"
}
CHECKPOINT_WITHIN=600
await_timeline() {
  psql -XAtq -d "$primary connect_timeout=5" -c CHECKPOINT || echo "may not ask for a checkpoint; its own is waited for"
  for _ in $(seq "$CHECKPOINT_WITHIN"); do
    [ "$(has_its_timeline)" != t ] || return 0
    sleep 1
  done
  echo "the new primary has made no checkpoint on its timeline within ${CHECKPOINT_WITHIN} s"
  return 1
}

work() {
  local kept
  kept=$(mktemp -d "$data.kept.XXXXXX")
  for file in $keep; do [ ! -e "$data/$file" ] || cp -p "$data/$file" "$kept/"; done
  local can_rewind=no
  if await_timeline; then can_rewind=yes; fi
  echo "stopping the server"
  sh -c "$stop" 9>&-
  if [ "$can_rewind" = yes ] && pg_rewind --target-pgdata="$data" --source-server="$primary" --write-recovery-conf --progress; then
    echo "rewound"
  else
    echo "pg_rewind cannot do it; taking a base backup"
    # The old data stay until the new ones are complete.
    rm -rf "$data.new"
    install -d -m 700 -o "$(stat -c %u "$data")" -g "$(stat -c %g "$data")" "$data.new"
    pg_basebackup -D "$data.new" -d "$primary" --write-recovery-conf --checkpoint=fast --progress
    mv "$data" "$data.before-rejoin.$(date +%s)"
    mv "$data.new" "$data"
  fi
  cp -p "$kept"/* "$data/"
  rm -r "$kept"
  touch "$data/standby.signal"
  echo "starting the server as a standby"
  sh -c "$start" 9>&-             # a server that kept the lock would be "under way" for ever
  echo "done"
}

exec 9>"$data.rejoin.lock"
if ! flock -n 9; then
  echo "it is under way already"
  exit 0
fi
{ date; work; } >>"$log" 2>&1 </dev/null &
disown
echo "begun; $log says how it goes"
