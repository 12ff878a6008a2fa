//! Checks statements of the documents about the repository.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::Path;

/// Returns the names of tests in the last column of a document's tables.
fn tests_named_in(document: &str) -> Vec<&str> {
    let cells = document.lines().filter_map(|line| {
        let row = line.strip_prefix('|')?.trim_end().strip_suffix('|')?;
        row.rsplit('|').next()
    });
    let quoted = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    quoted.filter(|name| name.contains('_')).collect()
}

/// Collects the Rust sources below a folder.
fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, text);
        } else if name.ends_with(".rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_test_that_the_catalogue_of_edge_cases_names_exists() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let catalogue = fs::read_to_string(repository.join("docs/edge-cases.md")).unwrap();
    let mut text = String::new();
    sources(repository, &mut text);
    let tests = tests_named_in(&catalogue);
    assert!(tests.len() > 100, "{} tests", tests.len());
    let missing: Vec<_> = tests
        .into_iter()
        .filter(|name| !text.contains(&format!("fn {name}(")))
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
