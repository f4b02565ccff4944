//! The files that a configuration names: where they are, once relative paths are relative to the file they stand in.

use std::path::PathBuf;

use super::layers::Places;
use super::mistake::Key;
use super::{Config, SecretSource};

/// Makes relative paths relative to the folder of the file that they are written in, so that a configuration can be
/// checked and run from anywhere. Paths from the environment stay relative to the working directory.
pub(super) fn resolve(config: &mut Config, places: &Places) {
    each_file(config, &mut |key, path| {
        if path.is_relative() {
            *path = places.folder_of(&key).join(&*path);
        }
    });
}

/// Visits every path in the configuration, with its key.
pub(super) fn each_file(config: &mut Config, visit: &mut dyn FnMut(Key, &mut PathBuf)) {
    visit(Key::of(["ledger", "path"]), &mut config.ledger.path);
    visit(Key::of(["ledger", "stop_file"]), &mut config.ledger.stop_file);
    let key = Key::of(["ledger"]);
    let etcd = config.ledger.etcd.as_mut();
    let etcd = etcd.map(|etcd| {
        [("ca_file", &mut etcd.ca_file), ("cert_file", &mut etcd.cert_file), ("key_file", &mut etcd.key_file)]
    });
    for (name, path) in etcd.into_iter().flatten() {
        if let Some(path) = path {
            visit(key.child("etcd").child(name), path);
        }
    }
    if let Some(path) = config.ledger.s3.as_mut().and_then(|s3| s3.ca_file.as_mut()) {
        visit(key.child("s3").child("ca_file"), path);
    }
    for (name, region) in &mut config.regions {
        if let Some(path) = &mut region.ca_file {
            visit(Key::of(["regions", name.as_str(), "ca_file"]), path);
        }
    }
    for (name, cluster) in &mut config.clusters {
        let key = Key::of(["clusters", name.as_str()]);
        for (n, path) in cluster.manifests.iter_mut().enumerate() {
            visit(key.child("manifests").index(n), path);
        }
        for (region, access) in &mut cluster.regions {
            let key = key.child("regions").child(region.as_str());
            if let Some(path) = &mut access.kubeconfig {
                visit(key.child("kubeconfig"), path);
            }
            if let Some(path) = &mut access.ca_file {
                visit(key.child("ca_file"), path);
            }
        }
    }
    each_secret(config, &mut |key, secret| {
        if let SecretSource::File { file } = secret {
            visit(key.child("file"), file);
        }
    });
}

/// Visits every secret in the configuration, with its key.
pub(super) fn each_secret(config: &mut Config, visit: &mut dyn FnMut(Key, &mut SecretSource)) {
    if let Some(token) = &mut config.api.token {
        visit(Key::of(["api", "token"]), token);
    }
    let key = Key::of(["ledger"]);
    if let Some(password) = config.ledger.etcd.as_mut().and_then(|etcd| etcd.password.as_mut()) {
        visit(key.child("etcd").child("password"), password);
    }
    if let Some(credentials) = config.ledger.s3.as_mut().and_then(|s3| s3.credentials.as_mut()) {
        let key = key.child("s3").child("credentials");
        visit(key.child("access_key"), &mut credentials.access_key);
        visit(key.child("secret_key"), &mut credentials.secret_key);
    }
    if let Some(url) = &mut config.heartbeat.url {
        visit(Key::of(["heartbeat", "url"]), url);
    }
    for (name, region) in &mut config.regions {
        if let Some(credentials) = &mut region.credentials {
            let key = Key::of(["regions", name.as_str(), "credentials"]);
            visit(key.child("access_key"), &mut credentials.access_key);
            visit(key.child("secret_key"), &mut credentials.secret_key);
        }
    }
    for (name, cluster) in &mut config.clusters {
        for (region, access) in &mut cluster.regions {
            if let Some(token) = &mut access.token {
                visit(Key::of(["clusters", name.as_str(), "regions", region.as_str(), "token"]), token);
            }
        }
    }
    for (name, database) in &mut config.databases {
        let key = Key::of(["databases", name.as_str()]);
        if let Some(password) = &mut database.password {
            visit(key.child("password"), password);
        }
        if let Some(proof) = database.fence.as_mut().and_then(|fence| fence.prove_as.as_mut()) {
            visit(key.child("fence").child("prove_as").child("password"), &mut proof.password);
        }
    }
    for (name, cache) in &mut config.caches {
        if let Some(password) = &mut cache.password {
            visit(Key::of(["caches", name.as_str(), "password"]), password);
        }
    }
    for (name, check) in &mut config.checks {
        let key = Key::of(["checks", name.as_str()]);
        let http = check.http.iter_mut().map(|http| ("http", &mut http.secret_headers));
        let prometheus = check.prometheus.iter_mut().map(|of| ("prometheus", &mut of.secret_headers));
        for (kind, headers) in http.chain(prometheus) {
            for (header, value) in headers {
                visit(key.child(kind).child("secret_headers").child(header), value);
            }
        }
    }
}
