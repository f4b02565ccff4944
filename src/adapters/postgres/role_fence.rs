//! The fence of a managed database that has no security group for it: the application's roles may not log in.
//!
//! `ALTER ROLE … NOLOGIN` travels through the WAL. Put up before the replica was promoted it would lock the promoted
//! database as well, so it waits until another instance takes writes: it fences an old primary that comes back, and
//! no primary that is about to be left. For that there is `fence.security_group`.

use serde_json::json;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::Postgres;
use super::errors::Trouble;
use super::proof::Role;
use super::session::Session;
use crate::config::schema::Fence;
use crate::domain::InstanceId;
use crate::ports::{Look, Permit, Setback};

impl Postgres {
    pub(super) async fn look_at_role_fence(&self, database: &InstanceId) -> Result<Look, Setback> {
        let fence = self.fence_settings(database)?;
        let until = self.until(None)?;
        let session = self.open(database, until).await?;
        if self.role(database, &session).await? == Role::Standby {
            let summary = format!("{database} is in recovery: it takes no writes");
            return Ok(Look { satisfied: true, summary, previous: json!({}) });
        }
        self.require_successor(database, until).await?;
        let gaps = self.role_gaps(database, &session, fence).await?;
        Ok(Look {
            satisfied: gaps.is_empty(),
            summary: match gaps.is_empty() {
                true => format!("{database} is fenced"),
                false => format!("{database} can be reached and is not fenced: {}", gaps.join("; ")),
            },
            previous: json!({}),
        })
    }

    pub(super) async fn fence_roles(&self, database: &InstanceId, permit: &Permit) -> Result<(), Setback> {
        let fence = self.fence_settings(database)?;
        let until = self.until(Some(permit))?;
        let session = self.open(database, until).await?;
        if self.role(database, &session).await? == Role::Standby {
            return Ok(());
        }
        self.require_successor(database, until).await?;
        for role in &fence.application_roles {
            self.time_left(permit)?;
            self.run(database, &session, &format!("ALTER ROLE {} NOLOGIN", identifier(role))).await?;
        }
        self.end_sessions(database, &session, fence, permit, until).await
    }

    pub(super) async fn verify_role_fence(&self, database: &InstanceId) -> Result<String, Setback> {
        let fence = self.fence_settings(database)?;
        let until = self.until(None)?;
        let session = self.open(database, until).await?;
        if self.role(database, &session).await? == Role::Standby {
            return Ok(format!("{database} is in recovery: it takes no writes"));
        }
        let mut gaps = self.role_gaps(database, &session, fence).await?;
        if let Some(proof) = &fence.prove_as {
            let at = self.0.endpoints.current(database).await?;
            match self.open_as(database, &at, &proof.role, Some(proof), until).await {
                Ok(_) => gaps.push(format!("{} can log in", proof.role)),
                Err(Trouble::Answered { code, .. }) if code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {}
                Err(trouble) => {
                    let role = &proof.role;
                    return Err(Setback::Transient(format!(
                        "{database}: whether {role} can log in is not known: {trouble}"
                    )));
                }
            }
        }
        if !gaps.is_empty() {
            return Err(Setback::Transient(format!("{database} is not fenced: {}", gaps.join("; "))));
        }
        let roles = fence.application_roles.join(", ");
        Ok(format!("{database} lets {roles} in no more, and nobody of them is connected"))
    }

    pub(super) async fn unfence_roles(&self, database: &InstanceId, permit: &Permit) -> Result<String, Setback> {
        let fence = self.fence_settings(database)?;
        let until = self.until(Some(permit))?;
        let unseen = self.refuse_second_primary(database, until).await?;
        let session = self.open(database, until).await?;
        for role in &fence.application_roles {
            self.time_left(permit)?;
            self.run(database, &session, &format!("ALTER ROLE {} LOGIN", identifier(role))).await?;
        }
        Ok(format!("{database} lets {} in again{unseen}", fence.application_roles.join(", ")))
    }

    /// Refuses where no other instance is known to take writes by itself.
    async fn require_successor(&self, database: &InstanceId, until: Instant) -> Result<(), Setback> {
        let mut seen = Vec::new();
        for region in self.database(database)?.regions.keys().filter(|region| **region != database.region) {
            let other = InstanceId { component: database.component.clone(), region: region.clone() };
            // Half of what is left, so that a region that swallows packets leaves time for the work.
            let soon = Instant::now() + until.saturating_duration_since(Instant::now()) / 2;
            let asked = async { self.role(&other, &self.open(&other, soon).await?).await };
            match asked.await {
                Ok(Role::Primary) => return Ok(()),
                Ok(Role::Standby) => seen.push(format!("{other} is in recovery")),
                Err(setback) => seen.push(format!("{other} could not be asked: {setback}")),
            }
        }
        Err(Setback::Refused(format!(
            "{database} is managed by RDS and has no fence.security_group; its roles are locked once its replica is \
             promoted, because the lock would travel to a replica ({})",
            seen.join("; ")
        )))
    }

    async fn role_gaps(&self, database: &InstanceId, session: &Session, fence: &Fence) -> Result<Vec<String>, Setback> {
        let rows = session.query(STATE, &[(&fence.application_roles, Type::TEXT_ARRAY)]).await;
        let rows = rows.map_err(|trouble| trouble.setback(database))?;
        let unknown = || Setback::Transient(format!("{database} did not say in which state it is"));
        let row = rows.first().ok_or_else(unknown)?;
        let missing: Vec<String> = row.try_get("missing").map_err(|_| unknown())?;
        if !missing.is_empty() {
            return Err(Setback::Refused(format!("{database} has no role named {}", missing.join(", "))));
        }
        let open: Vec<String> = row.try_get("open").map_err(|_| unknown())?;
        let sessions: i64 = row.try_get("sessions").map_err(|_| unknown())?;
        let mut gaps: Vec<String> = open.into_iter().map(|role| format!("{role} may log in")).collect();
        if sessions > 0 {
            gaps.push(format!("the application has {sessions} sessions"));
        }
        Ok(gaps)
    }
}

const STATE: &str = "\
SELECT (SELECT count(*) FROM pg_stat_activity WHERE usename::text = ANY($1)) AS sessions, \
  ARRAY(SELECT rolname::text FROM pg_roles WHERE rolname::text = ANY($1) AND rolcanlogin ORDER BY 1) AS open, \
  ARRAY(SELECT wanted FROM unnest($1) AS wanted \
        WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname::text = wanted)) AS missing";

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
