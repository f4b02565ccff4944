//! A standby becomes a primary of its own: `pg_promote()`, once everything it has to have is there.

use tokio_postgres::error::SqlState;

use super::Postgres;
use super::proof::Role;
use crate::adapters::{CatchUp as _, WriteProof as _};
use crate::decide::RECOVERY_POINT;
use crate::domain::InstanceId;
use crate::ports::{Look, Permit, Setback};

impl Postgres {
    pub(super) async fn look_at_promotion(&self, database: &InstanceId) -> Result<Look, Setback> {
        let session = self.open(database, self.until(None)?).await?;
        let role = self.role(database, &session).await?;
        if role == Role::Standby {
            // Better known now than at the commit point.
            let allowed = "SELECT has_function_privilege('pg_promote(boolean, integer)', 'EXECUTE'), current_user";
            let rows = session.rows(allowed).await.map_err(|trouble| trouble.setback(database))?;
            if let Some(row) = rows.first().filter(|row| row.get(0) == Some("f")) {
                let user = row.get(1).unwrap_or("our role");
                return Err(Setback::Refused(format!(
                    "{user} may not promote {database}; GRANT EXECUTE ON FUNCTION pg_promote(boolean, integer) TO {user}"
                )));
            }
        }
        Ok(match role {
            Role::Primary => Look {
                satisfied: true,
                summary: format!("{database} is not in recovery"),
                previous: serde_json::Value::Null,
            },
            Role::Standby => Look {
                satisfied: false,
                summary: format!("{database} is a standby"),
                previous: match self.point_of_standby(database, &session).await {
                    Some(point) => serde_json::json!({ RECOVERY_POINT: point }),
                    None => serde_json::Value::Null,
                },
            },
        })
    }

    pub(super) async fn promote(
        &self,
        database: &InstanceId,
        from: &InstanceId,
        lossless: bool,
        permit: &Permit,
    ) -> Result<(), Setback> {
        let until = self.until(Some(permit))?;
        let session = self.open(database, until).await?;
        if self.role(database, &session).await? == Role::Primary {
            return Ok(());
        }
        if lossless {
            self.caught_up(database, from).await.map_err(|setback| match setback {
                // Waiting belongs to the executor: it tries the whole attempt again.
                Setback::NotYet(why) => Setback::Transient(why),
                setback @ (Setback::Transient(_) | Setback::Refused(_)) => setback,
            })?;
        }
        // A standby that was copied from a fenced primary brought the fence along: promoted, it would refuse the
        // application.
        if self.database(database)?.fence.is_some() {
            match self.lift(database, &session, Some(permit), until).await {
                // Promoting matters more than looking for a fence; what is left of one shows in the verification.
                Ok(()) | Err(Setback::Refused(_)) => {}
                Err(setback @ (Setback::Transient(_) | Setback::NotYet(_))) => return Err(setback),
            }
        }
        self.time_left(permit)?;
        match session.rows("SELECT pg_promote(false)").await {
            Ok(_) => Ok(()),
            // "recovery is not in progress": somebody was faster, or our own first attempt was heard after all.
            Err(trouble) if trouble.code() == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) => Ok(()),
            Err(trouble) => Err(trouble.setback(database)),
        }
    }

    pub(super) async fn verify_promotion(&self, database: &InstanceId) -> Result<String, Setback> {
        let at = self.0.endpoints.current(database).await?;
        self.prove_writable(database, &at).await.map(|proof| format!("not in recovery; {proof}"))
    }
}
