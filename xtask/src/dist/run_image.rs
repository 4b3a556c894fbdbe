//! A run of the container image by runc, with the bundle of `deploy/oci/config.json` as it is, in a network namespace that stands for the
//! host's: it has to see sockets there and in other namespaces, and to be scraped.
//!
//! The image is read as a container runtime reads it: from its index, each part by its digest.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{common::fresh, image::digest};
use crate::{
    dist,
    privileges::{as_root, has_sudo, is_root, succeed},
    scraped, workspace,
};

const SCRIPT: &str = "run_image.sh";

/// Whether runc is installed.
pub fn is_possible() -> bool {
    let version = Command::new("runc").arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

/// Makes a bundle of the image, runs it, and checks what it saw and what it may do.
pub fn run(archive: &Path) -> Result<()> {
    ensure!(
        is_root() || has_sudo(),
        "running the image requires root or sudo"
    );
    ensure!(is_possible(), "there is no runc: apt-get install runc");
    let folder = workspace().join("target/dist-run");
    remove(&folder)?;
    let config = bundle(archive, &folder)?;
    scraped::write_script(&folder, SCRIPT, include_str!("run_image.sh"))?;
    let ran = succeed(
        as_root("setsid")
            .args(["--wait", "unshare", "--net", "bash"])
            .args([&folder.join(SCRIPT), &folder]),
    );
    let log = || scraped::read(&folder, "log").unwrap_or_default();
    ran.with_context(log)?;
    judge(&config, &folder).with_context(log)?;
    remove(&folder)?;
    eprintln!("the image runs: it was scraped, and saw connections here and in another namespace");
    Ok(())
}

/// Removes a folder with files of the superuser.
fn remove(folder: &Path) -> Result<()> {
    let options = ["--recursive", "--force", "--one-file-system"];
    succeed(as_root("rm").args(options).arg(folder))
}

/// Makes the bundle, and returns its configuration.
fn bundle(archive: &Path, folder: &Path) -> Result<Value> {
    let layout = folder.join("layout");
    let bundle = folder.join("bundle");
    fresh(&layout)?;
    fs::create_dir_all(bundle.join("rootfs"))?;
    succeed(
        Command::new("tar")
            .args(["--extract", "--file"])
            .arg(archive)
            .arg("--directory")
            .arg(&layout),
    )?;
    let image = Image(layout);
    let manifest = image.manifest()?;
    let [layer] = list(&manifest["layers"])? else {
        bail!("not one layer: {manifest}");
    };
    let layer = image.path(layer)?;
    let (_, config) = image.part(&manifest["config"])?;
    let mut gzip = Command::new("gzip");
    let content = gzip
        .args(["--decompress", "--stdout"])
        .arg(&layer)
        .output()?;
    ensure!(
        config["rootfs"]["diff_ids"][0] == digest(&content.stdout),
        "the layer is not that of the configuration: {config}"
    );
    succeed(
        as_root("tar")
            .args(["--extract", "--gzip", "--file"])
            .arg(&layer)
            .arg("--directory")
            .arg(bundle.join("rootfs")),
    )?;
    let shipped = workspace().join("deploy/oci/config.json");
    let text = fs::read_to_string(&shipped).with_context(|| shipped.display().to_string())?;
    fs::write(bundle.join("config.json"), &text)?;
    let bundle: Value = serde_json::from_str(&text)?;
    let defaults = [&config["config"]["Entrypoint"], &config["config"]["Cmd"]];
    let command: Vec<&Value> = defaults
        .into_iter()
        .filter_map(Value::as_array)
        .flatten()
        .collect();
    let of_bundle: Vec<&Value> = list(&bundle["process"]["args"])?.iter().collect();
    ensure!(
        of_bundle == command,
        "{} runs {of_bundle:?}, the image {command:?}",
        shipped.display()
    );
    Ok(bundle)
}

fn list(value: &Value) -> Result<&[Value]> {
    let list = value
        .as_array()
        .with_context(|| format!("no list: {value}"))?;
    Ok(list)
}

/// A folder with an unpacked image.
struct Image(PathBuf);

impl Image {
    /// The manifest for this machine.
    fn manifest(&self) -> Result<Value> {
        let top: Value = serde_json::from_slice(&fs::read(self.0.join("index.json"))?)?;
        let [index] = list(&top["manifests"])? else {
            bail!("not one image: {top}");
        };
        let (_, index) = self.part(index)?;
        let native = dist::native()?.debian();
        let manifests = list(&index["manifests"])?;
        let is_native = |it: &&Value| it["platform"]["architecture"] == native;
        let manifest = manifests.iter().find(is_native);
        let (_, manifest) =
            self.part(manifest.with_context(|| format!("no {native}: {index}"))?)?;
        Ok(manifest)
    }

    /// The path of a part and its content, which is JSON.
    fn part(&self, descriptor: &Value) -> Result<(PathBuf, Value)> {
        let path = self.path(descriptor)?;
        let content = serde_json::from_slice(&fs::read(&path)?)?;
        Ok((path, content))
    }

    /// The path of a part, which has the size and the digest of its descriptor.
    fn path(&self, descriptor: &Value) -> Result<PathBuf> {
        let wanted = descriptor["digest"].as_str().context("no digest")?;
        let path = self.0.join("blobs").join(wanted.replacen(':', "/", 1));
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        let size = descriptor["size"].as_u64().context("no size")?;
        ensure!(
            digest(&bytes) == wanted && u64::try_from(bytes.len())? == size,
            "{} is not what is described: {descriptor}",
            path.display()
        );
        Ok(path)
    }
}

/// Checks what the container left.
fn judge(config: &Value, folder: &Path) -> Result<()> {
    let exit = scraped::read(folder, "exit")?;
    // 3: other traffic of the machine was lost.
    ensure!(["0", "3"].contains(&exit.trim()), "exit status {exit}");
    let given = list(&config["process"]["capabilities"]["bounding"])?;
    scraped::judge(folder, given.iter().filter_map(Value::as_str))?;
    let mounts = scraped::read(folder, "mountinfo")?;
    let root = mounts
        .lines()
        .find(|line| line.split(' ').nth(4) == Some("/"));
    let options = root.and_then(|line| line.split(' ').nth(5));
    ensure!(
        options.is_some_and(|options| options.split(',').any(|option| option == "ro")),
        "its root is not read-only: {mounts}"
    );
    Ok(())
}
