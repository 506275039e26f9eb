//! Injected faults: which calls they apply to, how often, and their removal.
//!
//! Faults are matched in the order of their injection. A call first waits for every hold, stall and delay, and then
//! suffers the first other fault: two faults with `next(1)` apply to two calls, one after the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fault::Fault;
use super::operation::{Op, ParsedRequest};

/// Which calls a fault applies to, and how many of them.
#[derive(Debug, Clone, Default)]
pub struct When {
    bucket: Option<String>,
    op: Option<Op>,
    key: Option<KeyMatch>,
    skip: u64,
    often: Repeat,
}

#[derive(Debug, Clone)]
enum KeyMatch {
    Exactly(String),
    Under(String),
}

#[derive(Debug, Clone, Default)]
enum Repeat {
    #[default]
    Always,
    Next(u64),
    Chance(f64, u64),
}

impl When {
    /// Every call, until the fault is cleared.
    pub fn always() -> Self {
        Self::default()
    }

    /// Every call of one operation.
    pub fn op(op: Op) -> Self {
        Self { op: Some(op), ..Self::default() }
    }

    #[must_use]
    pub fn bucket(self, name: &str) -> Self {
        Self { bucket: Some(name.to_owned()), ..self }
    }

    #[must_use]
    pub fn key(self, key: &str) -> Self {
        Self { key: Some(KeyMatch::Exactly(key.to_owned())), ..self }
    }

    #[must_use]
    pub fn prefix(self, prefix: &str) -> Self {
        Self { key: Some(KeyMatch::Under(prefix.to_owned())), ..self }
    }

    /// Skips the first `calls` that match.
    #[must_use]
    pub fn skip(self, calls: u64) -> Self {
        Self { skip: calls, ..self }
    }

    /// Applies to the next `calls`, and then to no more.
    #[must_use]
    pub fn next(self, calls: u64) -> Self {
        Self { often: Repeat::Next(calls), ..self }
    }

    /// Applies to each call with this probability, from a generator with this seed.
    #[must_use]
    pub fn chance(self, probability: f64, seed: u64) -> Self {
        Self { often: Repeat::Chance(probability, seed), ..self }
    }

    fn means(&self, call: &ParsedRequest) -> bool {
        let key = call.key.as_deref();
        self.bucket.as_ref().is_none_or(|bucket| call.bucket.as_ref() == Some(bucket))
            && self.op.is_none_or(|op| call.op == op)
            && match &self.key {
                None => true,
                Some(KeyMatch::Exactly(wanted)) => key == Some(wanted),
                Some(KeyMatch::Under(prefix)) => key.is_some_and(|key| key.starts_with(prefix)),
            }
    }
}

impl From<Op> for When {
    fn from(op: Op) -> Self {
        Self::op(op)
    }
}

/// An injected fault. Dropping it changes nothing; [`InjectedFault::clear`] removes it.
#[derive(Debug, Clone)]
pub struct InjectedFault {
    rule: Arc<Rule>,
    rules: Arc<Rules>,
}

impl InjectedFault {
    /// Removes the fault, and releases the calls that it stalls.
    pub fn clear(&self) {
        self.rules.clear(|rule| rule.id == self.rule.id);
    }

    /// Returns the number of calls that it applied to.
    pub fn strikes(&self) -> u64 {
        *self.rule.strikes.borrow()
    }

    /// Waits until it has applied to `n` calls.
    pub async fn struck(&self, n: u64) {
        // Cannot fail: the sender lives as long as `self`.
        let _ = self.rule.strikes.subscribe().wait_for(|strikes| *strikes >= n).await;
    }
}

#[derive(Debug)]
pub(super) struct Rule {
    pub id: u64,
    pub fault: Fault,
    pub cleared: CancellationToken,
    when: When,
    budget: Mutex<Budget>,
    strikes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Budget {
    skip: u64,
    often: MatchState,
}

#[derive(Debug)]
enum MatchState {
    Always,
    Next(u64),
    Chance(f64, Box<StdRng>),
}

impl Rule {
    fn strikes(&self, call: &ParsedRequest) -> bool {
        if !self.when.means(call) {
            return false;
        }
        let mut budget = self.budget.lock().expect("no holder panics");
        if budget.skip > 0 {
            budget.skip -= 1;
            return false;
        }
        match &mut budget.often {
            MatchState::Always => true,
            MatchState::Next(0) => false,
            MatchState::Next(left) => {
                *left -= 1;
                true
            }
            MatchState::Chance(probability, rng) => rng.random_bool(*probability),
        }
    }
}

/// All faults, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Rules {
    list: RwLock<Vec<Arc<Rule>>>,
    last_id: AtomicU64,
}

impl Rules {
    pub fn order(self: &Arc<Self>, fault: Fault, when: When) -> InjectedFault {
        let often = match when.often {
            Repeat::Always => MatchState::Always,
            Repeat::Next(n) => MatchState::Next(n),
            Repeat::Chance(p, seed) => MatchState::Chance(p, Box::new(StdRng::seed_from_u64(seed))),
        };
        let rule = Arc::new(Rule {
            id: self.last_id.fetch_add(1, Ordering::Relaxed) + 1,
            fault,
            cleared: CancellationToken::new(),
            budget: Mutex::new(Budget { skip: when.skip, often }),
            when,
            strikes: watch::Sender::new(0),
        });
        self.list.write().expect("no holder panics").push(Arc::clone(&rule));
        InjectedFault { rule, rules: Arc::clone(self) }
    }

    /// Returns the oldest rule younger than `after` that applies to this call.
    pub fn strike(&self, call: &ParsedRequest, after: u64) -> Option<Arc<Rule>> {
        let list = self.list.read().expect("no holder panics");
        let rule = list.iter().find(|rule| rule.id > after && rule.strikes(call))?;
        rule.strikes.send_modify(|n| *n += 1);
        Some(Arc::clone(rule))
    }

    pub fn clear(&self, which: impl Fn(&Rule) -> bool) {
        self.list.write().expect("no holder panics").retain(|rule| {
            let gone = which(rule);
            if gone {
                rule.cleared.cancel();
                if let Fault::Hold(gate) | Fault::HoldAnswer(gate) | Fault::CarryOutLate(gate) = &rule.fault {
                    gate.open();
                }
            }
            !gone
        });
    }

    pub fn clear_bucket(&self, name: &str) {
        self.clear(|rule| rule.when.bucket.as_deref() == Some(name));
    }
}
