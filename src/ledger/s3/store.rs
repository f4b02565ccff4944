//! The bucket: conditional writes, reads and listings, each with its time limit and without retries of the SDK's own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;

use crate::adapters::aws::{Keyring, Trouble, TroubleKind, bucket_client, call};
use crate::config::schema::S3Ledger;
use crate::ledger::codec::FRAME_BYTES_MAX;
use crate::ports::Unusable;

/// A write that the store has no answer to because of another one at the same moment did nothing, and is sent again.
const CONFLICTS_MAX: u32 = 5;
const CONFLICT_PAUSE: Duration = Duration::from_millis(50);
/// Longest object: a frame with what stands around it.
const OBJECT_BYTES_MAX: i64 = FRAME_BYTES_MAX as i64 + 4096;
/// Listings of more pages than this are no ledger's.
const PAGES_MAX: usize = 1000;

/// See the module.
pub(super) struct Store {
    client: Client,
    keyring: Arc<Keyring>,
    bucket: String,
    root: String,
    pub(super) limit: Duration,
}

/// When a write may replace what is there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Condition<'a> {
    /// Nothing may be there.
    Absent,
    /// It has to be the object with this tag.
    Is(&'a str),
    /// Whatever is there.
    Any,
}

/// What became of a conditional write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Written {
    /// It is there, with this tag.
    Done(String),
    /// The condition did not hold, and nothing was written.
    Beaten,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) key: String,
    pub(super) tag: String,
}

impl Store {
    pub(super) fn new(settings: &S3Ledger, deployment: &str, nameservers: &[SocketAddr]) -> Result<Self, String> {
        let limit = (settings.lease / 5).clamp(Duration::from_secs(1), Duration::from_secs(5));
        let (client, keyring) = bucket_client(settings, nameservers, limit / 2)?;
        let prefix = &settings.prefix;
        let slash = if prefix.is_empty() || prefix.ends_with('/') { "" } else { "/" };
        let root = format!("{prefix}{slash}{deployment}/");
        Ok(Self { client, keyring, bucket: settings.bucket.clone(), root, limit })
    }

    /// For people.
    pub(super) fn place(&self) -> String {
        format!("in s3://{}/{}", self.bucket, self.root)
    }

    pub(super) async fn get(&self, key: &str) -> Result<Option<(Vec<u8>, String)>, Trouble> {
        let name = self.name("GetObject", key);
        self.ready().await?;
        let request = self.client.get_object().bucket(&self.bucket).key(format!("{}{key}", self.root));
        let answer = match call(&name, self.limit, request.send()).await {
            Ok(answer) => answer,
            Err(trouble) if is_no_key(&trouble) => return Ok(None),
            Err(trouble) => return Err(trouble),
        };
        if answer.content_length().is_some_and(|length| length > OBJECT_BYTES_MAX) {
            return Err(Trouble::unreadable(name, "the object is longer than anything of ours"));
        }
        let tag = tag(answer.e_tag());
        match tokio::time::timeout(self.limit, answer.body.collect()).await {
            Ok(Ok(body)) => Ok(Some((body.to_vec(), tag))),
            Ok(Err(error)) => Err(Trouble { call: name, kind: TroubleKind::NoAnswer, why: error.to_string() }),
            Err(_) => Err(Trouble { call: name, kind: TroubleKind::NoAnswer, why: "the answer does not end".into() }),
        }
    }

    /// Whether the bucket answers anything at all: what it said, or what was seen instead. That it has a problem of its own
    /// is no answer that anybody could work with.
    pub(super) async fn answers(&self) -> Result<String, String> {
        match self.list("live/", None, true).await {
            Ok(_) => Ok("it can be read".to_owned()),
            Err(trouble) => match trouble.kind {
                TroubleKind::Own | TroubleKind::Network(_) | TroubleKind::NoAnswer | TroubleKind::Broken => {
                    Err(trouble.to_string())
                }
                TroubleKind::CredentialRefused
                | TroubleKind::NotFound
                | TroubleKind::Refused
                | TroubleKind::Throttled
                | TroubleKind::State
                | TroubleKind::Overtaken
                | TroubleKind::Unreadable => Ok(format!("it answers: {trouble}")),
            },
        }
    }

    pub(super) async fn put(&self, key: &str, body: &[u8], condition: Condition<'_>) -> Result<Written, Trouble> {
        let name = self.name("PutObject", key);
        self.ready().await?;
        let mut conflicts = 0;
        loop {
            let request = self
                .client
                .put_object()
                .bucket(&self.bucket)
                .key(format!("{}{key}", self.root))
                .content_type("text/plain")
                .body(ByteStream::from(body.to_vec()));
            let request = match condition {
                Condition::Absent => request.if_none_match("*"),
                Condition::Is(tag) => request.if_match(format!("\"{tag}\"")),
                Condition::Any => request,
            };
            match call(&name, self.limit, request.send()).await {
                Ok(answer) => return Ok(Written::Done(tag(answer.e_tag()))),
                Err(trouble) if is_conflict(&trouble) && conflicts < CONFLICTS_MAX => {
                    conflicts += 1;
                    tokio::time::sleep(CONFLICT_PAUSE * conflicts).await;
                }
                Err(trouble) if is_conflict(&trouble) => return Err(trouble),
                Err(trouble) if trouble.kind == TroubleKind::Overtaken => return Ok(Written::Beaten),
                // What was to be replaced is not there any more.
                Err(trouble) if is_no_key(&trouble) && matches!(condition, Condition::Is(_)) => {
                    return Ok(Written::Beaten);
                }
                Err(trouble) => return Err(trouble),
            }
        }
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), Trouble> {
        let name = self.name("DeleteObject", key);
        self.ready().await?;
        let request = self.client.delete_object().bucket(&self.bucket).key(format!("{}{key}", self.root));
        call(&name, self.limit, request.send()).await.map(drop)
    }

    /// What is below `prefix` and behind `after`, in order, without our own root; only the first one where `first`.
    pub(super) async fn list(&self, prefix: &str, after: Option<&str>, first: bool) -> Result<Vec<Listed>, Trouble> {
        let name = self.name("ListObjectsV2", prefix);
        self.ready().await?;
        let mut found = vec![];
        let mut token = None;
        for _ in 0..PAGES_MAX {
            let request = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(format!("{}{prefix}", self.root))
                .set_start_after(after.map(|after| format!("{}{after}", self.root)))
                .set_max_keys(first.then_some(1))
                .set_continuation_token(token.take());
            let answer = call(&name, self.limit, request.send()).await?;
            if answer.name().is_none_or(str::is_empty) {
                return Err(Trouble::unreadable(name, "the answer is no listing"));
            }
            for object in answer.contents() {
                if let Some(key) = object.key().and_then(|key| key.strip_prefix(&self.root)) {
                    found.push(Listed { key: key.to_owned(), tag: tag(object.e_tag()) });
                }
            }
            token = answer.next_continuation_token().map(str::to_owned);
            if token.is_none() || (first && !found.is_empty()) {
                return Ok(found);
            }
        }
        Err(Trouble::unreadable(name, "there are too many objects"))
    }

    async fn ready(&self) -> Result<(), Trouble> {
        self.keyring.ready(self.limit).await.map_err(|why| Trouble::own(self.place(), why))
    }

    fn name(&self, what: &str, key: &str) -> String {
        format!("s3 {what} {}/{}{key}", self.bucket, self.root)
    }
}

/// Without the quotes, which not every store uses in every answer.
fn tag(tag: Option<&str>) -> String {
    tag.unwrap_or_default().trim_matches('"').to_owned()
}

fn is_no_key(trouble: &Trouble) -> bool {
    trouble.kind == TroubleKind::NotFound && !trouble.why.starts_with("NoSuchBucket")
}

/// Not done, because something else was done to the key at that moment.
fn is_conflict(trouble: &Trouble) -> bool {
    trouble.kind == TroubleKind::Overtaken
        && ["ConditionalRequestConflict", "OperationAborted", "HTTP 409"].iter().any(|why| trouble.why.starts_with(why))
}

/// What it means for whoever asked the ledger.
pub(super) fn unusable(trouble: &Trouble) -> Unusable {
    let text = trouble.to_string();
    match trouble.kind {
        TroubleKind::CredentialRefused | TroubleKind::NotFound | TroubleKind::Refused => Unusable::Refused(text),
        TroubleKind::Own
        | TroubleKind::Network(_)
        | TroubleKind::NoAnswer
        | TroubleKind::Throttled
        | TroubleKind::Broken
        | TroubleKind::State
        | TroubleKind::Overtaken
        | TroubleKind::Unreadable => Unusable::Unavailable(text),
    }
}
