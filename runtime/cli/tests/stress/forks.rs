//! Copies a sandbox repeatedly that writes all the time. `TMPDIR` chooses the host's file system.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use testkit::{TarBuilder, oracle};

use crate::common::guest::{Guest, start, until};
use crate::number;

/// The number of slots of `writer.c`, and the bytes of each.
const SLOTS: u64 = 256;
const SLOT: usize = 4096;

/// How long a copy may hold the source up.
const STALL: Duration = Duration::from_millis(100);

/// The reports of the writer in the source.
#[derive(Default)]
struct Report {
    /// The last record that is synced.
    last: u64,
    /// The longest time between two records, by the guest's clock, which stops while the machine
    /// does.
    guest: Duration,
    /// The same by the host's clock.
    host: Duration,
}

/// Returns the writer as a program that runs on any Linux; `None` if it cannot be compiled.
fn writer() -> Option<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("writer");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stress/writer.c");
    let mut cc = oracle("cc")?;
    let output = cc
        .args(["-static", "-O2", "-o"])
        .arg(&program)
        .arg(source)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(std::fs::read(&program).unwrap())
}

/// Reads the writer's reports.
fn follow(source: &mut Child) -> Arc<Mutex<Report>> {
    let report = Arc::<Mutex<Report>>::default();
    let (shared, output) = (Arc::clone(&report), source.stdout.take().unwrap());
    std::thread::spawn(move || {
        let mut before = Instant::now();
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let (record, took) = line.split_once(' ').unwrap();
            let mut report = shared.lock().unwrap();
            report.last = record.parse().unwrap();
            report.guest = report
                .guest
                .max(Duration::from_micros(took.parse().unwrap()));
            report.host = report.host.max(before.elapsed());
            before = Instant::now();
        }
    });
    report
}

/// Checks that a copied disk is a clean file system with every record up to `synced`, and no
/// partial ones.
fn check(disk: &Path, synced: u64) {
    let e2fsck = oracle("e2fsck").map(|mut e2fsck| e2fsck.arg("-fn").arg(disk).output().unwrap());
    assert!(e2fsck.is_none_or(|output| output.status.success()));
    let folder = tempfile::tempdir().unwrap();
    let dump = |name: &str| {
        let file = folder.path().join(name);
        let words = format!("dump /upper/data/{name} {}", file.display());
        let output = oracle("debugfs")?.arg("-R").arg(words).arg(disk).output();
        assert!(output.unwrap().status.success());
        Some(std::fs::read(file).unwrap())
    };
    let Some(records) = dump("records") else {
        return;
    };
    let whole = |slot: &[u8]| {
        let mut numbers = slot
            .chunks(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        let first = numbers.next().unwrap();
        assert!(numbers.all(|number| number == first), "half a record");
        first
    };
    let found: Vec<_> = records.chunks(SLOT).map(whole).collect();
    let newest = found.iter().copied().max().unwrap_or(0);
    assert!(
        newest >= synced,
        "{newest} is there, and {synced} was synced"
    );
    for record in newest.saturating_sub(SLOTS - 1).max(1)..=newest {
        let slot = usize::try_from(record % SLOTS).unwrap();
        assert_eq!(found[slot], record, "after {newest}");
    }
    if synced >= 16 {
        let last = whole(&dump("last").unwrap());
        assert!(last >= synced / 16 * 16, "{last} instead of {synced}");
    }
}

/// Makes `BLOCKBOX_FORKS` copies of the disk of a sandbox that writes and syncs all the time; every
/// tenth is a copy of the machine with its memory. All contain what was synced before, and the
/// source continues, after at most [`STALL`] or the longest wait without copies: after half of the
/// copies of the disk or, on a machine that is idle otherwise (`BLOCKBOX_IDLE=1`), after 99% of
/// these and half of those with memory.
#[test]
#[ignore = "takes minutes"]
fn copies_of_a_sandbox_that_writes_have_what_was_synced_and_hold_it_up_for_a_moment() {
    let Some(writer) = writer() else {
        return;
    };
    let tar = TarBuilder::new()
        .dir("data")
        .mode(0o755)
        .file("writer", writer)
        .finish();
    let Some(guest) = Guest::with_tars(json!({"Cmd": ["/writer"]}), vec![tar]) else {
        return;
    };
    let blockbox = &guest.blockbox;
    let words = ["--forkable", "--memory", "128M", "--name", "source"];
    let run = [&["run", "--rm"], &words[..], &[&guest.image]].concat();
    let mut source = start(blockbox, &run);
    let report = follow(&mut source);
    let last = || report.lock().unwrap().last;
    let reached = |record: u64| until("the writer goes on", || (last() >= record).then_some(()));
    let longest = || {
        let taken = std::mem::take(&mut *report.lock().unwrap());
        report.lock().unwrap().last = taken.last;
        (taken.guest, taken.host)
    };
    reached(SLOTS);

    // The waits without copies.
    longest();
    std::thread::sleep(Duration::from_secs(10));
    let (alone, alone_host) = longest();
    eprintln!("without copies: longest wait {alone:?}, by the host's clock {alone_host:?}");
    let rounds = number("BLOCKBOX_FORKS", 100);
    let kinds: [(&str, &[&str], &str); 2] = [
        (
            "fork",
            &["fork", "--no-start", "--name", "copy", "source"],
            "sandboxes/copy",
        ),
        (
            "with memory",
            &["snapshot", "create", "--memory", "-n", "copy", "source"],
            "snapshots/copy",
        ),
    ];
    let mut waits = [vec![], vec![]];
    for round in 0..rounds {
        let kind = usize::from(round % 10 == 9);
        let (_, words, folder) = kinds[kind];
        let synced = last();
        longest();
        blockbox.ok(words);
        reached(last() + 1);
        waits[kind].push(longest());
        check(&blockbox.home().join(folder).join("upper.ext4"), synced);
        match kind {
            0 => blockbox.ok(["rm", "copy"]),
            _ => blockbox.ok(["snapshot", "rm", "copy"]),
        };
        assert!(source.try_wait().unwrap().is_none(), "the source ended");
        if round % 100 == 99 {
            eprintln!("{} of {rounds} copies, record {}", round + 1, last());
        }
    }
    let idle = number("BLOCKBOX_IDLE", 0) == 1;
    let mut late = Vec::new();
    for ((name, ..), waits) in kinds.iter().zip(waits) {
        let count = waits.len();
        // A machine that is copied stands still, and its clock too.
        let (judged, percent, bound) = match *name {
            "fork" => ("guest's", if idle { 99 } else { 50 }, STALL.max(alone)),
            _ => ("host's", if idle { 50 } else { 0 }, STALL.max(alone_host)),
        };
        for (clock, mut waits) in [
            (
                "guest's",
                waits.iter().map(|wait| wait.0).collect::<Vec<_>>(),
            ),
            ("host's", waits.iter().map(|wait| wait.1).collect()),
        ] {
            waits.sort();
            let at = |percent: usize| waits.get(count.saturating_sub(1) * percent / 100);
            if let (Some(median), Some(high), Some(longest)) = (at(50), at(99), waits.last()) {
                let over = waits.iter().filter(|wait| **wait > STALL).count();
                eprintln!(
                    "{name}, {count} copies, longest wait by the {clock} clock: median {median:?}, 99% {high:?}, longest {longest:?}, {over} over 100 ms"
                );
            }
            let wait = at(percent).copied().unwrap_or_default();
            if clock == judged && percent > 0 && wait > bound {
                late.push(format!(
                    "{name}: {percent}% waited up to {wait:?}, and not {bound:?}"
                ));
            }
        }
    }
    assert!(late.is_empty(), "{late:?}");
    blockbox.ok(["rm", "-f", "source"]);
    source.wait().unwrap();
    assert_eq!(guest.sandboxes(), 0);
}
