//! The output of a recording: a file, a pipe or standard output; and the renaming of a rotation's files.
//!
//! It takes whole pieces of any content: a piece that cannot be written whole is removed again, so that
//! the file ends with the piece before it.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
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
        /// The file, which does not exist now.
        path: PathBuf,
        /// The cause.
        source: io::Error,
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
        _ => "Check the disk, or record to another one",
    }
}

impl WriteError {
    /// The error as an `io::Error` of its cause's kind, so that a closed pipe is still recognised.
    pub fn into_io(self) -> io::Error {
        let kind = match &self {
            Self::Create { source, .. }
            | Self::Write { source, .. }
            | Self::Dump { source, .. }
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
    Stream(File),
}

impl Output {
    /// Creates the file, or truncates the one that exists, as `tcpdump -w` does. `-` is standard output.
    pub(crate) fn create(path: &Path) -> Result<Self, WriteError> {
        let failed = |source| WriteError::Create {
            path: path.to_owned(),
            source,
        };
        let target = if is_stdout(path) {
            // Not by way of `io::Stdout`, which would search the bytes for line ends.
            let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
            Target::Stream(File::from(stdout))
        } else {
            let file = File::create(path).map_err(failed)?;
            let regular = file.metadata().map_err(failed)?.is_file();
            if regular {
                Target::File(file)
            } else {
                Target::Stream(file)
            }
        };
        if let Target::Stream(stream) = &target
            && stream.is_terminal()
        {
            return Err(WriteError::Terminal {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            target,
            written_bytes: 0,
        })
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

/// Whether the file to read is the file to write, which would be truncated before it is read. `-` is
/// standard input and standard output.
pub fn are_same_file(read: &Path, write: &Path) -> bool {
    let identity = |stat: rustix::io::Result<rustix::fs::Stat>| {
        let stat = stat.ok()?;
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        (kind == rustix::fs::FileType::RegularFile).then_some((stat.st_dev, stat.st_ino))
    };
    let read = if is_stdout(read) {
        rustix::fs::fstat(io::stdin())
    } else {
        rustix::fs::stat(read)
    };
    let write = if is_stdout(write) {
        rustix::fs::fstat(io::stdout())
    } else {
        rustix::fs::stat(write)
    };
    identity(read).is_some_and(|read| identity(write) == Some(read))
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
        let from = if number == 0 {
            path.to_owned()
        } else {
            numbered(path, number)
        };
        let to = numbered(path, number + 1);
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
        let mut full = Output::create(Path::new("/dev/full")).unwrap();
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
        assert!(are_same_file(&a, &a));
        assert!(are_same_file(&a, &link));
        assert!(!are_same_file(&a, &b));
        assert!(!are_same_file(&b, &b), "there is none");
        fs::write(&b, "").unwrap();
        assert!(!are_same_file(&a, &b));
        let null = Path::new("/dev/null");
        assert!(!are_same_file(null, null), "nothing is lost there");
    }

    #[test]
    fn only_files_that_can_be_renamed_are_rotated() {
        assert!(!is_rotatable(Path::new("-")));
        assert!(!is_rotatable(Path::new("/dev/null")));
        assert!(is_rotatable(Path::new("/nonexistent/file")));
    }
}
