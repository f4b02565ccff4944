//! The fence: a self-managed primary refuses its application's writes, for sure and across a restart.
//!
//! What locks the application out must not travel through the WAL, or it would lock the promoted standby as well; so
//! no `ALTER ROLE … NOLOGIN` and no `ALTER DATABASE`. Two local settings do it, in this order:
//!
//! 1. lines at the top of `pg_hba.conf` that reject the application's roles (see `hba.rs`);
//! 2. `ALTER SYSTEM SET default_transaction_read_only = on`, for everybody else who connects without care;
//! 3. one reload for both; then the application's sessions are ended.
//!
//! Because of that order a new session in which the setting is on proves that the lines were loaded as well. Lifting
//! goes the other way round: first the setting, then the lines, whose marker remembers what the setting was. It may be
//! interrupted between any two statements and started again from the top.
//!
//! One at a time puts a fence up or takes it down: the leader and the guardian beside the database may both want to. What
//! one of them reads of the file and of the setting would not belong together otherwise, and a fence that took the other
//! one's setting for the operator's would leave it behind for ever.
//!
//! The server writes `pg_hba.conf` in place. Should it die in the middle, the reject lines are the first to be there,
//! and `pg_hba.conf.before-failoverd` has the former text; the next look puts it back.
//!
//! A fence holds for the roles it names. A role that is not named can still `SET TRANSACTION READ WRITE`.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::Postgres;
use super::errors::Trouble;
use super::fence_parts::{Door, HbaFile, State};
use super::proof::{self, Role};
use super::session::Session;
use crate::config::schema::Fence;
use crate::domain::InstanceId;
use crate::ports::{Look, Permit, Setback};

impl Postgres {
    pub(super) async fn look_at_fence(&self, database: &InstanceId) -> Result<Look, Setback> {
        let fence = self.fence_settings(database)?;
        let until = self.until(None)?;
        let session = self.open(database, until).await?;
        if self.role(database, &session).await? == Role::Standby {
            let summary = format!("{database} is in recovery: it takes no writes");
            return Ok(Look { satisfied: true, summary, previous: json!({}) });
        }
        self.check_rights(database, &session).await?;
        let mut gaps = self.state(database, &session, fence).await?.gaps(fence);
        if gaps.is_empty() {
            gaps = self.open_doors(database, fence, until).await?;
        }
        let could_log_in = match &fence.prove_as {
            Some(proof) => Some(matches!(self.knock(database, &proof.role, fence, until).await?, Door::Entered)),
            None => None,
        };
        Ok(Look {
            satisfied: gaps.is_empty(),
            summary: match gaps.is_empty() {
                true => format!("{database} is fenced"),
                false => format!("{database} can be reached and is not fenced: {}", gaps.join("; ")),
            },
            previous: json!({ COULD_LOG_IN: could_log_in }),
        })
    }

    pub(super) async fn fence(&self, database: &InstanceId, permit: &Permit) -> Result<(), Setback> {
        let fence = self.fence_settings(database)?;
        let until = self.until(Some(permit))?;
        let session = self.open(database, until).await?;
        if self.role(database, &session).await? == Role::Standby {
            return Ok(());
        }
        self.take_turn(database, &session, until).await?;
        let former = self.former_setting(database, &session).await?;
        let file = HbaFile::read(database, &session).await?;
        if file.is_whole {
            self.check_rules(database, &session, "before anything was changed").await?;
        }
        if !file.is_whole || !file.hba.fences(&fence.application_roles) {
            let fenced = file.hba.fenced(&fence.application_roles, former.as_deref());
            let fenced = fenced.map_err(|unfit| Setback::Refused(format!("{database}: {unfit}")))?;
            if file.hba.fence.is_none() && file.is_whole {
                self.time_left(permit)?;
                file.keep_copy(database, &session).await?;
            }
            self.time_left(permit)?;
            file.write(database, &session, &fenced).await?;
            if let Err(broken) = self.check_rules(database, &session, "with the fence in it").await {
                // The rules in force are the old ones, but a restart would read the file.
                let former = if file.is_whole { &file.text } else { &file.hba.rest };
                file.write(database, &session, former).await?;
                return Err(broken);
            }
        }
        self.time_left(permit)?;
        self.run(database, &session, "ALTER SYSTEM SET default_transaction_read_only = on").await?;
        self.time_left(permit)?;
        self.reload(database, &session, until).await?;
        self.end_sessions(database, &session, fence, permit, until).await
    }

    pub(super) async fn verify_fence(&self, database: &InstanceId) -> Result<String, Setback> {
        let fence = self.fence_settings(database)?;
        let until = self.until(None)?;
        let session = self.open(database, until).await?;
        if self.role(database, &session).await? == Role::Standby {
            return Ok(format!("{database} is in recovery: it takes no writes"));
        }
        let mut gaps = self.state(database, &session, fence).await?.gaps(fence);
        gaps.extend(self.open_doors(database, fence, until).await?);
        if !gaps.is_empty() {
            return Err(Setback::Transient(format!("{database} is not fenced: {}", gaps.join("; "))));
        }
        Ok(format!(
            "{database} refuses {} at login, nobody of them is connected, and transactions are read-only by default",
            fence.application_roles.join(", ")
        ))
    }

    pub(super) async fn unfence(
        &self,
        database: &InstanceId,
        previous: &serde_json::Value,
        permit: &Permit,
    ) -> Result<String, Setback> {
        let fence = self.fence_settings(database)?;
        let until = self.until(Some(permit))?;
        let session = self.open(database, until).await?;
        self.take_turn(database, &session, until).await?;
        // Where there is nothing to lift, nothing becomes a primary by that.
        let unseen = match self.is_anything_up(database, &session).await? {
            true => self.refuse_second_primary(database, until).await?,
            false => String::new(),
        };
        self.lift(database, &session, Some(permit), until).await?;
        self.time_left(permit)?;
        // Even where there was nothing to lift: the reload of an earlier, interrupted attempt may be missing.
        self.reload(database, &session, until).await?;
        let again = self.open(database, until).await?;
        let state = self.state(database, &again, fence).await?;
        if state.fenced_by_us {
            return Err(Setback::Transient(format!(
                "{database}: the fence is there again; something else puts it there"
            )));
        }
        let mut said = format!("{database} is no longer fenced");
        if let Some(proof) = &fence.prove_as {
            let at = self.0.endpoints.current(database).await?;
            let written = match self.open_as(database, &at, &proof.role, Some(proof), until).await {
                Ok(session) => proof::write(&session).await,
                Err(trouble) => Err(trouble),
            };
            match written {
                Ok(proved) => said.push_str(&format!("; as {}, {proved}", proof.role)),
                Err(trouble) if previous.get(COULD_LOG_IN) == Some(&json!(false)) => {
                    said.push_str(&format!(
                        "; {} could not log in from here before, nor can it now: {trouble}",
                        proof.role
                    ));
                }
                Err(trouble) => {
                    return Err(Setback::Transient(format!("{said}, but {} cannot write: {trouble}", proof.role)));
                }
            }
        }
        Ok(said + &unseen)
    }

    /// Until the session ends, nobody else puts the fence of this database up or takes it down.
    ///
    /// Whoever stops in the middle (a process that is frozen, a region that is cut off) does not keep the others waiting for
    /// longer than its own call may last: the server ends a session that is silent for so long.
    async fn take_turn(&self, database: &InstanceId, session: &Session, until: Instant) -> Result<(), Setback> {
        let left = until.saturating_duration_since(Instant::now()).as_millis().clamp(2, 1 << 30);
        // PostgreSQL 13 has no idle_session_timeout. Half of the time is for the work.
        let turn = format!(
            "SELECT set_config(name, '{left}', false) FROM pg_settings WHERE name = 'idle_session_timeout'; \
             SET lock_timeout = {}; SELECT pg_advisory_lock({TURN})",
            left / 2
        );
        match session.rows(&turn).await {
            Ok(_) => Ok(()),
            Err(trouble) if trouble.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Err(Setback::Transient(format!(
                "another failoverd is at the fence of {database} (it holds the advisory lock {TURN})"
            ))),
            Err(trouble) => Err(trouble.setback(database)),
        }
    }

    /// Anything of a fence, as it is on the disk or as it is in force.
    async fn is_anything_up(&self, database: &InstanceId, session: &Session) -> Result<bool, Setback> {
        let file = HbaFile::read(database, session).await?;
        let rows = self.run(database, session, "SELECT current_setting('default_transaction_read_only')").await?;
        let is_read_only = rows.first().and_then(|row| row.get(0)) != Some("off");
        Ok(file.hba.fence.is_some() || !file.is_whole || is_read_only)
    }

    /// Takes the fence away, where there is one, and reloads. Nothing is verified.
    pub(super) async fn lift(
        &self,
        database: &InstanceId,
        session: &Session,
        permit: Option<&Permit>,
        until: Instant,
    ) -> Result<(), Setback> {
        self.take_turn(database, session, until).await?;
        let still_permitted = || permit.map_or(Ok(()), |permit| self.time_left(permit).map(|_| ()));
        let file = HbaFile::read(database, session).await?;
        match &file.hba.fence {
            // Cut off in the middle of the block: the setting comes after the lines, so it was not reached.
            None if !file.is_whole => {}
            None => return Ok(()),
            Some(ours) => {
                still_permitted()?;
                let setting = match ours.former.as_deref() {
                    Some("on") => "ALTER SYSTEM SET default_transaction_read_only = on",
                    Some("off") => "ALTER SYSTEM SET default_transaction_read_only = off",
                    Some(_) | None => "ALTER SYSTEM RESET default_transaction_read_only",
                };
                self.run(database, session, setting).await?;
            }
        }
        still_permitted()?;
        file.write(database, session, &file.hba.rest).await?;
        self.check_rules(database, session, "without the fence").await?;
        still_permitted()?;
        self.reload(database, session, until).await
    }

    /// Refuses while another instance takes writes; names those that could not be asked.
    pub(super) async fn refuse_second_primary(&self, database: &InstanceId, until: Instant) -> Result<String, Setback> {
        let mut unseen = String::new();
        for region in self.database(database)?.regions.keys().filter(|region| **region != database.region) {
            let other = InstanceId { component: database.component.clone(), region: region.clone() };
            // Half of what is left, so that a region that swallows packets leaves time for the work.
            let soon = Instant::now() + until.saturating_duration_since(Instant::now()) / 2;
            let seen = async { self.role(&other, &self.open(&other, soon).await?).await };
            match seen.await {
                Ok(Role::Standby) => {}
                Ok(Role::Primary) => {
                    return Err(Setback::Refused(format!(
                        "{other} is not in recovery: without its fence {database} would be a second primary"
                    )));
                }
                Err(setback) => unseen.push_str(&format!("; {other} could not be asked: {setback}")),
            }
        }
        Ok(unseen)
    }

    pub(super) fn fence_settings(&self, database: &InstanceId) -> Result<&Fence, Setback> {
        let configured = self.database(database)?;
        let refuse = |why: String| Err(Setback::Refused(format!("{database} cannot be fenced: {why}")));
        let Some(fence) = &configured.fence else {
            return refuse(format!("there is no [databases.{}.fence]", database.component));
        };
        if fence.application_roles.is_empty() {
            return refuse("`application_roles` names nobody".to_owned());
        }
        if fence.application_roles.contains(&configured.user) {
            return refuse(format!("`{}` is the role that failoverd itself logs in as", configured.user));
        }
        match &fence.prove_as {
            Some(proof) if !fence.application_roles.contains(&proof.role) => {
                refuse(format!("`prove_as` names `{}`, which is not among `application_roles`", proof.role))
            }
            Some(_) | None => Ok(fence),
        }
    }

    /// Reloads and waits until new sessions see it.
    async fn reload(&self, database: &InstanceId, session: &Session, until: Instant) -> Result<(), Setback> {
        let stamp =
            self.run(database, session, "SELECT extract(epoch FROM clock_timestamp()), pg_reload_conf()").await?;
        let Some(stamp) = stamp.first().and_then(|row| row.get(0)).and_then(|text| text.parse::<f64>().ok()) else {
            return Err(Setback::Transient(format!("{database} did not say what time it is")));
        };
        let at = self.0.endpoints.current(database).await?;
        // A new session inherits the configuration of the postmaster, which loads both files before it forks again.
        let loaded = "SELECT extract(epoch FROM pg_conf_load_time())";
        loop {
            let fresh = self.open_at(database, &at, until).await.map_err(|trouble| trouble.setback(database))?;
            let rows = self.run(database, &fresh, loaded).await?;
            let then = rows.first().and_then(|row| row.get(0)).and_then(|text| text.parse::<f64>().ok());
            if then.is_some_and(|then| then > stamp) {
                return Ok(());
            }
            pause(until, || format!("{database} has not loaded its changed configuration yet")).await?;
        }
    }

    /// Ends the sessions of the application's roles, and waits until there have been none for a moment: a login that was
    /// under way while the rules were loaded is still judged by the old ones, and shows only when it is through.
    pub(super) async fn end_sessions(
        &self,
        database: &InstanceId,
        session: &Session,
        fence: &Fence,
        permit: &Permit,
        until: Instant,
    ) -> Result<(), Setback> {
        let mut quiet_since = None;
        loop {
            self.time_left(permit)?;
            let ended = session.query(END_SESSIONS, &[(&fence.application_roles, Type::TEXT_ARRAY)]).await;
            let left = ended.map_err(|trouble| trouble.setback(database))?.len();
            if left > 0 {
                quiet_since = None;
            } else if quiet_since.get_or_insert_with(Instant::now).elapsed() >= QUIET {
                return Ok(());
            }
            pause(until, || format!("the application's sessions on {database} have not ended yet")).await?;
        }
    }

    async fn state(&self, database: &InstanceId, session: &Session, fence: &Fence) -> Result<State, Setback> {
        let file = HbaFile::read(database, session).await?;
        let rows = session.query(STATE, &[(&fence.application_roles, Type::TEXT_ARRAY)]).await;
        let rows = rows.map_err(|trouble| trouble.setback(database))?;
        let unknown = || Setback::Transient(format!("{database} did not say in which state it is"));
        let row = rows.first().ok_or_else(unknown)?;
        let missing: Vec<String> = row.try_get("missing").map_err(|_| unknown())?;
        if !missing.is_empty() {
            // A fence against a misspelt role would prove itself and fence nobody.
            return Err(Setback::Refused(format!(
                "{database} has no role that may log in named {}",
                missing.join(", ")
            )));
        }
        Ok(State {
            rejects: file.is_whole && file.hba.fences(&fence.application_roles),
            fenced_by_us: file.hba.fence.is_some() || !file.is_whole,
            read_only: row.try_get("read_only").map_err(|_| unknown())?,
            sessions: row.try_get("sessions").map_err(|_| unknown())?,
        })
    }

    /// The roles that are let in, one sentence each.
    async fn open_doors(&self, database: &InstanceId, fence: &Fence, until: Instant) -> Result<Vec<String>, Setback> {
        let mut open = Vec::new();
        for role in &fence.application_roles {
            match self.knock(database, role, fence, until).await? {
                Door::Shut => {}
                Door::Entered => open.push(format!("{role} can log in")),
                Door::Asked => open.push(format!("{role} is asked for its password instead of being refused")),
            }
        }
        Ok(open)
    }

    /// Tries to log in. A role that `pg_hba.conf` rejects is refused before it is asked for a password, so this needs
    /// none; with the password of `prove_as` it is the application's own login.
    async fn knock(&self, database: &InstanceId, role: &str, fence: &Fence, until: Instant) -> Result<Door, Setback> {
        let at = self.0.endpoints.current(database).await?;
        match self.open_as(database, &at, role, fence.prove_as.as_ref(), until).await {
            Ok(_) => Ok(Door::Entered),
            Err(Trouble::Answered { code, .. }) if code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                Ok(Door::Shut)
            }
            Err(Trouble::Answered { code, .. }) if code == SqlState::INVALID_PASSWORD => Ok(Door::Asked),
            Err(Trouble::NoCredential(_)) => Ok(Door::Asked),
            Err(trouble @ (Trouble::Answered { .. } | Trouble::Broken(_) | Trouble::Garbled(_))) => {
                Err(Setback::Transient(format!("{database}: whether {role} can log in is not known: {trouble}")))
            }
        }
    }
}

/// Key of the advisory lock of whoever puts a fence up or takes it down, in the database that failoverd logs in to: "failover"
/// in ASCII.
const TURN: i64 = 0x6661_696c_6f76_6572;

/// In `Look::previous`: the role of `prove_as` could log in from here before anything was changed.
const COULD_LOG_IN: &str = "application_could_log_in";

/// One row per session that was still there.
const END_SESSIONS: &str = "\
SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename::text = ANY($1) AND pid <> pg_backend_pid()";

const STATE: &str = "\
SELECT current_setting('default_transaction_read_only') = 'on' AS read_only, \
  (SELECT count(*) FROM pg_stat_activity WHERE usename::text = ANY($1)) AS sessions, \
  ARRAY(SELECT wanted FROM unnest($1) AS wanted \
        WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname::text = wanted AND rolcanlogin)) AS missing";

/// Logging in takes milliseconds; one that takes longer than this is seen by the verification.
const QUIET: Duration = Duration::from_millis(250);

/// Waits a moment before looking again, or gives up where there is no time for it.
async fn pause(until: Instant, late: impl FnOnce() -> String) -> Result<(), Setback> {
    const MOMENT: Duration = Duration::from_millis(50);
    if Instant::now() + MOMENT >= until {
        return Err(Setback::Transient(late()));
    }
    tokio::time::sleep(MOMENT).await;
    Ok(())
}

impl Postgres {
    pub(super) async fn run(
        &self,
        database: &InstanceId,
        session: &Session,
        statement: &str,
    ) -> Result<Vec<tokio_postgres::SimpleQueryRow>, Setback> {
        session.rows(statement).await.map_err(|trouble| trouble.setback(database))
    }
}
