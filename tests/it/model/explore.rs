//! Visits every state that can be reached, the nearest first, and shows the shortest way to one that must not be.

use std::{
    collections::HashSet,
    fmt,
    hash::{BuildHasherDefault, Hasher},
};

use super::{
    rules::Rules,
    state::{Budget, State},
    steps::{Action, steps},
};

/// What must never happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A write of ours changes what stands at the primary in force.
    PrimaryOverwritten,
    /// Nothing is under way any more, and a recorded time is false.
    FalseTime,
}

/// The shortest way to a fault.
#[derive(Debug)]
pub struct Violation {
    pub fault: Fault,
    pub trace: Vec<(Action, State)>,
}

#[derive(Debug)]
pub struct Explored {
    pub states: usize,
    pub violation: Option<Violation>,
}

/// Explores all that can happen within `budget` among so many replicas.
pub fn explore(rules: &Rules, replicas: usize, budget: Budget) -> Explored {
    // Each state with the one that it was reached from.
    let mut reached: Vec<(State, usize, Option<Action>)> = vec![(State::new(budget), 0, None)];
    let mut seen: HashSet<State, BuildHasherDefault<Fold>> = HashSet::default();
    seen.insert(reached[0].0);
    let mut next = 0;
    while next < reached.len() {
        let from = reached[next].0;
        for (action, to, overwritten) in steps(&from, rules, replicas) {
            let fault =
                if overwritten { Some(Fault::PrimaryOverwritten) } else { to.false_time().map(|_| Fault::FalseTime) };
            let is_new = seen.insert(to);
            if is_new || fault.is_some() {
                reached.push((to, next, Some(action)));
            }
            if let Some(fault) = fault {
                let trace = way(&reached);
                return Explored { states: seen.len(), violation: Some(Violation { fault, trace }) };
            }
        }
        next += 1;
    }
    Explored { states: seen.len(), violation: None }
}

/// From the beginning to the state that was reached last.
fn way(reached: &[(State, usize, Option<Action>)]) -> Vec<(Action, State)> {
    let mut trace = Vec::new();
    let mut at = reached.len() - 1;
    while let (state, before, Some(action)) = reached[at] {
        trace.push((action, state));
        at = before;
    }
    trace.reverse();
    trace
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}:", self.fault)?;
        for (action, state) in &self.trace {
            writeln!(f, "  {action:?}\n      {}", brief(state))?;
        }
        Ok(())
    }
}

fn brief(state: &State) -> String {
    let State { store, primary, row, entries, writes, .. } = state;
    let row = row.map(|row| (row.hash, row.recorded, row.holder));
    let entries: Vec<_> = entries.iter().map(|e| e.map(|e| (e.sent, e.settled))).collect();
    let writes: Vec<_> = writes.iter().flatten().map(|w| (w.replica, w.content, w.from)).collect();
    format!("stores {store:?} primary {primary} row {row:?} entries {entries:?} writes {writes:?}")
}

/// The standard library's hasher is made for untrusted input and takes most of the time here.
#[derive(Debug, Default)]
struct Fold(u64);

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value.cast_unsigned() as u64);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
