//! Names that cannot be mixed up: every id is a type of its own, cheap to clone.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Eq)]
        pub struct $name(Arc<str>);

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
            }
        }

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.0.hash(state);
            }
        }

        // By far most of what is compared are clones of the names in the policy.
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            /// The id as text, as it stands in the configuration and in the ledger.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(Arc::from(text))
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(Arc::from(text))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(Self::from(String::deserialize(deserializer)?))
            }
        }
    };
}

id!(
    /// A place that can serve, such as `us-west-2`.
    RegionId
);
id!(
    /// A logical thing that must be served somewhere, such as `database`.
    ComponentId
);
id!(
    /// One running failoverd.
    ObserverId
);
id!(
    /// A point outside the deployment that tells a broken network of our own from a broken region.
    ReferenceId
);
id!(
    /// The ledger's own identity, minted when it is created; it is what a claim in the world names.
    LedgerId
);
id!(
    /// A declared loss.
    IncidentId
);
id!(
    /// The steps that answer an incident.
    PlanId
);
id!(
    /// A step within its plan. `plan/step` is the idempotency key of everything the step does.
    StepId
);

/// A component in one region, written `database@us-west-2`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId {
    /// What is served.
    pub component: ComponentId,
    /// Where.
    pub region: RegionId,
}

impl InstanceId {
    /// The instance of `component` in `region`.
    pub fn new(component: impl Into<ComponentId>, region: impl Into<RegionId>) -> Self {
        Self { component: component.into(), region: region.into() }
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}@{}", self.component, self.region))
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.component, self.region)
    }
}

/// A text that is not of the form `component@region`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an instance; write component@region, such as database@us-west-2")]
pub struct NotAnInstance(String);

impl FromStr for InstanceId {
    type Err = NotAnInstance;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('@') {
            Some((component, region)) if !component.is_empty() && !region.is_empty() => {
                Ok(Self::new(component, region))
            }
            Some(_) | None => Err(NotAnInstance(text.to_owned())),
        }
    }
}

impl Serialize for InstanceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for InstanceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
