//! Builds the guest's programs, static ones for Linux, and tells the library where they are.
//!
//! The guest is another target than the host, so it cannot be an ordinary dependency: this runs cargo once more, with
//! its own target folder and none of the outer build's flags (clippy's wrapper, coverage, a `--target`).

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Outer settings that would change, or break, the inner build.
const FOREIGN_VARIABLES: &[&str] = &[
    "CARGO_BUILD_",
    "CARGO_CFG_",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_FEATURE_",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
    "CARGO_UNSTABLE_",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
];

/// A program of the guest: the package and the program have one folder and one name each.
struct Program {
    package: &'static str,
    name: &'static str,
    /// Says where a ready-made one is.
    prebuilt: &'static str,
    /// Tells the library.
    told_as: &'static str,
}

const PROGRAMS: [Program; 2] = [
    Program {
        package: "blockbox-guest",
        name: "blockbox-init",
        prebuilt: "BLOCKBOX_GUEST_INIT",
        told_as: "BLOCKBOX_INIT",
    },
    Program {
        package: "blockbox-fsbench",
        name: "blockbox-fsbench",
        prebuilt: "BLOCKBOX_GUEST_FSBENCH",
        told_as: "BLOCKBOX_FSBENCH",
    },
];

fn main() {
    for path in [
        "build.rs",
        "fsbench/Cargo.toml",
        "fsbench/src",
        "guest/Cargo.toml",
        "guest/src",
    ] {
        println!("cargo::rerun-if-changed={path}");
    }
    let mut missing = Vec::new();
    for program in &PROGRAMS {
        println!("cargo::rerun-if-env-changed={}", program.prebuilt);
        match env::var_os(program.prebuilt) {
            Some(path) => tell(program, Path::new(&path)),
            None => missing.push(program),
        }
    }
    if !missing.is_empty() {
        let folder = build(&missing);
        for program in missing {
            tell(program, &folder.join(program.name));
        }
    }
}

fn tell(program: &Program, path: &Path) {
    println!("cargo::rustc-env={}={}", program.told_as, path.display());
}

/// Returns the folder of the programs.
fn build(programs: &[&Program]) -> PathBuf {
    let out_dir = PathBuf::from(required("OUT_DIR"));
    let arch = required("CARGO_CFG_TARGET_ARCH");
    let (target, rustflags) = guest_target(&arch);
    let target_dir = out_dir.join("guest");

    let mut cargo = Command::new(required("CARGO"));
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if FOREIGN_VARIABLES
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            cargo.env_remove(name.as_ref());
        }
    }
    let manifest = Path::new(&required("CARGO_MANIFEST_DIR")).join("guest/Cargo.toml");
    cargo
        .args(["build", "--quiet", "--locked", "--release"])
        .args(
            programs
                .iter()
                .flat_map(|program| ["--package", program.package, "--bin", program.name]),
        )
        .args(["--target", &target])
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags.join("\x1f"))
        // Every sandbox's disk carries a copy: small counts for more than fast.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "z")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false");
    let status = cargo.status().expect("cargo runs");
    assert!(
        status.success(),
        "building the guest's programs for {target} failed; on hosts other than Linux it needs `rustup target add \
         {target}`, or ready-made ones: set {}",
        programs
            .iter()
            .map(|program| program.prebuilt)
            .collect::<Vec<_>>()
            .join(" and ")
    );
    target_dir.join(&target).join("release")
}

/// The guest's target triple, and the flags that make its programs static.
fn guest_target(arch: &str) -> (String, Vec<&'static str>) {
    let mut rustflags = vec!["-Ctarget-feature=+crt-static", "-Crelocation-model=static"];
    if env::consts::OS == "linux" && required("HOST").starts_with(arch) {
        return (format!("{arch}-unknown-linux-gnu"), rustflags);
    }
    // No C toolchain for Linux at hand: musl comes with its start files, and rustc with a linker.
    rustflags.extend([
        "-Clinker=rust-lld",
        "-Clinker-flavor=ld.lld",
        "-Clink-self-contained=yes",
    ]);
    (format!("{arch}-unknown-linux-musl"), rustflags)
}

fn required(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
