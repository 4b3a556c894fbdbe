//! Files in the current directory. An existing one is never touched, and nobody else can read a new one.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// The most files of the same time.
const SAME: usize = 99;

/// Creates a file in a directory, with this name or, where that is taken, with a number behind it. `create` is given the
/// path, and has to touch nothing that exists. Returns the name, with what `create` returned.
///
/// *Errors:* those of `create`; [`io::ErrorKind::AlreadyExists`] where too many names are taken.
pub fn create<T>(
    directory: &Path,
    stem: &str,
    ending: &str,
    mut create: impl FnMut(&Path) -> io::Result<T>,
) -> io::Result<(String, T)> {
    let numbers = (2..=SAME).map(|number| format!("{stem}-{number}.{ending}"));
    let names = std::iter::once(format!("{stem}.{ending}")).chain(numbers);
    for name in names {
        match create(&directory.join(&name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => return created.map(|created| (name, created)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Writes a new file.
///
/// *Errors:* there is something of this name; or it cannot be created, or not be written to the end. Then there is no file.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content).inspect_err(|_| {
        // Half of it would look like all.
        let _ = fs::remove_file(path);
    })
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
        let (name, ()) = create(directory.path(), "a", "json", |path| write(path, b"new")).unwrap();
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
            create(directory.path(), "a", "json", |path| write(path, b"")).unwrap();
        }
        let created = create(directory.path(), "a", "json", |path| write(path, b""));
        let error = created.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }
}
