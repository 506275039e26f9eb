//! Tells URLs apart by the host that their requests reach.

use copyhold_core::loopback::is_loopback;
use url::{Host, Url};

/// True where requests to it could be read or changed on their way.
pub(super) fn is_plain_to_another_host(endpoint: &Url) -> bool {
    endpoint.scheme() == "http" && !endpoint.host_str().is_some_and(is_loopback)
}

pub(super) fn is_address(endpoint: &Url) -> bool {
    matches!(endpoint.host(), Some(Host::Ipv4(_) | Host::Ipv6(_)))
}
