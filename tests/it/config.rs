//! Configuration: layers, mistakes, and the two files that are shipped.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use failoverd::config::load;
use failoverd::domain::Mode;

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

#[test]
fn the_configuration_of_the_document_is_accepted() {
    let loaded = load(&[shipped("omnimesh.toml")], &BTreeMap::new()).map_err(|e| panic!("{e}")).unwrap();
    assert_eq!(loaded.policy.mode, Mode::Automatic);
    for w in &loaded.warnings {
        println!("{w}");
    }
}
