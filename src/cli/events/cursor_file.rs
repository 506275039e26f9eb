use std::{
    ffi::OsString,
    fs::{self, File, TryLockError},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use crate::domain::Cursor;

/// Far more than a cursor has.
const CURSOR_BYTES: u64 = 1_000;

/// Where an agent keeps how far it has come, for as long as it runs its own.
pub(super) struct CursorFile {
    path: PathBuf,
    cursor: Option<Cursor>,
    /// Beside it, because the file itself is replaced each time.
    _lock: File,
}

impl CursorFile {
    /// A file that does not exist yet is begun with the first event.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let lock_path = beside(path, ".lock")?;
        let lock = File::create(&lock_path).with_context(|| format!("cannot make {}", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another agent uses it: give each a file of its own"),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", lock_path.display()));
            }
        }
        let cursor = match read(path) {
            Ok(text) => Some(text.trim_end().parse().context("it holds no event's id: correct it, or remove it")?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).context("cannot be read"),
        };
        Ok(Self { path: path.to_owned(), cursor, _lock: lock })
    }

    pub(super) fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }

    /// Whatever happens from now on, this or a later cursor is in the file.
    pub(super) fn store(&mut self, cursor: Cursor) -> anyhow::Result<()> {
        if self.cursor == Some(cursor) {
            return Ok(());
        }
        let new = beside(&self.path, ".new")?;
        let stored = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(format!("{cursor}\n").as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        stored().with_context(|| format!("cannot store {cursor} in {}", self.path.display()))?;
        self.cursor = Some(cursor);
        Ok(())
    }
}

/// The file's text, or as much of it as shows that it is no cursor.
fn read(path: &Path) -> io::Result<String> {
    // A pipe would be waited for.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut text = String::new();
    File::open(path)?.take(CURSOR_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn beside(path: &Path, ending: &str) -> anyhow::Result<PathBuf> {
    let mut name = OsString::from(path.file_name().context("it names no file")?);
    name.push(ending);
    Ok(path.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_agents_cannot_share_a_file_and_the_next_one_goes_on_where_the_last_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursor");
        let mut first = CursorFile::open(&path).unwrap();
        assert_eq!(first.cursor(), None);
        assert!(CursorFile::open(&path).is_err());
        let cursor = "12@1a2b3c4d".parse().unwrap();
        first.store(cursor).unwrap();
        drop(first);
        assert_eq!(CursorFile::open(&path).unwrap().cursor(), Some(cursor));
        assert_eq!(fs::read_to_string(&path).unwrap(), "12@1a2b3c4d\n");
        fs::write(&path, "nonsense").unwrap();
        assert!(CursorFile::open(&path).is_err());
        let device = folder.path().join("device");
        std::os::unix::fs::symlink("/dev/zero", &device).unwrap();
        assert!(CursorFile::open(&device).is_err(), "what has no end is not read to its end");
    }
}
