//! Compares the configurations of the daemons with each other and with the database. It corrects nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use crate::{
    daemon::peers::Peer,
    error::DatabaseError,
    handle::Database,
    pin::Pin,
    replica::list::ReplicaRow,
    rules::{RulesState, fingerprint},
};

/// A difference between the daemons, or between them and the database. All of them are safe; some leave copies unmade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Some daemons do not know the replica.
    Replicas { replica: String, with: DaemonIds, without: DaemonIds },
    /// The daemons name several primaries, or another one than is in force.
    Primary { named: BTreeMap<String, DaemonIds>, in_force: Option<String> },
    /// One name stands for several buckets, or for another one than the recorded copies are in.
    Bucket { replica: String, places: Vec<(Pin, DaemonIds)>, pinned: Option<Pin> },
    /// Their lease timeouts differ.
    Lease { timeouts: BTreeMap<Duration, DaemonIds> },
    /// Some have other rules in their configuration than are in force.
    Rules { other: DaemonIds },
    /// The schema has the replica, and no daemon copies to it.
    Unserved { replica: String },
    /// The rules in force are not applied to objects that were registered before they changed.
    Unapplied,
}

/// Ids of daemons.
pub type DaemonIds = BTreeSet<i32>;

impl Difference {
    /// Values of the metric's label.
    pub const KINDS: [&'static str; 5] = ["replicas", "primary", "bucket", "lease", "rules"];

    /// One of [`Difference::KINDS`], or `unserved` or `unapplied`.
    #[must_use]
    pub fn what(&self) -> &'static str {
        match self {
            Self::Replicas { .. } => "replicas",
            Self::Primary { .. } => "primary",
            Self::Bucket { .. } => "bucket",
            Self::Lease { .. } => "lease",
            Self::Rules { .. } => "rules",
            Self::Unserved { .. } => "unserved",
            Self::Unapplied => "unapplied",
        }
    }

    /// The replica that differs, if it is about one.
    #[must_use]
    pub fn replica(&self) -> Option<&str> {
        match self {
            Self::Replicas { replica, .. } | Self::Bucket { replica, .. } | Self::Unserved { replica } => Some(replica),
            Self::Primary { .. } | Self::Lease { .. } | Self::Rules { .. } | Self::Unapplied => None,
        }
    }
}

/// Compares the living daemons with each other and with the replicas and rules of the database.
#[must_use]
pub fn differences(peers: &[Peer], rows: &[ReplicaRow], rules: &RulesState) -> Vec<Difference> {
    let mut found = Vec::new();
    if rules.is_unapplied() {
        found.push(Difference::Unapplied);
    }
    if peers.is_empty() {
        return found;
    }
    let known: BTreeSet<&String> = peers.iter().flat_map(|peer| peer.config.replicas.keys()).collect();
    for replica in known {
        let (with, without): (Vec<_>, Vec<_>) =
            peers.iter().partition(|peer| peer.config.replicas.contains_key(replica));
        if !without.is_empty() {
            let ids = |peers: Vec<&Peer>| peers.into_iter().map(|peer| peer.id).collect();
            found.push(Difference::Replicas { replica: replica.clone(), with: ids(with), without: ids(without) });
        }
        found.extend(bucket_difference(peers, rows, replica));
    }
    let mut named: BTreeMap<String, DaemonIds> = BTreeMap::new();
    let mut timeouts: BTreeMap<Duration, DaemonIds> = BTreeMap::new();
    for peer in peers {
        named.entry(peer.config.primary.clone()).or_default().insert(peer.id);
        timeouts.entry(peer.lease_timeout).or_default().insert(peer.id);
    }
    let in_force = rows.iter().find(|row| row.primary).map(|row| row.name.to_string());
    if named.len() > 1 || in_force.as_ref().is_some_and(|primary| !named.contains_key(primary)) {
        found.push(Difference::Primary { named, in_force });
    }
    if timeouts.len() > 1 {
        found.push(Difference::Lease { timeouts });
    }
    let in_force = fingerprint(&rules.rules);
    let other = |peer: &&Peer| peer.config.rules.as_ref().is_some_and(|rules| *rules != in_force);
    let other: DaemonIds = peers.iter().filter(other).map(|peer| peer.id).collect();
    if !other.is_empty() {
        found.push(Difference::Rules { other });
    }
    for row in rows {
        let serves = |peer: &&Peer| {
            let place = peer.config.replicas.get(row.name.as_str());
            place.is_some_and(|place| row.pin.as_ref().is_none_or(|pin| pin == place))
        };
        // A draining replica does not need a daemon.
        if row.draining.is_none() && !peers.iter().any(|peer| serves(&peer)) {
            found.push(Difference::Unserved { replica: row.name.to_string() });
        }
    }
    found
}

fn bucket_difference(peers: &[Peer], rows: &[ReplicaRow], replica: &str) -> Option<Difference> {
    let mut places: Vec<(Pin, DaemonIds)> = Vec::new();
    for peer in peers {
        let Some(place) = peer.config.replicas.get(replica) else { continue };
        match places.iter_mut().find(|(known, _)| known == place) {
            Some((_, ids)) => drop(ids.insert(peer.id)),
            None => places.push((place.clone(), DaemonIds::from([peer.id]))),
        }
    }
    let pinned = rows.iter().find(|row| row.name.as_str() == replica).and_then(|row| row.pin.clone());
    let elsewhere = pinned.as_ref().is_some_and(|pin| places.iter().any(|(place, _)| place != pin));
    (places.len() > 1 || elsewhere).then(|| Difference::Bucket { replica: replica.to_owned(), places, pinned })
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replicas { replica, with, without } => write!(
                f,
                "replica {replica} is in the configuration of {}, not of {}: only the former copy to it",
                list_daemons(with),
                list_daemons(without)
            ),
            Self::Primary { named, in_force } => {
                let named = each(named.iter().map(|(name, ids)| (name.clone(), ids)));
                let in_force = in_force.as_deref().unwrap_or("none");
                write!(f, "the primary is {named}; in force is {in_force}, according to the database")
            }
            Self::Bucket { replica, places, pinned } => {
                let places = each(places.iter().map(|(place, ids)| (place.to_string(), ids)));
                write!(f, "replica {replica} is {places}")?;
                match pinned {
                    Some(pin) => {
                        write!(
                            f,
                            "; its recorded copies are in {pin}, and a daemon that names another bucket does not use it"
                        )
                    }
                    None => Ok(()),
                }
            }
            Self::Lease { timeouts } => {
                let timeouts = each(timeouts.iter().map(|(timeout, ids)| (format!("{timeout:?}"), ids)));
                write!(
                    f,
                    "lease.timeout is {timeouts}: the rows of a dead daemon are taken over sooner or later accordingly"
                )
            }
            Self::Rules { other } => write!(
                f,
                "the rules in the configuration of {} are not those in force in the database; `copyhold migrate` puts a \
                 configuration's rules in force",
                list_daemons(other)
            ),
            Self::Unapplied => f.write_str(
                "objects that were registered before the rules changed are not judged by them yet: see `copyhold rules apply \
                 --dry-run`",
            ),
            Self::Unserved { replica } => {
                write!(f, "no living daemon copies to replica {replica}, which the schema has: its backlog grows")
            }
        }
    }
}

fn each<'a>(values: impl Iterator<Item = (String, &'a DaemonIds)>) -> String {
    values.map(|(value, ids)| format!("{value} for {}", list_daemons(ids))).collect::<Vec<_>>().join(", ")
}

/// `daemon 3`, `daemons 1, 2`.
#[must_use]
pub fn list_daemons(ids: &DaemonIds) -> String {
    let plural = if ids.len() == 1 { "" } else { "s" };
    format!("daemon{plural} {}", ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

impl Database {
    /// Returns the differences between the living daemons.
    pub async fn differences(&self) -> Result<Vec<Difference>, DatabaseError> {
        Ok(differences(&self.peers().await?, &self.replica_rows().await?, &self.rules_state().await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use copyhold_core::domain::ReplicaName;

    use crate::daemon::PublishedConfig;

    fn place(bucket: &str) -> Pin {
        Pin { endpoint: "https://s3.example".into(), bucket: bucket.into() }
    }

    fn peer(id: i32, lease: u64, primary: &str, replicas: &[(&str, &str)]) -> Peer {
        let replicas = replicas.iter().map(|(name, bucket)| ((*name).to_owned(), place(bucket))).collect();
        let config = PublishedConfig { primary: primary.into(), replicas, rules: Some(fingerprint(&[])) };
        Peer { id, lease_timeout: Duration::from_secs(lease), config }
    }

    fn row(name: &str, primary: bool, bucket: Option<&str>) -> ReplicaRow {
        ReplicaRow {
            name: ReplicaName::new(name).unwrap(),
            primary,
            pin: bucket.map(place),
            admission: None,
            pause: None,
            breaker: None,
            draining: None,
            former: None,
            resetting: false,
            looked_at: None,
            adopts: false,
        }
    }

    #[test]
    fn daemons_that_are_configured_alike_do_not_differ() {
        let rows = [row("b2", true, Some("x")), row("scw", false, None)];
        let peers = [1, 2].map(|id| peer(id, 90, "b2", &[("b2", "x"), ("scw", "y")]));
        assert!(differences(&peers, &rows, &RulesState::none()).is_empty());
        assert!(differences(&[], &rows, &RulesState::none()).is_empty(), "there are no daemons to differ");
        let [one, other] = peers;
        assert_eq!(one.config.fingerprint(one.lease_timeout), other.config.fingerprint(other.lease_timeout));
        assert_ne!(one.config.fingerprint(Duration::from_secs(1)), one.config.fingerprint(Duration::from_secs(2)));
    }

    #[test]
    fn each_difference_is_listed_once_with_its_daemons() {
        let rows = [row("b2", true, Some("x")), row("gone", false, Some("z")), row("scw", false, Some("y"))];
        let peers = [
            peer(1, 90, "b2", &[("b2", "x"), ("scw", "y")]),
            peer(2, 90, "scw", &[("b2", "x")]),
            peer(3, 30, "b2", &[("b2", "x"), ("scw", "another")]),
        ];
        let found = differences(&peers, &rows, &RulesState::none());
        let told: Vec<_> = found.iter().map(|d| (d.what(), d.replica().unwrap_or_default())).collect();
        assert_eq!(
            told,
            [("replicas", "scw"), ("bucket", "scw"), ("primary", ""), ("lease", ""), ("unserved", "gone")]
        );
        let says: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert!(says[0].contains("of daemons 1, 3, not of daemon 2"), "{}", says[0]);
        assert!(says[1].contains("bucket another at https://s3.example for daemon 3"), "{}", says[1]);
        assert!(says[2].contains("b2 for daemons 1, 3, scw for daemon 2; in force is b2"), "{}", says[2]);
        assert!(says[3].contains("30s for daemon 3, 90s for daemons 1, 2"), "{}", says[3]);
    }

    #[test]
    fn a_replica_whose_bucket_no_daemon_names_any_more_is_unserved() {
        let rows = [row("b2", true, Some("x"))];
        let found = differences(&[peer(1, 90, "b2", &[("b2", "moved")])], &rows, &RulesState::none());
        assert_eq!(found.iter().map(Difference::what).collect::<Vec<_>>(), ["bucket", "unserved"]);
        // A draining replica does not need a daemon.
        let draining = Some(crate::replica::list::DrainState { since: 5, because: None });
        let rows = [row("b2", true, Some("x")), ReplicaRow { draining, ..row("scw", false, Some("y")) }];
        assert!(differences(&[peer(1, 90, "b2", &[("b2", "x")])], &rows, &RulesState::none()).is_empty());
    }

    #[test]
    fn rules_that_are_not_in_force_or_not_applied_are_listed() {
        let rows = [row("b2", true, Some("x"))];
        let rule = copyhold_core::domain::Rule {
            prefix: "a".into(),
            min_bytes: None,
            max_bytes: None,
            replicas: vec![ReplicaName::new("b2").unwrap()],
        };
        let rules = RulesState { version: 2, applied: 1, rules: vec![rule.clone()], ..RulesState::none() };
        let [mut knows, other] = [1, 2].map(|id| peer(id, 90, "b2", &[("b2", "x")]));
        knows.config.rules = Some(fingerprint(&[rule]));
        let [mut old] = [3].map(|id| peer(id, 90, "b2", &[("b2", "x")]));
        old.config.rules = None;
        let found = differences(&[knows, other, old], &rows, &rules);
        assert_eq!(found, [Difference::Unapplied, Difference::Rules { other: DaemonIds::from([2]) }]);
    }
}
