//! What the fence is made of: the server's `pg_hba.conf` read and written through SQL, the rights that takes, and the
//! state of a fence.

use super::Postgres;
use super::hba::{Hba, Unfit, writable};
use super::session::{Session, literal};
use crate::adapters::connect::one_line;
use crate::config::schema::Fence;
use crate::domain::InstanceId;
use crate::ports::Setback;

/// What became of an attempt to log in.
pub(super) enum Door {
    /// Refused.
    Shut,
    /// Let in.
    Entered,
    /// Neither: it was asked for a password that is not known here, or a wrong one.
    Asked,
}

/// What a fence looks like from inside.
pub(super) struct State {
    /// The lines are at the top of the file, for exactly the configured roles.
    pub(super) rejects: bool,
    /// There are lines of ours, right or wrong.
    pub(super) fenced_by_us: bool,
    /// New transactions are read-only by default: what was written last is loaded.
    pub(super) read_only: bool,
    /// Sessions of the application's roles.
    pub(super) sessions: i64,
}

impl State {
    /// What is missing, one sentence each.
    pub(super) fn gaps(&self, fence: &Fence) -> Vec<String> {
        let mut gaps = Vec::new();
        if !self.rejects {
            gaps.push(format!("pg_hba.conf does not reject {}", fence.application_roles.join(", ")));
        }
        if !self.read_only {
            gaps.push("default_transaction_read_only is off".to_owned());
        }
        if self.sessions > 0 {
            gaps.push(format!("the application has {} sessions", self.sessions));
        }
        gaps
    }
}

/// `pg_hba.conf` as it is on the server's disk.
pub(super) struct HbaFile {
    path: String,
    encoding: String,
    /// Everything that was read.
    pub(super) text: String,
    /// The same, taken apart; put together again from the copy where the file is not whole.
    pub(super) hba: Hba,
    /// The writing of it was not interrupted.
    pub(super) is_whole: bool,
}

impl HbaFile {
    /// Reads it, and the copy that was kept before the fence where there is reason to.
    pub(super) async fn read(database: &InstanceId, session: &Session) -> Result<Self, Setback> {
        let rows = session.rows(READ).await.map_err(|trouble| trouble.setback(database))?;
        let column = |n| rows.first().and_then(|row| row.get(n)).map(str::to_owned);
        let (Some(path), Some(encoding), Some(text)) = (column(0), column(1), column(2)) else {
            return Err(Setback::Transient(format!("{database} did not say what is in its pg_hba.conf")));
        };
        let parsed = Hba::parse(&text);
        if let Ok(hba @ Hba { fence: None, .. }) = parsed {
            return Ok(Self { path, encoding, text, hba, is_whole: true });
        }
        // There is no copy before the first fence, and it may have been tidied away.
        let copy = session.rows(&format!("SELECT pg_read_file({})", literal(&copy_of(&path)))).await;
        let copy = copy.ok().and_then(|rows| rows.first().and_then(|row| row.get(0)).map(str::to_owned));
        match (parsed, copy) {
            (Ok(hba), Some(copy)) if hba.is_cut_from(&copy) => {
                let hba = Hba { fence: hba.fence, rest: copy };
                Ok(Self { path, encoding, text, hba, is_whole: false })
            }
            (Ok(hba), _) => Ok(Self { path, encoding, text, hba, is_whole: true }),
            (Err(Unfit::Cut), Some(copy)) => {
                let hba = Hba::mended(&text, copy);
                Ok(Self { path, encoding, text, hba, is_whole: false })
            }
            (Err(unfit), _) => Err(Setback::Refused(format!("{database}: {unfit}"))),
        }
    }

    /// Keeps the text beside the file, for the case that writing the file is interrupted.
    pub(super) async fn keep_copy(&self, database: &InstanceId, session: &Session) -> Result<(), Setback> {
        write(database, session, &copy_of(&self.path), &self.encoding, &self.text).await
    }

    /// Writes the file, and reads it back.
    pub(super) async fn write(&self, database: &InstanceId, session: &Session, text: &str) -> Result<(), Setback> {
        write(database, session, &self.path, &self.encoding, text).await
    }
}

const READ: &str = "\
SELECT path, current_setting('server_encoding'), pg_read_file(path) FROM current_setting('hba_file') AS path";

fn copy_of(path: &str) -> String {
    format!("{path}.before-failoverd")
}

/// Has the server write `text` to `path`, line by line. In CSV with one column and quoting characters that do not occur
/// in the text, a line comes out as it goes in; `writable` refuses the rest.
async fn write(
    database: &InstanceId,
    session: &Session,
    path: &str,
    encoding: &str,
    text: &str,
) -> Result<(), Setback> {
    writable(text).map_err(|unfit| Setback::Refused(format!("{database}: {unfit}")))?;
    let lines = text.strip_suffix('\n').unwrap_or(text);
    if lines.is_empty() {
        return Err(Setback::Refused(format!("{database}: an empty {path} would lock everybody out")));
    }
    let statement = format!(
        "COPY (SELECT line FROM unnest(string_to_array({}, E'\\n')) WITH ORDINALITY AS t(line, n) ORDER BY n) TO {} \
         WITH (FORMAT csv, DELIMITER E'\\x02', QUOTE E'\\x01', NULL E'\\x03', ENCODING {})",
        literal(lines),
        literal(path),
        literal(encoding),
    );
    session.rows(&statement).await.map_err(|trouble| trouble.setback(database))?;
    let read = session.rows(&format!("SELECT pg_read_file({})", literal(path))).await;
    let read = read.map_err(|trouble| trouble.setback(database))?;
    match read.first().and_then(|row| row.get(0)) {
        Some(back) if back.strip_suffix('\n') == Some(lines) => Ok(()),
        Some(_) | None => Err(Setback::Transient(format!("{database}: {path} is not what was written to it"))),
    }
}

impl Postgres {
    /// Every right that the fence needs, so that a missing one is known before it counts.
    pub(super) async fn check_rights(&self, database: &InstanceId, session: &Session) -> Result<(), Setback> {
        let rows = session.rows(RIGHTS).await.map_err(|trouble| trouble.setback(database))?;
        let Some(row) = rows.first() else {
            return Err(Setback::Transient(format!("{database} did not say what we may do")));
        };
        let user = row.get("who").unwrap_or("our role").to_owned();
        let mut missing: Vec<&str> =
            NEEDED.iter().filter(|(column, _)| row.try_get(column).ok().flatten() == Some("f")).map(|n| n.1).collect();
        // has_parameter_privilege() came with the privilege, in PostgreSQL 15; before, it takes a superuser.
        let grantable = row.get("version").and_then(|text| text.parse::<u32>().ok()).is_some_and(|v| v >= 150_000);
        let alter_system = match grantable {
            true => "SELECT has_parameter_privilege('default_transaction_read_only', 'ALTER SYSTEM')",
            false => "SELECT rolsuper FROM pg_roles WHERE rolname = current_user",
        };
        let rows = session.rows(alter_system).await.map_err(|trouble| trouble.setback(database))?;
        if rows.first().and_then(|row| row.get(0)) == Some("f") {
            missing.push("ALTER SYSTEM ON PARAMETER default_transaction_read_only");
        }
        match missing.is_empty() {
            true => Ok(()),
            false => Err(Setback::Refused(format!("{user} may not fence {database}; GRANT it {}", missing.join(", ")))),
        }
    }

    /// PostgreSQL loads `pg_hba.conf` as a whole or not at all: with an error anywhere the fence would not be loaded.
    pub(super) async fn check_rules(
        &self,
        database: &InstanceId,
        session: &Session,
        when: &str,
    ) -> Result<(), Setback> {
        let wrong =
            "SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL ORDER BY line_number LIMIT 1";
        let rows = session.rows(wrong).await.map_err(|trouble| trouble.setback(database))?;
        match rows.first() {
            None => Ok(()),
            Some(row) => Err(Setback::Refused(format!(
                "line {} of the pg_hba.conf of {database} has an error ({when}): {}",
                row.get(0).unwrap_or("?"),
                one_line(row.get(1).unwrap_or("?"), 200),
            ))),
        }
    }

    /// What `ALTER SYSTEM` has set `default_transaction_read_only` to; none where it has not.
    pub(super) async fn former_setting(
        &self,
        database: &InstanceId,
        session: &Session,
    ) -> Result<Option<String>, Setback> {
        let setting = "SELECT setting, sourcefile FROM pg_settings WHERE name = 'default_transaction_read_only'";
        let rows = session.rows(setting).await.map_err(|trouble| trouble.setback(database))?;
        Ok(rows.first().and_then(|row| {
            let by_us = row.get(1).is_some_and(|file| file.ends_with("postgresql.auto.conf"));
            by_us.then(|| row.get(0).map(str::to_owned)).flatten()
        }))
    }
}

const RIGHTS: &str = "\
SELECT current_user AS who, current_setting('server_version_num') AS version, \
  pg_has_role('pg_read_server_files', 'USAGE') AS reads, \
  pg_has_role('pg_write_server_files', 'USAGE') AS writes, \
  pg_has_role('pg_signal_backend', 'USAGE') AS signals, \
  pg_has_role('pg_read_all_settings', 'USAGE') AS settings, \
  has_function_privilege('pg_read_file(text)', 'EXECUTE') AS read_file, \
  has_function_privilege('pg_reload_conf()', 'EXECUTE') AS reload, \
  has_function_privilege('pg_hba_file_rules()', 'EXECUTE') AND has_table_privilege('pg_hba_file_rules', 'SELECT') AS rules";

/// Column of `RIGHTS`, and what to grant.
const NEEDED: [(&str, &str); 7] = [
    ("reads", "pg_read_server_files"),
    ("writes", "pg_write_server_files"),
    ("signals", "pg_signal_backend"),
    ("settings", "pg_monitor"),
    ("read_file", "EXECUTE ON FUNCTION pg_read_file(text)"),
    ("reload", "EXECUTE ON FUNCTION pg_reload_conf()"),
    ("rules", "EXECUTE ON FUNCTION pg_hba_file_rules() and SELECT ON pg_hba_file_rules"),
];
