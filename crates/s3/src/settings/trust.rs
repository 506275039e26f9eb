//! The authorities that may have issued the certificate of a store: those of this machine, or those in a PEM file.
//!
//! It connects to nothing. A named file that cannot be used is an error, never an empty set of authorities.

use std::{
    ffi::OsString,
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use copyhold_core::regular_file::{self, ReadError};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::InvalidVariable;

const CA_FILE: &str = "ca_file";
/// A bundle of all public authorities has some 200 KiB.
pub const AT_MOST_BYTES: u64 = 4 << 20;

/// The trusted authorities.
#[derive(Debug, Clone, Default)]
pub enum Trust {
    /// The authorities that this machine trusts.
    #[default]
    Machine,
    Named(Arc<Authorities>),
}

/// The authorities of a file, or of several, that a setting or a variable names.
pub struct Authorities {
    /// `ca_file`, or the variable's name.
    named_by: String,
    /// The path, or several, for messages.
    place: String,
    sources: Vec<AuthoritySource>,
    certificates: Vec<CertificateDer<'static>>,
}

/// A file or folder that authorities are read from.
enum AuthoritySource {
    File(PathBuf),
    Folder(PathBuf),
}

/// Time, size and inode of a file, or of each file in a folder: a replaced file differs in one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileStamps(Vec<Option<(i64, i64, u64, u64)>>);

impl AuthoritySource {
    fn read(&self) -> Result<Vec<CertificateDer<'static>>, (String, &'static str)> {
        match self {
            Self::File(path) => pem_file(path),
            Self::Folder(path) => pem_folder(path).map_err(|error| (unreadable(&error), "name a folder of PEM files")),
        }
    }

    fn path(&self) -> &Path {
        let (Self::File(path) | Self::Folder(path)) = self;
        path
    }

    fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::File(path) => vec![path.clone()],
            Self::Folder(path) => {
                let entries = fs::read_dir(path).into_iter().flatten().flatten();
                let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
                files.sort();
                files
            }
        }
    }
}

impl Authorities {
    /// Returns the current stamps of the files.
    #[must_use]
    pub fn stamps(&self) -> FileStamps {
        let stamp = |path: PathBuf| {
            let found = path.metadata().ok()?;
            Some((found.mtime(), found.mtime_nsec(), found.size(), found.ino()))
        };
        FileStamps(self.sources.iter().flat_map(AuthoritySource::files).map(stamp).collect())
    }

    /// Returns the authorities that the files hold now. Error: what is wrong with a file, in a clause that begins with
    /// its path.
    pub fn read_again(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        let mut certificates = Vec::new();
        for source in &self.sources {
            let path = source.path().display();
            certificates.extend(source.read().map_err(|(what, _)| format!("{path}, which {what}"))?);
        }
        if certificates.is_empty() {
            return Err(format!("{}, which holds no certificate in PEM form", self.place));
        }
        Ok(certificates)
    }

    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Returns the authorities in PEM form.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let pem = |certificate: &CertificateDer<'_>| {
            let text = BASE64_STANDARD.encode(certificate);
            format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
        };
        self.certificates.iter().map(pem).collect()
    }
}

/// `/etc/ssl/ca.pem (from SSL_CERT_FILE)`
impl fmt::Display for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (from {})", self.place, self.named_by)
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({} of {self})", self.certificates.len())
    }
}

impl Trust {
    /// Returns the path of `ca_file`, if the authorities are from there.
    #[must_use]
    pub fn ca_file(&self) -> Option<&str> {
        match self {
            Self::Named(authorities) if authorities.named_by == CA_FILE => Some(&authorities.place),
            Self::Named(_) | Self::Machine => None,
        }
    }

    /// Reads the authorities from the PEM file of `ca_file`. Error: what is wrong with the file, and what to do.
    pub fn of_ca_file(path: &Path) -> Result<Self, (String, &'static str)> {
        let source = AuthoritySource::File(path.to_path_buf());
        let certificates = source.read()?;
        Ok(Self::named(CA_FILE, path.display().to_string(), vec![source], certificates))
    }

    /// Reads the authorities that `AWS_CA_BUNDLE` names, else those of `SSL_CERT_FILE` and `SSL_CERT_DIR`, else the
    /// machine's.
    ///
    /// `variable` returns the value of a variable of the environment.
    pub fn of_environment(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, InvalidVariable> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let problem = |name: &str, path: &Path, what: &str, todo: &str| InvalidVariable {
            variable: name.to_owned(),
            what: format!("names {}, which {what}", path.display()),
            todo: format!("{todo}, or unset {name}"),
        };
        let read = |name: &str, source: &AuthoritySource| {
            source.read().map_err(|(what, todo)| problem(name, source.path(), &what, todo))
        };
        if let Some(path) = set("AWS_CA_BUNDLE") {
            let (place, source) = (path.display().to_string(), AuthoritySource::File(path));
            let certificates = read("AWS_CA_BUNDLE", &source)?;
            return Ok(Self::named("AWS_CA_BUNDLE", place, vec![source], certificates));
        }
        let (mut certificates, mut names, mut places, mut sources) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        if let Some(path) = set("SSL_CERT_FILE") {
            places.push(path.display().to_string());
            let source = AuthoritySource::File(path);
            certificates.extend(read("SSL_CERT_FILE", &source)?);
            names.push("SSL_CERT_FILE");
            sources.push(source);
        }
        if let Some(folders) = set("SSL_CERT_DIR") {
            for folder in std::env::split_paths(&folders).filter(|folder| !folder.as_os_str().is_empty()) {
                places.push(folder.display().to_string());
                let source = AuthoritySource::Folder(folder);
                certificates.extend(read("SSL_CERT_DIR", &source)?);
                sources.push(source);
            }
            names.push("SSL_CERT_DIR");
            if certificates.is_empty() {
                let todo = "put PEM files of authorities into it";
                return Err(problem("SSL_CERT_DIR", Path::new(&folders), "holds no certificate in PEM form", todo));
            }
        }
        if names.is_empty() {
            // The library that finds the machine's authorities would take the empty name for a file, or for no folder.
            let empty = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().find(|name| variable(name).is_some());
            return match empty {
                Some(name) => Err(InvalidVariable {
                    variable: name.to_owned(),
                    what: "is empty".to_owned(),
                    todo: "unset it, or let it lead to the authorities to trust, in PEM form".to_owned(),
                }),
                None => Ok(Self::Machine),
            };
        }
        certificates.sort_by(|one, other| one.as_ref().cmp(other.as_ref()));
        certificates.dedup();
        Ok(Self::named(&names.join(" and "), places.join(" and "), sources, certificates))
    }

    /// Reads the authorities that the environment of this process names.
    pub fn of_process() -> Result<Self, InvalidVariable> {
        Self::of_environment(|name| std::env::var_os(name))
    }

    fn named(
        by: &str,
        place: String,
        sources: Vec<AuthoritySource>,
        certificates: Vec<CertificateDer<'static>>,
    ) -> Self {
        Self::Named(Arc::new(Authorities { named_by: by.to_owned(), place, sources, certificates }))
    }
}

/// Returns the authorities in a PEM file. Error: what is wrong with the file, and what to do.
fn pem_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, (String, &'static str)> {
    let bytes = match regular_file::read(path, AT_MOST_BYTES) {
        Ok(bytes) => bytes,
        Err(error) => {
            let what = match &error {
                ReadError::Io(error) => unreadable(error),
                special => special.to_string(),
            };
            return Err((what, error.remedy()));
        }
    };
    let certificates = certificates_in(&bytes);
    if !certificates.is_empty() {
        return Ok(certificates);
    }
    // Every certificate in DER begins with the tag of a sequence.
    let what = match bytes.first() {
        None => "is empty",
        Some(0x30) => "holds no certificate in PEM form; it looks like DER, which `openssl x509 -inform der` converts",
        Some(_) => "holds no certificate in PEM form",
    };
    Err((what.to_owned(), "name a PEM file of certificates"))
}

fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => "we may not read".to_owned(),
        io::ErrorKind::NotADirectory => "is no folder".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

/// Returns the authorities in the regular files of a folder. It skips files that cannot be read, or hold something
/// else, as other programs do.
fn pem_folder(folder: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        if let Ok(bytes) = regular_file::read(&entry?.path(), AT_MOST_BYTES) {
            found.extend(certificates_in(&bytes));
        }
    }
    Ok(found)
}

/// Returns the certificates that can be the root of a chain, and ignores the rest of the file.
fn certificates_in(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    let is_usable = |certificate: &CertificateDer<'_>| RootCertStore::empty().add(certificate.clone()).is_ok();
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).filter(is_usable).collect()
}
