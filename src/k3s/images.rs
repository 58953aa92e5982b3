//! Container images that we make ourselves: docker archives, built in memory.
//!
//! Invariant: the same content gives the same bytes, so an image is imported again only when it
//! changed.

use anyhow::Result;
use ring::digest;
use serde_json::json;

/// The program that holds a pod's namespaces, made by `build.rs`.
const PAUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

/// Name of the pause image that this executable carries.
pub(crate) const PAUSE_IMAGE: &str = concat!("k3s.local/pause:", env!("CARGO_PKG_VERSION"));

/// The pause image as a docker archive, under the name that the runtime asks for.
pub(crate) fn pause(name: &str) -> Result<Vec<u8>> {
    archive(name, &["/pause"], &[("pause", PAUSE)])
}

/// A docker archive with one layer: `name`, entry point, and files (path without slash, 0755).
fn archive(name: &str, entrypoint: &[&str], files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let layer = tarball(files)?;
    let config = serde_json::to_vec(&json!({
        "architecture": architecture(),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": { "Entrypoint": entrypoint, "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))] },
    }))?;
    let config_name = format!("{}.json", sha256(&config));
    let manifest = serde_json::to_vec(&json!([{
        "Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"],
    }]))?;
    tarball(&[("manifest.json", &manifest), (&config_name, &config), ("layer.tar", &layer)])
}

fn tarball(files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        builder.append_data(&mut header, path, *content)?;
    }
    Ok(builder.into_inner()?)
}

fn sha256(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The image specification's name of this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_image_is_a_few_kilobytes_and_reproducible() {
        let image = pause(PAUSE_IMAGE).unwrap();
        assert!(image.len() < 32 * 1024, "{}", image.len());
        assert_eq!(image, pause(PAUSE_IMAGE).unwrap());
    }
}
