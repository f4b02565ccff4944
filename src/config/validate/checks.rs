//! The checks of the end state.

use super::{Findings, names};
use crate::config::schema::{Check, CommandCheck, HttpCheck, SqlCheck};
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
        if let Some(command) = &check.command {
            command_check(&key.child("command"), command, findings);
        }
    }
}

fn exactly_one_kind(key: &Key, check: &Check, findings: &mut Findings<'_>) {
    let kinds = [
        ("http", check.http.is_some()),
        ("sql", check.sql.is_some()),
        ("pods", check.pods.is_some()),
        ("command", check.command.is_some()),
    ];
    let given: Vec<&str> = kinds.iter().filter(|(_, given)| *given).map(|(kind, _)| *kind).collect();
    match given.as_slice() {
        [_] => {}
        [] => findings.wrong(key.clone(), "checks nothing; write exactly one of http, sql, pods and command"),
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

fn sql_check(config: &Config, key: &Key, sql: &SqlCheck, findings: &mut Findings<'_>) {
    if !config.databases.contains_key(&sql.database) {
        let text = format!("`{}` is not a database; write the name of one of [databases]", sql.database);
        findings.wrong(key.child("database"), text);
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
