//! Whatever happens in whatever order, each reader gets what the log has after its position, once and in order, or an
//! error.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Append {
        gap: i64,
        count: i64,
    },
    /// Lets a reader go on by so many answers.
    Read {
        reader: usize,
        answers: usize,
    },
    Reconnect {
        reader: usize,
    },
    /// Drops so many percent of what is left.
    Drop {
        percent: i64,
    },
    Wait {
        seconds: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let gap = prop_oneof![6 => Just(0), 2 => 1..600i64, 1 => Just(1 << 20)];
    prop_oneof![
        4 => (gap, 1..1500i64).prop_map(|(gap, count)| Step::Append { gap, count }),
        6 => (0..4usize, 1..5usize).prop_map(|(reader, answers)| Step::Read { reader, answers }),
        2 => (0..4usize).prop_map(|reader| Step::Reconnect { reader }),
        1 => (1..100i64).prop_map(|percent| Step::Drop { percent }),
        2 => (1..100u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

/// A reader, and how far it has come.
struct Client {
    reader: Reader,
    last: i64,
}

impl Client {
    /// Takes one answer, and holds it against all that was ever appended.
    async fn read(&mut self, followed: &Followed, all: &[i64]) -> Next {
        let next = self.reader.next().await;
        match &next {
            Next::Events(batch) => {
                let behind = all.partition_point(|id| *id <= self.last);
                assert_eq!(batch.ids(), all[behind..behind + batch.count()], "behind {}", self.last);
                self.last = batch.last_event();
                assert!(batch.last().id >= self.last);
            }
            Next::Bookmark(cursor) => {
                let between = all.iter().filter(|id| **id > self.last && **id <= cursor.id).count();
                assert_eq!(between, 0, "a bookmark at {cursor} passes over events behind {}", self.last);
            }
            Next::Quiet => {}
            Next::End(End::Gone { earliest }) => {
                let lost = all.iter().filter(|id| **id > self.last && **id <= earliest.id).count();
                assert!(lost > 0, "nothing behind {} was lost", self.last);
                // More may have been dropped since it was looked at.
                assert!(earliest.id <= followed.model.state().dropped_through);
                self.last = earliest.id;
                self.reader = followed.reader(Start::After(*earliest));
            }
            Next::End(end) => panic!("{end:?}"),
        }
        next
    }
}

async fn play(buffer_bytes: usize, steps: Vec<Step>) {
    let followed = Followed::of(Model::default(), Settings { buffer_bytes, ..SETTINGS });
    let mut all = Vec::new();
    let mut clients: Vec<_> = (0..4).map(|_| Client { reader: followed.reader(after(0)), last: 0 }).collect();
    for step in steps {
        match step {
            Step::Append { gap, count } => {
                let before = all.last().copied().unwrap_or(0);
                followed.append(gap, count);
                all.extend(followed.model.ids_behind(before));
            }
            Step::Read { reader, answers } => {
                for _ in 0..answers {
                    clients[reader].read(&followed, &all).await;
                }
            }
            Step::Reconnect { reader } => {
                let client = &mut clients[reader];
                let seen = Cursor { id: client.last, epoch: None };
                let cursor = client.reader.cursor().unwrap_or(seen);
                client.reader = followed.reader(Start::After(cursor));
            }
            Step::Drop { percent } => {
                let left = followed.model.ids_behind(0);
                let count = left.len() * usize::try_from(percent).unwrap() / 100;
                if count > 0 {
                    followed.model.drop_through(left[count - 1]);
                }
            }
            Step::Wait { seconds } => tokio::time::sleep(Duration::from_secs(seconds)).await,
        }
        assert!(followed.log.figures().ring_bytes <= buffer_bytes);
    }
    followed.settle().await;
    for client in &mut clients {
        while !matches!(client.read(&followed, &all).await, Next::Quiet) {}
        assert_eq!(all.last().copied().unwrap_or(0), client.last.max(followed.model.state().dropped_through));
    }
    followed.end().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn ring_and_pages_together_are_the_log(
        buffer_bytes in prop_oneof![Just(1000), Just(60_000), Just(1 << 20)],
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(play(buffer_bytes, steps));
    }
}
