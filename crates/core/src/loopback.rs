//! Which hosts are this machine itself.

use std::net::IpAddr;

/// True for names and addresses whose packets cannot leave this machine.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(is_loopback_address)
}

/// True for `127.0.0.1` as well as for its IPv6 form `::ffff:127.0.0.1`.
fn is_loopback_address(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
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
