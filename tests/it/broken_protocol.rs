//! Messages from PostgreSQL that were broken on their way end a connection, and no daemon.

use copyhold_testkit::proxy::{BrokenMessage, Proxy};

use crate::harness::{Harness, cluster, eventually};

#[tokio::test]
async fn a_daemon_lives_through_broken_messages_of_every_kind() {
    let proxy = Proxy::before(cluster().await.port()).await;
    let mut harness = Harness::new().await;
    let before = harness.database_url();
    harness.rewrite(|text| text.replace(&before, &proxy.url(&before)));
    let daemon = harness.daemon().await;
    daemon.until_logged("Listening for new objects").await;
    for how in BrokenMessage::ALL {
        proxy.garble(how);
        harness.upload(&format!("{how:?}"), "bytes").await;
        eventually(&format!("{how:?} came"), async || proxy.has_garbled()).await;
        harness.until_copied(&format!("{how:?}")).await;
    }
    assert!(daemon.log().contains("The PostgreSQL client panicked"), "{}", daemon.log());
    assert!(!daemon.log().contains("exited unexpectedly"), "{}", daemon.log());
}
