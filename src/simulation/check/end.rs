//! How a run has to end.

use super::*;

/// An old primary that has been back for so long is fenced.
const RETURNED_FOR: Duration = Duration::from_secs(120);

impl Checks {
    /// A plan ends, or a person is paged; and of each database exactly the one that is placed takes writes, if it could.
    pub(in crate::simulation) fn end(
        &self,
        world: &World,
        now: Duration,
        status: Option<&Status>,
        is_busy: bool,
    ) -> Vec<String> {
        let mut found = Vec::new();
        let Some(status) = status else { return found };
        if self.is_to_end {
            let open = self.incidents.iter().filter(|(_, incident)| incident.outcome.is_none());
            found.extend(open.map(|(incident, _)| format!("{incident} does not end, and everything is well")));
        }
        let is_paged = status.alarms.iter().any(|alarm| alarm.severity == Severity::Page);
        for (incident, _) in self.incidents.iter().filter(|(_, incident)| incident.outcome.is_none()) {
            if !is_paged {
                found.push(format!("{incident} is open and nobody is paged"));
            }
            let is_explained = status.halted.is_some()
                || status.incidents.iter().filter(|shown| shown.incident == *incident).any(|shown| {
                    let mut steps = shown.steps.iter();
                    steps.any(|step| step.state == StepState::Failed || !step.guards.is_empty())
                        || shown.summary.contains("STUCK")
                });
            if !is_busy && !is_explained {
                found.push(format!("{incident} is open, and nothing is done about it for no reason"));
            }
        }
        let is_at_rest = self.is_over() && !self.incidents.is_empty() && status.halted.is_none();
        if !is_at_rest {
            return found;
        }
        let writable = world.writable(now);
        for component in &self.databases {
            let Some(region) = status.placement.get(component) else { continue };
            let placed = InstanceId { component: component.clone(), region: region.clone() };
            let withheld = format!("withheld-{placed}");
            // Nothing may be done about it, and people know.
            let is_told = status.alarms.iter().any(|alarm| alarm.severity == Severity::Page && alarm.key == withheld);
            if world.has_been_well(&placed, now, RETURNED_FOR) && !is_told && !writable.contains(&placed) {
                found.push(format!("{component} is placed in {region}, which takes no writes"));
            }
            let both: Vec<&InstanceId> = writable
                .iter()
                .filter(|id| id.component == *component && world.has_been_well(id, now, RETURNED_FOR))
                .collect();
            if both.len() > 1 {
                found.push(format!("{} still accept writes at the end", joined(&both)));
            }
        }
        found
    }
}
