//! Where the ledger is, and whether its lease fits the rest.

use std::time::Duration;

use super::daemon::positive;
use super::{Findings, names};
use crate::config::schema::{Api, EtcdLedger, S3Ledger};
use crate::config::{Config, Key};
use crate::domain::time::human;

/// A fifth of a lease is kept in reserve, and has to cover one election timeout of etcd, 1 s by default: for so long a
/// deposed etcd leader may go on prolonging leases.
const LEASE_MIN: Duration = Duration::from_secs(5);
/// Longer, and a takeover alone takes a third of the fifteen minutes.
const LEASE_MAX: Duration = Duration::from_secs(300);

/// Looks at the bucket within `api.self_fence_after`.
const LOOKS_PER_ROLE: u32 = 3;

pub(super) fn check(config: &Config, findings: &mut Findings<'_>) {
    let ledger = &config.ledger;
    positive(findings, Key::of(["ledger", "call_timeout"]), ledger.call_timeout);
    if ledger.permit <= ledger.call_timeout {
        let text = format!(
            "a permit of {} would run out under a call of up to {}; write a permit longer than ledger.call_timeout",
            human(ledger.permit),
            human(ledger.call_timeout)
        );
        findings.wrong(Key::of(["ledger", "permit"]), text);
    }
    if ledger.path.as_os_str().is_empty() {
        findings.wrong(Key::of(["ledger", "path"]), "empty; write the file of the ledger");
    }
    if ledger.stop_file.as_os_str().is_empty() {
        findings.wrong(Key::of(["ledger", "stop_file"]), "empty; write the path of a file that is normally not there");
    } else if ledger.path == ledger.stop_file {
        findings.wrong(Key::of(["ledger", "stop_file"]), "the same as ledger.path; write another path");
    }
    if ledger.etcd.is_some() && ledger.s3.is_some() {
        let text = "a second ledger besides [ledger.etcd]; only one can be the authority, take one of the two out";
        findings.wrong(Key::of(["ledger", "s3"]), text);
    }
    if let Some(etcd) = &ledger.etcd {
        check_etcd(etcd, findings);
    }
    if let Some(s3) = &ledger.s3 {
        check_s3(s3, findings);
        check_roles(&config.api, s3, findings);
        let council = &config.council;
        if council.observers.len() > 1 && council.ballot_fresh < 2 * s3.poll {
            let text = format!(
                "the others are read from the bucket every {} (ledger.s3.poll): what they say would be stale before it is read \
                 again; write {} or more, or a shorter ledger.s3.poll",
                human(s3.poll),
                human(2 * s3.poll)
            );
            findings.wrong(Key::of(["council", "ballot_fresh"]), text);
        }
    }
}

fn check_etcd(etcd: &EtcdLedger, findings: &mut Findings<'_>) {
    let key = Key::of(["ledger", "etcd"]);
    let endpoints = key.child("endpoints");
    if etcd.endpoints.is_empty() {
        findings.wrong(endpoints.clone(), "empty; write the client URLs of the members");
    }
    for (n, endpoint) in etcd.endpoints.iter().enumerate() {
        if let Some(wrong) = names::url(endpoint) {
            findings.wrong(endpoints.index(n), wrong);
        }
    }
    let secure = etcd.endpoints.iter().filter(|endpoint| endpoint.starts_with("https://")).count();
    if secure != 0 && secure != etcd.endpoints.len() {
        findings.wrong(endpoints.clone(), "some are http and some https; a cluster is one or the other");
    }
    if secure == 0 && etcd.password.is_some() {
        findings.warn(endpoints.clone(), "the password crosses the network in clear; use https");
    }
    for (name, file) in [("ca_file", &etcd.ca_file), ("cert_file", &etcd.cert_file), ("key_file", &etcd.key_file)] {
        if secure == 0 && file.is_some() {
            findings.wrong(key.child(name), "the endpoints are http, where no certificate is used; write https://…");
        }
    }
    match (&etcd.cert_file, &etcd.key_file) {
        (Some(_), None) => findings.wrong(key.child("cert_file"), "a certificate without its key; add key_file"),
        (None, Some(_)) => findings.wrong(key.child("key_file"), "a key without its certificate; add cert_file"),
        (Some(_), Some(_)) | (None, None) => {}
    }
    match (&etcd.user, &etcd.password) {
        (Some(_), None) => findings.wrong(key.child("user"), "a user without a password; add password"),
        (None, Some(_)) => findings.wrong(key.child("password"), "a password without a user; add user"),
        (Some(_), Some(_)) | (None, None) => {}
    }
    if etcd.endpoints.len() < 3 {
        let text = "fewer than three members: losing one may leave nobody who can act";
        findings.warn(endpoints, text);
    }
    if etcd.lease.subsec_nanos() != 0 {
        findings.wrong(key.child("lease"), "etcd counts in whole seconds; write for example \"10s\"");
    }
    lease(findings, &key.child("lease"), etcd.lease, LEASE_MIN);
}

fn check_s3(s3: &S3Ledger, findings: &mut Findings<'_>) {
    let key = Key::of(["ledger", "s3"]);
    for (name, text) in [("bucket", &s3.bucket), ("region", &s3.region)] {
        if text.is_empty() {
            findings.wrong(key.child(name), format!("empty; write the {name} of the ledger"));
        }
    }
    if let Some(wrong) = s3.endpoint.as_deref().and_then(names::url) {
        findings.wrong(key.child("endpoint"), wrong);
    }
    positive(findings, key.child("poll"), s3.poll);
    // A leader is seen to be alive, and renews, several times within its lease.
    lease(findings, &key.child("lease"), s3.lease, (s3.poll * 4).max(LEASE_MIN));
}

/// Who follows confirms its roles once per look at the bucket, and no role may end between two of them, even where one of
/// them is late or lost.
fn check_roles(api: &Api, s3: &S3Ledger, findings: &mut Findings<'_>) {
    let least = s3.poll * LOOKS_PER_ROLE;
    if api.role_listen.is_some() && api.self_fence_after < least {
        let text = format!(
            "roles would end between two looks at the bucket, every {} (ledger.s3.poll); write {} or more, or a \
             ledger.s3.poll of {} or less",
            human(s3.poll),
            human(least),
            human(api.self_fence_after / LOOKS_PER_ROLE)
        );
        findings.wrong(Key::of(["api", "self_fence_after"]), text);
    }
}

fn lease(findings: &mut Findings<'_>, key: &Key, lease: Duration, least: Duration) {
    if lease < least {
        let text = format!("{} is too short to be renewed in time; write {} or more", human(lease), human(least));
        findings.wrong(key.clone(), text);
    }
    if lease > LEASE_MAX {
        let text = format!("{} without anybody who acts is too long; write 5m or less", human(lease));
        findings.wrong(key.clone(), text);
    }
}
