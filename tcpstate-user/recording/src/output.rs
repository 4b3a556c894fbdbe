//! The output of a recording: a file, a pipe or standard output; and the renaming of a rotation's files.
//!
//! It takes whole pieces of any content: a piece that cannot be written whole is removed again, so that
//! the file ends with the piece before it.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FileType, Gid, Mode, OFlags, Stat},
    process::geteuid,
    stdio::stdout,
};

/// A failure to write a recording.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Nothing has been written.
    #[error("cannot create {}: {source}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The output is a terminal, and the data is binary.
    #[error(
        "a recording is binary and {} is a terminal: name a file with -w FILE, \
         or send it on with `-w - | ...`",
        path.display()
    )]
    Terminal {
        /// The file, `-` for standard output.
        path: PathBuf,
    },
    /// Only files can be renamed and started anew.
    #[error("{} is no regular file: it cannot be rotated or limited in size", path.display())]
    NotRotatable {
        /// The file, `-` for standard output.
        path: PathBuf,
    },
    /// The limit leaves no room for a single block.
    #[error("{max_bytes} bytes hold no recording: --max-bytes has to be {least} or more")]
    TooSmall {
        /// The limit.
        max_bytes: u64,
        /// The least that works.
        least: u64,
    },
    /// The flight recorder's memory holds no block.
    #[error(
        "{memory_bytes} bytes of memory hold no block: the flight recorder needs {least} or more"
    )]
    TooLittleMemory {
        /// The limit.
        memory_bytes: u64,
        /// The least that works.
        least: u64,
    },
    /// Writing failed. The file has been cut to its last whole block.
    #[error(
        "cannot write {}: {source}. It can be read up to there ({written_bytes} bytes). {}",
        path.display(),
        hint(source)
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
        /// The length of the file now.
        written_bytes: u64,
    },
    /// The flight recorder could not write its events.
    #[error("cannot write {}: {source}. The events are still in memory. {}", path.display(), hint(source))]
    Dump {
        /// The file, which is as it was.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The flight recorder could not write all of its events at the end of the capture.
    #[error(
        "cannot write {}: {source}. {}. {}",
        path.display(),
        lost(*written, *not_written),
        hint(source)
    )]
    LastDump {
        /// The file; as it was, if no events were written.
        path: PathBuf,
        /// The cause.
        source: io::Error,
        /// The newest events, which are in the file.
        written: u64,
        /// The events before them, which are lost.
        not_written: u64,
    },
    /// An older file of a rotation could not be renamed.
    #[error("cannot rename {} to {}: {source}", from.display(), to.display())]
    Rename {
        /// The file.
        from: PathBuf,
        /// Its new name.
        to: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The compressor failed.
    #[error("cannot compress a block: {0}")]
    Compress(io::Error),
}

/// Advice for the user.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "Make room there, or bound the recording with --max-bytes and --rotate"
        }
        io::ErrorKind::FileTooLarge => {
            "Bound the recording with --max-bytes, and keep several with --rotate"
        }
        io::ErrorKind::TimedOut | io::ErrorKind::NotConnected => {
            "Let its reader read to the end, or record to a file"
        }
        _ => "Check the disk, or record to another one",
    }
}

/// The fate of a flight recorder's events.
fn lost(written: u64, not_written: u64) -> String {
    match written {
        0 => format!("The {not_written} events in memory are lost"),
        _ => format!(
            "The {not_written} oldest events in memory are lost, the {written} newest are in the file"
        ),
    }
}

impl WriteError {
    /// Whether there was no room for so many bytes.
    pub(crate) fn is_for_room(&self) -> bool {
        let (Self::Write { source, .. } | Self::Create { source, .. }) = self else {
            return false;
        };
        matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
    }

    /// The error as an `io::Error` of its cause's kind, so that a closed pipe is still recognised.
    pub fn into_io(self) -> io::Error {
        let kind = match &self {
            Self::Create { source, .. }
            | Self::Write { source, .. }
            | Self::Dump { source, .. }
            | Self::LastDump { source, .. }
            | Self::Rename { source, .. }
            | Self::Compress(source) => source.kind(),
            Self::Terminal { .. }
            | Self::NotRotatable { .. }
            | Self::TooSmall { .. }
            | Self::TooLittleMemory { .. } => io::ErrorKind::InvalidInput,
        };
        io::Error::new(kind, self)
    }
}

/// An output of whole pieces.
pub(crate) struct Output {
    path: PathBuf,
    target: Target,
    written_bytes: u64,
}

enum Target {
    /// A regular file: a piece can be removed again.
    File(File),
    /// A pipe, a device or standard output: nothing can be removed again.
    Stream(Box<dyn Stream>),
}

/// An output that is no regular file.
pub trait Stream: Write + AsFd + Send {}

impl<T: Write + AsFd + Send> Stream for T {}

/// Opens an output that exists and is no regular file; `-` is standard output.
pub type OpenStream = fn(&Path) -> io::Result<Box<dyn Stream>>;

/// Opens one that waits for its reader, however long.
pub(crate) fn open_stream(path: &Path) -> io::Result<Box<dyn Stream>> {
    // Not by way of `io::Stdout`, which would search the bytes for line ends.
    Ok(Box::new(if is_stdout(path) {
        File::from(stdout().try_clone_to_owned()?)
    } else {
        File::options().write(true).open(path)?
    }))
}

/// For its owner alone: a recording has everybody's connections.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

impl Output {
    /// Creates the file, or truncates the one that exists, as `tcpdump -w` does.
    pub(crate) fn create(path: &Path, open_stream: OpenStream) -> Result<Self, WriteError> {
        let failed = |source| WriteError::Create {
            path: path.to_owned(),
            source,
        };
        if is_stdout(path) || fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            let stream = open_stream(path).map_err(failed)?;
            if rustix::termios::isatty(&stream) {
                return Err(WriteError::Terminal {
                    path: path.to_owned(),
                });
            }
            return Ok(Self::new(path, Target::Stream(stream)));
        }
        let file = open_file(path, OFlags::TRUNC).map_err(failed)?;
        Ok(Self::new(path, Target::File(file)))
    }

    /// Creates the file, and follows no link and overwrites nothing: where a name is free and others may write to the
    /// directory, it may be taken a moment later.
    pub(crate) fn create_new(path: &Path, access: Option<Access>) -> Result<Self, WriteError> {
        let create = || {
            let file = open_file(path, OFlags::EXCL | OFlags::NOFOLLOW)?;
            access.map_or(Ok(()), |access| access.give(&file))?;
            Ok(file)
        };
        let file = create().map_err(|source| WriteError::Create {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::new(path, Target::File(file)))
    }

    /// Creates `FILE.partial`, or if that name is taken, `FILE.partial.1` and so on: a run that was killed may have
    /// left what somebody wants.
    pub(crate) fn create_partial(path: &Path) -> Result<Self, WriteError> {
        let (first, access) = (with_suffix(path, "partial"), Access::of(path));
        let mut created = Self::create_new(&first, access);
        for number in 1..PARTIALS {
            if !matches!(&created, Err(WriteError::Create { source, .. })
                if source.kind() == io::ErrorKind::AlreadyExists)
            {
                break;
            }
            created = Self::create_new(&numbered(&first, number), access);
        }
        created
    }

    fn new(path: &Path, target: Target) -> Self {
        Self {
            path: path.to_owned(),
            target,
            written_bytes: 0,
        }
    }

    /// Bytes written, without those that were removed again.
    pub(crate) const fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a whole piece, or nothing of it.
    pub(crate) fn write_piece(&mut self, pieces: [&[u8]; 2]) -> Result<(), WriteError> {
        let result = match &mut self.target {
            Target::File(file) => {
                let result = pieces
                    .into_iter()
                    .try_for_each(|bytes| file.write_all(bytes));
                if result.is_err() {
                    // If even this fails, the reader finds the file cut, and reports it.
                    let _ = file.set_len(self.written_bytes);
                    let _ = io::Seek::seek(file, io::SeekFrom::Start(self.written_bytes));
                }
                result
            }
            Target::Stream(stream) => pieces
                .into_iter()
                .try_for_each(|bytes| stream.write_all(bytes)),
        };
        match result {
            Ok(()) => {
                self.written_bytes += pieces.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
                Ok(())
            }
            Err(source) => Err(self.failure(source)),
        }
    }

    /// Waits for the disk: some report only then that they are full.
    pub(crate) fn sync(&mut self) -> Result<(), WriteError> {
        match &self.target {
            Target::File(file) => file.sync_all().map_err(|source| self.failure(source)),
            Target::Stream(_) => Ok(()),
        }
    }

    fn failure(&self, source: io::Error) -> WriteError {
        WriteError::Write {
            path: self.path.clone(),
            source,
            written_bytes: self.written_bytes,
        }
    }
}

/// The access rights of a file that another one replaces.
#[derive(Clone, Copy)]
pub(crate) struct Access {
    mode: Mode,
    group: Gid,
}

impl Access {
    /// The access to this file, if there is one and it is this user's: somebody else may have put theirs there, to
    /// read what comes next.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let stat = rustix::fs::lstat(path).ok()?;
        let is_own = stat.st_uid == geteuid().as_raw();
        (is_own && is_regular(&stat)).then(|| Self {
            mode: Mode::from_raw_mode(stat.st_mode) & (Mode::RWXU | Mode::RWXG | Mode::RWXO),
            group: Gid::from_raw(stat.st_gid),
        })
    }

    fn give(self, file: &File) -> io::Result<()> {
        let has_group = rustix::fs::fchown(file, None, Some(self.group)).is_ok();
        // The rights of a group are not for another one.
        let mode = if has_group {
            self.mode
        } else {
            self.mode - Mode::RWXG
        };
        Ok(rustix::fs::fchmod(file, mode)?)
    }
}

fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// Opens a regular file to write, or creates it.
fn open_file(path: &Path, more: OFlags) -> io::Result<File> {
    // Without waiting for anything, should it be a FIFO by now.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(rustix::fs::open(path, flags | more, PRIVATE)?.into())
}

/// Of the files that are written, renamed or removed, the one that is to be read, if any: it would be gone before it
/// is read. `-` is standard input and standard output; `files` is the number of a rotation's.
pub fn overwrites(read: &Path, write: &Path, files: u32) -> Option<PathBuf> {
    let identity = |stat: rustix::io::Result<Stat>| {
        let stat = stat.ok()?;
        is_regular(&stat).then_some((stat.st_dev, stat.st_ino))
    };
    let read = identity(if is_stdout(read) {
        rustix::fs::fstat(io::stdin())
    } else {
        rustix::fs::stat(read)
    })?;
    if is_stdout(write) {
        let is_read = identity(rustix::fs::fstat(stdout())) == Some(read);
        return is_read.then(|| write.to_owned());
    }
    (0..files.max(1))
        .map(|number| part(write, number))
        .find(|path| identity(rustix::fs::stat(path)) == Some(read))
}

/// Whether the path means standard output.
pub(crate) fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Whether a recording at this path can be renamed: it is a regular file, or does not exist yet.
pub(crate) fn is_rotatable(path: &Path) -> bool {
    !is_stdout(path) && fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
        || !is_stdout(path) && fs::symlink_metadata(path).is_err()
}

/// The most files that may be left from runs that were killed while writing.
const PARTIALS: u32 = 100;

/// The name of a file of a rotation: `FILE`, or for older ones `FILE.1` and so on.
fn part(path: &Path, number: u32) -> PathBuf {
    match number {
        0 => path.to_owned(),
        _ => numbered(path, number),
    }
}

/// The name of the `number`th older file: `FILE.1` is the one before `FILE`.
pub(crate) fn numbered(path: &Path, number: u32) -> PathBuf {
    with_suffix(path, &number.to_string())
}

/// `FILE.suffix`.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Renames the files of a rotation of `files` in all, for a new `FILE`: `FILE` becomes `FILE.1`,
/// `FILE.1` becomes `FILE.2` and so on; the oldest is overwritten.
pub(crate) fn shift(path: &Path, files: u32) -> Result<(), WriteError> {
    for number in (0..files.saturating_sub(1)).rev() {
        let (from, to) = (part(path, number), part(path, number + 1));
        match fs::rename(&from, &to) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(WriteError::Rename { from, to, source });
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_that_does_not_fit_is_named_with_its_file() {
        let mut full = Output::create(Path::new("/dev/full"), open_stream).unwrap();
        let error = full.write_piece([b"a", b"b"]).unwrap_err();
        assert!(matches!(
            &error,
            WriteError::Write {
                written_bytes: 0,
                ..
            }
        ));
        let message = error.to_string();
        assert!(
            message.contains("/dev/full") && message.contains("--max-bytes"),
            "{message}"
        );
        assert_eq!(error.into_io().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn shifting_keeps_the_number_of_files_and_drops_the_oldest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.rec");
        for content in ["1", "2", "3", "4", "5"] {
            shift(&path, 3).unwrap();
            fs::write(&path, content).unwrap();
        }
        let read = |path: PathBuf| fs::read_to_string(path).ok();
        assert_eq!(read(path.clone()).as_deref(), Some("5"));
        assert_eq!(read(numbered(&path, 1)).as_deref(), Some("4"));
        assert_eq!(read(numbered(&path, 2)).as_deref(), Some("3"));
        assert_eq!(read(numbered(&path, 3)), None);
    }

    #[test]
    fn a_file_is_itself_under_any_name_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b, link] = ["a", "b", "link"].map(|name| dir.path().join(name));
        fs::write(&a, "").unwrap();
        std::os::unix::fs::symlink(&a, &link).unwrap();
        let is = |read: &Path, write: &Path| overwrites(read, write, 1).is_some();
        assert!(is(&a, &a));
        assert!(is(&a, &link));
        assert!(!is(&a, &b));
        assert!(!is(&b, &b), "there is none");
        fs::write(&b, "").unwrap();
        assert!(!is(&a, &b));
        let null = Path::new("/dev/null");
        assert!(!is(null, null), "nothing is lost there");
    }

    #[test]
    fn any_file_of_a_rotation_is_overwritten_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let [file, link] = ["a", "link"].map(|name| dir.path().join(name));
        let second = numbered(&file, 2);
        fs::write(&second, "").unwrap();
        fs::hard_link(&second, &link).unwrap();
        for read in [&second, &link] {
            assert_eq!(overwrites(read, &file, 2), None);
            assert_eq!(overwrites(read, &file, 3), Some(second.clone()));
        }
    }

    #[test]
    fn only_files_that_can_be_renamed_are_rotated() {
        assert!(!is_rotatable(Path::new("-")));
        assert!(!is_rotatable(Path::new("/dev/null")));
        assert!(is_rotatable(Path::new("/nonexistent/file")));
    }
}
