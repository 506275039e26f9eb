//! The file in which `copyhold events --exec` keeps its cursor.

use std::{
    ffi::OsString,
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use copyhold_core::{domain::Cursor, regular_file};

/// An event's id has a tenth of it.
const AT_MOST_BYTES: u64 = 1024;
const NO_ID: &str = "it holds no event's id: correct it, or remove it";

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
        let cursor = match regular_file::read(path, AT_MOST_BYTES) {
            Ok(bytes) => Some(String::from_utf8(bytes).context(NO_ID)?.trim_end().parse().context(NO_ID)?),
            Err(error) if error.io_kind() == Some(io::ErrorKind::NotFound) => None,
            Err(error) => bail!("it {error}; {}", error.remedy()),
        };
        Ok(Self { path: path.to_owned(), cursor, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
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
        // As long as a disk, and not read.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let refused = CursorFile::open(&path).err().unwrap().to_string();
        assert!(refused.contains("is larger than"), "{refused}");
    }
}
