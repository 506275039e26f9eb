use std::ops::Range;

use bytesize::ByteSize;

const MIB: u64 = 1 << 20;
/// Up to here an object goes in one request: the first GET brings all of it.
pub const WHOLE_UP_TO: u64 = 16 * MIB;
/// Small enough that several fit in any sensible budget, large enough that a request's
/// own cost does not count.
const PART_AT_LEAST: u64 = 16 * MIB;

/// How an object is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Whole,
    Parts(Parts),
}

/// Parts of one size, the last one shorter: what every store takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    size_bytes: u64,
    part_bytes: u64,
}

/// The object cannot be held part by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an object of {object} is sent in pieces of {piece}, but workers.memory is {memory}; set it to at least {piece}"
)]
pub(super) struct TooLittleMemory {
    object: ByteSize,
    piece: ByteSize,
    memory: ByteSize,
}

/// Plans an object of `size_bytes` for targets of which one takes no more than `max_parts`.
pub(super) fn plan(size_bytes: u64, max_parts: u32, memory_bytes: u64) -> Result<Plan, TooLittleMemory> {
    let (plan, piece_bytes) = if size_bytes <= WHOLE_UP_TO {
        (Plan::Whole, size_bytes)
    } else {
        let fewest = size_bytes.div_ceil(u64::from(max_parts.max(1))).next_multiple_of(MIB);
        let part_bytes = fewest.max(PART_AT_LEAST);
        (Plan::Parts(Parts { size_bytes, part_bytes }), part_bytes)
    };
    if piece_bytes > memory_bytes {
        let (object, piece, memory) = (ByteSize(size_bytes), ByteSize(piece_bytes), ByteSize(memory_bytes));
        return Err(TooLittleMemory { object, piece, memory });
    }
    Ok(plan)
}

impl Parts {
    /// The bytes of each part, in order; their position is their number less 1.
    pub(super) fn ranges(self) -> impl Iterator<Item = Range<u64>> {
        (0..self.size_bytes.div_ceil(self.part_bytes)).map(move |part| {
            let start = part * self.part_bytes;
            start..(start + self.part_bytes).min(self.size_bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENOUGH: u64 = u64::MAX;

    fn ranges(size: u64, max_parts: u32) -> Vec<Range<u64>> {
        match plan(size, max_parts, ENOUGH).unwrap() {
            Plan::Whole => panic!("{size} in one request"),
            Plan::Parts(parts) => parts.ranges().collect(),
        }
    }

    #[test]
    fn up_to_16_mib_an_object_is_one_request() {
        for size in [0, 1, WHOLE_UP_TO] {
            assert_eq!(plan(size, 10_000, ENOUGH), Ok(Plan::Whole));
        }
        assert_eq!(ranges(WHOLE_UP_TO + 1, 10_000), [0..WHOLE_UP_TO, WHOLE_UP_TO..WHOLE_UP_TO + 1]);
    }

    #[test]
    fn a_store_that_takes_a_thousand_parts_gets_larger_ones() {
        let size = 100 << 30;
        assert_eq!(ranges(size, 10_000)[0].end, 16 * MIB);
        assert_eq!(ranges(size, 1_000)[0].end, 103 * MIB);
    }

    #[test]
    fn an_object_whose_parts_do_not_fit_is_refused_and_told_what_it_needs() {
        let refused = plan(100 << 30, 1_000, 64 * MIB).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "an object of 100.0 GiB is sent in pieces of 103.0 MiB, but workers.memory is 64.0 MiB; \
             set it to at least 103.0 MiB"
        );
        assert!(plan(100 << 30, 1_000, 103 * MIB).is_ok());
        assert!(plan(5 * MIB, 1_000, 4 * MIB).is_err());
    }

    proptest::proptest! {
        #[test]
        fn parts_cover_the_object_once_and_are_all_equal_but_the_last(
            size in WHOLE_UP_TO + 1..50 * (1u64 << 40), max_parts in 1_000u32..=10_000,
        ) {
            let ranges = ranges(size, max_parts);
            proptest::prop_assert!(ranges.len() <= max_parts as usize);
            proptest::prop_assert_eq!(ranges[0].start, 0);
            proptest::prop_assert_eq!(ranges.last().unwrap().end, size);
            let part = ranges[0].end;
            proptest::prop_assert!(part >= PART_AT_LEAST && part.is_multiple_of(MIB));
            for pair in ranges.windows(2) {
                proptest::prop_assert_eq!(pair[0].end, pair[1].start);
                proptest::prop_assert_eq!(pair[0].end - pair[0].start, part);
            }
            let last = ranges.last().unwrap();
            proptest::prop_assert!(last.start < last.end && last.end - last.start <= part);
        }
    }
}
