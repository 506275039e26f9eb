//! Endpoints and buckets: what can be part of a request's URL, and what is the same place.

use url::Url;

use super::{
    invalid_value::InvalidValue,
    net::{is_address, is_plain_to_another_host},
};

/// Stores whose endpoints contain their region: the text before and after it.
const REGION_IN_NAME: &[(&str, &str)] = &[
    ("s3.", ".amazonaws.com"),
    ("s3.", ".backblazeb2.com"),
    ("s3.", ".wasabisys.com"),
    ("s3.", ".scw.cloud"),
    ("s3.", ".io.cloud.ovh.net"),
    ("", ".digitaloceanspaces.com"),
];
/// Of AWS and of most stores that have but one.
const USUAL_REGION: &str = "us-east-1";

/// Checks an endpoint and brings it to one form, so that equal places are equal URLs:
/// lower case, without the port that its scheme has anyway, `/` as its path.
pub(super) fn endpoint(text: &str, insecure: bool) -> Result<Url, InvalidValue> {
    let form = || "write it as https://HOST or https://HOST:PORT".to_owned();
    // `localhost:9000` would parse as a URL with the scheme `localhost`.
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(InvalidValue::new("has no scheme", form()));
    };
    if !["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) {
        return Err(InvalidValue::new("begins neither with https:// nor with http://", form()));
    }
    let mut url = Url::parse(text).map_err(|error| InvalidValue::new(format!("is not a URL: {error}"), form()))?;
    if rest.contains('@') && !(url.username().is_empty() && url.password().is_none()) {
        return Err(InvalidValue::new("holds credentials", "move them to access_key_id and secret_access_key"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(InvalidValue::new(
            "has something after the host",
            "end it there; the bucket has a setting of its own",
        ));
    }
    // The dot that ends a full name changes nothing but equality and TLS.
    if let Some(bare) = url.host_str().and_then(|host| host.strip_suffix('.')).map(str::to_owned) {
        url.set_host(Some(&bare)).map_err(|error| InvalidValue::new(format!("is not a URL: {error}"), form()))?;
    }
    if is_plain_to_another_host(&url) && !insecure {
        return Err(InvalidValue::new(
            format!("is plain http to {}", url.host_str().unwrap_or_default()),
            "write https://, or set insecure = true in this section if that network is private",
        ));
    }
    Ok(url)
}

/// Equal for endpoints that are surely the same server: with or without TLS on the usual port,
/// and by any name of this machine.
pub(super) fn server(endpoint: &Url) -> (&str, u16) {
    let host = match endpoint.host_str().unwrap_or_default() {
        "127.0.0.1" | "[::1]" => "localhost",
        host => host,
    };
    (host, endpoint.port().unwrap_or(443))
}

/// Refuses only what cannot be in a URL: old buckets have names that S3 no longer gives out.
pub(super) fn bucket(name: String) -> Result<String, InvalidValue> {
    const TODO: &str = "3 to 63 of a-z, 0-9, '.' and '-' make a bucket's name; the bucket alone, no folder in it";
    let spelt = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    // 255 is what S3 allowed in its first region.
    if spelt && (3..=255).contains(&name.len()) {
        return Ok(name);
    }
    Err(InvalidValue::new(format!("is {name:?}, which is no bucket's name"), TODO))
}

/// Returns why the bucket cannot be put before the endpoint's host; `None`: it can.
pub(super) fn no_host_name(endpoint: &Url, bucket: &str) -> Option<&'static str> {
    let is_host_name = bucket.len() <= 63
        && bucket.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        && bucket.split('.').all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-'));
    if is_address(endpoint) {
        Some("the endpoint is an address, which a bucket cannot stand in front of")
    } else if !is_host_name {
        Some("the bucket's name cannot be part of a host's")
    } else if endpoint.scheme() == "https" && bucket.contains('.') {
        Some("no certificate covers a bucket's name with a dot in it")
    } else {
        None
    }
}

/// Returns where requests are sent to a bucket whose name is put before the host.
pub(super) fn of_bucket(endpoint: &Url, bucket: &str) -> Url {
    let mut url = endpoint.clone();
    // A bucket that cannot be put there is refused elsewhere.
    let _ = url.set_host(Some(&format!("{bucket}.{}", endpoint.host_str().unwrap_or_default())));
    url
}

/// Returns the region that the endpoint's name contains, else the usual one.
pub(super) fn region_of(endpoint: &Url) -> String {
    let host = endpoint.host_str().unwrap_or_default();
    if host.ends_with(".r2.cloudflarestorage.com") {
        return "auto".to_owned();
    }
    let named = REGION_IN_NAME
        .iter()
        .find_map(|(before, after)| host.strip_prefix(before)?.strip_suffix(after))
        .filter(|region| !region.contains('.'));
    named.unwrap_or(USUAL_REGION).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_spellings_of_one_endpoint_are_equal() {
        let url = |text| endpoint(text, false).unwrap();
        for same in [
            "https://s3.example.com/",
            "HTTPS://S3.Example.COM",
            "https://s3.example.com:443",
            "https://s3.example.com./",
        ] {
            assert_eq!(url(same), url("https://s3.example.com"), "{same}");
        }
        assert_ne!(url("https://s3.example.com:8443"), url("https://s3.example.com"));
    }

    #[test]
    fn a_server_is_the_same_with_and_without_tls_and_by_any_local_name() {
        let is_same = |left, right| server(&endpoint(left, true).unwrap()) == server(&endpoint(right, true).unwrap());
        assert!(is_same("http://s3.example.com", "https://s3.example.com"));
        assert!(is_same("http://localhost:9000", "http://127.0.0.1:9000"));
        assert!(is_same("http://localhost:9000", "http://[::1]:9000"));
        assert!(!is_same("http://localhost:9000", "http://localhost:9001"));
        assert!(!is_same("https://a.example.com", "https://b.example.com"));
    }

    #[test]
    fn the_region_is_taken_from_endpoints_that_contain_it() {
        for (host, region) in [
            ("s3.eu-central-003.backblazeb2.com", "eu-central-003"),
            ("s3.fr-par.scw.cloud", "fr-par"),
            ("s3.eu-west-1.amazonaws.com", "eu-west-1"),
            ("s3.amazonaws.com", "us-east-1"),
            ("s3.wasabisys.com", "us-east-1"),
            ("0123.r2.cloudflarestorage.com", "auto"),
            ("minio.internal", "us-east-1"),
        ] {
            assert_eq!(region_of(&endpoint(&format!("https://{host}"), false).unwrap()), region, "{host}");
        }
    }

    #[test]
    fn old_bucket_names_are_tolerated_and_paths_are_not() {
        for good in ["photos", "a.b-c", "Old_Bucket", "123"] {
            assert!(bucket(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["ab", "a/b/c", "ph otos", "fotö", "a?b", &"x".repeat(256)] {
            assert!(bucket(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
