//! Trusts the authorities of files as they are now, so that a rotated one needs no restart.
//!
//! While a file cannot be used, those that were read before are trusted.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustls::{
    DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tracing::{info, warn};

use crate::settings::{Authorities, FileStamps};

/// Files that were replaced are read so soon.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Verifies certificates with what the files of some authorities hold.
#[derive(Debug)]
pub(super) struct CurrentAuthorities {
    authorities: Arc<Authorities>,
    look_every: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    verifier: Arc<WebPkiServerVerifier>,
    /// The stamps of the files that it was made from.
    stamps: FileStamps,
    looked_at: Instant,
    /// Why the files could not be used last; logged once.
    complaint: Option<String>,
}

impl CurrentAuthorities {
    /// Error: none of them can be the root of a chain.
    pub(super) fn new(authorities: Arc<Authorities>) -> Result<Self, String> {
        Self::looking_every(LOOK_EVERY, authorities)
    }

    fn looking_every(look_every: Duration, authorities: Arc<Authorities>) -> Result<Self, String> {
        // The files may have changed since the configuration was read: they are read once more at the first look.
        let stamps = FileStamps::default();
        let verifier = verifier(authorities.certificates())?;
        let state = State { verifier, stamps, looked_at: Instant::now(), complaint: None };
        Ok(Self { authorities, look_every, state: Mutex::new(state) })
    }

    fn current(&self) -> Arc<WebPkiServerVerifier> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked_at.elapsed() >= self.look_every {
            state.look(&self.authorities);
        }
        Arc::clone(&state.verifier)
    }
}

impl State {
    fn look(&mut self, authorities: &Authorities) {
        self.looked_at = Instant::now();
        let stamps = authorities.stamps();
        if self.stamps == stamps {
            return;
        }
        match authorities.read_again().and_then(|certificates| verifier(&certificates)) {
            Ok(verifier) => {
                if self.stamps != FileStamps::default() {
                    info!("Read new authorities from {authorities}");
                }
                (self.verifier, self.stamps, self.complaint) = (verifier, stamps, None);
            }
            Err(what) => {
                if self.complaint.as_ref() != Some(&what) {
                    warn!(
                        "Could not read the authorities from {authorities} again, those read before stay trusted: {what}"
                    );
                    self.complaint = Some(what);
                }
            }
        }
    }
}

fn verifier(certificates: &[CertificateDer<'static>]) -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates.iter().cloned());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    built.map_err(|error| error.to_string())
}

impl ServerCertVerifier for CurrentAuthorities {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.current().verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.current().verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.current().verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.current().supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use rustls::{CertificateError, pki_types::pem::PemObject as _};

    use super::*;
    use crate::settings::Trust;

    #[test]
    fn an_authority_that_is_rotated_is_trusted_without_a_restart() {
        let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join("tests/it/tls"));
        let certificates = above.into_iter().find(|folder| folder.is_dir()).unwrap();
        let pem = |name: &str| certificates.join(name);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        fs::copy(pem("other.pem"), &path).unwrap();
        let Ok(Trust::Named(authorities)) = Trust::of_ca_file(&path) else { panic!("a file with an authority") };
        let current = CurrentAuthorities::looking_every(Duration::ZERO, authorities).unwrap();
        let server = CertificateDer::from_pem_file(pem("server.pem")).unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let trusted = || current.verify_server_cert(&server, &[], &name, &[], UnixTime::now()).map(drop);

        assert_eq!(trusted(), Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)));
        fs::copy(pem("ca.pem"), &path).unwrap();
        assert_eq!(trusted(), Ok(()));
        // While it is half written, and while it is away, what it was counts.
        fs::write(&path, "-----BEGIN CERT").unwrap();
        assert_eq!(trusted(), Ok(()));
        let complaint = current.state.lock().unwrap().complaint.clone().unwrap();
        assert!(complaint.contains("ca.pem, which holds no certificate in PEM form"), "{complaint}");
        fs::remove_file(&path).unwrap();
        assert_eq!(trusted(), Ok(()));
        fs::copy(pem("other.pem"), &path).unwrap();
        assert_eq!(trusted(), Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)));
    }
}
