//! Commits that a crash may undo are asynchronous; those that it must not undo are waited for.

use std::time::{Duration, Instant};

use copyhold_core::domain::{Content, ContentHash, Outcome, Verified};
use copyhold_db::{
    lease::{LanePosition, Report},
    schema::migrate,
};
use copyhold_sandbox::postgres::{Cluster, Options};

use crate::harness::{Harness, key, replica};

/// A commit that waits for the disk takes so long at least, on any machine.
const COMMIT: Duration = Duration::from_millis(100);
/// Rounds at most, until each statement was faster than that at least once: a slow machine needs several.
const ROUNDS: usize = 500;

#[tokio::test]
async fn claims_renewals_and_releases_wait_for_no_disk_and_completions_do() {
    let slow = Options::default().with("commit_delay", "100000").with("commit_siblings", "0");
    let cluster = Cluster::start(slow).await.unwrap();
    cluster.create_database("app", None).await.unwrap();
    let harness = Harness::at(cluster.url("app"), "").await;
    migrate(&harness.config).await.unwrap();
    let (daemon, queue) = (harness.enlist(3600).await, harness.queue());
    let mut fastest = [Duration::MAX; 4];
    for i in 0..ROUNDS {
        if fastest.iter().all(|took| *took < COMMIT) {
            break;
        }
        harness.insert(&format!("k{i}")).await;
        let mut begun = Instant::now();
        let mut lap = |of: usize| {
            fastest[of] = fastest[of].min(begun.elapsed());
            begun = Instant::now();
        };
        let leases = queue.claim(&daemon, &replica("scw"), 1, LanePosition::BEGINNING).await.unwrap().leases;
        let [lease] = &leases[..] else { panic!("{leases:?}") };
        lap(0);
        queue.renew(&[(lease.key.clone(), lease.fence, lease.generation)], Duration::from_mins(1)).await.unwrap();
        lap(1);
        queue.release(&[(lease.key.clone(), lease.fence)]).await.unwrap();
        lap(2);
        let keys = [key(&format!("k{i}"))];
        let again = queue.claim_these(&daemon, &keys).await.unwrap().remove(0);
        lap(3);
        let content = Content { size_bytes: 1, hash: ContentHash(1) };
        let outcomes = vec![(replica("scw"), Outcome::recorded(Verified::Compared))];
        let report = Report {
            key: again.key,
            generation: again.generation,
            fence: again.fence,
            content: Some(content),
            outcomes,
            metadata: None,
            source: None,
            not_carried: None,
            survived: false,
            unsettled: Vec::new(),
            release: true,
        };
        let begun = Instant::now();
        queue.complete(&[report]).await.unwrap();
        assert!(begun.elapsed() >= COMMIT, "a completion took {:?}", begun.elapsed());
    }
    for (what, took) in ["claim", "renew", "release", "claim_these"].iter().zip(fastest) {
        assert!(took < COMMIT, "{what} took {took:?} at best");
    }
    cluster.stop().await.unwrap();
}
