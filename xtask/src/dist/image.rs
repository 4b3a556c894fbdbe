//! The container image: an OCI image layout in a tar archive, for all machines that were built for. There is nothing in it but the static
//! binary and its licences.
//!
//! *Source:* the image specification of the Open Container Initiative: `image-layout.md`, `image-index.md`, `manifest.md`,
//! `config.md` and `layer.md`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{
    common::{VERSION, fresh, manual, output_of, print_made, tar},
    notices,
    target::Target,
};
use crate::{build_ebpf::sources::sha256, privileges::succeed, workspace};

/// The end of the archive's name.
pub const SUFFIX: &str = "-oci.tar";
/// The command that a container of the image runs. The program gives up root itself, as soon as it is attached.
const ENTRYPOINT: &[&str] = &["/usr/bin/tcpstate"];
const ARGUMENTS: &[&str] = &["serve", "--user", "65534:65534"];

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Makes the archive of the image with these binaries.
pub fn make(binaries: &[(Target, PathBuf)], out: &Path, date: &str) -> Result<PathBuf> {
    let stage = workspace().join("target/dist-image");
    let layout = Layout(stage.join("layout"));
    fresh(&layout.blobs())?;
    let mut clock = Command::new("date");
    clock.args([
        "--utc",
        "--date",
        &format!("@{date}"),
        "+%Y-%m-%dT%H:%M:%SZ",
    ]);
    let created = output_of(&mut clock)?;
    let created = created.trim();
    let mut manifests = Vec::new();
    for (target, binary) in binaries {
        let layer = layer(*target, binary, &stage, date)?;
        let manifest = manifest(*target, &layer, &layout, created)?;
        manifests.push(manifest);
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": manifests,
        "annotations": annotations(created),
    });
    let mut index = layout.add(INDEX, &serde_json::to_vec(&index)?)?;
    index["annotations"] = json!({
        "io.containerd.image.name": format!("localhost/tcpstate:{VERSION}"),
        "org.opencontainers.image.ref.name": VERSION,
    });
    let top = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [index] });
    fs::write(layout.0.join("index.json"), serde_json::to_vec(&top)?)?;
    let version = json!({ "imageLayoutVersion": "1.0.0" });
    fs::write(layout.0.join("oci-layout"), serde_json::to_vec(&version)?)?;
    let archive = out.join(format!("tcpstate-{VERSION}{SUFFIX}"));
    pack(&layout.0, &archive, date)?;
    print_made(&archive)?;
    Ok(archive)
}

/// The description in the image, with the words of `annotations.md`.
fn annotations(created: &str) -> Value {
    json!({
        "org.opencontainers.image.created": created,
        "org.opencontainers.image.description": "Serves the TCP state changes of its host as metrics",
        "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
        "org.opencontainers.image.title": "tcpstate",
        "org.opencontainers.image.version": VERSION,
    })
}

/// The files of a container, as an archive.
struct Layer {
    /// Of the archive as it is.
    digest: String,
    compressed: Vec<u8>,
}

fn layer(target: Target, binary: &Path, stage: &Path, date: &str) -> Result<Layer> {
    let root = stage.join(target.debian());
    let documents = root.join("usr/share/doc/tcpstate");
    fresh(&root)?;
    for folder in [&root.join("usr/bin"), &documents] {
        fs::create_dir_all(folder)?;
    }
    fs::copy(binary, root.join("usr/bin/tcpstate"))?;
    for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
        fs::copy(workspace().join(licence), documents.join(licence))?;
    }
    fs::copy(manual().join(notices::FILE), documents.join(notices::FILE))?;
    let archive = stage.join(format!("{}.tar", target.debian()));
    pack(&root, &archive, date)?;
    let digest = digest(&fs::read(&archive)?);
    succeed(
        Command::new("gzip")
            .args(["-9", "--no-name", "--force"])
            .arg(&archive),
    )?;
    let compressed = fs::read(archive.with_extension("tar.gz"))?;
    Ok(Layer { digest, compressed })
}

/// Makes an archive of what is in a folder.
fn pack(folder: &Path, archive: &Path, date: &str) -> Result<()> {
    let mut tar = tar(date);
    tar.args(["--format=ustar", "--file"]).arg(archive);
    tar.arg("--directory").arg(folder);
    succeed(tar.args(super::common::files(folder)?))
}

/// Adds the parts for one kind of machine, and returns the descriptor of its manifest.
fn manifest(target: Target, layer: &Layer, layout: &Layout, created: &str) -> Result<Value> {
    let config = json!({
        "created": created,
        "architecture": target.debian(),
        "os": "linux",
        "config": {
            "Entrypoint": ENTRYPOINT,
            "Cmd": ARGUMENTS,
            "WorkingDir": "/",
            "StopSignal": "SIGTERM",
            "Labels": annotations(created),
        },
        "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
        "history": [{ "created": created, "created_by": "cargo xtask dist" }],
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": layout.add(CONFIG, &serde_json::to_vec(&config)?)?,
        "layers": [layout.add(LAYER, &layer.compressed)?],
        "annotations": annotations(created),
    });
    let mut descriptor = layout.add(MANIFEST, &serde_json::to_vec(&manifest)?)?;
    descriptor["platform"] = json!({ "architecture": target.debian(), "os": "linux" });
    Ok(descriptor)
}

/// The digest of bytes in the notation of descriptors.
pub(super) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256(bytes))
}

/// A folder with an image.
struct Layout(PathBuf);

impl Layout {
    fn blobs(&self) -> PathBuf {
        self.0.join("blobs/sha256")
    }

    /// Adds a part, and returns its descriptor.
    fn add(&self, media_type: &str, bytes: &[u8]) -> Result<Value> {
        let path = self.blobs().join(sha256(bytes));
        fs::write(&path, bytes).with_context(|| path.display().to_string())?;
        Ok(json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() }))
    }
}
