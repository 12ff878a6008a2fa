//! `cargo xtask demo`: pulls a real image from a real registry and runs it.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::Value;

use crate::blockbox::Blockbox;
use crate::registry::Registry;
use crate::stages::Stages;
use crate::{image, setup, shell};

/// The program that runs in the guest.
const PROGRAM: &str = r#"import json, sys
print(json.dumps({
    "python": sys.version.split()[0],
    "standard library": len(sys.stdlib_module_names),
    "disks": [line.split()[3] for line in open("/proc/partitions").read().splitlines()[2:]],
}))"#;

/// Builds everything, pulls the demo image and runs Python in it.
pub(crate) fn run() -> Result<()> {
    let mut stages = Stages::default();
    stages.run("set up", setup::run)?;
    let program = stages.run("build blockbox (release)", shell::release_build)?;
    let image = stages.run("make the demo image", || image::demo().build())?;
    let registry = Registry::start(&shell::target("demo/registry"))?;
    let reference = format!("{}/demo:latest", registry.host());
    stages.run("push it to a registry on loopback", || {
        push(&image, &reference)
    })?;

    let blockbox = Blockbox::prepare(&program, shell::target("demo/home"))?;
    stages.run("what this host can do", || blockbox.show(&["doctor"]))?;
    stages.run("pull", || {
        blockbox.show(&["pull", "--plain-http", &reference])
    })?;
    stages.run("run", || {
        blockbox.show(&["run", &reference, "--", "python3", "-c", PROGRAM])
    })?;
    let inspect = blockbox.output(&["image", "inspect", &reference, "--format", "json"])?;
    print_sizes(&serde_json::from_str(&inspect)?);
    stages.print();
    Ok(())
}

/// Copies an OCI layout to a registry.
fn push(image: &Path, reference: &str) -> Result<()> {
    let mut skopeo = Command::new("skopeo");
    skopeo
        // Signatures do not matter on loopback.
        .args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
        ])
        .arg(format!("oci:{}:latest", image.display()))
        .arg(format!("docker://{reference}"));
    println!("$ {}", shell::line(&skopeo));
    shell::output(&mut skopeo).map(drop)
}

fn print_sizes(inspect: &Value) {
    println!("\nSizes");
    let row = |name: &str, bytes: Option<f64>| {
        if let Some(bytes) = bytes {
            println!("  {name:24} {:10.2} MB", bytes / 1e6);
        }
    };
    let layers = inspect["layers"].as_array().map_or(&[][..], Vec::as_slice);
    for (number, layer) in layers.iter().enumerate() {
        let diff_id = layer["diff_id"].as_str().unwrap_or_default();
        let short: String = diff_id
            .trim_start_matches("sha256:")
            .chars()
            .take(12)
            .collect();
        row(&format!("layer {number} {short}"), layer["bytes"].as_f64());
    }
    let fsmeta = inspect["fsmeta"]["bytes"].as_f64();
    row("fsmeta", fsmeta);
    let sum: f64 = layers
        .iter()
        .filter_map(|layer| layer["bytes"].as_f64())
        .sum();
    row("disk (all of these)", fsmeta.map(|fsmeta| fsmeta + sum));
}
