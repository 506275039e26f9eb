use std::ops::Range;

use bytesize::ByteSize;

use crate::store::Profile;

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

/// What all targets of an object take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub max_parts: u32,
    /// Of one request, a whole object or a part.
    pub max_put_bytes: u64,
    /// Of a part that is not the last.
    pub min_part_bytes: u64,
}

/// The object cannot be sent part by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unplannable {
    #[error(
        "an object of {object} is sent in pieces of {piece}, but workers.memory is {memory}; set it to at least {piece}"
    )]
    TooLittleMemory { object: ByteSize, piece: ByteSize, memory: ByteSize },
    #[error(
        "no size of parts suits all targets of an object of {object}: it would need parts of {part}, and one of them \
         takes {most} in a request"
    )]
    NoCommonSize { object: ByteSize, part: ByteSize, most: ByteSize },
}

impl Limits {
    /// The strictest of each.
    pub(super) fn of<'p>(profiles: impl Iterator<Item = &'p Profile>) -> Self {
        let none = Self { max_parts: u32::MAX, max_put_bytes: u64::MAX, min_part_bytes: 0 };
        profiles.fold(none, |all, one| Self {
            max_parts: all.max_parts.min(one.max_parts),
            max_put_bytes: all.max_put_bytes.min(one.max_put_bytes),
            min_part_bytes: all.min_part_bytes.max(one.min_part_bytes),
        })
    }

    /// One size for all parts but the last, which every store takes; in whole MiB where the limits leave room for it.
    fn part_bytes(self, size_bytes: u64) -> u64 {
        let fewest = size_bytes.div_ceil(u64::from(self.max_parts.max(1)));
        let round = fewest.next_multiple_of(MIB);
        let fewest = if round > self.max_put_bytes { fewest } else { round };
        fewest.max(PART_AT_LEAST.min(self.max_put_bytes)).max(self.min_part_bytes)
    }
}

/// Plans an object of `size_bytes` for targets that take so much.
pub(super) fn plan(size_bytes: u64, limits: Limits, memory_bytes: u64) -> Result<Plan, Unplannable> {
    let (plan, piece_bytes) = if size_bytes <= WHOLE_UP_TO.min(limits.max_put_bytes) {
        (Plan::Whole, size_bytes)
    } else {
        let part_bytes = limits.part_bytes(size_bytes);
        (Plan::Parts(Parts { size_bytes, part_bytes }), part_bytes)
    };
    let (object, piece) = (ByteSize(size_bytes), ByteSize(piece_bytes));
    if piece_bytes > limits.max_put_bytes {
        let most = ByteSize(limits.max_put_bytes);
        return Err(Unplannable::NoCommonSize { object, part: piece, most });
    }
    if piece_bytes > memory_bytes {
        return Err(Unplannable::TooLittleMemory { object, piece, memory: ByteSize(memory_bytes) });
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

    const USUAL: Limits = Limits { max_parts: 10_000, max_put_bytes: 5 << 30, min_part_bytes: 5 * MIB };

    fn at_most(max_parts: u32) -> Limits {
        Limits { max_parts, max_put_bytes: u64::MAX, ..USUAL }
    }

    fn ranges(size: u64, max_parts: u32) -> Vec<Range<u64>> {
        ranges_of(size, at_most(max_parts))
    }

    fn ranges_of(size: u64, limits: Limits) -> Vec<Range<u64>> {
        match plan(size, limits, ENOUGH).unwrap() {
            Plan::Whole => panic!("{size} in one request"),
            Plan::Parts(parts) => parts.ranges().collect(),
        }
    }

    #[test]
    fn up_to_16_mib_an_object_is_one_request() {
        for size in [0, 1, WHOLE_UP_TO] {
            assert_eq!(plan(size, USUAL, ENOUGH), Ok(Plan::Whole));
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
        let refused = plan(100 << 30, at_most(1_000), 64 * MIB).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "an object of 100.0 GiB is sent in pieces of 103.0 MiB, but workers.memory is 64.0 MiB; \
             set it to at least 103.0 MiB"
        );
        assert!(plan(100 << 30, at_most(1_000), 103 * MIB).is_ok());
        assert!(plan(5 * MIB, at_most(1_000), 4 * MIB).is_err());
    }

    #[test]
    fn a_store_behind_a_proxy_gets_no_larger_request_than_that_lets_through() {
        let behind = Limits { max_put_bytes: 10 * MIB, ..USUAL };
        assert_eq!(plan(10 * MIB, behind, ENOUGH), Ok(Plan::Whole));
        assert_eq!(ranges_of(10 * MIB + 1, behind), [0..10 * MIB, 10 * MIB..10 * MIB + 1]);
        // Not of whole MiB, and used up to its last byte.
        let odd = Limits { max_parts: 3, max_put_bytes: 6 * MIB - 1, ..USUAL };
        assert_eq!(ranges_of(3 * (6 * MIB - 1), odd).len(), 3);
    }

    #[test]
    fn targets_that_agree_on_no_size_of_parts_are_told_so() {
        let few = Limits { max_parts: 1_000, max_put_bytes: 10 * MIB, ..USUAL };
        assert_eq!(
            plan(100 << 30, few, ENOUGH).unwrap_err().to_string(),
            "no size of parts suits all targets of an object of 100.0 GiB: it would need parts of 102.4 MiB, and one of \
             them takes 10.0 MiB in a request"
        );
    }

    proptest::proptest! {
        #[test]
        fn a_plan_keeps_every_limit(
            size in 0..5 * (1u64 << 40), max_parts in 1u32..=10_000, max_put_bytes in 5 * MIB..=5 << 30,
        ) {
            let limits = Limits { max_parts, max_put_bytes, min_part_bytes: 5 * MIB };
            match plan(size, limits, ENOUGH) {
                Ok(Plan::Whole) => proptest::prop_assert!(size <= max_put_bytes),
                Ok(Plan::Parts(parts)) => {
                    let ranges: Vec<_> = parts.ranges().collect();
                    proptest::prop_assert!(ranges.len() <= max_parts as usize);
                    proptest::prop_assert!(ranges[0].end <= max_put_bytes && ranges[0].end >= 5 * MIB);
                }
                // What the profile lets through can be planned.
                Err(_) => proptest::prop_assert!(size > max_put_bytes * u64::from(max_parts)),
            }
        }

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
