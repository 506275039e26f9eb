//! A model of one key that is explored exhaustively within bounds: who may write what when, and that the rules in force keep
//! every recorded time true. docs/design/late-writes.md says it in prose.
//!
//! The explorer is our own: `stateright` would bring a second HTTP stack for its web page, and this is 60 lines.

mod explore;
mod rules;
mod state;
mod steps;

use explore::{Explored, Fault, explore};
use rules::Rules;
use state::Budget;

const NONE: Budget = Budget {
    puts: 0,
    deletions: 0,
    sent: 0,
    expiries: 0,
    kills: 0,
    crashes: 0,
    promotions: 0,
    acceptances: 0,
    scans: 0,
};
const ONE_DEATH: Budget = Budget { puts: 1, sent: 2, kills: 1, ..NONE };

fn finds(rules: Rules, budget: Budget, fault: Fault) {
    let Explored { states, violation } = explore(&rules, 2, budget);
    let violation = violation.unwrap_or_else(|| panic!("nothing was found in {states} states"));
    assert_eq!(violation.fault, fault, "{violation}");
}

#[test]
fn the_rules_in_force_keep_every_recorded_time_true() {
    let budgets = [
        Budget { sent: 1, expiries: 1, kills: 0, ..ONE_DEATH },
        Budget { sent: 1, ..ONE_DEATH },
        Budget { sent: 1, crashes: 1, kills: 0, ..ONE_DEATH },
        Budget { promotions: 1, acceptances: 1, sent: 1, ..ONE_DEATH },
        Budget { puts: 1, sent: 1, deletions: 1, ..NONE },
        Budget { puts: 0, sent: 1, deletions: 1, promotions: 1, crashes: 1, ..NONE },
        // Those in which rules that are switched off show a fault with two writes or more.
        Budget { kills: 0, ..ONE_DEATH },
        ONE_DEATH,
        Budget { promotions: 1, acceptances: 1, ..ONE_DEATH },
        Budget { sent: 3, kills: 0, ..ONE_DEATH },
    ];
    for budget in budgets {
        let Explored { states, violation } = explore(&Rules::IN_FORCE, 2, budget);
        assert!(states > 1, "{budget:?} allows nothing");
        if let Some(violation) = violation {
            panic!("within {budget:?}: {violation}");
        }
    }
}

#[test]
fn without_a_note_of_an_unanswered_write_a_late_write_stands_under_a_recorded_time() {
    finds(Rules { note_unanswered: false, ..Rules::IN_FORCE }, Budget { kills: 0, ..ONE_DEATH }, Fault::FalseTime);
}

#[test]
fn without_a_note_by_the_daemon_that_lost_its_lease_a_late_write_stands_under_a_recorded_time() {
    let budget = Budget { kills: 0, expiries: 1, ..ONE_DEATH };
    finds(Rules { note_when_lost: false, ..Rules::IN_FORCE }, budget, Fault::FalseTime);
}

#[test]
fn without_a_note_of_a_deleted_lease_a_late_write_stands_under_a_recorded_time() {
    finds(Rules { note_deleted: false, ..Rules::IN_FORCE }, Budget { deletions: 1, ..ONE_DEATH }, Fault::FalseTime);
}

#[test]
fn without_a_note_of_a_swept_lease_a_late_write_stands_under_a_recorded_time() {
    finds(Rules { note_swept: false, ..Rules::IN_FORCE }, ONE_DEATH, Fault::FalseTime);
}

#[test]
fn without_a_note_of_a_crash_a_late_write_stands_under_a_recorded_time() {
    finds(Rules { note_crash: false, ..Rules::IN_FORCE }, Budget { crashes: 1, ..ONE_DEATH }, Fault::FalseTime);
}

#[test]
fn an_entry_that_keeps_one_of_two_contents_lets_a_late_write_stand_under_a_recorded_time() {
    finds(Rules { two_contents_are_unknown: false, ..Rules::IN_FORCE }, ONE_DEATH, Fault::FalseTime);
}

#[test]
fn a_time_to_settle_without_the_lease_time_lets_a_late_write_stand_under_a_recorded_time() {
    let budget = Budget { expiries: 1, ..ONE_DEATH };
    finds(Rules { settle_includes_lease: false, ..Rules::IN_FORCE }, budget, Fault::FalseTime);
}

#[test]
fn without_waiting_until_it_is_settled_a_late_write_stands_under_a_recorded_time() {
    finds(Rules { keep_until_settled: false, ..Rules::IN_FORCE }, ONE_DEATH, Fault::FalseTime);
}

#[test]
fn an_entry_dropped_under_a_leased_row_without_a_hash_lets_a_recorded_time_be_false() {
    finds(Rules { keep_under_a_lease: false, ..Rules::IN_FORCE }, ONE_DEATH, Fault::FalseTime);
}

#[test]
fn a_window_after_a_crash_that_counts_records_and_not_proofs_lets_a_recorded_time_be_false() {
    let budget = Budget { crashes: 1, ..ONE_DEATH };
    finds(Rules { window_is_of_proofs: false, ..Rules::IN_FORCE }, budget, Fault::FalseTime);
}

#[test]
fn a_hidden_retry_lets_a_late_write_stand_under_a_recorded_time() {
    finds(
        Rules { no_hidden_retry: false, ..Rules::IN_FORCE },
        Budget { sent: 3, kills: 0, ..ONE_DEATH },
        Fault::FalseTime,
    );
}

#[test]
fn rechecks_that_leave_out_the_primary_leave_a_false_time_there() {
    let budget = Budget { promotions: 1, acceptances: 1, ..ONE_DEATH };
    finds(Rules { recheck_primary: false, ..Rules::IN_FORCE }, budget, Fault::FalseTime);
}

#[test]
fn a_promotion_that_does_not_wait_for_entries_lets_a_late_write_change_the_primary() {
    let budget = Budget { promotions: 1, ..ONE_DEATH };
    finds(Rules { promote_waits: false, ..Rules::IN_FORCE }, budget, Fault::PrimaryOverwritten);
}

#[test]
fn a_promotion_within_the_window_after_a_crash_lets_a_late_write_change_the_primary() {
    let budget = Budget { sent: 1, crashes: 1, promotions: 1, deletions: 1, ..NONE };
    finds(Rules { promote_waits_for_window: false, ..Rules::IN_FORCE }, budget, Fault::PrimaryOverwritten);
}
