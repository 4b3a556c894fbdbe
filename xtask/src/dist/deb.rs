//! The Debian package, made by cargo-deb from `[package.metadata.deb]` of tcpstate, and a test of its
//! installation in a root of its own.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use super::{
    common::{VERSION, files, manual, output_of, print_made},
    notices,
    target::Target,
};
use crate::{
    cargo,
    privileges::{as_root, has_sudo, is_root, succeed},
    vm::packages,
    workspace,
};

/// The message if cargo-deb is missing.
pub const TO_INSTALL: &str = "there is no cargo-deb: cargo install --locked cargo-deb";
/// The revision of the packaging.
const REVISION: &str = "1";
/// The maintainer of the package.
const MAINTAINER: &str = "The tcpstate developers <developers@tcpstate.invalid>";
/// A shell without libraries: busybox is one by the name of its file.
const SHELL: &str = "/bin/busybox";
/// The oldest release of Debian that still gets updates.
const SUITE: &str = "bookworm";

/// The root for trying the installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Root {
    /// A root with only a shell, because the package has no dependencies
    Empty,
    /// A minimal Debian, fetched by mmdebstrap
    Debian,
}

/// Whether cargo-deb is installed.
pub fn is_possible() -> bool {
    cargo()
        .args(["deb", "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Makes the package of the binary that was built for a target.
pub fn make(target: Target, out: &Path, date: &str) -> Result<PathBuf> {
    let name = format!("tcpstate_{VERSION}-{REVISION}_{}.deb", target.debian());
    let package = out.join(name);
    let output = cargo()
        .current_dir(workspace())
        .args([
            "deb",
            "--no-build",
            "--no-strip",
            "--locked",
            "--profile",
            "hardened",
        ])
        .args(["--package", "tcpstate", "--target", &target.to_string()])
        .args(["--maintainer", MAINTAINER, "--deb-revision", REVISION])
        .arg("--output")
        .arg(&package)
        .env("CARGO_TARGET_DIR", workspace().join("target"))
        .env("SOURCE_DATE_EPOCH", date)
        .output()?;
    ensure!(
        output.status.success(),
        "cargo deb: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    print_made(&package)?;
    Ok(package)
}

/// Writes the documents that Debian requires: the copyright file and the changelog of the packaging.
pub fn write_documents(manual: &Path, date: &str) -> Result<()> {
    let licence = fs::read_to_string(workspace().join("LICENSE-MIT"))?;
    let licence = licence
        .lines()
        .skip_while(|line| !line.starts_with("Copyright"));
    let licence: Vec<_> = licence
        .map(|line| {
            if line.is_empty() {
                " .".to_owned()
            } else {
                format!(" {line}")
            }
        })
        .collect();
    let copyright = format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: tcpstate\n\
         Comment: {} beside this file has the licences of what is linked in.\n\n\
         Files: *\nCopyright: The tcpstate developers\nLicense: MIT or Apache-2.0\n\n\
         License: MIT\n{}\n\n\
         License: Apache-2.0\n The text is in /usr/share/common-licenses/Apache-2.0.\n",
        notices::FILE,
        licence.join("\n"),
    );
    fs::write(manual.join("copyright"), copyright)?;

    let mut clock = Command::new("date");
    let date = output_of(clock.args(["--utc", "--rfc-email", "--date", &format!("@{date}")]))?;
    let changelog = format!(
        "tcpstate ({VERSION}-{REVISION}) unstable; urgency=medium\n\n  \
         * The upstream changelog beside this file says what has changed.\n\n \
         -- {MAINTAINER}  {date}",
    );
    Ok(fs::write(manual.join("changelog.Debian"), changelog)?)
}

/// Installs the package, tries its files, purges it, and checks that nothing is left.
pub fn try_install(target: Target, package: &Path, kind: Root) -> Result<()> {
    ensure!(
        is_root() || has_sudo(),
        "trying an installation requires root or sudo"
    );
    if !target.is_native() {
        eprintln!("{target}: the package is not tried: it is for another kind of machine");
        return Ok(());
    }
    let root = workspace().join("target/dist-root");
    let made = kind.make(&root).and_then(|()| try_in(&root, package));
    remove(&root)?;
    made?;
    eprintln!("the package was installed, tried and purged: nothing is left of it");
    Ok(())
}

impl Root {
    /// Makes a root in a folder that does not exist, or that an interrupted run left.
    fn make(self, root: &Path) -> Result<()> {
        remove(root)?;
        match self {
            Self::Empty => {
                let database = root.join("var/lib/dpkg");
                for part in ["info", "updates", "triggers"] {
                    fs::create_dir_all(database.join(part))?;
                }
                fs::write(database.join("status"), "")?;
                // For the scripts of the package.
                fs::create_dir(root.join("bin"))?;
                fs::copy(SHELL, root.join("bin/sh"))
                    .with_context(|| format!("{SHELL}: install the package busybox-static"))?;
                Ok(())
            }
            Self::Debian => {
                let mirror = packages::site(false)?;
                eprintln!("fetching a minimal Debian");
                succeed(
                    as_root("mmdebstrap")
                        .args(["--quiet", "--variant=essential", SUITE])
                        .arg(root)
                        .arg(format!(
                            "deb [signed-by={}] {mirror} {SUITE} main",
                            packages::KEYRING
                        )),
                )
                .context("mmdebstrap: apt-get install mmdebstrap")
            }
        }
    }
}

/// Removes a root, whose files belong to the superuser, but nothing that is mounted in it.
fn remove(root: &Path) -> Result<()> {
    let options = ["--recursive", "--force", "--one-file-system"];
    succeed(as_root("rm").args(options).arg(root))
}

/// Installs the package in a root, checks its files, and purges it.
fn try_in(root: &Path, package: &Path) -> Result<()> {
    let before = listing(root)?;
    dpkg(root, &["--install".as_ref(), package])?;
    let after = listing(root)?;
    for file in expected()? {
        ensure!(after.contains(&file), "the package did not install {file}");
    }
    let reported = output_of(
        as_root("chroot")
            .arg(root)
            .args(["/usr/bin/tcpstate", "--version"]),
    )?;
    ensure!(
        reported == format!("tcpstate {VERSION}\n"),
        "installed, it reports the version {reported}"
    );
    dpkg(root, &["--purge".as_ref(), "tcpstate".as_ref()])?;
    let after = listing(root)?;
    let left: Vec<_> = after
        .symmetric_difference(&before)
        .map(String::as_str)
        .collect();
    ensure!(
        left.is_empty(),
        "after the purge, the root differs: {}",
        left.join(" ")
    );
    Ok(())
}

/// The files that the package must install.
fn expected() -> Result<Vec<String>> {
    let mut expected = vec![
        "usr/bin/tcpstate".to_owned(),
        "usr/lib/systemd/system/tcpstate.service".to_owned(),
        "usr/lib/systemd/system/tcpstate.socket".to_owned(),
        "etc/tcpstate/serve.toml".to_owned(),
        "usr/share/bash-completion/completions/tcpstate".to_owned(),
        "usr/share/zsh/vendor-completions/_tcpstate".to_owned(),
        "usr/share/fish/vendor_completions.d/tcpstate.fish".to_owned(),
    ];
    let documents = [
        "README.md",
        "changelog.gz",
        "changelog.Debian.gz",
        "copyright",
        notices::FILE,
    ];
    expected.extend(documents.map(|name| format!("usr/share/doc/tcpstate/{name}")));
    let pages = files(&manual().join("man"))?;
    expected.extend(pages.iter().map(|page| {
        let section = page.rsplit('.').next().unwrap_or_default();
        format!("usr/share/man/man{section}/{page}.gz")
    }));
    Ok(expected)
}

/// Runs this machine's dpkg on another root. Its output is shown only if it fails.
fn dpkg(root: &Path, arguments: &[&Path]) -> Result<()> {
    // A minimal Debian image may be configured to skip documents.
    let all = "--path-include=/*";
    let mut root_option = std::ffi::OsString::from("--root=");
    root_option.push(root);
    output_of(as_root("dpkg").arg(root_option).arg(all).args(arguments)).map(drop)
}

/// All files in a root, except dpkg's own logs and state.
fn listing(root: &Path) -> Result<BTreeSet<String>> {
    let text = output_of(
        as_root("find")
            .arg(root)
            .args(["-mindepth", "1", "-printf", r"%P\n"]),
    )?;
    let of_dpkg = ["var/lib/dpkg", "var/log", "var/cache/ldconfig"];
    let of_package = text
        .lines()
        .filter(|path| !of_dpkg.iter().any(|part| path.starts_with(part)));
    Ok(of_package.map(str::to_owned).collect())
}
