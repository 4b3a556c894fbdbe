//! Files in the current directory. An existing one is never touched, and nobody else can read a new one.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// The most files of the same time.
const SAME: usize = 99;

/// Creates a file in a directory, with this name or, where that is taken, with a number behind it. Returns its name.
///
/// *Errors:* it cannot be created, or not be written to the end; then there is no file.
pub(crate) fn create(
    directory: &Path,
    stem: &str,
    ending: &str,
    content: &[u8],
) -> io::Result<String> {
    let numbers = (2..=SAME).map(|number| format!("{stem}-{number}.{ending}"));
    let mut names = std::iter::once(format!("{stem}.{ending}")).chain(numbers);
    loop {
        let Some(name) = names.next() else {
            return Err(io::ErrorKind::AlreadyExists.into());
        };
        let path = directory.join(&name);
        let created = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        let mut file = match created {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            created => created?,
        };
        if let Err(error) = file.write_all(content) {
            // Half of it would look like all.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        return Ok(name);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn nothing_that_is_there_is_touched_and_nobody_else_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("a.json"), "before").unwrap();
        // Whatever a link leads to is not ours.
        symlink(path("elsewhere"), path("a-2.json")).unwrap();
        let name = create(directory.path(), "a", "json", b"new").unwrap();
        assert_eq!(name, "a-3.json");
        assert_eq!(fs::read(path("a.json")).unwrap(), b"before");
        assert!(!path("elsewhere").exists());
        assert_eq!(fs::read(path("a-3.json")).unwrap(), b"new");
        let mode = fs::metadata(path("a-3.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn there_are_not_too_many_of_one_time() {
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..SAME {
            create(directory.path(), "a", "json", b"").unwrap();
        }
        let error = create(directory.path(), "a", "json", b"").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }
}
