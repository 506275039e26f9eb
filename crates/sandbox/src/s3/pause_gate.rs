//! A gate that holds calls until a test opens it, so that the test can act at exactly that moment.

use std::sync::Arc;

use tokio::sync::watch;

/// A gate, initially closed. All clones are one gate.
#[derive(Debug, Clone)]
pub struct PauseGate(Arc<watch::Sender<State>>);

#[derive(Debug, Clone, Copy, Default)]
struct State {
    open: bool,
    /// Calls that are held now.
    held: usize,
    /// Calls that ever arrived.
    came: u64,
}

impl PauseGate {
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(State::default())))
    }

    /// Opens the gate: all calls pass from now on.
    pub fn open(&self) {
        self.0.send_modify(|s| s.open = true);
    }

    /// Closes the gate: later calls are held.
    pub fn close(&self) {
        self.0.send_modify(|s| s.open = false);
    }

    /// Returns the number of held calls.
    pub fn held(&self) -> usize {
        self.0.borrow().held
    }

    /// Waits until `n` calls are held at once.
    pub async fn holds(&self, n: usize) {
        self.wait(|s| s.held >= n).await;
    }

    /// Waits until `n` calls have arrived, held or not.
    pub async fn came(&self, n: u64) {
        self.wait(|s| s.came >= n).await;
    }

    /// Waits until no call is held, because it was opened or the
    /// callers have gone away.
    pub async fn empty(&self) {
        self.wait(|s| s.held == 0).await;
    }

    pub(super) async fn pass(&self) {
        self.0.send_modify(|s| {
            s.came += 1;
            s.held += 1;
        });
        let _place = GateSlot(&self.0);
        self.wait(|s| s.open).await;
    }

    async fn wait(&self, reached: impl Fn(&State) -> bool) {
        // Cannot fail: the sender lives as long as `self`.
        let _ = self.0.subscribe().wait_for(|s| reached(s)).await;
    }
}

impl Default for PauseGate {
    fn default() -> Self {
        Self::new()
    }
}

/// Counts a held call, also until its client hangs up.
struct GateSlot<'a>(&'a watch::Sender<State>);

impl Drop for GateSlot<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|s| s.held -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gate_holds_until_it_is_opened_and_counts_who_came() {
        let gate = PauseGate::new();
        let one = tokio::spawn({
            let gate = gate.clone();
            async move { gate.pass().await }
        });
        gate.holds(1).await;
        let two = tokio::spawn({
            let gate = gate.clone();
            async move { gate.pass().await }
        });
        gate.came(2).await;
        two.abort();
        assert!(two.await.unwrap_err().is_cancelled());
        assert_eq!(gate.held(), 1);
        gate.open();
        one.await.unwrap();
        gate.empty().await;
        gate.pass().await;
    }
}
