//! Which provider a store belongs to, by name or by its endpoint.

use url::Url;

/// The provider of a store, which determines the preset of its profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    Aws,
    B2,
    Wasabi,
    Scaleway,
    R2,
    Minio,
    Garage,
    Ceph,
    /// Any other: S3 as documented, and no property taken for granted.
    Generic,
}

/// Domains that belong to a single provider.
const DOMAINS: &[(&str, Provider)] = &[
    ("amazonaws.com", Provider::Aws),
    ("amazonaws.com.cn", Provider::Aws),
    ("backblazeb2.com", Provider::B2),
    ("wasabisys.com", Provider::Wasabi),
    ("scw.cloud", Provider::Scaleway),
    ("r2.cloudflarestorage.com", Provider::R2),
];

impl Provider {
    pub const ALL: [Self; 9] = [
        Self::Aws,
        Self::B2,
        Self::Wasabi,
        Self::Scaleway,
        Self::R2,
        Self::Minio,
        Self::Garage,
        Self::Ceph,
        Self::Generic,
    ];

    /// Returns the name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::B2 => "b2",
            Self::Wasabi => "wasabi",
            Self::Scaleway => "scaleway",
            Self::R2 => "r2",
            Self::Minio => "minio",
            Self::Garage => "garage",
            Self::Ceph => "ceph",
            Self::Generic => "generic",
        }
    }

    /// Returns the name in a sentence.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aws => "Amazon S3",
            Self::B2 => "Backblaze B2",
            Self::Wasabi => "Wasabi",
            Self::Scaleway => "Scaleway",
            Self::R2 => "Cloudflare R2",
            Self::Minio => "MinIO",
            Self::Garage => "Garage",
            Self::Ceph => "Ceph",
            Self::Generic => "this store",
        }
    }

    /// Returns the provider to which the endpoint's host belongs.
    #[must_use]
    pub fn of_endpoint(endpoint: &Url) -> Self {
        let host = endpoint.host_str().unwrap_or_default();
        let is_in = |domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        DOMAINS.iter().find(|(domain, _)| is_in(domain)).map_or(Self::Generic, |(_, provider)| *provider)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_known_by_its_domain_and_nothing_that_looks_like_it() {
        for (endpoint, provider) in [
            ("https://s3.fr-par.scw.cloud", Provider::Scaleway),
            ("https://0123.eu.r2.cloudflarestorage.com", Provider::R2),
            ("https://s3.eu-central-003.backblazeb2.com", Provider::B2),
            ("https://s3.wasabisys.com", Provider::Wasabi),
            ("https://s3.cn-north-1.amazonaws.com.cn", Provider::Aws),
            ("https://s3.fr-par.notscw.cloud", Provider::Generic),
            ("https://amazonaws.com.example.org", Provider::Generic),
            ("http://127.0.0.1:9000", Provider::Generic),
        ] {
            assert_eq!(Provider::of_endpoint(&Url::parse(endpoint).unwrap()), provider, "{endpoint}");
        }
    }
}
