//! Reads a small file completely: configuration, secrets, certificates.
//!
//! It must not hang or fill memory, whatever the path leads to: a FIFO, a device, a folder, an endless file.

use std::{
    fs::{self, File, FileType, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    sync::mpsc,
    time::Duration,
};

use bytesize::ByteSize;
use rustix::fs::OFlags;

const FOLDER: &str = "a folder";
const WAITING: &str = "no file that can be read without waiting";
/// A pipe that the shell has opened for us, `<(command)`, must end within this time.
const PIPE_WITHIN: Duration = Duration::from_secs(10);

/// Why a file was not read. The message continues a sentence that names the file.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("is {0}")]
    NotRegular(&'static str),
    #[error("is larger than {}", ByteSize::b(*.0).display().iec())]
    TooLarge(u64),
    #[error("is a pipe that does not end within {} s", PIPE_WITHIN.as_secs())]
    NeverEnds,
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
}

impl ReadError {
    /// Returns what an operator can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotRegular(FOLDER) => "name the file in it",
            Self::NotRegular(_) | Self::NeverEnds => "name a regular file",
            Self::TooLarge(_) => "correct the path",
            Self::Io(error) => match error.kind() {
                io::ErrorKind::NotFound => "create it, or correct the path",
                io::ErrorKind::PermissionDenied => "let the daemon's user read it",
                _ => "correct the path",
            },
        }
    }

    /// Returns the kind of the I/O error; `None`: it is not one.
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io(error) => Some(error.kind()),
            Self::NotRegular(_) | Self::TooLarge(_) | Self::NeverEnds => None,
        }
    }
}

/// Returns the bytes of the file; at most `at_most` of them.
pub fn read(path: &Path, at_most: u64) -> Result<Vec<u8>, ReadError> {
    // Checked before it is opened: opening a FIFO waits for its writer, and opening a device may do anything.
    let found = fs::metadata(path)?.file_type();
    if found.is_fifo() && is_inherited(path) {
        return read_pipe(path, at_most);
    }
    refuse_special(found)?;
    // A file in /proc may look regular and have nothing to read yet: /proc/kmsg, for example.
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    // The path may lead to another file by now.
    refuse_special(file.metadata()?.file_type())?;
    limited(file, at_most)
}

/// Checks that a library which reads the whole file neither hangs nor fills memory. It opens nothing, so that a pipe
/// keeps its content; errors of the file system are left to the library.
pub fn check(path: &Path, at_most: u64) -> Result<(), ReadError> {
    let Ok(found) = fs::metadata(path) else { return Ok(()) };
    // Neither hangs nor fills memory: /dev/null, which stands for no file, and a folder, which the library refuses.
    let is_null = || fs::metadata("/dev/null").is_ok_and(|null| null.rdev() == found.rdev());
    if found.is_dir() || (found.file_type().is_char_device() && is_null()) {
        return Ok(());
    }
    refuse_special(found.file_type())?;
    if found.len() > at_most { Err(ReadError::TooLarge(at_most)) } else { Ok(()) }
}

fn limited(file: File, at_most: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    file.take(at_most.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => ReadError::NotRegular(WAITING),
        _ => error.into(),
    })?;
    if bytes.len() as u64 > at_most { Err(ReadError::TooLarge(at_most)) } else { Ok(bytes) }
}

fn refuse_special(found: FileType) -> Result<(), ReadError> {
    let kind = match found {
        found if found.is_file() => return Ok(()),
        found if found.is_dir() => FOLDER,
        found if found.is_fifo() => "a FIFO",
        found if found.is_socket() => "a socket",
        found if found.is_char_device() || found.is_block_device() => "a device",
        _ => "something else",
    };
    Err(ReadError::NotRegular(kind))
}

/// Returns whether the path names an open file of this process, as a shell's `<(command)` does.
fn is_inherited(path: &Path) -> bool {
    path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd") || path == Path::new("/dev/stdin")
}

/// Reads in a thread of its own, which is left behind if the pipe does not end.
fn read_pipe(path: &Path, at_most: u64) -> Result<Vec<u8>, ReadError> {
    let (sender, receiver) = mpsc::channel();
    let path = path.to_owned();
    std::thread::spawn(move || {
        let bytes = File::open(path).map_err(ReadError::from).and_then(|file| limited(file, at_most));
        // Fails only if the receiver has stopped waiting.
        let _ = sender.send(bytes);
    });
    receiver.recv_timeout(PIPE_WITHIN).unwrap_or(Err(ReadError::NeverEnds))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        os::{fd::AsRawFd as _, unix::net::UnixListener},
        process::Command,
    };

    use super::*;

    fn refused(path: &Path) -> String {
        read(path, 1024).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_regular_file_is_named_and_never_opened() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        // Opening it to read would block until a writer opens it.
        assert_eq!(refused(&fifo), "is a FIFO");
        assert_eq!(refused(folder.path()), "is a folder");
        assert_eq!(refused(Path::new("/dev/zero")), "is a device");
        let socket = folder.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        assert_eq!(refused(&socket), "is a socket");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&fifo, &link).unwrap();
        assert_eq!(refused(&link), "is a FIFO");
    }

    #[test]
    fn what_looks_like_a_regular_file_and_has_nothing_to_read_yet_does_not_block() {
        // A pipe whose writer is there and silent, opened as `read` opens files.
        let (reader, _writer) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).unwrap();
        assert_eq!(limited(file, 1024).unwrap_err().to_string(), format!("is {WAITING}"));
    }

    #[test]
    fn a_file_is_read_up_to_its_limit_and_no_further() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, [b'x'; 1024]).unwrap();
        assert_eq!(read(&path, 1024).unwrap().len(), 1024);
        // A sparse file of a terabyte, without a block on disk.
        File::options().append(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(refused(&path), "is larger than 1.0 KiB");
        assert_eq!(read(&folder.path().join("none"), 1).unwrap_err().io_kind(), Some(io::ErrorKind::NotFound));
    }

    #[test]
    fn a_file_for_a_library_is_checked_without_being_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert!(check(&path, 1024).is_ok(), "there is none");
        File::create(&path).unwrap().set_len(1024).unwrap();
        assert!(check(&path, 1024).is_ok());
        File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(check(&path, 1024).unwrap_err().to_string(), "is larger than 1.0 KiB");
        assert_eq!(check(Path::new("/dev/zero"), 1024).unwrap_err().to_string(), "is a device");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        assert!(check(&link, 1024).is_ok() && check(folder.path(), 1024).is_ok());
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"kept").unwrap();
        drop(writer);
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        assert_eq!(check(Path::new(&path), 1024).unwrap_err().to_string(), "is a FIFO");
        assert_eq!(io::read_to_string(reader).unwrap(), "kept");
    }

    #[test]
    fn a_pipe_that_the_shell_has_opened_is_read() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"of sops").unwrap();
        drop(writer);
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        assert_eq!(read(Path::new(&path), 1024).unwrap(), b"of sops");
    }
}
