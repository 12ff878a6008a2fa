//! `cargo xtask api`: lists of the public interfaces of the published libraries, in `docs/api`.
//!
//! A change of an interface changes its list, so that reviews and the history show it. The lists
//! are generated from rustdoc's JSON, whose format and wording depend on the compiler: they are
//! made with one version, for all features, on Linux.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::package::LIBRARIES;
use crate::shell;

/// The compiler version that the lists are made with.
pub(crate) const COMPILER: &str = "1.95.0";

/// Runs rustdoc with the options of nightly compilers. Cargo does not see the variable, so its
/// earlier build results stay valid.
const RUSTDOC: &str = "#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec rustdoc \"$@\"\n";

/// `cargo xtask api`
#[derive(clap::Args)]
pub(crate) struct Api {
    /// Write the lists instead of comparing them
    #[arg(long)]
    bless: bool,
}

impl Api {
    pub(crate) fn run(&self) -> Result<()> {
        document()?;
        let mut changed = Vec::new();
        for library in LIBRARIES {
            let path = golden(library);
            let actual = list(library)?;
            let expected = fs::read_to_string(&path).unwrap_or_default();
            println!("{library}: {} items", actual.lines().count());
            if actual == expected {
                continue;
            }
            changes(&expected, &actual).for_each(|line| println!("    {line}"));
            if self.bless {
                fs::write(&path, actual).with_context(|| path.display().to_string())?;
            } else {
                changed.push(library);
            }
        }
        if !changed.is_empty() {
            bail!(
                "docs/api does not list the public interface of {}: run `cargo xtask api --bless`",
                changed.join(", ")
            );
        }
        Ok(())
    }
}

/// Compares the lists with the sources.
pub(crate) fn check() -> Result<()> {
    Api { bless: false }.run()
}

/// Returns whether that compiler is installed.
pub(crate) fn is_possible() -> bool {
    runs_this() || shell::output(with_compiler("rustc").arg("--version")).is_ok()
}

/// Returns whether that compiler runs this program, under any name in rustup.
fn runs_this() -> bool {
    shell::output(
        Command::new("rustc")
            .arg("--version")
            .current_dir(shell::repository()),
    )
    .is_ok_and(|version| version.split_whitespace().nth(1) == Some(COMPILER))
}

/// Returns a command for a program of that compiler.
fn with_compiler(program: &str) -> Command {
    if runs_this() {
        return Command::new(program);
    }
    let mut command = Command::new("rustup");
    command.args(["run", COMPILER, program]);
    command.env_remove("CARGO").env_remove("RUSTC");
    command
}

fn golden(library: &str) -> PathBuf {
    shell::repository().join(format!("docs/api/{library}.txt"))
}

/// Writes the JSON of all libraries with rustdoc, as docs.rs builds them: with all features, and
/// with `docsrs`, which turns on a feature of nightly compilers. Warnings are errors.
fn document() -> Result<()> {
    let wrapper = shell::target("api/rustdoc");
    write_program(&wrapper, RUSTDOC)?;
    let mut cargo = with_compiler("cargo");
    cargo.args(["doc", "--quiet", "--no-deps", "--lib", "--all-features"]);
    for library in LIBRARIES {
        cargo.args(["--package", library]);
    }
    cargo.current_dir(shell::repository());
    cargo.env("RUSTDOC", wrapper);
    cargo.env(
        "RUSTDOCFLAGS",
        "-D warnings --cfg docsrs -Zunstable-options --output-format json",
    );
    shell::run(&mut cargo)
}

fn write_program(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let folder = path.parent().context("a folder")?;
    fs::create_dir_all(folder)?;
    fs::write(path, text).with_context(|| path.display().to_string())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Returns the public interface of a library, one item per line, from rustdoc's JSON. Automatic and
/// derived implementations are left out.
fn list(library: &str) -> Result<String> {
    let target = match library {
        "vmdk-image" => "vmdk".to_owned(),
        other => other.replace('-', "_"),
    };
    let json = shell::target(&format!("doc/{target}.json"));
    let api = public_api::Builder::from_rustdoc_json(json)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .with_context(|| format!("the interface of {library}"))?;
    Ok(api.to_string())
}

/// Returns the lines that are in only one of two lists.
fn changes(before: &str, after: &str) -> impl Iterator<Item = String> {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (before, after) = (lines(before), lines(after));
    let removed = before.difference(&after).map(|line| format!("- {line}"));
    let added = after.difference(&before).map(|line| format!("+ {line}"));
    removed.chain(added).collect::<Vec<_>>().into_iter()
}

#[test]
fn removed_and_added_items_are_shown_and_no_others() {
    let changes: Vec<_> = changes("a\nb\nc\n", "a\nc\nd\n").collect();
    assert_eq!(changes, ["- b", "+ d"]);
}
