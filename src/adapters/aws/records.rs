//! Route 53 record sets as values: read, compared, and turned into the one batch that replaces them.
//!
//! Pure apart from the two conversions from and to the SDK's types, so that what is sent can be tested without sending.

use std::collections::BTreeMap;

use aws_sdk_route53::types::{AliasTarget, Change, ChangeAction, ResourceRecord, ResourceRecordSet, RrType};
use serde::{Deserialize, Serialize};

use crate::domain::RegionId;
use crate::ports::Setback;

/// One record set, exactly as Route 53 has it: a DELETE must repeat every detail or the batch fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RecordSet {
    /// As Route 53 writes it.
    pub(super) name: String,
    /// `A`, `TXT`, …
    pub(super) kind: String,
    pub(super) set_identifier: Option<String>,
    pub(super) weight: Option<i64>,
    pub(super) ttl: Option<i64>,
    pub(super) values: Vec<String>,
    pub(super) alias: Option<Alias>,
    pub(super) health_check: Option<String>,
    /// A routing policy that weights cannot live beside, by its name.
    pub(super) other_policy: Option<String>,
}

/// Where an alias record points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Alias {
    zone: String,
    name: String,
    evaluate_health: bool,
}

/// What is there: the address sets of the record and the marker of the plan that last changed them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct World {
    pub(super) addresses: Vec<RecordSet>,
    pub(super) marker: Option<RecordSet>,
}

/// What is wanted of one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) set_identifier: String,
    pub(super) value: String,
    pub(super) weight: i64,
}

/// What is wanted of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Without the final dot.
    pub(super) record: String,
    pub(super) ttl: i64,
    pub(super) shares: BTreeMap<RegionId, Share>,
}

/// One entry of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Edit {
    Delete(RecordSet),
    Create(RecordSet),
}

impl RecordSet {
    pub(super) fn from_sdk(set: &ResourceRecordSet) -> Self {
        let other_policy = [
            (set.failover.is_some(), "failover"),
            (set.region.is_some(), "latency"),
            (set.geo_location.is_some(), "geolocation"),
            (set.geo_proximity_location.is_some(), "geoproximity"),
            (set.cidr_routing_config.is_some(), "IP-based"),
            (set.multi_value_answer == Some(true), "multivalue"),
            (set.traffic_policy_instance_id.is_some(), "traffic-policy"),
        ];
        Self {
            name: set.name.clone(),
            kind: set.r#type.as_str().to_owned(),
            set_identifier: set.set_identifier.clone(),
            weight: set.weight,
            ttl: set.ttl,
            values: set.resource_records().iter().map(|record| record.value.clone()).collect(),
            alias: set.alias_target.as_ref().map(|alias| Alias {
                zone: alias.hosted_zone_id.clone(),
                name: alias.dns_name.clone(),
                evaluate_health: alias.evaluate_target_health,
            }),
            health_check: set.health_check_id.clone(),
            other_policy: other_policy.into_iter().find(|(is, _)| *is).map(|(_, name)| name.to_owned()),
        }
    }

    fn to_sdk(&self) -> Result<ResourceRecordSet, Setback> {
        let invalid = |error: aws_smithy_types::error::operation::BuildError| Setback::Refused(error.to_string());
        let mut builder = ResourceRecordSet::builder()
            .name(&self.name)
            .r#type(RrType::from(self.kind.as_str()))
            .set_set_identifier(self.set_identifier.clone())
            .set_weight(self.weight)
            .set_ttl(self.ttl)
            .set_health_check_id(self.health_check.clone());
        for value in &self.values {
            builder = builder.resource_records(ResourceRecord::builder().value(value).build().map_err(invalid)?);
        }
        if let Some(alias) = &self.alias {
            let target = AliasTarget::builder()
                .hosted_zone_id(&alias.zone)
                .dns_name(&alias.name)
                .evaluate_target_health(alias.evaluate_health)
                .build()
                .map_err(invalid)?;
            builder = builder.alias_target(target);
        }
        builder.build().map_err(invalid)
    }

    /// It answers with just `value`, as an address or as an alias of that name.
    fn answers(&self, value: &str) -> bool {
        match &self.alias {
            Some(alias) => plain(&alias.name) == plain(value),
            None => matches!(self.values.as_slice(), [only] if only == value),
        }
    }
}

impl Edit {
    pub(super) fn to_sdk(&self) -> Result<Change, Setback> {
        let (action, set) = match self {
            Self::Delete(set) => (ChangeAction::Delete, set),
            Self::Create(set) => (ChangeAction::Create, set),
        };
        Change::builder()
            .action(action)
            .resource_record_set(set.to_sdk()?)
            .build()
            .map_err(|error| Setback::Refused(error.to_string()))
    }
}

impl World {
    /// The set of one region.
    pub(super) fn of(&self, share: &Share) -> Option<&RecordSet> {
        self.addresses.iter().find(|set| set.set_identifier.as_deref() == Some(share.set_identifier.as_str()))
    }

    /// Whether clients are answered as wanted. TTL and marker do not matter for that.
    pub(super) fn is(&self, wanted: &Wanted) -> bool {
        wanted.shares.values().all(|share| {
            self.of(share).is_some_and(|set| set.weight == Some(share.weight) && set.answers(&share.value))
        })
    }

    /// The weights, by region where the region is known: `us-east-1 0, us-west-2 100`.
    pub(super) fn summary(&self, wanted: &Wanted) -> String {
        let known = wanted.shares.iter().map(|(region, share)| match self.of(share) {
            Some(set) => format!("{region} {}", set.weight.unwrap_or_default()),
            None => format!("{region} missing"),
        });
        let foreign = self.foreign(wanted).map(|set| {
            let name = set.set_identifier.as_deref().unwrap_or("without set identifier");
            format!("{name} {} (not configured)", set.weight.unwrap_or_default())
        });
        known.chain(foreign).collect::<Vec<_>>().join(", ")
    }

    /// Sets of the same name that the configuration does not know.
    pub(super) fn foreign<'a>(&'a self, wanted: &'a Wanted) -> impl Iterator<Item = &'a RecordSet> {
        self.addresses.iter().filter(|set| {
            !wanted.shares.values().any(|share| set.set_identifier.as_deref() == Some(share.set_identifier.as_str()))
        })
    }

    /// Why weights cannot be set on what is there.
    pub(super) fn objection(&self, wanted: &Wanted) -> Option<String> {
        let record = &wanted.record;
        if self.addresses.is_empty() {
            return Some(format!(
                "the zone has no A record {record}: create the weighted records first, or correct `record` and `zone_id`"
            ));
        }
        if let Some(policy) = self.addresses.iter().find_map(|set| set.other_policy.as_deref()) {
            return Some(format!(
                "{record} has {policy} records, and one name cannot mix routing policies: replace them by weighted records"
            ));
        }
        if self.addresses.iter().any(|set| set.set_identifier.is_none()) {
            return Some(format!("{record} is a simple record: replace it by weighted records, one per region"));
        }
        if !wanted.shares.values().any(|share| self.of(share).is_some()) {
            let configured: Vec<&str> = wanted.shares.values().map(|share| share.set_identifier.as_str()).collect();
            return Some(format!(
                "{record} has none of the configured set identifiers {}: correct them",
                configured.join(", ")
            ));
        }
        None
    }

    /// The batch that turns this into what is wanted: the exact old sets of all configured regions out, the new ones
    /// in, and the marker with them. Route 53 carries it out whole or not at all, so it fails whole when any of these
    /// sets, or the marker, is no longer what it was.
    pub(super) fn edits(&self, wanted: &Wanted, key: &str) -> Result<Vec<Edit>, Setback> {
        if let Some(objection) = self.objection(wanted) {
            return Err(Setback::Refused(objection));
        }
        let name = self.addresses.first().map_or_else(|| wanted.record.clone(), |set| set.name.clone());
        // All weighted sets of a name must have the same TTL, those that are not ours included.
        let ttl = self.foreign(wanted).find_map(|set| set.ttl).unwrap_or(wanted.ttl);
        let mut edits = Vec::new();
        for share in wanted.shares.values() {
            let old = self.of(share);
            edits.extend(old.cloned().map(Edit::Delete));
            edits.push(Edit::Create(match old {
                // An alias has no TTL of its own, and stays an alias.
                Some(old) if old.alias.is_some() && old.answers(&share.value) => {
                    RecordSet { weight: Some(share.weight), ..old.clone() }
                }
                Some(_) | None => {
                    if share.value.parse::<std::net::Ipv4Addr>().is_err() {
                        return Err(Setback::Refused(format!(
                            "{} is no IPv4 address, and {} is no alias of it: correct `value` of {}",
                            share.value, wanted.record, share.set_identifier
                        )));
                    }
                    RecordSet {
                        name: name.clone(),
                        kind: "A".to_owned(),
                        set_identifier: Some(share.set_identifier.clone()),
                        weight: Some(share.weight),
                        ttl: Some(ttl),
                        values: vec![share.value.clone()],
                        alias: None,
                        health_check: old.and_then(|old| old.health_check.clone()),
                        other_policy: None,
                    }
                }
            }));
        }
        edits.extend(self.marker.clone().map(Edit::Delete));
        edits.push(Edit::Create(marker(&wanted.record, key, wanted.ttl)));
        Ok(edits)
    }

    /// The batch that brings `former` back. Only what differs is touched, and nothing at all when nothing does.
    pub(super) fn edits_back(&self, former: &Self, wanted: &Wanted) -> Vec<Edit> {
        let ours = |world: &Self| -> Vec<RecordSet> {
            let sets = wanted.shares.values().filter_map(|share| world.of(share));
            sets.chain(world.marker.as_ref()).cloned().collect()
        };
        let (now, then) = (ours(self), ours(former));
        if now == then {
            return Vec::new();
        }
        now.into_iter().map(Edit::Delete).chain(then.into_iter().map(Edit::Create)).collect()
    }
}

/// Name of the TXT record that says which plan changed the record last.
pub(super) fn marker_name(record: &str) -> String {
    format!("_failoverd.{}", record.trim_end_matches('.'))
}

/// The marker of `key`.
pub(super) fn marker(record: &str, key: &str, ttl: i64) -> RecordSet {
    RecordSet {
        name: format!("{}.", marker_name(record)),
        kind: "TXT".to_owned(),
        set_identifier: None,
        weight: None,
        ttl: Some(ttl),
        values: vec![marker_value(key)],
        alias: None,
        health_check: None,
        other_policy: None,
    }
}

/// A quoted TXT string; it holds at most 255 characters, of which quotes and backslashes would need escapes.
pub(super) fn marker_value(key: &str) -> String {
    let safe: String =
        key.chars().map(|c| if c.is_ascii_graphic() && !matches!(c, '"' | '\\') { c } else { '-' }).take(240).collect();
    format!("\"failoverd {safe}\"")
}

/// A name to compare by: lower case, without the final dot, with Route 53's octal escapes (`\052` for `*`) undone.
pub(super) fn plain(name: &str) -> String {
    let mut out = String::new();
    let mut rest = name.trim_end_matches('.');
    while let Some(c) = rest.chars().next() {
        let escaped = rest
            .strip_prefix('\\')
            .and_then(|digits| digits.get(..3))
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped {
            Some(byte) => {
                out.push(char::from(byte).to_ascii_lowercase());
                rest = rest.get(4..).unwrap_or_default();
            }
            None => {
                out.push(c.to_ascii_lowercase());
                rest = rest.get(c.len_utf8()..).unwrap_or_default();
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(identifier: &str, value: &str, weight: i64) -> RecordSet {
        RecordSet {
            name: "app.example.org.".into(),
            kind: "A".into(),
            set_identifier: Some(identifier.into()),
            weight: Some(weight),
            ttl: Some(60),
            values: vec![value.into()],
            alias: None,
            health_check: Some("hc-1".into()),
            other_policy: None,
        }
    }

    fn world() -> World {
        World { addresses: vec![set("east", "192.0.2.1", 100), set("west", "192.0.2.2", 0)], marker: None }
    }

    fn wanted(east: i64, west: i64) -> Wanted {
        let share = |identifier: &str, value: &str, weight| Share {
            set_identifier: identifier.into(),
            value: value.into(),
            weight,
        };
        Wanted {
            record: "app.example.org".into(),
            ttl: 30,
            shares: BTreeMap::from([
                ("us-east-1".into(), share("east", "192.0.2.1", east)),
                ("us-west-2".into(), share("west", "192.0.2.2", west)),
            ]),
        }
    }

    #[test]
    fn the_batch_deletes_exactly_what_was_seen_and_creates_all_regions_and_the_marker() {
        let edits = world().edits(&wanted(0, 100), "plan/step").expect("weighted records are there");
        let new = |identifier, value, weight| RecordSet { ttl: Some(30), ..set(identifier, value, weight) };
        assert_eq!(
            edits,
            [
                Edit::Delete(set("east", "192.0.2.1", 100)),
                Edit::Create(new("east", "192.0.2.1", 0)),
                Edit::Delete(set("west", "192.0.2.2", 0)),
                Edit::Create(new("west", "192.0.2.2", 100)),
                Edit::Create(marker("app.example.org", "plan/step", 30)),
            ]
        );
    }

    #[test]
    fn going_back_is_the_exact_reverse_and_nothing_the_second_time() {
        let former = world();
        let now = World {
            addresses: vec![set("east", "192.0.2.1", 0), set("west", "192.0.2.2", 100)],
            marker: Some(marker("app.example.org", "plan/step", 30)),
        };
        let edits = now.edits_back(&former, &wanted(0, 100));
        let deleted = edits.iter().filter(|edit| matches!(edit, Edit::Delete(_))).count();
        let created: Vec<&RecordSet> = edits
            .iter()
            .filter_map(|edit| match edit {
                Edit::Create(set) => Some(set),
                Edit::Delete(_) => None,
            })
            .collect();
        assert_eq!((deleted, created), (3, former.addresses.iter().collect()));
        assert_eq!(former.edits_back(&former, &wanted(0, 100)), []);
    }

    #[test]
    fn records_of_another_routing_policy_are_refused_with_what_to_do() {
        let simple = RecordSet { set_identifier: None, weight: None, ..set("east", "192.0.2.1", 0) };
        let failover = RecordSet { other_policy: Some("failover".into()), ..set("east", "192.0.2.1", 0) };
        for (addresses, says) in [
            (vec![], "create the weighted records"),
            (vec![simple], "simple record"),
            (vec![failover], "cannot mix"),
            (vec![set("north", "192.0.2.3", 1)], "none of the configured set identifiers"),
        ] {
            let world = World { addresses, marker: None };
            let refusal = world.edits(&wanted(0, 100), "key").expect_err(says);
            assert!(refusal.to_string().contains(says) && matches!(refusal, Setback::Refused(_)), "{refusal}");
        }
    }

    #[test]
    fn right_weights_on_a_wrong_address_do_not_satisfy() {
        let mut world = world();
        assert!(world.is(&wanted(100, 0)) && !world.is(&wanted(0, 100)));
        world.addresses[1].values = vec!["203.0.113.9".into()];
        assert!(!world.is(&wanted(100, 0)));
    }

    #[test]
    fn names_are_compared_without_case_dot_and_escapes() {
        assert_eq!(plain("\\052.Example.org."), "*.example.org");
        assert_eq!(plain("tail\\05"), "tail\\05");
    }

    #[test]
    fn a_marker_stays_one_txt_string() {
        let value = marker_value(&"a\"b\\c ".repeat(100));
        assert!(value.len() <= 255 && value.matches('"').count() == 2 && !value.contains('\\'), "{value}");
    }
}
