//! Builds the guest's programs, static ones for Linux, and passes their paths to the library. For
//! guests of the architecture that the host only emulates, init is built if the compiler has that
//! target.
//!
//! The guest is another target than the host, so it cannot be an ordinary dependency: this runs
//! cargo once more, with its own target folder and none of the outer build's flags (clippy's
//! wrapper, coverage, a `--target`).

use std::env;
use std::ffi::OsStr;
use std::fs;
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

/// A program of the guest.
struct Program {
    name: &'static str,
    /// Names the folder of its package: what the package's own build script reports.
    manifest_dir: &'static str,
    /// Says where a ready-made one is.
    prebuilt: &'static str,
    /// Passes the path to the library.
    told_as: &'static str,
    /// The program of the same package that holds this one, compressed, and becomes it.
    stage: Option<&'static str>,
}

const PROGRAMS: [Program; 2] = [
    Program {
        name: "blockbox-init",
        manifest_dir: "DEP_BLOCKBOX_GUEST_MANIFEST_DIR",
        prebuilt: "BLOCKBOX_GUEST_INIT",
        told_as: "BLOCKBOX_INIT",
        stage: Some("blockbox-stage"),
    },
    Program {
        name: "blockbox-fsbench",
        manifest_dir: "DEP_BLOCKBOX_FSBENCH_MANIFEST_DIR",
        prebuilt: "BLOCKBOX_GUEST_FSBENCH",
        told_as: "BLOCKBOX_FSBENCH",
        stage: None,
    },
];

/// The init of guests of the architecture that the host only emulates.
const FOREIGN_INIT: Program = Program {
    prebuilt: "BLOCKBOX_FOREIGN_GUEST_INIT",
    told_as: "BLOCKBOX_FOREIGN_INIT",
    ..PROGRAMS[0]
};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=DOCS_RS");
    let arch = required("CARGO_CFG_TARGET_ARCH");
    for program in &PROGRAMS {
        provide(program, Some(&arch));
    }
    let foreign = match &*arch {
        "x86_64" => "aarch64",
        _ => "x86_64",
    };
    let possible = is_installed(&format!("{foreign}-unknown-linux-musl"));
    provide(&FOREIGN_INIT, possible.then_some(foreign));
}

/// Passes the path of a program to the library: that of a ready-made one, or of one that is built
/// for `arch`; of an empty file if neither is possible.
fn provide(program: &Program, arch: Option<&str>) {
    println!("cargo::rerun-if-env-changed={}", program.prebuilt);
    let path = match (env::var_os(program.prebuilt), arch) {
        (Some(path), _) => PathBuf::from(path),
        // Documentation needs no programs, and the machines that build it have no toolchain for the
        // guest.
        (None, Some(arch)) if env::var_os("DOCS_RS").is_none() => build(program, arch),
        (None, _) => empty(program),
    };
    println!("cargo::rustc-env={}={}", program.told_as, path.display());
}

/// Makes an empty file in the place of a program.
fn empty(program: &Program) -> PathBuf {
    let path = PathBuf::from(required("OUT_DIR")).join(program.told_as);
    fs::write(&path, []).expect("OUT_DIR is writable");
    path
}

/// Returns where the built program is.
fn build(program: &Program, arch: &str) -> PathBuf {
    let (target, rustflags) = guest_target(arch);
    let built = run_cargo(program, program.name, &target, &rustflags, &[]);
    let stage_target = format!("{arch}-unknown-none");
    match program.stage {
        Some(stage) if is_installed(&stage_target) => {
            let packed = pack(&built, arch);
            let variables = [
                ("BLOCKBOX_PACKED_INIT", packed.as_os_str()),
                // 3 KiB more, and the guest boots 2 ms earlier.
                ("CARGO_PROFILE_RELEASE_OPT_LEVEL", OsStr::new("3")),
            ];
            let rustflags = ["-Crelocation-model=static".to_owned()];
            run_cargo(program, stage, &stage_target, &rustflags, &variables)
        }
        _ => built,
    }
}

/// Compresses a program, for the one that starts it.
fn pack(program: &Path, arch: &str) -> PathBuf {
    let bytes = fs::read(program).expect("cargo wrote the program");
    let length = u32::try_from(bytes.len()).expect("the program is small");
    let mut packed = length.to_le_bytes().to_vec();
    packed.extend(miniz_oxide::deflate::compress_to_vec(&bytes, 10));
    let path = PathBuf::from(required("OUT_DIR")).join(format!("init-{arch}.deflate"));
    fs::write(&path, packed).expect("OUT_DIR is writable");
    path
}

/// Builds `name` of a program's package, and returns where it is.
fn run_cargo(
    program: &Program,
    name: &str,
    target: &str,
    rustflags: &[String],
    variables: &[(&str, &OsStr)],
) -> PathBuf {
    let manifest_dir = PathBuf::from(required(program.manifest_dir));
    let target_dir = PathBuf::from(required("OUT_DIR")).join("guest");

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
    cargo
        .args(["build", "--quiet", "--locked", "--release"])
        .args(["--bin", name])
        .args(["--target", target])
        .arg("--manifest-path")
        .arg(manifest_dir.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags.join("\x1f"))
        // Every sandbox's disk carries a copy: small counts for more than fast.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "z")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .envs(variables.iter().copied());
    let status = cargo.status().expect("cargo runs");
    assert!(
        status.success(),
        "building {name} for {target} failed; on hosts other than Linux it needs `rustup target add {target}`, or a \
         ready-made one: set {}",
        program.prebuilt,
    );
    let built = target_dir.join(target).join("release").join(name);
    watch(&manifest_dir, &built);
    built
}

/// Has this script run again when a file that the program was made of changes: cargo lists them
/// beside the program, as a rule of make.
fn watch(manifest_dir: &Path, built: &Path) {
    let rule = fs::read_to_string(built.with_extension("d")).expect("cargo writes a .d file");
    // Spaces in names are escaped.
    let rule = rule.replace("\\ ", "\0");
    let sources = rule.split_whitespace().skip(1);
    let made = required("OUT_DIR");
    for source in sources.map(|source| source.replace('\0', " ")) {
        // What this script makes itself would be newer each time.
        if !source.starts_with(&made) {
            println!("cargo::rerun-if-changed={source}");
        }
    }
    println!(
        "cargo::rerun-if-changed={}",
        manifest_dir.join("Cargo.toml").display()
    );
}

/// The guest's target, and the flags that make its programs static and small.
fn guest_target(arch: &str) -> (String, Vec<String>) {
    let mut rustflags = vec![
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Crelocation-model=static".to_owned(),
    ];
    let native = env::consts::OS == "linux" && required("HOST").starts_with(arch);
    let musl = format!("{arch}-unknown-linux-musl");
    if native && !is_installed(&musl) {
        // Three times the size, but it needs no more than the host's own toolchain.
        return (format!("{arch}-unknown-linux-gnu"), rustflags);
    }
    // Musl comes with its start files, and rustc with a linker: no C toolchain for Linux is needed.
    rustflags.extend([
        "-Clinker=rust-lld".to_owned(),
        "-Clinker-flavor=ld.lld".to_owned(),
        "-Clink-self-contained=yes".to_owned(),
        // A panic aborts, so nothing is unwound.
        "-Clink-arg=--no-eh-frame-hdr".to_owned(),
        format!("-Clink-arg=-T{}", linker_script().display()),
    ]);
    (musl, rustflags)
}

/// Writes a linker script that leaves the tables for unwinding out of a program.
fn linker_script() -> PathBuf {
    let path = PathBuf::from(required("OUT_DIR")).join("guest.ld");
    let script = "SECTIONS { /DISCARD/ : { *(.eh_frame) *(.gcc_except_table .gcc_except_table.*) } }\n\
                  INSERT AFTER .text;\n";
    fs::write(&path, script).expect("OUT_DIR is writable");
    path
}

/// Returns whether the compiler has what it needs to build for `target` without a C toolchain.
fn is_installed(target: &str) -> bool {
    let print = |what: &[&str]| {
        let output = Command::new(required("RUSTC")).args(what).output();
        let output = output.expect("rustc runs").stdout;
        PathBuf::from(String::from_utf8_lossy(&output).trim())
    };
    let targets = print(&["--print", "sysroot"]).join("lib/rustlib");
    // rustup lists there what it has installed.
    let components = targets.join("components");
    if components.exists() {
        println!("cargo::rerun-if-changed={}", components.display());
    }
    let linker = targets.join(required("HOST")).join("bin/rust-lld");
    linker.is_file() && print(&["--print", "target-libdir", "--target", target]).is_dir()
}

fn required(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
