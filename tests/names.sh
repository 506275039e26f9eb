#!/usr/bin/env bash
# Proves that no old name is left: old=new, each in the folders where it was a name.
# A type is old where it is defined (struct, enum, trait, type, const), a file where `git ls-files` has it, and a word where a
# line has it. CHANGELOG.md tells history, and this file lists the old names: neither is searched.
set -euo pipefail
cd "$(dirname "$0")/.."

wrong=0
complain() { printf '%s\n' "$@" >&2; wrong=1; }

# Types, constants and functions: folder, then old=new.
defined() {
    cat <<'LIST'
src Hearing=ListenStatus Ears=ListenStatusSender ALONE=FALLBACK_POLL Turn=StaggeredWakeup Sleeper=IdleRegistration Rest=WaitFor
src Waker=WakeSender Wake=WakeReceiver Endings=ShutdownWatch Deafness=ListenFailure Notice=Notification
src/audit Subject=AuditedReplica Look=inspect Tally=Counts
src/worker Doorkeeper=ReplicaGate Lanes=ReplicaRegistry View=ReplicaAccess Standing=ReplicaAccess Trial=ProbeCopy
src/worker Pulse=TargetSpeed Stragglers=SlowCopies Place=WorkerSlot Left=Detach Floor=LowWaterMark Question=LaneQuery
src/worker Walk=SourcelessScan Notes=AttemptRecord Held=HeldLeases Allowance=TimeLimit Room=SlotPool
src/worker Patient=StoreHealth Sick=Unhealthy Said=PendingReport Told=PendingReport Hopeless=Failed
src/events Looks=PollRounds Turns=PageQueue Place=ReaderSlot Sight=LogPosition
src/http Pages=AppState Writes=WriteLimits Guest=ConnectionSlot Asked=EventsQuery Refusal=ErrorResponse
src/scan Halt=ScanError Ended=ScanResult Rate=AdaptiveLimit
src/config Flaw=InvalidValue Place=Position
crates/core Next=NextAttempt Blocks=BreakerScope Role=Direction Class=FailureClass Arrival=RegistrationOrder
crates/db Queue=Database Answer=FencedWrite Hot=HotStatement Sought=Peeked Judged=RuleChanges Turned=Rescheduled Notice=Notification
crates/s3 Pace=AdaptiveLimit Pass=Permit Facts=StoreOverrides
crates/s3/src/copy Step=CopyStep Came=SourceResult Useless=SourceError Unfit=ReadMismatch Way=PartMode Leaves=UploadRemains
crates/s3/src/copy Carrier=PartSender Lane=PartTarget Race=LagLimit Patience=LagLimit
crates/s3/src/store Feed=StreamingBody Feeder=BodySender
crates/sandbox Notebook=MemoryJournal Guardian=ProcessGuard Ledger=CallCounts Loan=RequestBody Gate=PauseGate Quirks=BucketOptions
crates/sandbox Stage=Environment Play=Scenario Audience=ProgressDisplay
LIST
}
while read -r folder names; do
    for pair in $names; do
        old=${pair%%=*}
        found=$(git grep -nE "^[[:space:]]*(pub(\([a-z: ]+\))? )?(struct|enum|trait|type|const|static) $old\b" -- "$folder" ':*.rs' || true)
        found=$(grep -E "^$folder/.*\.rs:" <<<"$found" || true)
        [ -z "$found" ] || complain "$old is now ${pair#*=}:" "$found"
    done
done < <(defined)

# Files and folders.
files() {
    cat <<'LIST'
src/queue crates/db/src/queue src/ears.rs src/herd.rs src/sleeper.rs src/wake.rs src/lifecycle.rs src/listener/trial.rs
src/worker/admission.rs src/worker/lanes.rs src/worker/pulse.rs src/worker/straggler.rs src/worker/floor.rs src/worker/walk.rs
src/worker/notes.rs src/worker/held.rs src/worker/allowance.rs src/worker/unanswered.rs src/worker/suspects.rs
src/worker/probing.rs src/worker/changed.rs src/audit/written.rs
src/events/sight.rs src/events/looks.rs src/events/turns.rs src/events/pages.rs
src/http/given.rs src/http/places.rs src/http/files.rs src/http/refusal.rs src/http/events/asked.rs src/http/events/refused.rs
src/cli/given.rs src/cli/turned.rs src/cli/show.rs src/cli/bar.rs src/scan/beside.rs src/scan/trouble.rs src/scan/walk.rs
src/scan/parts.rs src/config/place.rs src/config/setting.rs src/config/document.rs src/config/overrides.rs src/config/flaw.rs
crates/s3/src/store/pace.rs crates/s3/src/store/speed.rs crates/s3/src/store/spelling.rs crates/s3/src/store/stated.rs
crates/s3/src/store/unthrottled.rs crates/s3/src/store/access.rs crates/s3/src/store/progress.rs
crates/sandbox/src/guardian.rs crates/sandbox/src/account.rs crates/sandbox/src/s3/ledger.rs crates/sandbox/src/s3/loan.rs
crates/sandbox/src/s3/order.rs crates/sandbox/src/s3/gate.rs crates/sandbox/src/s3/known.rs crates/sandbox/src/s3/shared.rs
crates/sandbox/src/s3/declared.rs crates/sandbox/src/s3/receive.rs crates/sandbox/src/s3/answer.rs crates/sandbox/src/s3/call.rs
crates/sandbox/src/s3/quirks.rs crates/sandbox/src/demo/accidents.rs crates/sandbox/src/demo/trickle.rs
tests/it/world.rs tests/it/surface.rs tests/it/operator.rs tests/it/abandoned.rs tests/it/recheck.rs tests/it/overdue.rs
tests/it/gap_detector.rs
LIST
}
for file in $(files); do
    found=$(git ls-files -- "$file")
    [ -z "$found" ] || complain "old file or folder: $file"
done
found=$(git ls-files 'benches/*' | grep -E '/([eqcl][1-9]|essay|ours|floor|grounds|contest|stage)\.rs$' || true)
[ -z "$found" ] || complain "old files:" "$found"

# Words that are names by themselves, anywhere.
words=(
    copyhold_notices_total copyhold_store_pace 'copyhold_db::queue' is_away 'error\.leaves_open' 'QueueError::leaves_open' refuses_data is_contended sicken
    'tests/it/(world|surface|operator|abandoned|recheck|overdue|gap_detector)\.rs'
)
search=(':!CHANGELOG.md' ':!tests/names.sh')
for word in "${words[@]}"; do
    found=$(git grep -nE "(^|[^[:alnum:]_])$word\b" -- "${search[@]}" || true)
    [ -z "$found" ] || complain "old name $word:" "$found"
done

# Prose without a subject. Each line that is left needs the word. In quotes, nobody is a Unix account.
people='whoever|somebody|nobody|anybody|everybody|anyone|someone|no one|those who'
lines=$(git grep -niE "\b($people)\b" -- "${search[@]}" ':!LICENSE' | grep -vE '["`]nobody["`]|--user nobody|-u nobody' || true)
count=$(grep -c . <<<"$lines" || true)
[ "$count" -le 20 ] || complain "$count lines say $people, 20 may:" "$lines"

[ "$wrong" = 0 ] && echo "no old name is left; $count lines say $people"
exit "$wrong"
