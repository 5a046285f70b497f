//! Tells the program which revision it was built from, and whether without optimisation.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=.git/HEAD");
    println!("cargo:rerun-if-changed=.git/refs/heads");
    println!("cargo:rustc-check-cfg=cfg(unoptimised)");
    if std::env::var("OPT_LEVEL").is_ok_and(|level| level == "0") {
        println!("cargo:rustc-cfg=unoptimised");
    }
    println!("cargo:rerun-if-env-changed=RIVEG_GIT_REVISION");
    let given = std::env::var("RIVEG_GIT_REVISION").ok();
    let revision = given.or_else(revision_of_checkout).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=RIVEG_GIT_REVISION={revision}");
}

/// `None` outside a checkout, e.g. in a source archive or a container build without `.git`.
fn revision_of_checkout() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
