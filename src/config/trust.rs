//! Reads which authorities may have issued the certificate of a store: those of this machine, or those in a PEM file.
//!
//! It connects to nothing. A file that is named and cannot be used is a problem, never an empty set of authorities.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use copyhold_s3::settings::{Authorities, CA_FILE, Trust};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::{overrides::Environment, place::Place, problem::Problem, reader::Flaw};
use crate::regular_file::{self, ReadError};

/// A bundle of all public authorities has some 200 KiB.
pub(super) const AT_MOST_BYTES: u64 = 4 << 20;

/// Those of the PEM file that `ca_file` names.
pub(super) fn of_file(path: &Path) -> Result<Trust, Flaw> {
    let certificates = pem_file(path).map_err(|(what, todo)| {
        Flaw::new(format!("names the file {}, which {what}", path.display()), todo.to_owned())
    })?;
    Ok(named(CA_FILE, path.display().to_string(), certificates))
}

/// Those that `AWS_CA_BUNDLE` names, else those of `SSL_CERT_FILE` and `SSL_CERT_DIR`, else the machine's.
pub(super) fn of_environment(environment: &Environment) -> Result<Trust, Problem> {
    let set = |name: &str| environment.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let problem = |name: &str, path: &Path, what: &str, todo: &str| Problem {
        place: Place::Variable(name.to_owned()),
        what: format!("names {}, which {what}", path.display()),
        todo: format!("{todo}, or unset {name}"),
    };
    let file = |name: &str, path: &Path| pem_file(path).map_err(|(what, todo)| problem(name, path, &what, todo));
    if let Some(path) = set("AWS_CA_BUNDLE") {
        let certificates = file("AWS_CA_BUNDLE", &path)?;
        return Ok(named("AWS_CA_BUNDLE", path.display().to_string(), certificates));
    }
    let (mut certificates, mut names, mut places) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(path) = set("SSL_CERT_FILE") {
        certificates.extend(file("SSL_CERT_FILE", &path)?);
        names.push("SSL_CERT_FILE");
        places.push(path.display().to_string());
    }
    if let Some(folders) = set("SSL_CERT_DIR") {
        for folder in std::env::split_paths(&folders).filter(|folder| !folder.as_os_str().is_empty()) {
            let found = pem_folder(&folder)
                .map_err(|error| problem("SSL_CERT_DIR", &folder, &unreadable(&error), "name a folder of PEM files"))?;
            certificates.extend(found);
            places.push(folder.display().to_string());
        }
        names.push("SSL_CERT_DIR");
        if certificates.is_empty() {
            let todo = "put PEM files of authorities into it";
            return Err(problem("SSL_CERT_DIR", &folders, "holds no certificate in PEM form", todo));
        }
    }
    if names.is_empty() {
        // The library that looks for the machine's own would take the empty name for a file.
        return match environment.get("SSL_CERT_FILE") {
            Some(_) => Err(Problem {
                place: Place::Variable("SSL_CERT_FILE".to_owned()),
                what: "is empty".to_owned(),
                todo: "unset it, or name the PEM file of the authorities to trust".to_owned(),
            }),
            None => Ok(Trust::Machine),
        };
    }
    certificates.sort_by(|one, other| one.as_ref().cmp(other.as_ref()));
    certificates.dedup();
    Ok(named(&names.join(" and "), places.join(" and "), certificates))
}

fn named(by: &str, place: String, certificates: Vec<CertificateDer<'static>>) -> Trust {
    Trust::Named(Arc::new(Authorities::new(by.to_owned(), place, certificates)))
}

/// The authorities in a PEM file. Error: what is wrong with the file, and what to do.
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
    // The tag of a sequence, with which every certificate in DER begins.
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

/// Those in the regular files of a folder. Files that cannot be read, or hold something else, are passed over, as every
/// program does there.
fn pem_folder(folder: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        if let Ok(bytes) = regular_file::read(&entry?.path(), AT_MOST_BYTES) {
            found.extend(certificates_in(&bytes));
        }
    }
    Ok(found)
}

/// Those that can be the root of a chain; what else the file holds does not matter.
fn certificates_in(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    let is_usable = |certificate: &CertificateDer<'_>| RootCertStore::empty().add(certificate.clone()).is_ok();
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).filter(is_usable).collect()
}
