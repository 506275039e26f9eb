//! Which peers are on this machine, and URLs told apart.

use std::net::IpAddr;

use url::{Host, Url};

/// True for names and addresses whose packets cannot leave this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(is_loopback_address)
}

/// True for `127.0.0.1` as well as for its IPv6 form `::ffff:127.0.0.1`.
fn is_loopback_address(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// True where requests to it could be read or changed on their way.
pub(super) fn is_plain_to_another_host(endpoint: &Url) -> bool {
    endpoint.scheme() == "http" && !endpoint.host_str().is_some_and(is_loopback)
}

pub(super) fn is_address(endpoint: &Url) -> bool {
    matches!(endpoint.host(), Some(Host::Ipv4(_) | Host::Ipv6(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_on_this_machine_is_loopback() {
        for near in ["localhost", "LocalHost", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "::ffff:127.0.0.1"] {
            assert!(is_loopback(near), "{near}");
        }
        for far in ["db.internal", "localhost.example.com", "10.0.0.1", "0.0.0.0", "[::]", "192.168.0.1", ""] {
            assert!(!is_loopback(far), "{far}");
        }
    }
}
