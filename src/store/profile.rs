//! What one store does differently from others, as data.

use url::Url;

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// The limits of a store. Chosen by the endpoint's name; where that says
/// nothing, S3's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Who they are of, for messages.
    pub provider: &'static str,
    /// Parts of one multipart upload at most.
    pub max_parts: u32,
    /// Bytes of one object at most.
    pub max_object_bytes: u64,
}

const S3: Profile = Profile { provider: "S3", max_parts: 10_000, max_object_bytes: 10_000 * 5 * GIB };
const SCALEWAY: Profile = Profile { provider: "Scaleway", max_parts: 1_000, max_object_bytes: 5_000_000_000_000 };
const R2: Profile = Profile { provider: "Cloudflare R2", max_parts: 10_000, max_object_bytes: 5 * TIB - 5 * GIB };

impl Profile {
    #[must_use]
    pub fn of(endpoint: &Url) -> Self {
        let host = endpoint.host_str().unwrap_or_default();
        let is_in = |domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        if is_in("scw.cloud") {
            SCALEWAY
        } else if is_in("r2.cloudflarestorage.com") {
            R2
        } else {
            S3
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_known_by_its_domain_and_nothing_that_looks_like_it() {
        let of = |url| Profile::of(&Url::parse(url).unwrap()).provider;
        assert_eq!(of("https://s3.fr-par.scw.cloud"), "Scaleway");
        assert_eq!(of("https://0123.eu.r2.cloudflarestorage.com"), "Cloudflare R2");
        assert_eq!(of("https://s3.fr-par.notscw.cloud"), "S3");
        assert_eq!(of("http://127.0.0.1:9000"), "S3");
    }
}
