//! Finds, fetches and unpacks Debian's kernel packages by apt and dpkg, without touching this machine's
//! own sources and packages.
//!
//! apt verifies each package by the checksum in its suite's index, and the index by the distribution's
//! signature. Security updates change the suites, so no version is pinned: the version that was fetched is
//! printed, and kept until `--refresh`.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::features::Kernel;
use crate::privileges::succeed;

/// Debian's archive keys, which sign the suites.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The package that depends on the newest kernel of its suite: the one for any machine, since the one for
/// virtual machines has no 9p.
const METAPACKAGE: &str = "linux-image-amd64";

/// An unpacked kernel.
pub struct Unpacked {
    /// The release, as in `uname -r`.
    pub release: String,
    /// The compressed kernel image.
    pub image: PathBuf,
    /// The folder that contains `lib/modules`.
    pub root: PathBuf,
}

impl Unpacked {
    /// The folder of the modules.
    pub fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }
}

/// A kernel's packages are not available: Debian's servers cannot be reached, or apt knows no such
/// package.
#[derive(Debug)]
pub struct Unfetched;

impl std::fmt::Display for Unfetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("its packages cannot be fetched from Debian")
    }
}

impl std::error::Error for Unfetched {}

/// Returns the kernel in `folder`. Fetches it first if it is not there, or if `refresh` is set.
///
/// *Errors:* [`Unfetched`], among others.
pub fn get(kernel: &Kernel, folder: &Path, refresh: bool) -> Result<Unpacked> {
    let (root, complete) = (folder.join("root"), folder.join("complete"));
    if refresh || !complete.exists() {
        // Removes what an interrupted attempt left behind.
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        fetch(kernel, folder, &root)?;
        fs::write(&complete, "")?;
    }
    unpacked(root)
}

fn fetch(kernel: &Kernel, folder: &Path, root: &Path) -> Result<()> {
    let downloads = folder.join("packages");
    fs::create_dir_all(&downloads)?;
    let sources = sources(kernel).context(Unfetched)?;
    let apt = Apt::new(&sources, &folder.join("apt"))?;
    apt.download(kernel, &downloads).context(Unfetched)?;
    fs::create_dir_all(root)?;
    for package in fs::read_dir(&downloads)? {
        let package = package?.path();
        succeed(
            Command::new("dpkg-deb")
                .arg("--extract")
                .args([&package, root]),
        )?;
        fs::remove_file(&package)?;
    }
    // Newer packages have everything in /usr, but depmod and modprobe search in /lib.
    let library = root.join("lib");
    if !library.exists() {
        symlink("usr/lib", &library)?;
    }
    let release = release(root)?;
    // Newer packages have their lists of built-in modules elsewhere, and depmod warns of it.
    let depmod = Command::new("depmod")
        .arg("--basedir")
        .args([root.as_os_str(), release.as_ref()])
        .output()
        .context("depmod: install the package kmod")?;
    ensure!(
        depmod.status.success(),
        "depmod: {}",
        String::from_utf8_lossy(&depmod.stderr)
    );
    Ok(())
}

fn unpacked(root: PathBuf) -> Result<Unpacked> {
    let release = release(&root)?;
    let places = [
        root.join("boot").join(format!("vmlinuz-{release}")),
        root.join("lib/modules").join(&release).join("vmlinuz"),
    ];
    let image = places.into_iter().find(|path| path.exists());
    let image = image.with_context(|| format!("no kernel image in {}", root.display()))?;
    Ok(Unpacked {
        release,
        image,
        root,
    })
}

fn release(root: &Path) -> Result<String> {
    let folder = root.join("lib/modules");
    let mut entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let (Some(only), None) = (entries.next().transpose()?, entries.next()) else {
        bail!("not exactly one kernel in {}", folder.display());
    };
    let name = only.file_name().into_string();
    name.map_err(|name| anyhow::anyhow!("not a kernel release: {}", name.display()))
}

/// A separate apt, with its sources, lists and caches in a folder of its own.
struct Apt {
    options: Vec<OsString>,
}

impl Apt {
    fn new(sources: &str, folder: &Path) -> Result<Self> {
        ensure!(
            Path::new(KEYRING).exists(),
            "{KEYRING} is missing: the kernels come from Debian, signed with these keys; install the \
             package debian-archive-keyring"
        );
        for part in [
            "lists/partial",
            "cache/archives/partial",
            "etc/preferences.d",
        ] {
            fs::create_dir_all(folder.join(part))?;
        }
        let list = folder.join("etc/sources.list");
        fs::write(&list, sources)?;
        // The newest of all suites wins, though apt prefers not to take one from backports.
        fs::write(
            folder.join("etc/preferences"),
            "Package: *\nPin: release o=*\nPin-Priority: 500\n",
        )?;
        let mut options = Vec::new();
        let mut option = |name: &str, value: &Path| {
            let mut text = OsString::from(format!("--option={name}="));
            text.push(value);
            options.push(text);
        };
        option("Dir::Etc", &folder.join("etc"));
        option("Dir::Etc::SourceList", &list);
        option("Dir::Etc::SourceParts", Path::new("/dev/null"));
        option("Dir::State", folder);
        option("Dir::State::Lists", &folder.join("lists"));
        option("Dir::State::Status", Path::new("/dev/null"));
        option("Dir::Cache", &folder.join("cache"));
        option("Acquire::Languages", Path::new("none"));
        // Only the index of packages is needed.
        for target in ["DEP-11", "DEP-11-icons", "Contents-deb"] {
            let name = format!("Acquire::IndexTargets::deb::{target}::DefaultEnabled");
            option(&name, Path::new("false"));
        }
        // Otherwise root's apt would become a user that may not write here.
        option("APT::Sandbox::User", Path::new("root"));
        // The index of a suite without further updates expires, but stays valid.
        option("Acquire::Check-Valid-Until", Path::new("false"));
        Ok(Self { options })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    /// Downloads the newest kernel's packages into `downloads`.
    fn download(&self, kernel: &Kernel, downloads: &Path) -> Result<()> {
        succeed(self.command("apt-get").args(["--quiet=2", "update"]))?;
        let packages = self.kernel_packages()?;
        eprintln!("{}: fetching {}", kernel.name, packages.join(" "));
        succeed(
            self.command("apt-get")
                .current_dir(downloads)
                .args(["--quiet=2", "download"])
                .args(&packages),
        )
    }

    /// The packages of the newest kernel: its image and, where they are packages of their own, its modules.
    fn kernel_packages(&self) -> Result<Vec<String>> {
        let output = self
            .command("apt-cache")
            .args(["depends", "--recurse", "--important", METAPACKAGE])
            .output()
            .context("apt-cache")?;
        let text = String::from_utf8(output.stdout)?;
        let is_kernel = |name: &&str| {
            ["linux-image-", "linux-binary-", "linux-modules-"]
                .iter()
                .filter_map(|prefix| name.strip_prefix(prefix))
                .any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        // The dependencies of a package are indented below it.
        let packages: Vec<_> = text.lines().filter(is_kernel).map(str::to_owned).collect();
        ensure!(
            !packages.is_empty(),
            "{METAPACKAGE} depends on no kernel: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(packages)
    }
}

/// The source list of a kernel's suites, for apt.
fn sources(kernel: &Kernel) -> Result<String> {
    let lines = kernel.suites.iter().map(|suite| {
        let site = site(suite.ends_with("-security"))?;
        Ok(format!(
            "deb [signed-by={KEYRING} arch=amd64] {site} {suite} main\n"
        ))
    });
    lines.collect()
}

/// The site from which this machine gets Debian's packages, or Debian's security updates.
pub fn site(security: bool) -> Result<String> {
    let label = if security {
        "Debian-Security"
    } else {
        "Debian"
    };
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(LABEL) $(SITE)"])
        .output()
        .context("apt-get")?;
    let text = String::from_utf8(output.stdout)?;
    let site = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find_map(|(of, site)| (of == label).then(|| site.to_owned()));
    site.with_context(|| {
        format!("apt knows no source labelled {label} here; on Debian, run: apt-get update")
    })
}
