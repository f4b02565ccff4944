//! Whether a bucket holds everything that another one held: what a planned move waits for before it switches.
//!
//! Both are listed once, side by side, and what is not there is asked for until it is. What is written meanwhile is not waited
//! for: while somebody writes there is no end to that, and the replication goes on after the move. Nothing is compared by
//! ETag, which differs where a store encrypts with keys of its own: a replica has the size of its object, and is not older (S3
//! replicates the creation time as well).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::actuator::AwsActuator;
use super::classify::{Trouble, TroubleKind, call};
use super::clients::Aws;
use crate::domain::{InstanceId, RegionId};
use crate::ports::Setback;

/// Beyond this the replication is too far behind to ask for each object: the buckets are compared anew.
const MISSING_MAX: usize = 10_000;

/// By the key of the step.
pub(super) type Comparisons = Mutex<BTreeMap<String, Comparison>>;

/// Two buckets, compared as far as there was time for it.
pub(super) struct Comparison {
    source: Listing,
    replica: Listing,
    compared: u64,
    is_listed: bool,
    missing: VecDeque<Object>,
    /// So many of them were not asked for yet.
    unasked: usize,
}

struct Listing {
    region: RegionId,
    bucket: String,
    page: VecDeque<Object>,
    next: Option<String>,
    is_at_its_end: bool,
}

struct Object {
    key: String,
    size: i64,
    /// In whole seconds since 1970: a listing may know more than that, the object itself does not.
    modified: Option<i64>,
}

impl Object {
    /// A replica of `source`, or of what has been written over it since.
    fn replicates(&self, source: &Self) -> bool {
        let is_newer = self.modified > source.modified;
        is_newer || (self.size == source.size && self.modified >= source.modified)
    }
}

impl Listing {
    fn of(instance: &InstanceId, bucket: &str) -> Self {
        let (page, bucket) = (VecDeque::new(), bucket.to_owned());
        Self { region: instance.region.clone(), bucket, page, next: None, is_at_its_end: false }
    }

    /// The next object, which stays where it is.
    async fn peek(&mut self, aws: &Aws, until: Instant) -> Result<Option<&Object>, Trouble> {
        while self.page.is_empty() && !self.is_at_its_end {
            let name = format!("s3 ListObjectsV2 {}", self.bucket);
            let (clients, limit) = aws.clients(&self.region, until.saturating_duration_since(Instant::now())).await?;
            let request = clients.s3.list_objects_v2().bucket(&self.bucket).set_continuation_token(self.next.clone());
            let answer = call(&name, limit, request.send()).await?;
            self.page.extend(answer.contents().iter().filter_map(|object| {
                let (size, modified) = (object.size().unwrap_or_default(), object.last_modified().map(|at| at.secs()));
                Some(Object { key: object.key()?.to_owned(), size, modified })
            }));
            self.next = answer.next_continuation_token().map(str::to_owned);
            self.is_at_its_end = self.next.is_none();
        }
        Ok(self.page.front())
    }

    /// The object as it is now, if it is there.
    async fn head(&self, aws: &Aws, key: &str, until: Instant) -> Result<Option<Object>, Trouble> {
        let name = format!("s3 HeadObject {}/{key}", self.bucket);
        let (clients, limit) = aws.clients(&self.region, until.saturating_duration_since(Instant::now())).await?;
        match call(&name, limit, clients.s3.head_object().bucket(&self.bucket).key(key).send()).await {
            Ok(head) => {
                let (size, modified) =
                    (head.content_length().unwrap_or_default(), head.last_modified().map(|at| at.secs()));
                Ok(Some(Object { key: key.to_owned(), size, modified }))
            }
            Err(trouble) if trouble.kind == TroubleKind::NotFound => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }
}

impl Comparison {
    fn new(source: Listing, replica: Listing) -> Self {
        Self { source, replica, compared: 0, is_listed: false, missing: VecDeque::new(), unasked: 0 }
    }

    /// Goes on as far as it comes; returns whether nothing is missing.
    async fn go_on(&mut self, aws: &Aws, until: Instant) -> Result<bool, Trouble> {
        while !self.is_listed && self.missing.len() <= MISSING_MAX {
            if Instant::now() >= until {
                return Ok(false);
            }
            let Some(object) = self.source.peek(aws, until).await? else {
                self.is_listed = true;
                self.unasked = self.missing.len();
                break;
            };
            while self.replica.peek(aws, until).await?.is_some_and(|replica| replica.key < object.key) {
                self.replica.page.pop_front();
            }
            let replica = self.replica.page.front().filter(|replica| replica.key == object.key);
            let is_there = replica.is_some_and(|replica| replica.replicates(object));
            self.compared += 1;
            self.missing.extend(self.source.page.pop_front().filter(|_| !is_there));
        }
        // Each once, for a store that lists by directories does not list in the order of the keys; then no further than to the
        // first that is still missing.
        while let Some(object) = self.missing.front() {
            if Instant::now() >= until || !self.is_listed {
                return Ok(false);
            }
            let replica = self.replica.head(aws, &object.key, until).await?;
            let is_replica_of = |source: &Object| replica.as_ref().is_some_and(|replica| replica.replicates(source));
            let has_come = is_replica_of(object) || {
                // Written over since, or deleted.
                let now = self.source.head(aws, &object.key, until).await?;
                now.is_none_or(|now| is_replica_of(&now))
            };
            if has_come {
                self.missing.pop_front();
            } else if self.unasked == 0 {
                return Ok(false);
            } else {
                self.missing.rotate_left(1);
            }
            self.unasked = self.unasked.saturating_sub(1);
        }
        Ok(self.is_listed)
    }

    fn told(&self) -> String {
        let (source, replica, compared) = (&self.source.bucket, &self.replica.bucket, self.compared);
        match (self.is_listed, self.missing.front()) {
            (true, None) => format!("{replica} holds what {source} held, {compared} objects"),
            (true, Some(first)) => format!(
                "{} of {compared} objects of {source} have not arrived in {replica}, the first is {}",
                self.missing.len(),
                first.key
            ),
            (false, _) => format!(
                "{compared} objects of {source} are compared so far, {} are not in {replica}",
                self.missing.len()
            ),
        }
    }
}

impl AwsActuator {
    /// Whether everything that `source` held when it was first asked for this step is in `storage`.
    pub(super) async fn verify_replication(
        &self,
        key: &str,
        storage: &InstanceId,
        source: &InstanceId,
    ) -> Result<String, Setback> {
        let until = Instant::now() + self.aws.call_limit();
        let lock = || self.comparisons.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().remove(key);
        let mut comparison = match known {
            Some(comparison) => comparison,
            None => {
                let listing = |instance: &InstanceId| {
                    self.aws.bucket(instance).map(|(_, bucket)| Listing::of(instance, bucket)).map_err(Setback::Refused)
                };
                Comparison::new(listing(source)?, listing(storage)?)
            }
        };
        let came = comparison.go_on(&self.aws, until).await;
        let told = comparison.told();
        if matches!(came, Ok(true)) {
            return Ok(told);
        }
        if comparison.missing.len() <= MISSING_MAX {
            lock().insert(key.to_owned(), comparison);
        }
        came.map_err(Trouble::setback)?;
        Err(Setback::NotYet(told))
    }
}
