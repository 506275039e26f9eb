//! The kinds of faults of one object, at a target and at the source.

use std::time::Duration;

use copyhold_sandbox::s3::Fault;

/// One way in which objects fail.
pub(super) struct Kind {
    pub name: &'static str,
    /// The fault of some objects' PUTs; `None`: this kind occurs only at the source.
    pub at_target: Option<Fault>,
    /// What happens to the GETs of such an object at the source; `None`: nothing.
    pub at_source: Option<Fault>,
    /// The failure class of such an object, at a target and at the source.
    pub class: [&'static str; 2],
    /// True: a third of all objects fails, at the head of the lane. False: some objects fail.
    pub prefix: bool,
}

fn same(name: &'static str, fault: Fault, class: &'static str) -> Kind {
    Kind { name, at_target: Some(fault.clone()), at_source: Some(fault), class: [class, class], prefix: false }
}

/// Returns all kinds, in the order in which they are measured.
pub(super) fn all() -> Vec<Kind> {
    let transient = |name, at_target, at_source| Kind {
        name,
        at_target: Some(at_target),
        at_source: Some(at_source),
        class: ["transient", "transient"],
        prefix: false,
    };
    vec![
        same("403-signature", Fault::forbidden("SignatureDoesNotMatch"), "misconfigured"),
        same("403-denied", Fault::access_denied(), "denied"),
        same("400-page", Fault::proxy_page(400), "refused"),
        same("301", Fault::proxy_page(301), "misconfigured"),
        // If the bucket exists, a 404 of the source means that the object is missing.
        Kind { class: ["misconfigured", "gone"], ..same("404-page", Fault::proxy_page(404), "") },
        same("411", Fault::answer(411, "MissingContentLength"), "misconfigured"),
        same("413", Fault::proxy_page(413), "refused"),
        same("501", Fault::answer(501, "NotImplemented"), "misconfigured"),
        same("503", Fault::slow_down(), "throttled"),
        same("503-retry-after", Fault::slow_down_for(Duration::from_secs(20)), "throttled"),
        same("507", Fault::answer(507, "InsufficientStorage"), "full"),
        transient("reset-after-body", Fault::ResetUpload { after: u64::MAX }, Fault::ResetBody { after: 5000 }),
        transient("stalled-body", Fault::DripUpload { bytes_per_second: 1 }, Fault::StallBody { after: 5000 }),
        transient("never-answered", Fault::Stall, Fault::Stall),
        Kind { at_target: None, ..same("unreadable-header", Fault::UnreadableHeader, "refused") },
        Kind { at_source: None, prefix: true, ..same("denied-prefix", Fault::access_denied(), "denied") },
    ]
}
