//! Decides which of the waiting readers' pages is read next.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::oneshot;

/// Gives turns to the readers that wait for a page: as many at once as there are ways to choose.
///
/// The first come alone would have each of a thousand scattered readers wander through pages that others were just
/// done with: in a row of 196 pages each was read 21 times. When those furthest behind go first, they meet the others,
/// and from there on want the same. They alone, and readers who are slow or new would keep the rest waiting.
#[derive(Debug, Clone)]
pub(super) struct PageQueue(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: Vec<PickOrder>,
    /// By page, and then by when they came.
    waiting: BTreeMap<(i64, u64), oneshot::Sender<PageTurn>>,
    came: u64,
}

#[derive(Debug, Clone, Copy)]
enum PickOrder {
    FurthestBehind,
    FirstCome,
}

/// Held while a page is read.
#[derive(Debug)]
pub(super) struct PageTurn {
    queue: PageQueue,
    /// `None`: it was given on.
    choice: Option<PickOrder>,
}

impl PageQueue {
    pub(super) fn new() -> Self {
        let free = vec![PickOrder::FirstCome, PickOrder::FurthestBehind];
        Self(Arc::new(Mutex::new(State { free, waiting: BTreeMap::new(), came: 0 })))
    }

    /// Waits for a turn to read the page from this id on. May be dropped at any time.
    pub(super) async fn take(&self, from: i64) -> PageTurn {
        let waits = {
            let mut state = self.state();
            if let Some(choice) = state.free.pop() {
                return self.turn(choice);
            }
            let (sender, receiver) = oneshot::channel();
            state.came += 1;
            let place = (from, state.came);
            state.waiting.insert(place, sender);
            receiver
        };
        // Cannot fail: a reader passes its turn on by sending it, and the map outlives its senders.
        waits.await.expect("a turn for each who waits")
    }

    fn turn(&self, choice: PickOrder) -> PageTurn {
        PageTurn { queue: self.clone(), choice: Some(choice) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics under it")
    }
}

impl State {
    fn next(&mut self, choice: PickOrder) -> Option<oneshot::Sender<PageTurn>> {
        let place = match choice {
            PickOrder::FurthestBehind => self.waiting.keys().next(),
            PickOrder::FirstCome => self.waiting.keys().min_by_key(|(_, came)| *came),
        };
        let place = *place?;
        self.waiting.remove(&place)
    }
}

impl Drop for PageTurn {
    fn drop(&mut self) {
        let Some(choice) = self.choice.take() else { return };
        loop {
            let next = {
                let mut state = self.queue.state();
                let next = state.next(choice);
                if next.is_none() {
                    state.free.push(choice);
                }
                next
            };
            match next.map(|next| next.send(self.queue.turn(choice))) {
                // The waiting reader has left.
                Some(Err(mut turn)) => turn.choice = None,
                // A reader that leaves without having read drops the turn that was sent.
                Some(Ok(())) | None => return,
            }
        }
    }
}
