//! What can happen next: who may write what when.

use super::{
    rules::Rules,
    state::{
        Attempt, Claims, Content, DAEMONS, Entry, Holder, Listing, NOTHING, Phase, REPLICAS, Row, State, Target, Write,
    },
};

/// One thing that happens; daemons, replicas and writes by their number.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    ApplicationPuts(Content),
    Register,
    DeleteRow,
    Claim { daemon: usize },
    ReadPrimary { daemon: usize },
    SendPut { daemon: usize, replica: usize },
    FindEqual { daemon: usize, replica: usize },
    ArriveAndAnswer { write: usize },
    ArriveLate { write: usize },
    RetryHidden { write: usize },
    CloseConnections { daemon: usize },
    ReportSoFar { daemon: usize },
    Report { daemon: usize },
    GiveUpReport { daemon: usize },
    NoteAndRelease { daemon: usize },
    Sweep,
    KillDaemon { daemon: usize },
    CrashLosingClaim,
    CrashLosingRelease,
    NoteCrash,
    EndWindow,
    Settle { replica: usize },
    Look { replica: usize },
    List,
    Adopt,
    Promote { replica: usize, accept_missing: bool },
}

const CONTENTS: [Content; 2] = [1, 2];

/// All that can happen next, what is then, and whether a write of ours has changed the primary.
pub fn steps(state: &State, rules: &Rules, replicas: usize) -> Vec<(Action, State, bool)> {
    let all = (0..replicas).flat_map(|replica| {
        let of_daemons = (0..DAEMONS)
            .flat_map(move |daemon| [Action::SendPut { daemon, replica }, Action::FindEqual { daemon, replica }]);
        let promote = |accept_missing| Action::Promote { replica, accept_missing };
        of_daemons.chain([Action::Settle { replica }, Action::Look { replica }, promote(false), promote(true)])
    });
    let of_daemons = (0..DAEMONS).flat_map(|daemon| {
        [
            Action::Claim { daemon },
            Action::ReadPrimary { daemon },
            Action::CloseConnections { daemon },
            Action::ReportSoFar { daemon },
            Action::Report { daemon },
            Action::GiveUpReport { daemon },
            Action::NoteAndRelease { daemon },
            Action::KillDaemon { daemon },
        ]
    });
    let of_writes = (0..state.writes.len()).flat_map(|write| {
        [Action::ArriveAndAnswer { write }, Action::ArriveLate { write }, Action::RetryHidden { write }]
    });
    let others = [
        Action::Register,
        Action::DeleteRow,
        Action::Sweep,
        Action::CrashLosingClaim,
        Action::CrashLosingRelease,
        Action::NoteCrash,
        Action::EndWindow,
        Action::List,
        Action::Adopt,
    ];
    let puts = CONTENTS.map(Action::ApplicationPuts);
    let actions = puts.into_iter().chain(others).chain(of_daemons).chain(of_writes).chain(all);
    actions
        .filter_map(|action| {
            let mut world = World { state: *state, rules, replicas, overwritten: false };
            world.take(action)?;
            Some((action, world.state, world.overwritten))
        })
        .collect()
}

struct World<'r> {
    state: State,
    rules: &'r Rules,
    replicas: usize,
    overwritten: bool,
}

impl World<'_> {
    /// `None`: it cannot happen now.
    fn take(&mut self, action: Action) -> Option<()> {
        match action {
            Action::ApplicationPuts(content) => self.application_puts(content),
            Action::Register => self.register(),
            Action::DeleteRow => self.delete_row(),
            Action::Claim { daemon } => self.claim(daemon),
            Action::ReadPrimary { daemon } => self.read_primary(daemon),
            Action::SendPut { daemon, replica } => self.send_put(daemon, replica),
            Action::FindEqual { daemon, replica } => self.find_equal(daemon, replica),
            Action::ArriveAndAnswer { write } => self.arrive(write, true),
            Action::ArriveLate { write } => self.arrive(write, false),
            Action::RetryHidden { write } => self.retry_hidden(write),
            Action::CloseConnections { daemon } => self.close_connections(daemon),
            Action::ReportSoFar { daemon } => self.report_so_far(daemon),
            Action::Report { daemon } => self.report(daemon),
            Action::GiveUpReport { daemon } => self.give_up_report(daemon),
            Action::NoteAndRelease { daemon } => self.note_and_release(daemon),
            Action::Sweep => self.sweep(),
            Action::KillDaemon { daemon } => self.kill(daemon),
            Action::CrashLosingClaim => self.crash_losing_claim(),
            Action::CrashLosingRelease => self.crash_losing_release(),
            Action::NoteCrash => self.note_crash(),
            Action::EndWindow => self.end_window(),
            Action::Settle { replica } => self.settle(replica),
            Action::Look { replica } => self.look(replica),
            Action::List => self.list(),
            Action::Adopt => self.adopt(),
            Action::Promote { replica, accept_missing } => self.promote(replica, accept_missing),
        }
    }

    // The application ---------------------------------------------------------------------------------------------

    fn application_puts(&mut self, content: Content) -> Option<()> {
        spend(&mut self.state.left.puts)?;
        let primary = &mut self.state.store[self.state.primary];
        must(*primary != content)?;
        *primary = content;
        self.state.unregistered = true;
        // A listing is compared with what stands there now; the application registers what it has changed since.
        self.state.listing = None;
        Some(())
    }

    /// The lease stays: its holder learns of the new generation from its next statement.
    fn register(&mut self) -> Option<()> {
        must(self.state.store[self.state.primary] != NOTHING)?;
        if self.state.row.is_some() && !self.state.unregistered {
            spend(&mut self.state.left.puts)?;
        }
        let holder = self.state.row.and_then(|row| row.holder);
        self.state.row = Some(Row { holder, ..Row::registered(self.state.primary) });
        self.state.unregistered = false;
        self.new_generation();
        Some(())
    }

    fn delete_row(&mut self) -> Option<()> {
        let row = self.state.row?;
        spend(&mut self.state.left.deletions)?;
        self.state.row = None;
        self.new_generation();
        if row.holder.is_some() && self.rules.note_deleted {
            self.note_all(row.hash);
        }
        Some(())
    }

    fn new_generation(&mut self) {
        for attempt in &mut self.state.attempts {
            attempt.generation = false;
        }
        if let Some(listing) = &mut self.state.listing {
            listing.row_is_older = false;
        }
    }

    // A daemon's attempt ------------------------------------------------------------------------------------------

    fn claim(&mut self, daemon: usize) -> Option<()> {
        let primary = self.state.primary;
        // Idle daemons are alike: the first of them claims.
        must(self.state.attempts[..daemon].iter().all(|attempt| attempt.phase != Phase::Idle))?;
        let row = self.state.row.as_mut()?;
        let missing = |r: usize| r != primary && !row.recorded[r];
        let attempt = &mut self.state.attempts[daemon];
        must(attempt.phase == Phase::Idle && row.holder.is_none())?;
        must(row.recorded[primary] && (0..self.replicas).any(missing))?;
        let mut targets = [Target::None; REPLICAS];
        for (r, target) in targets.iter_mut().enumerate().take(self.replicas) {
            *target = if missing(r) { Target::Due } else { Target::None };
        }
        *attempt = Attempt {
            phase: Phase::Working,
            generation: true,
            source: primary,
            expected: row.hash,
            targets,
            ..Attempt::default()
        };
        row.holder = Some(Holder::Daemon(daemon));
        row.claim_is_volatile = true;
        Some(())
    }

    /// Of a row that has a hash, another content is one that the application has not registered.
    fn read_primary(&mut self, daemon: usize) -> Option<()> {
        let holds = self.state.holds(daemon);
        let source = self.state.attempts[daemon].source;
        let content = self.state.store[source];
        let attempt = &mut self.state.attempts[daemon];
        must(attempt.phase == Phase::Working && attempt.read.is_none() && content != NOTHING)?;
        if attempt.expected.is_none_or(|expected| expected == content) {
            attempt.read = Some(content);
            attempt.targets[source] = Target::Found;
            return Some(());
        }
        let begins = holds && attempt.generation && source == self.state.primary;
        *attempt = Attempt::default();
        if holds {
            self.free();
        }
        if begins {
            self.state.row = Some(Row { hash: Some(content), ..Row::registered(source) });
            self.new_generation();
        }
        Some(())
    }

    fn send_put(&mut self, daemon: usize, replica: usize) -> Option<()> {
        let attempt = &mut self.state.attempts[daemon];
        must(attempt.phase == Phase::Working && attempt.targets[replica] == Target::Due)?;
        let content = attempt.read?;
        attempt.targets[replica] = Target::Open;
        let covered = attempt.covered[replica];
        let in_window = attempt.in_window;
        self.send(Write { replica, content, from: Some(daemon), covered, in_window })
    }

    fn send(&mut self, write: Write) -> Option<()> {
        spend(&mut self.state.left.sent)?;
        let place = self.state.writes.iter_mut().find(|place| place.is_none())?;
        *place = Some(write);
        Some(())
    }

    fn find_equal(&mut self, daemon: usize, replica: usize) -> Option<()> {
        let attempt = &mut self.state.attempts[daemon];
        must(attempt.phase == Phase::Working && attempt.targets[replica] == Target::Due)?;
        must(attempt.read? == self.state.store[replica])?;
        attempt.targets[replica] = Target::Found;
        Some(())
    }

    fn arrive(&mut self, write: usize, answered: bool) -> Option<()> {
        let write = self.state.writes[write].take()?;
        must(write.from.is_some() == answered)?;
        if let Some(daemon) = write.from {
            self.state.attempts[daemon].targets[write.replica] = Target::Answered;
        }
        let changes = std::mem::replace(&mut self.state.store[write.replica], write.content) != write.content;
        self.overwritten = changes && write.replica == self.state.primary && !self.state.accepted;
        Some(())
    }

    /// The SDK takes the first for failed and sends the same again.
    fn retry_hidden(&mut self, write: usize) -> Option<()> {
        must(!self.rules.no_hidden_retry)?;
        let first = self.state.writes[write].as_mut()?;
        let again = *first;
        first.from.take()?;
        self.send(again)
    }

    /// Whatever is still under way arrives without an answer, or never.
    fn close_connections(&mut self, daemon: usize) -> Option<()> {
        must(self.state.attempts[daemon].phase == Phase::Working)?;
        self.disconnect(daemon);
        let attempt = &mut self.state.attempts[daemon];
        attempt.phase = Phase::Ended;
        attempt.covered = Default::default();
        attempt.in_window = false;
        for target in attempt.targets.iter_mut().filter(|target| **target == Target::Due) {
            *target = Target::None;
        }
        Some(())
    }

    fn disconnect(&mut self, daemon: usize) {
        for write in self.state.writes.iter_mut().flatten().filter(|write| write.from == Some(daemon)) {
            write.from = None;
        }
    }

    fn report_so_far(&mut self, daemon: usize) -> Option<()> {
        let attempt = self.state.attempts[daemon];
        must(attempt.phase == Phase::Working && attempt.generation && self.state.holds(daemon))?;
        self.record(&attempt)
    }

    fn report(&mut self, daemon: usize) -> Option<()> {
        let attempt = self.state.attempts[daemon];
        must(attempt.phase == Phase::Ended)?;
        let accepted = attempt.generation && self.state.holds(daemon);
        if let (true, Some(content)) = (self.rules.note_unanswered, attempt.read) {
            for replica in targets(&attempt, |target| target == Target::Open) {
                self.note(replica, Some(content));
            }
        }
        if accepted {
            let _ = self.record(&attempt);
            self.free();
            self.state.attempts[daemon] = Attempt::default();
        } else {
            self.refuse(daemon);
        }
        self.flush();
        Some(())
    }

    /// PostgreSQL does not answer until the lease has run out.
    fn give_up_report(&mut self, daemon: usize) -> Option<()> {
        must(self.state.attempts[daemon].phase == Phase::Ended)?;
        spend(&mut self.state.left.expiries)?;
        self.refuse(daemon);
        Some(())
    }

    fn refuse(&mut self, daemon: usize) {
        let attempt = &mut self.state.attempts[daemon];
        *attempt =
            Attempt { phase: Phase::Refused, read: attempt.read, targets: attempt.targets, ..Attempt::default() };
    }

    fn note_and_release(&mut self, daemon: usize) -> Option<()> {
        let attempt = self.state.attempts[daemon];
        must(attempt.phase == Phase::Refused)?;
        let answered = self.rules.note_answered_when_lost;
        let to_note = |target| target == Target::Open || answered && target == Target::Answered;
        if let (true, Some(content)) = (self.rules.note_when_lost, attempt.read) {
            for replica in targets(&attempt, to_note) {
                self.note(replica, Some(content));
            }
            self.flush();
        }
        if self.state.holds(daemon) {
            self.free();
            self.state.row.as_mut()?.release_is_volatile = true;
        }
        self.state.attempts[daemon] = Attempt::default();
        Some(())
    }

    /// What the attempt knows is recorded; `None`: nothing new.
    fn record(&mut self, attempt: &Attempt) -> Option<()> {
        let content = attempt.read?;
        let row = self.state.row.as_mut()?;
        let before = *row;
        row.hash = Some(content);
        for replica in targets(attempt, is_proven) {
            row.recorded[replica] = true;
        }
        must((before.hash, before.recorded) != (row.hash, row.recorded))?;
        self.flush();
        // Of a copy counts when it was proven, not when it is recorded.
        let in_window = self.state.claims != Claims::Intact;
        if in_window || attempt.proven_in_window && self.rules.window_is_of_proofs {
            for replica in targets(attempt, is_proven) {
                self.note_in_window(replica);
            }
        }
        Some(())
    }

    fn free(&mut self) {
        if let Some(row) = &mut self.state.row {
            row.holder = None;
            row.claim_is_volatile = false;
        }
    }

    /// A statement has committed synchronously, and with it all before it.
    fn flush(&mut self) {
        if let Some(row) = &mut self.state.row {
            row.claim_is_volatile = false;
            row.release_is_volatile = false;
        }
    }

    // Losses ------------------------------------------------------------------------------------------------------

    /// The lease has run out: its holder has died, or cannot reach PostgreSQL.
    fn sweep(&mut self) -> Option<()> {
        let row = self.state.row?;
        if let Holder::Daemon(_) = row.holder? {
            spend(&mut self.state.left.expiries)?;
        }
        self.free();
        self.flush();
        if self.rules.note_swept {
            self.note_all(row.hash);
        }
        Some(())
    }

    fn kill(&mut self, daemon: usize) -> Option<()> {
        must(self.state.attempts[daemon].phase != Phase::Idle)?;
        spend(&mut self.state.left.kills)?;
        self.disconnect(daemon);
        self.state.attempts[daemon] = Attempt::default();
        if self.state.holds(daemon) {
            self.state.row.as_mut()?.holder = Some(Holder::Gone);
        }
        Some(())
    }

    fn crash_losing_claim(&mut self) -> Option<()> {
        must(self.state.row?.claim_is_volatile)?;
        spend(&mut self.state.left.crashes)?;
        self.free();
        self.crash();
        Some(())
    }

    fn crash_losing_release(&mut self) -> Option<()> {
        must(self.state.row?.release_is_volatile)?;
        spend(&mut self.state.left.crashes)?;
        self.state.row.as_mut()?.holder = Some(Holder::Gone);
        self.crash();
        Some(())
    }

    fn crash(&mut self) {
        self.flush();
        if self.rules.note_crash {
            self.state.claims = Claims::Missing;
            self.leave_window();
        }
    }

    fn note_crash(&mut self) -> Option<()> {
        must(self.state.claims == Claims::Missing)?;
        self.state.claims = Claims::Window;
        for i in 0..self.state.writes.len() {
            if let Some(write) = self.state.writes[i] {
                let covered = self.is_over(&write);
                self.state.writes[i] = Some(Write { in_window: covered, ..write });
            }
        }
        for daemon in 0..DAEMONS {
            self.state.attempts[daemon].in_window = self.has_lost(daemon);
        }
        Some(())
    }

    fn end_window(&mut self) -> Option<()> {
        must(self.state.claims == Claims::Window)?;
        must(!self.state.writes.iter().flatten().any(|write| write.in_window))?;
        must(!self.state.attempts.iter().any(|attempt| attempt.in_window))?;
        self.state.claims = Claims::Intact;
        for attempt in self.state.attempts.iter_mut().filter(|attempt| attempt.phase != Phase::Idle) {
            attempt.proven_in_window |= attempt.targets.iter().any(|&target| is_proven(target));
        }
        Some(())
    }

    fn leave_window(&mut self) {
        for write in self.state.writes.iter_mut().flatten() {
            write.in_window = false;
        }
        for attempt in &mut self.state.attempts {
            attempt.in_window = false;
        }
    }

    // Entries -----------------------------------------------------------------------------------------------------

    fn note_all(&mut self, sent: Option<Content>) {
        for replica in 0..self.replicas {
            self.note(replica, sent);
        }
    }

    /// From now on it takes a whole time to settle: what had ended by now has arrived before it is over.
    fn note(&mut self, replica: usize, sent: Option<Content>) {
        for i in 0..self.state.writes.len() {
            if let Some(write) = self.state.writes[i].filter(|write| write.replica == replica) {
                let covered = write.covered || self.is_over(&write);
                self.state.writes[i] = Some(Write { covered, ..write });
            }
        }
        for daemon in 0..DAEMONS {
            self.state.attempts[daemon].covered[replica] |= self.has_lost(daemon);
        }
        self.enter(replica, sent);
    }

    /// The entry is settled when the window is.
    fn note_in_window(&mut self, replica: usize) {
        if self.state.claims == Claims::Missing {
            return self.note(replica, None);
        }
        for write in self.state.writes.iter_mut().flatten().filter(|write| write.replica == replica) {
            write.covered |= write.in_window;
        }
        for attempt in &mut self.state.attempts {
            attempt.covered[replica] |= attempt.in_window;
        }
        self.enter(replica, None);
    }

    fn enter(&mut self, replica: usize, sent: Option<Content>) {
        let entry = &mut self.state.entries[replica];
        let sent = match *entry {
            Some(before) if before.sent != sent && self.rules.two_contents_are_unknown => None,
            _ => sent,
        };
        *entry = Some(Entry { sent, settled: false });
    }

    /// Its connection is closed, or will be within a lease time.
    fn is_over(&self, write: &Write) -> bool {
        write.from.is_none_or(|daemon| self.has_lost(daemon))
    }

    /// It works without a lease, and learns that within a lease time.
    fn has_lost(&self, daemon: usize) -> bool {
        let working = self.state.attempts[daemon].phase == Phase::Working;
        self.rules.settle_includes_lease && working && !self.state.holds(daemon)
    }

    /// The time to settle passes.
    fn settle(&mut self, replica: usize) -> Option<()> {
        must(!self.state.entries[replica]?.settled)?;
        must(!self.state.writes.iter().flatten().any(|write| write.replica == replica && write.covered))?;
        must(!self.state.attempts.iter().any(|attempt| attempt.covered[replica]))?;
        self.state.entries[replica].as_mut()?.settled = true;
        Some(())
    }

    /// A daemon looks at an entry.
    fn look(&mut self, replica: usize) -> Option<()> {
        let entry = self.state.entries[replica]?;
        let primary = self.state.primary;
        let Some(row) = &mut self.state.row else { return self.drop_entry(replica, entry.settled) };
        let free = row.holder.is_none();
        let Some(hash) = row.hash else {
            if self.rules.take_back_without_hash && free && row.recorded[replica] && replica != primary {
                row.recorded[replica] = false;
                return Some(());
            }
            return self.drop_entry(replica, entry.settled && (free || !self.rules.keep_under_a_lease));
        };
        if entry.sent == Some(hash) {
            return self.drop_entry(replica, entry.settled);
        }
        if !free {
            return None;
        }
        if !row.recorded[replica] || replica == primary && !self.rules.recheck_primary {
            return self.drop_entry(replica, entry.settled);
        }
        let found = self.state.store[replica];
        let of_application = replica == primary && entry.sent.is_some_and(|sent| sent != found);
        if found == hash || of_application {
            return self.drop_entry(replica, entry.settled || !self.rules.keep_until_settled);
        }
        row.recorded[replica] = false;
        Some(())
    }

    fn drop_entry(&mut self, replica: usize, may: bool) -> Option<()> {
        must(may)?;
        self.state.entries[replica] = None;
        for write in self.state.writes.iter_mut().flatten().filter(|write| write.replica == replica) {
            write.covered = false;
        }
        for attempt in &mut self.state.attempts {
            attempt.covered[replica] = false;
        }
        Some(())
    }

    // An operator -------------------------------------------------------------------------------------------------

    fn list(&mut self) -> Option<()> {
        must(self.state.listing.is_none())?;
        spend(&mut self.state.left.scans)?;
        let holder = self.state.primary;
        let content = self.state.store[holder];
        must(content != NOTHING)?;
        self.state.listing =
            Some(Listing { holder, same: self.state.store.map(|found| found == content), row_is_older: true });
        Some(())
    }

    fn adopt(&mut self) -> Option<()> {
        let listing = self.state.listing.take()?;
        let settled = self.state.claims == Claims::Intact && !self.state.is_noted();
        let noted = self.state.is_noted();
        let may = settled || !self.rules.adopt_only_settled;
        let row = match &mut self.state.row {
            Some(row) => {
                let known = row.hash.is_none() && row.recorded[listing.holder];
                must(listing.row_is_older && row.holder.is_none() && known && may && !noted)?;
                row
            }
            none => none.insert(Row::registered(listing.holder)),
        };
        if may {
            for (recorded, same) in row.recorded.iter_mut().zip(listing.same) {
                *recorded |= same;
            }
        }
        self.flush();
        Some(())
    }

    fn promote(&mut self, replica: usize, accept_missing: bool) -> Option<()> {
        must(replica != self.state.primary && !self.state.unregistered)?;
        spend(&mut self.state.left.promotions)?;
        if accept_missing {
            spend(&mut self.state.left.acceptances)?;
            self.state.accepted = true;
        } else {
            must(self.state.row.is_none_or(|row| row.recorded[replica]))?;
            must(!self.rules.promote_waits || self.state.entries[replica].is_none())?;
            must(!self.rules.promote_waits_for_window || self.state.claims == Claims::Intact)?;
        }
        self.state.primary = replica;
        Some(())
    }
}

fn targets(attempt: &Attempt, which: impl Fn(Target) -> bool) -> impl Iterator<Item = usize> {
    let targets = attempt.targets;
    (0..REPLICAS).filter(move |&replica| which(targets[replica]))
}

fn is_proven(target: Target) -> bool {
    matches!(target, Target::Answered | Target::Found)
}

fn must(condition: bool) -> Option<()> {
    condition.then_some(())
}

fn spend(left: &mut u8) -> Option<()> {
    *left = left.checked_sub(1)?;
    Some(())
}
