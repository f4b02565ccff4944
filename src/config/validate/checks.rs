//! The checks of the end state.

use super::{Findings, names};
use crate::config::schema::{Check, CommandCheck, DnsCheck, HttpCheck, PrometheusCheck, SqlCheck, WorkloadsCheck};
use crate::config::{Config, Key};
use crate::domain::ComponentId;

/// Sending these twice is the same as sending them once (RFC 9110, 9.2).
const SAFE_METHODS: [&str; 3] = ["GET", "HEAD", "OPTIONS"];
const OTHER_METHODS: [&str; 4] = ["POST", "PUT", "PATCH", "DELETE"];

pub(super) fn check(config: &Config, findings: &mut Findings<'_>) {
    for (name, check) in &config.checks {
        let key = Key::of(["checks", name.as_str()]);
        if let Some(wrong) = names::id(name) {
            findings.wrong(key.clone(), wrong);
        }
        exactly_one_kind(&key, check, findings);
        for component in check.after.iter().filter(|component| !is_component(config, component)) {
            findings.wrong(key.child("after"), format!("`{component}` is not a component; write the name of one"));
        }
        if let Some(http) = &check.http {
            http_check(config, &key.child("http"), http, findings);
        }
        if let Some(prometheus) = &check.prometheus {
            prometheus_check(&key.child("prometheus"), prometheus, findings);
        }
        if let Some(sql) = &check.sql {
            sql_check(config, &key.child("sql"), sql, findings);
        }
        if let Some(pods) = &check.pods {
            if !config.clusters.contains_key(&pods.cluster) {
                let text = format!("`{}` is not a cluster; write the name of one of [clusters]", pods.cluster);
                findings.wrong(key.child("pods").child("cluster"), text);
            }
            if pods.running_min == 0 {
                findings.wrong(key.child("pods").child("running_min"), "0 proves nothing; write 1 or more");
            }
        }
        if let Some(workloads) = &check.workloads {
            workloads_check(config, &key.child("workloads").child("cluster"), workloads, findings);
        }
        if let Some(canary) = &check.canary
            && !config.databases.contains_key(&canary.component)
            && !config.caches.contains_key(&canary.component)
        {
            let text = format!("`{}` is neither a database nor a cache; write the name of one", canary.component);
            findings.wrong(key.child("canary").child("component"), text);
        }
        if let Some(dns) = &check.dns {
            dns_check(config, &key.child("dns"), dns, findings);
        }
        if let Some(command) = &check.command {
            command_check(&key.child("command"), command, findings);
        }
    }
}

fn exactly_one_kind(key: &Key, check: &Check, findings: &mut Findings<'_>) {
    let kinds = [
        ("http", check.http.is_some()),
        ("prometheus", check.prometheus.is_some()),
        ("sql", check.sql.is_some()),
        ("pods", check.pods.is_some()),
        ("workloads", check.workloads.is_some()),
        ("canary", check.canary.is_some()),
        ("dns", check.dns.is_some()),
        ("command", check.command.is_some()),
    ];
    let given: Vec<&str> = kinds.iter().filter(|(_, given)| *given).map(|(kind, _)| *kind).collect();
    match given.as_slice() {
        [_] => {}
        [] => findings.wrong(
            key.clone(),
            "checks nothing; write exactly one of http, prometheus, sql, pods, workloads, canary, dns and command",
        ),
        _ => {
            let text = format!(
                "has {}; write exactly one of them, and a check of its own for each other",
                given.join(" and ")
            );
            findings.wrong(key.clone(), text);
        }
    }
}

fn http_check(config: &Config, key: &Key, http: &HttpCheck, findings: &mut Findings<'_>) {
    if let Some(wrong) = names::url(&http.url.replace("{region}", "region")) {
        findings.wrong(key.child("url"), wrong);
    }
    if !(100..=599).contains(&http.status) {
        findings.wrong(key.child("status"), "not an HTTP status; write 100 to 599");
    }
    if http.latency_max.is_some_and(|limit| limit.is_zero()) {
        findings.wrong(key.child("latency_max"), "0 s: no answer is that fast; write the longest one that is good");
    }
    for pointer in http.answer.keys().filter(|pointer| !(pointer.is_empty() || pointer.starts_with('/'))) {
        let text = format!("`{pointer}` is no JSON pointer; write /{pointer}");
        findings.wrong(key.child("answer").child(pointer), text);
    }
    let (plain, secret) = (http.headers.keys(), http.secret_headers.keys());
    for (part, name) in plain.map(|name| ("headers", name)).chain(secret.map(|name| ("secret_headers", name))) {
        if reqwest::header::HeaderName::try_from(name.as_str()).is_err() {
            findings.wrong(key.child(part).child(name), format!("`{name}` is not the name of a header"));
        }
        if part == "secret_headers" && http.headers.contains_key(name) {
            findings.wrong(key.child(part).child(name), "is among headers as well; write it once");
        }
    }
    let credentials = ["authorization", "cookie", "proxy-authorization", "x-api-key"];
    for name in http.headers.keys().filter(|name| credentials.contains(&name.to_ascii_lowercase().as_str())) {
        let text = "would be a secret in the configuration; move it to secret_headers, as { env = \"NAME\" } or { file = \"/path\" }";
        findings.wrong(key.child("headers").child(name), text);
    }
    let method = http.method.as_deref().unwrap_or("GET");
    if OTHER_METHODS.contains(&method) {
        if !http.repeatable {
            let text = format!(
                "a check may run again after a restart, and {method} changes something; write repeatable = true if a \
                 second one does no harm, or leave the check out"
            );
            findings.wrong(key.child("repeatable"), text);
        }
    } else if !SAFE_METHODS.contains(&method) {
        let text = format!("`{method}` is not a method; write GET, HEAD, OPTIONS, POST, PUT, PATCH or DELETE");
        findings.wrong(key.child("method"), text);
    }
    for region in http.connect_to.keys().filter(|region| !config.regions.contains_key(*region)) {
        let text = super::topology::undefined_region(config, region);
        findings.wrong(key.child("connect_to").child(region.as_str()), text);
    }
}

fn prometheus_check(key: &Key, check: &PrometheusCheck, findings: &mut Findings<'_>) {
    if let Some(wrong) = names::url(&check.url.replace("{region}", "region")) {
        findings.wrong(key.child("url"), wrong);
    }
    if check.query.trim().is_empty() {
        findings.wrong(key.child("query"), "empty; write a PromQL expression that answers numbers of this moment");
    }
    match (check.min, check.max) {
        (None, None) => findings.wrong(key.clone(), "expects nothing; write max, min or both"),
        (Some(min), Some(max)) if min > max => {
            findings.wrong(key.child("min"), format!("above max ({max}): nothing is both; write a range"));
        }
        (Some(_) | None, Some(_) | None) => {}
    }
    for name in check.secret_headers.keys() {
        if reqwest::header::HeaderName::try_from(name.as_str()).is_err() {
            findings.wrong(key.child("secret_headers").child(name), format!("`{name}` is not the name of a header"));
        }
    }
}

fn workloads_check(config: &Config, key: &Key, workloads: &WorkloadsCheck, findings: &mut Findings<'_>) {
    match config.clusters.get(&workloads.cluster) {
        None => {
            let text = format!("`{}` is not a cluster; write the name of one of [clusters]", workloads.cluster);
            findings.wrong(key.clone(), text);
        }
        Some(cluster) if cluster.workloads.is_empty() => {
            let text = format!(
                "{} has no workloads, so nothing is proven; name them, or leave the check out",
                workloads.cluster
            );
            findings.wrong(key.clone(), text);
        }
        Some(_) => {}
    }
}

fn dns_check(config: &Config, key: &Key, dns: &DnsCheck, findings: &mut Findings<'_>) {
    let traffic = dns.traffic.as_ref().map(|traffic| (traffic, config.traffic.get(traffic)));
    if let Some((traffic, None)) = traffic {
        let text = format!("`{traffic}` is no traffic component; write the name of one of [traffic]");
        findings.wrong(key.child("traffic"), text);
    }
    match (traffic, &dns.record) {
        (None, None) => findings.wrong(key.clone(), "names no record; write traffic or record"),
        (Some(_), Some(_)) => findings.wrong(key.child("record"), "traffic names it already; write one of them"),
        (Some(_), None) | (None, Some(_)) => {}
    }
    for region in dns.addresses.keys().filter(|region| !config.regions.contains_key(*region)) {
        let text = super::topology::undefined_region(config, region);
        findings.wrong(key.child("addresses").child(region.as_str()), text);
    }
    if dns.record.is_some() && dns.addresses.is_empty() {
        findings.wrong(key.child("addresses"), "none, so nothing is expected; write the addresses by region");
    }
    // An alias has none of its own.
    let values = traffic.and_then(|(_, traffic)| traffic).into_iter().flat_map(|traffic| &traffic.regions);
    let aliases = values
        .filter(|(region, at)| !dns.addresses.contains_key(*region) && at.value.parse::<std::net::Ipv4Addr>().is_err());
    for (region, _) in aliases {
        let text = format!("none for {region}, whose record has no address as its value; write what it resolves to");
        findings.wrong(key.child("addresses"), text);
    }
}

fn sql_check(config: &Config, key: &Key, sql: &SqlCheck, findings: &mut Findings<'_>) {
    if !config.databases.contains_key(&sql.database) {
        let text = format!("`{}` is not a database; write the name of one of [databases]", sql.database);
        findings.wrong(key.child("database"), text);
    }
    let is_number = sql.min.is_some() || sql.max.is_some();
    if usize::from(sql.equals.is_some()) + usize::from(is_number) + usize::from(sql.newest_within.is_some()) > 1 {
        findings.wrong(
            key.clone(),
            "expects a text, a number and a time at once; write one of equals, min with max, newest_within",
        );
    }
    if let (Some(min), Some(max)) = (sql.min, sql.max)
        && min > max
    {
        findings.wrong(key.child("min"), format!("above max ({max}): nothing is both; write a range"));
    }
    if sql.newest_within.is_some_and(|within| within.is_zero()) {
        findings.wrong(key.child("newest_within"), "0 s: nothing is that new; write how old the newest row may be");
    }
    let query = sql.query.trim();
    let reads = ["select", "with", "table", "values", "show"];
    let first = query.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default().to_ascii_lowercase();
    if !reads.contains(&first.as_str()) || query.trim_end_matches(';').contains(';') {
        findings.wrong(key.child("query"), "not one query that reads; write a single SELECT");
    }
}

fn command_check(key: &Key, command: &CommandCheck, findings: &mut Findings<'_>) {
    if command.argv.first().is_none_or(String::is_empty) {
        findings.wrong(key.child("argv"), "empty; write the program and its arguments: [\"/path/to/it\", \"--flag\"]");
    }
    if !command.repeatable {
        let text = "false; a check may run again after a restart, so a command has to be repeatable: make it so and \
                    write true, or leave the check out";
        findings.wrong(key.child("repeatable"), text);
    }
}

fn is_component(config: &Config, id: &ComponentId) -> bool {
    super::parts_of(config).iter().any(|part| part.id == id)
}
