//! `dist`: builds the release files, and checks them.
//!
//! For each target it makes an archive with the static binary, its man pages and completions, and, if
//! cargo-deb is installed, a Debian package of the same; a container image for all of them; and `SHA256SUMS`
//! beside them. The same sources, compiler and C library give the same bytes.

mod common;
mod deb;
mod elf;
mod image;
mod notices;
mod run_image;
mod target;

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::{self, Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use self::common::{VERSION, files, fresh, manual, output_of, print_made, tar};
pub use self::target::Target;
use crate::{build_ebpf::sources::sha256, cargo, paths, privileges::succeed, workspace};

/// Arguments of `dist`.
#[derive(clap::Args)]
pub struct Dist {
    /// Machines to build for [default: all that can be built here]
    #[arg(long = "target", value_name = "TARGET")]
    targets: Vec<Target>,
    /// Folder for the files [default: target/dist]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Fail if no Debian package can be made, and try its installation
    #[arg(long, value_name = "ROOT", num_args = 0..=1, default_missing_value = "empty")]
    try_deb: Option<deb::Root>,
    /// Run the container image by runc, as root
    #[arg(long)]
    try_image: bool,
}

/// Builds all files, and replaces those of an earlier run.
pub fn run(arguments: &Dist) -> Result<()> {
    let out = match &arguments.out {
        Some(out) => path::absolute(out)?,
        None => workspace().join("target/dist"),
    };
    let targets = targets(&arguments.targets)?;
    let with_deb = deb::is_possible();
    if !with_deb {
        let message = format!("no Debian package: {}", deb::TO_INSTALL);
        ensure!(arguments.try_deb.is_none(), message);
        eprintln!("{message}");
    }
    fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    remove_earlier(&out)?;
    let date = date();
    write_manual(&targets, &date)?;
    let (mut made, mut binaries) = (Vec::new(), Vec::new());
    for &target in &targets {
        eprintln!("{target}: building");
        let binary = target.build()?;
        check_binary(target, &binary)?;
        try_out(target, &binary)?;
        made.push(archive(target, &binary, &out, &date)?);
        if with_deb {
            let package = deb::make(target, &out, &date)?;
            if let Some(root) = arguments.try_deb {
                deb::try_install(target, &package, root)?;
            }
            made.push(package);
        }
        binaries.push((target, binary));
    }
    let image = image::make(&binaries, &out, &date)?;
    if arguments.try_image {
        run_image::run(&image)?;
    }
    made.push(image);
    write_checksums(&made, &out)
}

/// Makes the Debian package for this machine in a folder.
pub fn package(out: &Path) -> Result<PathBuf> {
    ensure!(deb::is_possible(), "{}", deb::TO_INSTALL);
    let (target, date) = (native()?, date());
    write_manual(&[target], &date)?;
    target.build()?;
    deb::make(target, out, &date)
}

/// Removes the files of an earlier run, which the new checksums would not include.
fn remove_earlier(out: &Path) -> Result<()> {
    for file in fs::read_dir(out)? {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_archive = name.starts_with("tcpstate-") && name.ends_with(".tar.gz");
        let is_package = name.starts_with("tcpstate_") && name.ends_with(".deb");
        let is_image = name.starts_with("tcpstate-") && name.ends_with(image::SUFFIX);
        if is_archive || is_package || is_image || name == "SHA256SUMS" {
            fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// The given targets, or all that can be built here.
fn targets(wanted: &[Target]) -> Result<Vec<Target>> {
    let mut possible = Vec::new();
    for target in Target::ALL {
        let is_wanted = wanted.contains(&target);
        match target.missing() {
            _ if !is_wanted && !wanted.is_empty() => {}
            None => possible.push(target),
            Some(missing) if is_wanted => bail!("{target}: {missing}"),
            Some(missing) => eprintln!("{target}: skipped: {missing}"),
        }
    }
    ensure!(!possible.is_empty(), "nothing can be built here");
    Ok(possible)
}

/// The target of this machine, or the reason why it cannot be built here.
pub fn native() -> Result<Target> {
    let native = Target::ALL.into_iter().find(|target| target.is_native());
    let native = native.context("there is no target for this kind of machine")?;
    match native.missing() {
        None => Ok(native),
        Some(missing) => bail!("{native}: {missing}"),
    }
}

/// The modification time of the files in seconds since 1970: that of the last commit, so that two runs give
/// the same bytes.
fn date() -> String {
    if let Ok(date) = env::var("SOURCE_DATE_EPOCH") {
        return date;
    }
    let mut git = Command::new("git");
    git.current_dir(workspace());
    match output_of(git.args(["log", "-1", "--format=%ct"])) {
        Ok(date) => date.trim().to_owned(),
        Err(error) => {
            eprintln!("without git or SOURCE_DATE_EPOCH the files are dated 1970: {error:#}");
            "0".to_owned()
        }
    }
}

/// Writes man pages, completions and the licences of linked code, which are the same for every target.
fn write_manual(targets: &[Target], date: &str) -> Result<()> {
    let manual = manual();
    fresh(&manual)?;
    let mut writer = cargo();
    writer
        .current_dir(workspace())
        .args(["run", "--quiet", "--locked", "--package", "xtask-manual"])
        .arg("--")
        .arg(&manual);
    succeed(&mut writer)?;
    notices::write(targets, &manual)?;
    deb::write_documents(&manual, date)
}

/// Checks the file of a binary.
fn check_binary(target: Target, binary: &Path) -> Result<()> {
    let file = fs::read(binary)?;
    let defects = elf::defects(&file, target.machine())?;
    ensure!(
        defects.is_empty(),
        "{}: {}",
        binary.display(),
        defects.join("; ")
    );
    for folder in [workspace(), paths::cargo_home()?] {
        let name = folder.as_os_str().as_encoded_bytes();
        // A path as short as `/src` is a part of other paths.
        let is_short = folder.components().count() < 3;
        ensure!(
            is_short || !file.windows(name.len()).any(|part| part == name),
            "{} contains the path of its build, {}",
            binary.display(),
            folder.display()
        );
    }
    let bytes = file.len();
    eprintln!("{target}: {bytes} bytes; static, hardened and stripped");
    Ok(())
}

/// Runs a binary, if that is possible.
fn try_out(target: Target, binary: &Path) -> Result<()> {
    let (Some(mut version), Some(trace)) = (target.command(binary), target.command(binary)) else {
        eprintln!("{target}: not run: there is no QEMU: apt-get install qemu-user-static");
        return Ok(());
    };
    let reported = output_of(version.arg("--version"))?;
    ensure!(
        reported == format!("tcpstate {VERSION}\n"),
        "it reports the version {reported}"
    );
    read_a_recording(trace)?;
    if target.is_native() {
        doctor(binary)?;
    }
    eprintln!("{target}: runs");
    Ok(())
}

/// Reads a small recording with the binary. Its blocks are compressed, and the decompressor is not written
/// in Rust.
fn read_a_recording(mut trace: Command) -> Result<()> {
    let seed = workspace().join("tcpstate-user/fuzz/seeds/recording_reader/whole");
    let seed = fs::read(&seed).with_context(|| seed.display().to_string())?;
    // The first byte of the seed is for the fuzz target.
    let (_, recording) = seed.split_first().context("an empty seed")?;
    trace.args(["trace", "--csv", "--read", "-"]);
    let mut child = trace
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(recording) {
            // It failed, and its own message gives the reason.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            result => result?,
        }
    }
    let output = child.wait_with_output()?;
    let lines = String::from_utf8_lossy(&output.stdout).lines().count();
    ensure!(
        output.status.success() && lines > 1,
        "{trace:?}: {}, {lines} lines\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Runs `doctor` on this kernel. A feature that the host lacks is no fault of the binary, unless the kernel
/// is required, as in the tests.
fn doctor(binary: &Path) -> Result<()> {
    // Runs as the caller, because a new binary must not run as root without being asked.
    let mut doctor = Command::new(binary);
    let output = doctor.arg("doctor").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let verdict = text.lines().last().unwrap_or_default();
    let is_required = env::var("TCPSTATE_REQUIRE_KERNEL").is_ok_and(|value| value == "1");
    ensure!(
        text.starts_with(&format!("tcpstate {VERSION} on "))
            && (output.status.success() || output.status.code() == Some(1) && !is_required),
        "{doctor:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    eprintln!("doctor: {verdict}");
    Ok(())
}

/// Makes the archive, with one folder of the same name.
fn archive(target: Target, binary: &Path, out: &Path, date: &str) -> Result<PathBuf> {
    let name = format!("tcpstate-{VERSION}-{target}");
    let stage = workspace().join("target/dist-stage");
    let folder = stage.join(&name);
    fresh(&folder)?;
    fs::copy(binary, folder.join("tcpstate"))?;
    for document in ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"] {
        fs::copy(workspace().join(document), folder.join(document))?;
    }
    let manual = manual();
    fs::copy(manual.join(notices::FILE), folder.join(notices::FILE))?;
    for part in ["completions", "man"] {
        fs::create_dir(folder.join(part))?;
        for file in files(&manual.join(part))? {
            fs::copy(manual.join(part).join(&file), folder.join(part).join(&file))?;
        }
    }
    let archive = out.join(format!("{name}.tar.gz"));
    succeed(
        tar(date)
            .args(["--format=gnu", "--use-compress-program=gzip -9n", "--file"])
            .arg(&archive)
            .arg("--directory")
            .arg(&stage)
            .arg(&name),
    )?;
    print_made(&archive)?;
    Ok(archive)
}

/// Writes `SHA256SUMS` in the format of `sha256sum --check`.
fn write_checksums(made: &[PathBuf], out: &Path) -> Result<()> {
    let mut lines = String::new();
    for file in made {
        let name = file.file_name().context("a file has a name")?.display();
        writeln!(lines, "{}  {name}", sha256(&fs::read(file)?))?;
    }
    let checksums = out.join("SHA256SUMS");
    fs::write(&checksums, lines)?;
    print_made(&checksums)
}
