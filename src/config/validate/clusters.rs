//! Kubernetes clusters, their workloads, and what is published into them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Findings, names};
use crate::config::mistake::did_you_mean;
use crate::config::schema::{Cluster, ClusterRegion};
use crate::config::{Config, Key};
use crate::domain::{Kind, ObjectKind, Publication, PublishedValue, RegionId};

pub(super) fn check(config: &Config, findings: &mut Findings<'_>) {
    for (id, cluster) in &config.clusters {
        let key = Key::of(["clusters", id.as_str()]);
        if let Some(wrong) = names::kubernetes(&cluster.namespace) {
            findings.wrong(key.child("namespace"), wrong);
        }
        workloads(&key, cluster, findings);
        for (region, access) in &cluster.regions {
            reach(&key.child("regions").child(region.as_str()), access, findings);
        }
        same_cluster_twice(&key, cluster, findings);
        for name in cluster.after_failover.keys() {
            if let Some(wrong) = names::kubernetes(name) {
                findings.wrong(key.child("after_failover").child(name), wrong);
            }
        }
    }
    publications(config, findings);
}

fn workloads(key: &Key, cluster: &Cluster, findings: &mut Findings<'_>) {
    let mut seen = BTreeSet::new();
    for (n, workload) in cluster.workloads.iter().enumerate() {
        let key = key.child("workloads").index(n);
        if let Some(wrong) = names::kubernetes(&workload.name) {
            findings.wrong(key.child("name"), wrong);
        }
        if !seen.insert((workload.kind, &workload.name)) {
            findings.wrong(key.child("name"), format!("`{}` is listed twice; leave one out", workload.name));
        }
        if workload.active == 0 {
            findings.wrong(key.child("active"), "0 replicas serve nobody; write how many run where it serves");
        } else if workload.standby > workload.active {
            let text = format!(
                "{} replicas would wait and only {} would serve; write at most the latter",
                workload.standby, workload.active
            );
            findings.wrong(key.child("standby"), text);
        }
    }
    if cluster.workloads.is_empty() {
        findings.warn(key.child("workloads"), "no workloads: activating this cluster scales nothing up");
    }
}

/// A cluster is reached in one of three ways; a mixture would silently use one of them.
fn reach(key: &Key, access: &ClusterRegion, findings: &mut Findings<'_>) {
    let ClusterRegion { kubeconfig, context, server, ca_file, token } = access;
    if kubeconfig.is_some() && server.is_some() {
        findings.wrong(key.child("server"), "there is a kubeconfig as well; write one of the two");
    }
    if kubeconfig.is_none() && context.is_some() {
        findings.wrong(key.child("context"), "a context belongs to a kubeconfig; write kubeconfig = \"/path\" as well");
    }
    if server.is_none() && token.is_some() {
        findings.wrong(key.child("token"), "a token belongs to a server; write server = \"https://…\" as well");
    }
    if server.is_none() && ca_file.is_some() {
        findings.wrong(key.child("ca_file"), "a CA file belongs to a server; write server = \"https://…\" as well");
    }
    if let Some(server) = server {
        if let Some(wrong) = names::url(server) {
            findings.wrong(key.child("server"), wrong);
        } else if server.starts_with("http://") && token.is_some() && !names::is_loopback(names::host_of(server)) {
            findings.warn(key.child("server"), "the token is sent in the clear; write https://");
        }
    }
}

/// Two regions that are one cluster: a failover would "activate" what has just failed.
fn same_cluster_twice(key: &Key, cluster: &Cluster, findings: &mut Findings<'_>) {
    let mut seen: BTreeMap<String, &RegionId> = BTreeMap::new();
    for (region, access) in &cluster.regions {
        let key = key.child("regions").child(region.as_str());
        let (identity, what) = match (&access.kubeconfig, &access.server) {
            (Some(path), _) => {
                let context = access.context.clone().unwrap_or_default();
                (format!("{}#{context}", path.display()), "the same kubeconfig and context as")
            }
            (None, Some(server)) => (server.trim_end_matches('/').to_owned(), "the same server as"),
            (None, None) => (String::new(), "no kubeconfig and no server means the pod's own cluster, as for"),
        };
        if let Some(other) = seen.insert(identity, region) {
            findings.wrong(key, format!("{what} {other}; two regions cannot be one cluster"));
        }
    }
}

/// Everything that says where the serving instance is.
fn publications(config: &Config, findings: &mut Findings<'_>) {
    let databases =
        config.databases.iter().map(|(id, c)| (Key::of(["databases", id.as_str()]), Kind::Database, &c.publish));
    let caches = config.caches.iter().map(|(id, c)| (Key::of(["caches", id.as_str()]), Kind::Cache, &c.publish));
    let buckets = config.buckets.iter().map(|(id, c)| (Key::of(["buckets", id.as_str()]), Kind::Storage, &c.publish));
    let workloads: BTreeSet<&str> = config
        .clusters
        .values()
        .flat_map(|cluster| cluster.workloads.iter().map(|workload| workload.name.as_str()))
        .collect();
    let mut seen: BTreeMap<(ObjectKind, &str, &str), Key> = BTreeMap::new();
    for (component, kind, publish) in databases.chain(caches).chain(buckets) {
        for (n, publication) in publish.iter().enumerate() {
            let key = component.child("publish").index(n);
            one_publication(config, &workloads, kind, &key, publication, findings);
            let target = (publication.object, publication.name.as_str(), publication.key.as_str());
            if let Some(first) = seen.insert(target, key.clone()) {
                let text =
                    format!("{first} writes the same key of the same object; write another key or leave one out");
                findings.wrong(key, text);
            }
        }
    }
}

fn one_publication(
    config: &Config,
    workloads: &BTreeSet<&str>,
    kind: Kind,
    key: &Key,
    publication: &Publication,
    findings: &mut Findings<'_>,
) {
    if config.clusters.is_empty() {
        findings.wrong(key.clone(), "there is no cluster to publish it in; write [clusters.NAME], or leave it out");
    }
    if let Some(wrong) = names::kubernetes(&publication.name) {
        findings.wrong(key.child("name"), wrong);
    }
    let good =
        !publication.key.is_empty() && publication.key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if !good {
        let text =
            format!("`{}` is not a key of a Secret or ConfigMap; use letters, digits, `-`, `_`, `.`", publication.key);
        findings.wrong(key.child("key"), text);
    }
    let fits = match publication.value {
        PublishedValue::Host | PublishedValue::Port => kind != Kind::Storage,
        PublishedValue::Bucket => kind == Kind::Storage,
        PublishedValue::Region => true,
    };
    if !fits {
        let choices =
            if kind == Kind::Storage { "\"bucket\" or \"region\"" } else { "\"host\", \"port\" or \"region\"" };
        findings.wrong(key.child("value"), format!("a {kind} has no such property; write {choices}"));
    }
    for workload in publication.restart.iter().filter(|workload| !workloads.contains(workload.as_str())) {
        let hint = match did_you_mean(workload, workloads.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "write a name from the workloads of a cluster".to_owned(),
        };
        findings.wrong(key.child("restart"), format!("`{workload}` is not a workload; {hint}"));
    }
}
