//! Finds, fetches and unpacks Debian's packages by apt and dpkg, kernels and what guests of another kind of machine
//! run, without touching this machine's own sources and packages.
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

use crate::privileges::succeed;

/// Debian's archive keys, which sign the suites.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The place of packages.
pub struct Source<'a> {
    /// The name of what is fetched from it, for messages.
    pub name: &'a str,
    /// The suites in which apt finds it.
    pub suites: &'a [&'a str],
    /// Debian's name of the kind of machine.
    pub architecture: &'a str,
}

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

/// Packages are not available: Debian's servers cannot be reached, or apt knows no such
/// package.
#[derive(Debug)]
pub struct Unfetched;

impl std::fmt::Display for Unfetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("its packages cannot be fetched from Debian")
    }
}

impl std::error::Error for Unfetched {}

/// Returns the kernel in `folder`, on which `metapackage` depends. Fetches it first if it is not there, or if
/// `refresh` is set.
///
/// *Errors:* [`Unfetched`], among others.
pub fn kernel(
    source: &Source<'_>,
    metapackage: &str,
    folder: &Path,
    refresh: bool,
) -> Result<Unpacked> {
    unpacked(once(folder, refresh, |root| {
        fetch(source, folder, root, |apt| apt.kernel_packages(metapackage))?;
        list_modules(root)
    })?)
}

/// Returns the root file system of these packages and of all that they depend on. Fetches them first if they are not
/// there, or if `refresh` is set. The packages are only unpacked: none of their scripts runs.
///
/// *Errors:* [`Unfetched`], among others.
pub fn system(
    source: &Source<'_>,
    packages: &[&str],
    folder: &Path,
    refresh: bool,
) -> Result<PathBuf> {
    once(folder, refresh, |root| {
        fetch(source, folder, root, |apt| apt.with_dependencies(packages))
    })
}

/// The folder `root` in `folder`, made by `make` unless that was done before.
fn once(folder: &Path, refresh: bool, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let (root, complete) = (folder.join("root"), folder.join("complete"));
    if refresh || !complete.exists() {
        // Removes what an interrupted attempt left behind.
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        make(&root)?;
        fs::write(&complete, "")?;
    }
    Ok(root)
}

/// Unpacks into `root` the packages that `select` names.
fn fetch(
    source: &Source<'_>,
    folder: &Path,
    root: &Path,
    select: impl FnOnce(&Apt) -> Result<Vec<String>>,
) -> Result<()> {
    let downloads = folder.join("packages");
    fs::create_dir_all(&downloads)?;
    let sources = sources(source).context(Unfetched)?;
    let apt = Apt::new(&sources, source.architecture, &folder.join("apt"))?;
    succeed(apt.command("apt-get").args(["--quiet=2", "update"])).context(Unfetched)?;
    let packages = select(&apt).context(Unfetched)?;
    eprintln!("{}: fetching {}", source.name, packages.join(" "));
    apt.download(&packages, &downloads).context(Unfetched)?;
    fs::create_dir_all(root)?;
    let mut files = Vec::new();
    for package in fs::read_dir(&downloads)? {
        files.push(package?.path());
    }
    // This one has the links from /bin to /usr/bin and the like, through which others are unpacked.
    files.sort_by_key(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        !name.starts_with("base-files_")
    });
    for package in files {
        succeed(
            Command::new("dpkg-deb")
                .arg("--extract")
                .args([&package, root]),
        )?;
        fs::remove_file(&package)?;
    }
    Ok(())
}

/// Makes the lists of the kernel's modules that modprobe reads.
fn list_modules(root: &Path) -> Result<()> {
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
    fn new(sources: &str, architecture: &str, folder: &Path) -> Result<Self> {
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
        // No package is installed, of any kind of machine.
        option("Dir::State::Status", Path::new("/dev/null"));
        for name in ["APT::Architecture", "APT::Architectures"] {
            option(name, Path::new(architecture));
        }
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

    /// Downloads packages into `downloads`.
    fn download(&self, packages: &[String], downloads: &Path) -> Result<()> {
        succeed(
            self.command("apt-get")
                .current_dir(downloads)
                .args(["--quiet=2", "download"])
                .args(packages),
        )
    }

    /// These packages and all that they depend on.
    fn with_dependencies(&self, packages: &[&str]) -> Result<Vec<String>> {
        let output = self
            .command("apt-get")
            .args(["--simulate", "--no-install-recommends", "install"])
            .args(packages)
            .output()
            .context("apt-get")?;
        let text = String::from_utf8(output.stdout)?;
        let installed = text.lines().filter_map(|line| line.strip_prefix("Inst "));
        let all: Vec<_> = installed
            .filter_map(|line| line.split(' ').next())
            .map(str::to_owned)
            .collect();
        ensure!(
            output.status.success() && !all.is_empty(),
            "apt would not install {}: {text}{}",
            packages.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(all)
    }

    /// The packages of the newest kernel: its image and, where they are packages of their own, its modules.
    fn kernel_packages(&self, metapackage: &str) -> Result<Vec<String>> {
        let output = self
            .command("apt-cache")
            .args(["depends", "--recurse", "--important", metapackage])
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
            "{metapackage} depends on no kernel: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(packages)
    }
}

/// The source list of the suites, for apt.
fn sources(source: &Source<'_>) -> Result<String> {
    let architecture = source.architecture;
    let lines = source.suites.iter().map(|suite| {
        let site = site(suite.ends_with("-security"))?;
        Ok(format!(
            "deb [signed-by={KEYRING} arch={architecture}] {site} {suite} main\n"
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
