//! Every workload does what it documents, and removes its files.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::Path;
use std::process::Command;

use blockbox_fsbench::{Error, Options, Report, run, workloads};

/// Makes a small system with a Python library.
fn system() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let library = root.path().join("usr/lib/python3.12");
    fs::create_dir_all(library.join("json")).unwrap();
    fs::create_dir(root.path().join("tmp")).unwrap();
    for (name, size) in [("os.py", 10), ("json/decoder.py", 5000), ("json/empty", 0)] {
        fs::write(library.join(name), vec![b'#'; size]).unwrap();
    }
    fs::write(root.path().join("usr/big"), vec![1; 300_000]).unwrap();
    root
}

fn scratch_is_empty(root: &Path) -> bool {
    fs::read_dir(root.join("tmp")).unwrap().next().is_none()
}

#[test]
fn every_workload_runs_as_often_as_asked_and_cleans_up() {
    let root = system();
    let mut options = Options::new(root.path());
    options.rounds = 2;
    options.cold = false;
    let report = run(&options).unwrap();
    assert_eq!(
        (report.files, report.directories, report.bytes),
        (2, 2, 5010)
    );
    let names: Vec<_> = report.rows.iter().map(|row| row.name.clone()).collect();
    assert_eq!(
        names,
        workloads().map(|known| known.name).collect::<Vec<_>>()
    );
    for row in report.rows.iter().filter(|row| row.skipped.is_none()) {
        assert_eq!(row.warm_ns.len(), 2, "{}", row.name);
        assert!(row.cold_ns.is_empty(), "{}", row.name);
    }
    let operations = |name| {
        report
            .rows
            .iter()
            .find(|row| row.name == name)
            .unwrap()
            .operations
    };
    assert_eq!(operations("metadata-scan"), 4);
    assert_eq!(operations("read-all"), 2);
    assert_eq!(operations("traverse"), 7);
    assert_eq!(operations("small-creates"), 1000);
    assert_eq!(operations("misses-4"), 10_000);
    assert!(scratch_is_empty(root.path()));
}

#[test]
fn a_folder_that_is_not_writable_is_an_error() {
    let root = system();
    let mut options = Options::new(root.path());
    options.scratch = Some(root.path().join("usr/big"));
    assert!(matches!(run(&options), Err(Error::Io { .. })));
}

#[test]
fn wrong_names_and_empty_trees_are_errors() {
    let root = tempfile::tempdir().unwrap();
    assert!(matches!(
        run(&Options::new(root.path())),
        Err(Error::NoTree(_))
    ));
    let mut options = Options::new(root.path());
    options.only = vec!["read-al".to_owned()];
    assert!(matches!(run(&options), Err(Error::UnknownWorkload(name)) if name == "read-al"));
}

#[test]
fn the_program_prints_what_the_library_measures() {
    let root = system();
    let program = env!("CARGO_BIN_EXE_blockbox-fsbench");
    let output = Command::new(program)
        .arg(root.path())
        .args([
            "--rounds",
            "1",
            "--only",
            "readdir",
            "--only",
            "mmap-read",
            "--json",
        ])
        .output()
        .unwrap();
    assert!(output.status.success());
    let report: Report = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> = report.rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["mmap-read", "readdir"]);
    let output = Command::new(program).arg("--help").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("metadata-scan"));
    let output = Command::new(program).arg("--faster").output().unwrap();
    assert!(!output.status.success());
}
